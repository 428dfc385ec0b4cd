//! microdit-data
