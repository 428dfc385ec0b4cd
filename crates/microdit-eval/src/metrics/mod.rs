//! Metrics over features of pictures, in f64, with the numbers of the implementations the literature uses.
//!
//! | here | is | as computed by |
//! |---|---|---|
//! | [`frechet`] | FID, CLIP-FID, FD on DINOv2 | pytorch-fid, clean-fid, dgm-eval |
//! | [`frechet::infinite`] | FID without its bias | arXiv 1911.07023 |
//! | [`kernel::distance`] | KID and KD, by subsets | arXiv 1801.01401, clean-fid |
//! | [`neighbours::prdc`] | precision, recall, density, coverage | arXiv 1904.06991, arXiv 2002.09797, prdc |
//! | [`kernel::cmmd`] | CMMD, biased as published, and unbiased | arXiv 2401.09603 |
//! | [`clip_score()`] | CLIP score | arXiv 2104.08718, torchmetrics |
//! | [`inception_score()`] | Inception score | arXiv 1606.03498 |
//!
//! What a metric is called depends on whose features it is made of: [`Metric::name`]. HPSv2 and PickScore, which judge by
//! networks trained on people's choices, are missing.

pub mod frechet;
pub mod kernel;
pub mod neighbours;

mod blocks;
mod clip_score;
mod inception_score;
mod moments;
mod name;

pub use clip_score::{ClipScore, clip_score};
pub use inception_score::{InceptionScore, SPLITS, inception_score};
pub use moments::{Gaussian, Moments};
pub use name::{Metric, Name};
