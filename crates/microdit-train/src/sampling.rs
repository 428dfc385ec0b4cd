//! Prompts in, pictures out.

use crate::{
    encoders::Encoders,
    error::TrainError,
    recipe::{CaptionConfig, CodecConfig, Recipe, SamplingConfig, Stage},
    run::RunDir,
};
use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use microdit::{
    Dit, DitBackend, DitConfig,
    diffusion::{
        edm::Edm,
        sampler::{Churn, sample},
    },
    rng::{Purpose, Stream},
    weights::StateDict,
};
use microdit_encoders::{
    HashedWords, PixelCodec,
    text::TextEncoder,
    vae::{Vae, pictures},
};
use std::{path::Path, sync::Arc};

/// Pictures denoised together.
const BATCH: usize = 16;

/// A trained network and what turns words into its conditions and latents into pictures.
pub struct Painter<B: DitBackend> {
    model: DitConfig,
    diffusion: Edm,
    dit: Dit<B>,
    words: Words<B>,
    eyes: Eyes<B>,
    device: B::Device,
}

/// How prompts become vectors.
enum Words<B: DitBackend> {
    Hashed(HashedWords),
    Network(Arc<TextEncoder<B>>),
}

/// How latents become pictures.
enum Eyes<B: DitBackend> {
    Pixels(PixelCodec),
    Vae(Arc<Vae<B>>),
}

impl<B: DitBackend> Painter<B> {
    /// A painter over a network trained in `stage`; what its recipe trained on pre-computed latents needs `encoders`.
    ///
    /// # Errors
    /// If there is no way from texts to caption vectors or from latents to pictures, or one that does not fit the
    /// network.
    pub fn new(
        stage: &Stage,
        dit: Dit<B>,
        encoders: &Encoders<B>,
        device: B::Device,
    ) -> Result<Self, TrainError> {
        let words = match stage.captions {
            CaptionConfig::HashedWords { tokens, .. } => Words::Hashed(HashedWords {
                tokens,
                channels: stage.model.caption_channels,
            }),
            CaptionConfig::Precomputed { .. } => Words::Network(encoders.text()?),
        };
        let eyes = match stage.codec {
            CodecConfig::Pixels { scale } => Eyes::Pixels(PixelCodec { scale }),
            CodecConfig::Latents => Eyes::Vae(encoders.vae()?),
        };
        fits(&stage.model, &words, &eyes)?;
        Ok(Self {
            model: stage.model.clone(),
            diffusion: stage.diffusion,
            dit,
            words,
            eyes,
            device,
        })
    }

    /// A painter over published weights, of a network of configuration `model` that was trained with `diffusion`.
    ///
    /// # Errors
    /// Missing encoders, and weights or encoders that do not fit the network.
    pub fn of_weights(
        weights: &Path,
        model: DitConfig,
        diffusion: Edm,
        encoders: &Encoders<B>,
        device: B::Device,
    ) -> Result<Self, TrainError> {
        let words = Words::Network(encoders.text()?);
        let eyes = Eyes::Vae(encoders.vae()?);
        fits(&model, &words, &eyes)?;
        let dit = StateDict::read(weights)?.load_into(model.init(0, &device)?, &device)?;
        Ok(Self {
            model,
            diffusion,
            dit,
            words,
            eyes,
            device,
        })
    }

    /// Loads the final weights of a run or, of an unfinished one, its newest checkpoint's; averaged ones if there are.
    /// Encoders not given are those its recipe names. Also returns the recipe.
    ///
    /// # Errors
    /// If the directory holds no weights, or they do not fit its recipe, or its pictures need encoders that are not
    /// there.
    pub fn load(
        run: &Path,
        encoders: Encoders<B>,
        device: B::Device,
    ) -> Result<(Self, Recipe), TrainError> {
        let (run, recipe) = RunDir::open(run)?;
        let encoders = encoders.or_open(&recipe.run.encoders, &device)?;
        let stage = recipe.last_stage();
        let dit = stage.model.init(recipe.run.seed, &device)?;
        let dit = StateDict::read(&run.drawable()?)?.load_into(dit, &device)?;
        Ok((Self::new(stage, dit, &encoders, device)?, recipe))
    }

    /// Draws `settings.count` pictures for each prompt, prompt after prompt. Picture i starts from noise (seed, i),
    /// so that it does not depend on how many are drawn; `progress` is told of every finished solver step.
    pub fn draw(
        &self,
        settings: &SamplingConfig,
        seed: u64,
        mut progress: impl FnMut(),
    ) -> Vec<RgbImage> {
        let _awake = B::awake();
        let prompts: Vec<&String> = settings
            .prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(prompt, settings.count))
            .collect();
        let mut images = Vec::with_capacity(prompts.len());
        for part in prompts.chunks(BATCH) {
            let first = images.len();
            let latents = self.draw_batch(settings, seed, first, part, &mut progress);
            images.extend(self.look_at(latents));
        }
        images
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
    ) -> Tensor<B, 4> {
        let model = &self.model;
        let side = model.input_size;
        let shape = [prompts.len(), model.in_channels, side, side];
        let size: usize = shape[1..].iter().product();
        let draw = |purpose, step: usize| -> Vec<f32> {
            (first..first + prompts.len())
                .flat_map(|i| Stream::new(seed, purpose, step as u64, i as u64).normal(size))
                .collect()
        };
        let captions = self.encode(prompts);
        let noise = TensorData::new(draw(Purpose::Noise, 0), shape);
        sample(
            settings.solver,
            Tensor::<B, 4>::from_data(noise, &self.device),
            &settings.sigmas.sigmas(settings.steps),
            |x, sigma| {
                self.diffusion.denoise(x, sigma, |x, t| {
                    let captions = captions.clone();
                    self.dit.forward_guided(x, t, captions, settings.guidance)
                })
            },
            &Churn::default(),
            |step| draw(Purpose::Churn, step),
            |step, _| {
                if step > 0 {
                    progress();
                }
            },
        )
    }

    fn encode(&self, prompts: &[&String]) -> Tensor<B, 3> {
        match &self.words {
            Words::Hashed(words) => {
                let shape = [prompts.len(), words.tokens, words.channels];
                let data = TensorData::new(words.encode(prompts), shape);
                Tensor::from_data(data, &self.device)
            }
            Words::Network(encoder) => encoder.encode(prompts, &self.device),
        }
    }

    fn look_at(&self, latents: Tensor<B, 4>) -> Vec<RgbImage> {
        match &self.eyes {
            Eyes::Pixels(codec) => {
                let [_, _, height, width] = latents.dims();
                let values: Vec<f32> = latents.into_data().iter::<f32>().collect();
                codec.decode(&values, width as u32, height as u32)
            }
            // One by one: a decoder's activations are many times larger than its picture.
            Eyes::Vae(vae) => {
                let one = |latent| pictures(vae.decode(latent));
                latents.split(1, 0).into_iter().flat_map(one).collect()
            }
        }
    }
}

/// Checks that the encoders speak of what the network was trained on.
fn fits<B: DitBackend>(
    model: &DitConfig,
    words: &Words<B>,
    eyes: &Eyes<B>,
) -> Result<(), TrainError> {
    let misfit = |what, channels, expected| match channels == expected {
        true => Ok(()),
        false => Err(TrainError::Misfit {
            what,
            channels,
            expected,
        }),
    };
    if let Words::Network(encoder) = words {
        misfit("text encoder", encoder.channels(), model.caption_channels)?;
    }
    if let Eyes::Vae(vae) = eyes {
        misfit("VAE", vae.latent_channels(), model.in_channels)?;
    }
    Ok(())
}
