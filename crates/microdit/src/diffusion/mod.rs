//! Diffusion mathematics: families as tables, noise levels, samplers, guidance.

mod betas;
mod config;
mod diffusers;
mod edm;
mod family;
mod flow_matching;
mod guidance;
mod init_image;
pub mod sampler;
pub mod schedule;
pub mod trajectory;
mod vp;

pub use betas::Betas;
pub use config::{DiffusionConfig, Family};
pub use diffusers::SchedulerFile;
pub use edm::Edm;
pub use family::{Diffusion, Level, Point, Row};
pub use flow_matching::{Density, FlowMatching, FlowWeighting};
pub use guidance::{Guidance, Interval};
pub use init_image::InitImage;
pub use vp::{Prediction, Vp, VpTable, VpWeighting};
