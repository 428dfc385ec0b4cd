//! Diffusion mathematics: EDM's preconditioning and loss, noise schedules, samplers.

pub mod edm;
pub mod sampler;
pub mod schedule;
