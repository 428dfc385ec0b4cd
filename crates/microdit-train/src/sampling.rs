//! Pictures from a run: prompts in, images out.

use crate::{
    encode::{CaptionEncoder, Codec},
    error::TrainError,
    recipe::{Recipe, SamplingConfig, Stage},
    run::RunDir,
};
use burn::tensor::{Tensor, TensorData};
use image::{ImageFormat, RgbImage};
use microdit::{
    Dit, DitBackend,
    diffusion::sampler::{Churn, sample},
    rng::{Purpose, Stream},
    weights::StateDict,
    write_whole,
};
use microdit_encoders::grid;
use std::{io, path::Path};

/// Pictures denoised together.
const BATCH: usize = 16;

/// A trained network and what turns words into its conditions and latents into pictures.
pub struct Painter<B: DitBackend> {
    stage: Stage,
    dit: Dit<B>,
    codec: Codec,
    device: B::Device,
}

impl<B: DitBackend> Painter<B> {
    /// A painter over a network trained in `stage`.
    ///
    /// # Errors
    /// If the stage has no way from texts to caption vectors, or from latents to pictures.
    pub fn new(stage: Stage, dit: Dit<B>, device: B::Device) -> Result<Self, TrainError> {
        let codec = Codec::new(&stage);
        if !codec.decodes() {
            return Err(TrainError::NoDecoder);
        }
        Ok(Self {
            stage,
            dit,
            codec,
            device,
        })
    }

    /// Loads the final weights of a run or, of an unfinished one, its newest checkpoint's; averaged ones if there are.
    /// Also returns the run's recipe.
    ///
    /// # Errors
    /// If the directory holds no weights, or they do not fit its recipe.
    pub fn load(run: &Path, device: B::Device) -> Result<(Self, Recipe), TrainError> {
        let (run, recipe) = RunDir::open(run)?;
        let stage = recipe.last_stage().clone();
        let dit = stage.model.init(recipe.run.seed, &device)?;
        let dit = StateDict::read(&run.drawable()?)?.load_into(dit, &device)?;
        Ok((Self::new(stage, dit, device)?, recipe))
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
        let stage = &self.stage;
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

/// Writes pictures as a grid, `columns` in a row, whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn save_grid(images: &[RgbImage], columns: usize, path: &Path) -> Result<(), TrainError> {
    let grid = grid(images, columns);
    let written = write_whole(path, |part| {
        let result = grid.save_with_format(part, ImageFormat::Png);
        result.map_err(io::Error::other)
    });
    written.map_err(TrainError::io(path))
}
