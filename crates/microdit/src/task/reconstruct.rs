//! Reconstruction of the patches that were dropped, beside denoising those that were kept (MaskDiT, arXiv 2306.09305).

use crate::{
    diffusion::{Diffusion as _, Family},
    net::{Output, TokenMask, dit::embed::patchify},
    ops::DitBackend,
    range::{OutOfRange, within},
    task::Noised,
};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Added to the variance of a patch it is divided by.
const EPS: f64 = 1e-6;

/// The second loss of a network whose decoder predicts all patches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reconstruction {
    /// Its weight beside the denoising loss, 0 to 1000.
    pub mae_loss_coef: f64,
    /// Whether each target patch is normalized by its own mean and deviation.
    pub norm_pix_loss: bool,
}

impl Default for Reconstruction {
    /// As MaskDiT weighs it.
    fn default() -> Self {
        Self {
            mae_loss_coef: 0.1,
            norm_pix_loss: true,
        }
    }
}

impl Reconstruction {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("mae_loss_coef", self.mae_loss_coef, 0.0..=1e3)
    }

    /// Squared error of the denoised estimate of each sample's dropped patches, `[batch]`. What it is compared with is the noisy
    /// image: the decoder is asked for what the network was not shown, whatever of it is noise.
    ///
    /// # Panics
    /// If the network predicts the kept patches alone.
    pub fn loss<B: DitBackend>(
        &self,
        family: &Family,
        output: &Output<B>,
        noised: &Noised<B>,
        dropped: &TokenMask<B>,
        patch_size: usize,
    ) -> Tensor<B, 1> {
        assert!(
            output.keep.is_none(),
            "dropped patches are reconstructed by a network that predicts them"
        );
        let (clean, noise) = (noised.clean.clone(), noised.noise.clone());
        let noisy = patchify(family.noisy(clean, noise, &noised.rows), patch_size);
        let prediction = output.patches.clone();
        let estimate = family.estimate(noisy.clone(), prediction, &noised.rows);
        let target = match self.norm_pix_loss {
            true => normalized(noisy),
            false => noisy,
        };
        let error = (estimate - target).powi_scalar(2).mean_dim(2);
        let [batch, tokens, _] = error.dims();
        let places = dropped.dropped(&error.device());
        let sum = (error.reshape([batch, tokens]) * places).sum_dim(1);
        sum.reshape([batch]) / dropped.count_dropped() as f64
    }
}

/// Patches `[batch, tokens, patch]`, each less its mean and over its deviation. The variance is the unbiased one.
fn normalized<B: DitBackend>(patches: Tensor<B, 3>) -> Tensor<B, 3> {
    let count = patches.dims()[2];
    let centered = patches.clone() - patches.mean_dim(2);
    // A patch of a single number has no deviation: it becomes 0.
    let variance = centered.clone().powi_scalar(2).sum_dim(2) / (count - 1).max(1) as f64;
    centered / (variance + EPS).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DecoderConfig, Masking,
        net::{
            Denoiser as _,
            dit::tests::{config, shaken},
        },
        task::{DenoiseConfig, Draws, HostBatch, Task as _},
    };
    use burn_flex::Flex;

    fn batch(value: f32) -> HostBatch {
        HostBatch {
            latents: vec![value; 2 * 4 * 8 * 8],
            shape: [4, 8, 8],
            captions: vec![1.0; 2 * 3 * 12],
            caption: [3, 12],
        }
    }

    /// The terms of a step's losses with half of the patches dropped.
    fn terms(reconstruction: Option<Reconstruction>, held_out: bool) -> Vec<(&'static str, f64)> {
        let device = Default::default();
        let decoder = DecoderConfig {
            dim: 16,
            depth: 1,
            head_dim: 8,
            qkv_ratio: 1.0,
            mlp_ratio: 2.0,
        };
        let network = shaken::<Flex>(&config().with_decoder(Some(decoder)));
        let settings = DenoiseConfig {
            masking: Masking::Naive { ratio: 0.5 },
            reconstruction,
            ..DenoiseConfig::default()
        };
        let task = settings.init(network).unwrap();
        let draws = Draws {
            held_out,
            ..Draws::of_step(0, 0)
        };
        let noised = task.prepare(&batch(0.3).on::<Flex>(&device), 0..2, &draws);
        let output = task.denoiser().predict(task.inputs(&noised));
        assert_eq!(output.patches.dims(), [2, 16, 16], "all patches come out");
        let losses = task.losses(&noised, &output).0.into_iter();
        losses.map(|term| (term.name, term.weight)).collect()
    }

    #[test]
    fn dropped_patches_add_a_loss_and_nothing_else_does() {
        let both = [("denoise", 1.0), ("reconstruct", 0.1)];
        let default = Reconstruction::default();
        assert_eq!(terms(Some(default), false), both);
        assert_eq!(terms(None, false), both[..1]);
        assert_eq!(terms(Some(default), true), both[..1], "nothing was dropped");
        let off = Reconstruction {
            mae_loss_coef: 0.0,
            ..default
        };
        assert_eq!(terms(Some(off), false), both[..1]);
    }

    #[test]
    fn a_network_without_a_decoder_cannot_reconstruct() {
        let settings = DenoiseConfig {
            reconstruction: Some(Reconstruction::default()),
            ..DenoiseConfig::default()
        };
        let error = settings.init(shaken::<Flex>(&config())).unwrap_err();
        assert_eq!(error.key, "reconstruction");
    }

    #[test]
    fn a_normalized_patch_has_mean_0_and_deviation_1() {
        let patches =
            Tensor::<Flex, 3>::from_floats([[[1.0, 2.0, 3.0, 6.0], [5.0; 4]]], &Default::default());
        let found: Vec<f32> = normalized(patches).into_data().iter().collect();
        let deviation = (14.0f32 / 3.0).sqrt();
        let expected = [-2.0, -1.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0].map(|x| x / deviation);
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-5,
                "{found}, expected {expected}"
            );
        }
        let single = Tensor::<Flex, 3>::from_floats([[[5.0]]], &Default::default());
        assert_eq!(normalized(single).into_scalar(), 0.0);
    }
}
