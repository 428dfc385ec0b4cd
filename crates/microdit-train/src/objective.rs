//! From a batch to its loss, with all randomness keyed by (seed, step, sample).

use crate::{
    encode::{CaptionEncoder, Codec},
    recipe::Stage,
};
use burn::tensor::{Tensor, TensorData, backend::Backend};
use microdit::{
    Dit, DitBackend, TokenMask,
    diffusion::Diffusion as _,
    rng::{Purpose, Stream},
};
use microdit_data::Batch;
use std::ops::Range;

/// The loss of a stage.
pub(crate) struct Objective<'a, B: Backend> {
    stage: &'a Stage,
    seed: u64,
    captions: CaptionEncoder,
    codec: Codec,
    device: &'a B::Device,
}

impl<'a, B: DitBackend> Objective<'a, B> {
    pub(crate) fn new(stage: &'a Stage, seed: u64, device: &'a B::Device) -> Self {
        Self {
            stage,
            seed,
            captions: CaptionEncoder::new(stage),
            codec: Codec::new(stage),
            device,
        }
    }

    /// Losses of `samples` of the batch trained at `step`: what a sample's loss is does not depend on which others are
    /// computed with it.
    pub(crate) fn losses(
        &self,
        dit: &Dit<B>,
        batch: &Batch,
        samples: Range<usize>,
        step: u64,
    ) -> Tensor<B, 1> {
        self.losses_of(batch, samples, step, |x, t, captions, mask| {
            dit.forward_tokens(x, t, captions, mask)
        })
    }

    /// The same for any network of noisy latents, noise levels, captions and mask.
    pub(crate) fn losses_of(
        &self,
        batch: &Batch,
        samples: Range<usize>,
        step: u64,
        network: impl FnOnce(
            Tensor<B, 4>,
            Tensor<B, 1>,
            Tensor<B, 3>,
            Option<&TokenMask<B>>,
        ) -> Tensor<B, 3>,
    ) -> Tensor<B, 1> {
        let model = &self.stage.model;
        let side = model.input_size;
        let shape = [samples.len(), model.in_channels, side, side];
        let size: usize = shape[1..].iter().product();
        let images = &batch.images[samples.start * size..samples.end * size];
        let clean: Tensor<B, 4> = self.codec.encode(images, shape, self.device);
        let noise = self.normal(Purpose::Noise, step, &samples, size);
        let noise = Tensor::from_data(TensorData::new(noise, shape), self.device);
        let mask = TokenMask::draw(
            self.stage.masking,
            model.tokens(),
            self.seed,
            step,
            samples.start as u64..samples.end as u64,
            self.device,
        );
        let captions = self
            .captions
            .batch(&batch.captions, samples.clone(), self.device)
            * self.kept_captions(step, &samples);
        let diffusion = &self.stage.diffusion;
        let sigmas = self.sigmas(step, &samples).into_iter();
        let times: Vec<f64> = sigmas.map(f64::from).collect();
        diffusion.loss(
            clean,
            noise,
            &diffusion.rows(&times),
            model.patch_size,
            mask.as_ref(),
            |x, t| network(x, t, captions, mask.as_ref()),
        )
    }

    /// Noise levels of `samples` at `step`.
    pub(crate) fn sigmas(&self, step: u64, samples: &Range<usize>) -> Vec<f32> {
        let draws = self.normal(Purpose::Sigma, step, samples, 1).into_iter();
        draws
            .map(|normal| self.stage.diffusion.sigma(normal))
            .collect()
    }

    fn normal(
        &self,
        purpose: Purpose,
        step: u64,
        samples: &Range<usize>,
        count: usize,
    ) -> Vec<f32> {
        let draw = |i| Stream::new(self.seed, purpose, step, i as u64).normal(count);
        samples.clone().flat_map(draw).collect()
    }

    /// 0 where a sample's caption is dropped, 1 elsewhere: `[batch, 1, 1]`.
    fn kept_captions(&self, step: u64, samples: &Range<usize>) -> Tensor<B, 3> {
        let drop = self.stage.captions.drop();
        let keep = |i| {
            let draw = Stream::new(self.seed, Purpose::CaptionDrop, step, i as u64).uniform(1)[0];
            f32::from(f64::from(draw) >= drop)
        };
        let keep: Vec<f32> = samples.clone().map(keep).collect();
        Tensor::from_data(TensorData::new(keep, [samples.len(), 1, 1]), self.device)
    }
}
