//! What is added to a student's loss besides the teacher's gradient: terms whose weights fall to zero.

use crate::{
    ops::DitBackend,
    range::{OutOfRange, within},
};
use burn::{
    module::{Module, ModuleDisplay},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};
use std::{marker::PhantomData, ops::RangeInclusive};

/// A weight that falls in a straight line, from the first step of a stage until it is exactly zero, and stays there.
///
/// ```
/// use microdit::task::FadingWeight;
///
/// let fading = FadingWeight { weight: 0.1, until: 4 };
/// assert_eq!([0, 2, 4, 9].map(|step| fading.at(step)), [Some(0.1), Some(0.05), None, None]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FadingWeight {
    /// Before the first step, as [`WEIGHTS`](Self::WEIGHTS).
    pub weight: f64,
    /// Steps after which nothing is left of it, at least 1.
    pub until: u64,
}

impl FadingWeight {
    /// Weights a term may begin with; the teacher's has 1.
    pub const WEIGHTS: RangeInclusive<f64> = 0.0..=1e6;

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("weight", self.weight, Self::WEIGHTS)?;
        within("until", self.until, 1..)
    }

    /// The weight after so many steps of the stage; none where it is zero, and the term need not be computed.
    pub fn at(&self, step: u64) -> Option<f64> {
        let left = self.until.saturating_sub(step) as f64 / self.until.max(1) as f64;
        let weight = self.weight * left;
        (weight > 0.0).then_some(weight)
    }
}

/// The [clamped CLIP loss](super::clamped_clip_loss) as a term (SwiftBrush v2, arXiv 2408.14176): a student whose images are about their
/// captions less than the threshold asks is pulled towards them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipTerm {
    /// The cosine of image and caption from which on an image is left alone, -1 to 1.
    pub tau: f64,
    /// Its weight.
    pub fading: FadingWeight,
}

impl ClipTerm {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("tau", self.tau, -1.0..=1.0)?;
        self.fading.validate()
    }
}

/// Frozen networks, or nothing, that latents go through to be compared with captions. Its tensors are no parameters: a checkpoint does
/// not hold them.
pub trait ImageEmbedder<B: DitBackend>: Module<B> + ModuleDisplay {
    /// Latents `[batch, channels, height, width]` as the denoiser makes them to embeddings `[batch, dim]`, not normalized; differentiable in
    /// the latents.
    fn embed(&self, latents: Tensor<B, 4>) -> Tensor<B, 2>;
}

/// The values of the latents themselves as an embedding: of a task without a network for that.
#[derive(Module, Debug)]
pub struct OwnValues<B: DitBackend> {
    backend: PhantomData<B>,
}

impl<B: DitBackend> OwnValues<B> {
    /// The embedder.
    pub fn new() -> Self {
        let backend = PhantomData;
        Self { backend }
    }
}

impl<B: DitBackend> Default for OwnValues<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: DitBackend> ImageEmbedder<B> for OwnValues<B> {
    fn embed(&self, latents: Tensor<B, 4>) -> Tensor<B, 2> {
        latents.flatten(1, 3)
    }
}

/// What a term compares the student's images with in a step, and how much that counts.
#[derive(Clone, Debug)]
pub struct TermTarget<B: DitBackend, const D: usize> {
    /// The term's weight, above 0.
    pub weight: f64,
    /// One row per sample.
    pub with: Tensor<B, D>,
}

