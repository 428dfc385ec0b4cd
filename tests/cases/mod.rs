//! One function per kind of golden file.

mod checkpoint;
mod contrastive;
mod diffusion;
mod distances;
mod encoders;
mod features;
mod flow_matching;
mod images;
mod lamb;
mod ldm_ckpt;
mod lora;
mod maskdit;
mod muon;
mod network;
mod phema;
mod sampling;
mod shards;
mod tables;
mod text;
mod training;
mod unet;
mod vsd;
mod vsd_steps;

use crate::report::Report;
use burn_autodiff::Autodiff;
use std::path::Path;

/// The backend under test.
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
pub type Inner = burn_flex::Flex;
/// The backend under test.
#[cfg(feature = "cuda")]
pub type Inner = burn_cuda::Cuda;
/// The backend under test.
#[cfg(all(feature = "wgpu", not(feature = "cuda")))]
pub type Inner = burn_wgpu::Wgpu;
/// The backend under test, differentiable.
pub type Train = Autodiff<Inner>;

/// What the limits, stated for f32, are multiplied by: products run in TF32 on a GPU, with 10 bits of mantissa
/// where f32 has 23; a thousand times leaves errors that a wrong formula exceeds.
pub const SLACK: f64 = if cfg!(feature = "cuda") { 1000.0 } else { 1.0 };

/// What a golden file of some kind is checked by: the file (json or checkpoint) and where to report.
pub type Check = fn(&Path, &mut Report);

/// Kinds in the order of their checks; the longest prefix of a file's name decides.
pub const KINDS: &[(&str, Check)] = &[
    ("dit_forward", network::dit_forward),
    ("dit_masked", network::dit_masked),
    ("edm_loss", training::edm_loss),
    ("maskdit", maskdit::maskdit),
    ("train_steps", training::train_steps),
    ("composer_run", training::composer_run),
    ("lamb", lamb::lamb_steps),
    ("muon", muon::muon_steps),
    ("edm_sampler", sampling::edm_sampler),
    ("diffusion_vp", diffusion::tables),
    ("vp_sampler", diffusion::vp_sampler),
    ("flow", flow_matching::flow),
    ("cfm", contrastive::cfm),
    ("vsd", vsd::vsd),
    ("vsd_steps", vsd_steps::vsd_steps),
    ("lora", lora::lora),
    ("lora_file", lora::lora_file),
    ("ema", tables::ema),
    ("phema", phema::phema),
    ("lr_schedule", tables::lr_schedule),
    ("pos_embed", tables::pos_embed),
    ("manifest", tables::manifest),
    ("unet", unet::unet),
    ("ckpt", checkpoint::ckpt),
    ("ldm_ckpt", ldm_ckpt::ldm_ckpt),
    ("vae", encoders::vae),
    ("vae_tiny", encoders::vae_tiny),
    ("clip_text", encoders::clip_text),
    ("hf_clip_text", encoders::hf_clip_text),
    ("t5_encoder", encoders::t5_encoder),
    ("clip_image", features::clip_image),
    ("hf_clip_image", features::hf_clip_image),
    ("dinov2", features::dinov2),
    ("inception", features::inception),
    ("clip_tokenizer", text::clip_tokenizer),
    ("caption_clean", text::caption_clean),
    ("text_repair", text::text_repair),
    ("image_prep", images::image_prep),
    ("picture_resize", images::picture_resize),
    ("wds_pixels", images::wds_pixels),
    ("mds", shards::mds),
    ("fid", distances::fid),
    ("prdc", distances::prdc),
];
