//! What a stage of distillation adds to its student's loss.

use super::{CodecConfig, Stage};
use microdit::{
    range::{OutOfRange, require},
    task::{ClipTerm, FadingWeight},
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A CLIP loss, clamped at a threshold (SwiftBrush v2, arXiv 2408.14176): `max(0, tau - cosine)` of the student's image, decoded and resized,
/// and its caption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipLoss {
    /// A CLIP with both towers: a directory of transformers or open_clip, or a name as `microdit fetch` takes it, such as `clip-b32`.
    pub model: PathBuf,
    /// The tiny autoencoder that makes images of latents, by its directory or a name as `microdit fetch` takes it, such as `taesd`. A network
    /// of pixels needs none.
    #[serde(default)]
    pub decoder: Option<PathBuf>,
    /// The cosine of image and caption from which on an image is left alone, -1 to 1.
    pub tau: f64,
    /// Weight in the student's loss before the first step, 0 to 1,000,000; it falls to zero in a straight line.
    pub weight: f64,
    /// Steps of the stage after which it is zero, at least 1; all of them if absent.
    #[serde(default)]
    pub until: Option<u64>,
}

/// Squared distance of the student's images to those of the data with the same captions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regression {
    /// Weight in the student's loss before the first step, 0 to 1,000,000; it falls to zero in a straight line.
    pub weight: f64,
    /// Steps of the stage after which it is zero, at least 1; all of them if absent.
    #[serde(default)]
    pub until: Option<u64>,
}

impl ClipLoss {
    /// As the library takes it, in a stage of so many steps.
    pub(crate) fn term(&self, steps: u64) -> ClipTerm {
        ClipTerm {
            tau: self.tau,
            fading: FadingWeight {
                weight: self.weight,
                until: self.until.unwrap_or(steps),
            },
        }
    }

    /// Checks that it goes together with the rest of `stage`.
    pub(super) fn validate(&self, stage: &Stage) -> Result<(), OutOfRange> {
        self.term(stage.steps).validate()?;
        match stage.data.codec() {
            Some(CodecConfig::Pixels { .. }) => require(self.decoder.is_none(), "decoder", || {
                "the network draws pixels, which are images already; leave it out".into()
            }),
            None => require(self.decoder.is_some(), "decoder", || {
                "latents are no images; name a tiny autoencoder, such as \"taesd\" for those of Stable Diffusion".into()
            }),
        }
    }
}

impl Regression {
    /// As the library takes it, in a stage of so many steps.
    pub(crate) fn fading(&self, steps: u64) -> FadingWeight {
        FadingWeight {
            weight: self.weight,
            until: self.until.unwrap_or(steps),
        }
    }

    /// Checks that it goes together with the rest of `stage`.
    pub(super) fn validate(&self, stage: &Stage) -> Result<(), OutOfRange> {
        self.fading(stage.steps).validate()?;
        require(stage.prompts().is_none(), "weight", || {
            "prompts have no images to come near; leave out regression, or distill.prompts".into()
        })
    }
}