/// The squared distance of images to those of the data, mean over the values of each sample, `[batch]`; both
/// `[batch, channels, height, width]`. SwiftBrush v2 regularizes with real pairs in a way that is not published; this is the plainest.
pub fn regression_loss<B: DitBackend>(images: Tensor<B, 4>, real: Tensor<B, 4>) -> Tensor<B, 1> {
    let batch = images.dims()[0];
    let distance = (images - real).powi_scalar(2).mean_dims(&[1, 2, 3]);
    distance.reshape([batch])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::{
            Conditioning, Denoiser as _, Output,
            dit::{
                Dit,
                tests::{config, shaken},
            },
        },
        task::{Distill, DistillConfig, Draws, HostBatch, Samples, Task as _},
    };
    use burn::tensor::TensorData;
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;

    type Tracked = Autodiff<Flex>;
    type Student<B> = Distill<B, Dit<B>>;

    /// A batch whose captions are compared with images as these values.
    struct Embedded(HostBatch, Vec<f32>);

    impl<B: DitBackend> Samples<B> for Embedded {
        fn count(&self) -> usize {
            Samples::<B>::count(&self.0.on::<B>(&Default::default()))
        }

        fn latents(&self, samples: &[usize]) -> Tensor<B, 4> {
            self.0.on::<B>(&Default::default()).latents(samples)
        }

        fn conditioning(&self, samples: &[usize]) -> Conditioning<B> {
            self.0.on::<B>(&Default::default()).conditioning(samples)
        }

        fn embeddings(&self, samples: &[usize]) -> Option<Tensor<B, 2>> {
            let dim = self.1.len() / 2;
            let values = crate::task::picked(&self.1, dim, samples);
            let data = TensorData::new(values, [samples.len(), dim]);
            Some(Tensor::from_data(data, &Default::default()))
        }
    }

    fn values(key: f32, count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * key).sin()).collect()
    }

    fn batch() -> Embedded {
        let host = HostBatch {
            latents: values(0.7, 2 * 256),
            shape: [4, 8, 8],
            captions: values(0.3, 2 * 36),
            caption: [3, 12],
        };
        Embedded(host, values(1.3, 2 * 256))
    }

    fn student<B: DitBackend>() -> Student<B> {
        let fading = |weight, until| FadingWeight { weight, until };
        let network = shaken::<B>(&config());
        let distill = DistillConfig {
            regression: Some(fading(0.25, 8)),
            ..DistillConfig::default()
        };
        let task = distill
            .init(network.clone(), network, 0, &Default::default())
            .unwrap();
        let term = ClipTerm {
            tau: 0.9,
            fading: fading(2.0, 4),
        };
        task.with_clip(Some((term, OwnValues::new()))).unwrap()
    }

    /// Their names and weights in a step of a stage.
    fn terms(draws: Draws) -> Vec<(&'static str, f64)> {
        let task = student::<Flex>();
        let prepared = task.prepare(&batch(), 0..2, &draws);
        let output = task.predictor(&prepared).predict(task.inputs(&prepared));
        let losses = task.losses(&prepared, &output).0.into_iter();
        losses.map(|term| (term.name, term.weight)).collect()
    }

    /// Straight down to exactly zero, from where on they are not computed; by the steps of the stage, not of the run.
    #[test]
    fn terms_count_while_they_have_a_weight() {
        let own = [("vsd", 1.0), ("critic", 1.0)];
        let in_stage = |step| terms(Draws::of_step(0, 100).in_stage(step));
        let with = |more: &[(&'static str, f64)]| [&own, more].concat();
        assert_eq!(in_stage(0), with(&[("clip", 2.0), ("regression", 0.25)]));
        assert_eq!(in_stage(3), with(&[("clip", 0.5), ("regression", 0.15625)]));
        assert_eq!(in_stage(4), with(&[("regression", 0.125)]));
        assert_eq!(in_stage(8), own);
        assert_eq!(in_stage(u64::MAX), own);
        // A loss that is measured is the same one at every step.
        let held_out = Draws {
            held_out: true,
            ..Draws::of_step(0, 0)
        };
        assert_eq!(terms(held_out), own);
    }

    /// Both terms, by what the student predicts.
    fn loss<B: DitBackend>(task: &Student<B>, patches: Tensor<B, 3>) -> Tensor<B, 1> {
        let prepared = task.prepare(&batch(), 0..2, &Draws::of_step(0, 0));
        let mut losses = task.losses(&prepared, &Output::all(patches));
        losses
            .0
            .retain(|term| ["clip", "regression"].contains(&term.name));
        assert_eq!(losses.0.len(), 2);
        losses.total().sum()
    }

    fn patches<B: DitBackend>(key: f32) -> Tensor<B, 3> {
        let data = TensorData::new(values(key, 2 * 16 * 16), [2, 16, 16]);
        Tensor::from_data(data, &Default::default())
    }

    #[test]
    fn their_gradient_is_that_of_finite_differences() {
        let x = patches::<Tracked>(0.9).require_grad();
        let grads = loss(&student::<Tracked>(), x.clone()).backward();
        let grad = x.grad(&grads).unwrap();
        let task = student::<Flex>();
        let x = x.inner();
        let norm = grad.clone().powi_scalar(2).sum().sqrt().into_scalar();
        for direction in [grad.clone() / norm, patches::<Flex>(0.4) / 16.0] {
            let at = |step: f64| {
                let loss = loss(&task, x.clone() + direction.clone() * step);
                f64::from(loss.into_scalar())
            };
            let found = (at(0.05) - at(-0.05)) / 0.1;
            let expected = f64::from((grad.clone() * direction).sum().into_scalar());
            let limit = 0.01 * f64::from(norm);
            assert!((found - expected).abs() < limit, "{found}, {expected}");
        }
    }

    /// By hand, on the images that come out.
    #[test]
    fn they_compare_the_students_images() {
        let task = student::<Flex>();
        let prepared = task.prepare(&batch(), 0..2, &Draws::of_step(0, 0));
        let output = Output::all(patches::<Flex>(0.9));
        let images: Vec<f64> = task.images(&prepared, &output).into_data().iter().collect();
        let losses = task.losses(&prepared, &output).0;
        let (real, captions) = (values(0.7, 512), values(1.3, 512));
        for sample in 0..2 {
            let part = sample * 256..(sample + 1) * 256;
            let (image, real, caption) =
                (&images[part.clone()], &real[part.clone()], &captions[part]);
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let caption: Vec<f64> = caption.iter().map(|&value| f64::from(value)).collect();
            let norms = (dot(image, image) * dot(&caption, &caption)).sqrt();
            let clip = 0.9 - dot(image, &caption) / norms;
            let squares = image
                .iter()
                .zip(real)
                .map(|(a, &b)| (a - f64::from(b)).powi(2));
            let regression = squares.sum::<f64>() / 256.0;
            for (term, expected) in [(2, clip), (3, regression)] {
                let found: Vec<f64> = losses[term].values.clone().into_data().iter().collect();
                let error = (found[sample] / expected - 1.0).abs();
                assert!(error < 1e-4, "{term}: {}, {expected}", found[sample]);
            }
        }
    }

    #[test]
    fn ranges_are_checked() {
        let fading = FadingWeight {
            weight: 0.1,
            until: 10,
        };
        let term = ClipTerm { tau: 0.37, fading };
        term.validate().unwrap();
        for (wrong, key) in [
            (ClipTerm { tau: 1.5, ..term }, "tau"),
            (
                ClipTerm {
                    tau: f64::NAN,
                    ..term
                },
                "tau",
            ),
            (
                ClipTerm {
                    fading: FadingWeight {
                        weight: -0.1,
                        ..fading
                    },
                    ..term
                },
                "weight",
            ),
            (
                ClipTerm {
                    fading: FadingWeight { until: 0, ..fading },
                    ..term
                },
                "until",
            ),
        ] {
            assert_eq!(wrong.validate().unwrap_err().key, key);
            let task = student::<Flex>().with_clip(Some((wrong, OwnValues::new())));
            assert_eq!(task.unwrap_err().key, format!("clip.{key}"));
        }
    }
}
