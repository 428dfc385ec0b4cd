//! Golden cases and what the cross-crate tests share.

pub mod cases;
pub mod golden;
pub mod report;
