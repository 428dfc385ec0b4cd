//! microdit-train
