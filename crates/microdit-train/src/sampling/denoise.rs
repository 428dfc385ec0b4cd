//! Noise to latents, and latents to pictures.

use super::Pipeline;
use crate::recipe::SamplingConfig;
use burn::tensor::{Tensor, TensorData, cast::ToElement as _};
use image::RgbImage;
use microdit::{
    DitBackend,
    diffusion::{Diffusion as _, Point, sampler::sample},
    net::Denoiser,
    rng::{Purpose, Stream},
};
use microdit_encoders::vae;
use std::sync::atomic::{AtomicBool, Ordering};

/// A picture to draw: its noise follows from the seed and its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Picture<'a> {
    pub(super) place: u64,
    pub(super) prompt: &'a str,
}

impl<B: DitBackend, D: Denoiser<B>> Pipeline<B, D> {
    /// Latents of `pictures`, none if `stop` was set before they were finished; `progress` is called after every
    /// solver step. A picture is the same in whatever batch it is drawn: bit for bit on a CPU in f32, elsewhere up to
    /// rounding.
    pub(super) fn denoise(
        &self,
        settings: &SamplingConfig,
        seed: u64,
        pictures: &[Picture<'_>],
        stop: &AtomicBool,
        mut progress: impl FnMut(),
    ) -> Option<Tensor<B, 4>> {
        let _awake = B::keep_awake();
        let [height, width] = self.latent;
        let count = pictures.len();
        let least = self.least_batch(settings.guidance);
        let pictures: Vec<Picture<'_>> = pictures
            .iter()
            .copied()
            .cycle()
            .take(count.max(least))
            .collect();
        let shape = [pictures.len(), self.model.latent()[0], height, width];
        let size: usize = shape[1..].iter().product();
        let draw = |purpose, step: usize| -> Vec<f32> {
            let one = |picture: &Picture<'_>| {
                Stream::new(seed, purpose, step as u64, picture.place).normal(size)
            };
            pictures.iter().flat_map(one).collect()
        };
        let prompts: Vec<&str> = pictures.iter().map(|picture| picture.prompt).collect();
        let conditioning = self.conditioner.1.encode(&prompts, &self.device);
        let other = match &settings.negative {
            Some(text) => {
                let texts = vec![text.as_str(); prompts.len()];
                self.conditioner.1.encode(&texts, &self.device)
            }
            None => conditioning.null(),
        };
        let normal = |purpose, step| {
            let values = TensorData::new(draw(purpose, step), shape);
            Tensor::<B, 4>::from_data(values, &self.device)
        };
        let stopped = || stop.load(Ordering::Relaxed);
        let trajectory = self.trajectory(settings);
        let guidance = settings.guidance();
        let noise = normal(Purpose::Noise, 0);
        let init = self.init.as_ref().map(|init| init.image(noise.clone()));
        let begin = match &init {
            Some(init) => init.start(&trajectory),
            None => noise * trajectory.start,
        };
        let behind = self.behind().map(|behind| {
            let [_, channels, ..] = behind.dims();
            behind.expand([shape[0], channels, height, width])
        });
        if let Some(student) = self.one_step {
            let latents = student.image(&self.family, normal(Purpose::Noise, 0), |x, t| {
                self.denoiser.image(x, t, conditioning)
            });
            progress();
            return (!stopped()).then(|| latents.narrow(0, 0, count));
        }
        let estimate = |x: Tensor<B, 4>, point: Point| {
            self.family.denoise(x, point, |x, t| {
                let x = match &behind {
                    Some(behind) => Tensor::cat(vec![x, behind.clone()], 1),
                    None => x,
                };
                let sigma = point.level.sigma();
                let Some((_, guide)) = &self.guide else {
                    return guidance.predict(&self.denoiser, x, t, sigma, &conditioning, &other);
                };
                let image = |network: &D| network.image(x.clone(), t.clone(), conditioning.clone());
                guidance.guide(
                    sigma,
                    || image(&self.denoiser),
                    || [&self.denoiser, guide].map(image),
                )
            })
        };
        let latents = sample(
            &settings.solver,
            &trajectory,
            begin,
            |x, point| match &init {
                // The state is then not needed any more.
                _ if stopped() => x,
                Some(init) => init.denoise(x, point, estimate),
                None => estimate(x, point),
            },
            |step| normal(Purpose::Churn, step),
            |step, _| {
                if step > 0 && !stopped() {
                    progress();
                }
            },
        );
        let latents = match init {
            Some(init) => init.finish(latents),
            None => latents,
        };
        (!stopped()).then(|| latents.narrow(0, 0, count))
    }

    /// Pictures below which a batch is filled up, since matrix products of a few elements or rows sum in another order than
    /// larger ones. A network of any use needs two rows at most, which guidance makes of one picture.
    fn least_batch(&self, guidance: f64) -> usize {
        let patch = self.denoiser.patch_size();
        let tokens: usize = self.latent.iter().map(|side| side / patch).product();
        let [of_picture, of_token] = self.model.narrowest();
        // Elements and rows up to which `gemm` takes these ways.
        let narrow = 256 / of_picture.min(tokens.saturating_mul(of_token));
        let rows = narrow.max(64 / tokens).max(1) + 1;
        match guidance == 1.0 {
            true => rows,
            false => rows.div_ceil(2),
        }
    }

    /// Decodes latents to images one at a time, since a decoder's activations are many times larger than its image. None for an image
    /// that is not finite.
    pub(super) fn look_at(&self, latents: Tensor<B, 4>) -> impl Iterator<Item = Option<RgbImage>> {
        latents.split(1, 0).into_iter().map(|latent| {
            let image = self.codec.1.decode(latent);
            let finite = image.clone().is_finite().all().into_scalar().to_bool();
            vae::pictures(image).pop().filter(|_| finite)
        })
    }
}
