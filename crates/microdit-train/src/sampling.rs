//! Pictures from a run: prompts in, images out.

use crate::{
    encode::{CaptionEncoder, Codec},
    error::TrainError,
    recipe::{Recipe, SamplingConfig},
    run::RunDir,
};
use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use microdit::{
    Dit, DitBackend,
    diffusion::sampler::{Churn, sample},
    rng::{Purpose, Stream},
    weights::StateDict,
};
use std::path::Path;

/// Pictures denoised together.
const BATCH: usize = 16;

/// A trained network and what turns words into its conditions and latents into pictures.
pub struct Painter<B: DitBackend> {
    recipe: Recipe,
    dit: Dit<B>,
    codec: Codec,
    device: B::Device,
}

impl<B: DitBackend> Painter<B> {
    /// A painter over a network in memory.
    ///
    /// # Errors
    /// If the recipe has no way from texts to caption vectors, or from latents to pictures.
    pub fn new(recipe: Recipe, dit: Dit<B>, device: B::Device) -> Result<Self, TrainError> {
        let codec = Codec::new(recipe.last_stage());
        if !codec.decodes() {
            return Err(TrainError::NoDecoder);
        }
        Ok(Self {
            recipe,
            dit,
            codec,
            device,
        })
    }

    /// Loads the final weights of a run or, of an unfinished one, its newest checkpoint's; averaged ones if there are.
    ///
    /// # Errors
    /// If the directory holds no weights, or they do not fit its recipe.
    pub fn load(run: &Path, device: B::Device) -> Result<Self, TrainError> {
        let (run, recipe) = RunDir::open(run)?;
        let dit = recipe.last_stage().model.init(recipe.run.seed, &device)?;
        let dit = StateDict::read(&run.drawable()?)?.load_into(dit, &device)?;
        Self::new(recipe, dit, device)
    }

    /// The run's own sampling settings.
    pub fn settings(&self) -> &SamplingConfig {
        &self.recipe.run.sampling
    }

    /// Draws `settings.count` pictures for each prompt, prompt after prompt. Picture i starts from noise (seed, i),
    /// so that it does not depend on how many are drawn; `progress` is told of every finished solver step.
    ///
    /// # Errors
    /// If latents cannot become pictures.
    pub fn draw(
        &self,
        settings: &SamplingConfig,
        seed: u64,
        mut progress: impl FnMut(),
    ) -> Result<Vec<RgbImage>, TrainError> {
        let prompts: Vec<&String> = settings
            .prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(prompt, settings.count))
            .collect();
        let mut images = Vec::with_capacity(prompts.len());
        for part in prompts.chunks(BATCH) {
            let first = images.len();
            images.extend(self.draw_batch(settings, seed, first, part, &mut progress)?);
        }
        Ok(images)
    }

    /// Batches a call to [`draw`](Self::draw) runs, each of `settings.steps` solver steps.
    pub fn batches(settings: &SamplingConfig) -> usize {
        (settings.prompts.len() * settings.count).div_ceil(BATCH)
    }

    fn draw_batch(
        &self,
        settings: &SamplingConfig,
        seed: u64,
        first: usize,
        prompts: &[&String],
        progress: &mut impl FnMut(),
    ) -> Result<Vec<RgbImage>, TrainError> {
        let stage = self.recipe.last_stage();
        let model = &stage.model;
        let shape = [
            prompts.len(),
            model.in_channels,
            model.input_size,
            model.input_size,
        ];
        let size: usize = shape[1..].iter().product();
        let draw = |purpose, step: usize| -> Vec<f32> {
            (first..first + prompts.len())
                .flat_map(|i| Stream::new(seed, purpose, step as u64, i as u64).normal(size))
                .collect()
        };
        let encoder = CaptionEncoder::new(stage);
        let captions: Tensor<B, 3> = encoder.encode(prompts, &self.device);
        let noise = TensorData::new(draw(Purpose::Noise, 0), shape);
        let latents = sample(
            settings.solver,
            Tensor::<B, 4>::from_data(noise, &self.device),
            &settings.sigmas.sigmas(settings.steps),
            |x, sigma| {
                stage.diffusion.denoise(x, sigma, |x, t| {
                    self.dit
                        .forward_guided(x, t, captions.clone(), settings.guidance)
                })
            },
            &Churn::default(),
            |step| draw(Purpose::Churn, step),
            |step, _| {
                if step > 0 {
                    progress();
                }
            },
        );
        self.codec.decode(latents)
    }
}
