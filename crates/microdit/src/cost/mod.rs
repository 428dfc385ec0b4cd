//! What a network costs before it is built.

pub mod flops;
pub mod memory;
