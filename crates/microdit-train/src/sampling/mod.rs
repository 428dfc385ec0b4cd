//! Prompts in, pictures out.

mod drawing;
mod label;
mod prompts;

pub use drawing::{Drawing, Drawn, Order};
pub use label::Label;
pub use prompts::{read_prompts, warn_of_long_prompts};

use crate::{
    encoders::Encoders,
    error::TrainError,
    recipe::{CaptionConfig, CodecConfig, EncoderConfig, Recipe, SamplingConfig, Stage},
    run::RunDir,
};
use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use microdit::{
    Dit, DitBackend, DitConfig,
    diffusion::{Diffusion as _, Edm, sampler::sample},
    rng::{Purpose, Stream},
    weights::StateDict,
};
use microdit_encoders::{HashedWords, PixelCodec, text::TextEncoder, vae::Vae};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A trained network and what turns words into its conditions and latents into pictures.
pub struct Painter<B: DitBackend> {
    model: DitConfig,
    diffusion: Edm,
    dit: Dit<B>,
    words: Words<B>,
    eyes: Eyes<B>,
    device: B::Device,
    /// What its label says of the weights.
    weights: String,
    encoders: EncoderConfig,
}

/// A picture to draw: its noise follows from the seed and its place.
#[derive(Clone, Copy, Debug)]
struct Picture<'a> {
    place: u64,
    prompt: &'a str,
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
    /// Labels of its pictures say of the weights what `weights` says.
    ///
    /// # Errors
    /// If there is no way from texts to caption vectors or from latents to pictures, or one that does not fit the
    /// network.
    pub fn new(
        stage: &Stage,
        dit: Dit<B>,
        weights: String,
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
            weights,
            encoders: encoders.names().clone(),
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
            weights: label::of_file(weights)?,
            encoders: encoders.names().clone(),
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
        let weights = run.drawable()?;
        let dit = StateDict::read(&weights)?.load_into(dit, &device)?;
        let weights = label::of_file(&weights)?;
        Ok((Self::new(stage, dit, weights, &encoders, device)?, recipe))
    }

    /// Width and height of its pictures in pixels.
    pub fn size(&self) -> [u32; 2] {
        let side = match &self.eyes {
            Eyes::Pixels(_) => self.model.input_size,
            Eyes::Vae(vae) => self.model.input_size * vae.shrinks_by(),
        };
        [side as u32; 2]
    }

    /// Warns of prompts that its text encoder does not read to their end.
    pub fn warn_of_cuts(&self, prompts: &[String]) {
        prompts::warn_of_cuts(prompts, |prompt| match &self.words {
            Words::Hashed(words) => words.cut(prompt),
            Words::Network(encoder) => encoder.cut(prompt),
        });
    }

    /// Latents of `pictures`, none if `stop` was set before they were finished; `progress` is told of every finished
    /// solver step. A picture is the same in whatever batch it is drawn: bit for bit on a CPU in f32, elsewhere up to
    /// rounding.
    fn denoise(
        &self,
        settings: &SamplingConfig,
        seed: u64,
        pictures: &[Picture<'_>],
        stop: &AtomicBool,
        mut progress: impl FnMut(),
    ) -> Option<Tensor<B, 4>> {
        let _awake = B::keep_awake();
        let model = &self.model;
        let side = model.input_size;
        let count = pictures.len();
        let least = self.least_batch(settings.guidance);
        let pictures: Vec<Picture<'_>> = pictures
            .iter()
            .copied()
            .cycle()
            .take(count.max(least))
            .collect();
        let shape = [pictures.len(), model.in_channels, side, side];
        let size: usize = shape[1..].iter().product();
        let draw = |purpose, step: usize| -> Vec<f32> {
            let one = |picture: &Picture<'_>| {
                Stream::new(seed, purpose, step as u64, picture.place).normal(size)
            };
            pictures.iter().flat_map(one).collect()
        };
        let prompts: Vec<&str> = pictures.iter().map(|picture| picture.prompt).collect();
        let captions = self.encode(&prompts);
        let normal = |purpose, step| {
            let values = TensorData::new(draw(purpose, step), shape);
            Tensor::<B, 4>::from_data(values, &self.device)
        };
        let stopped = || stop.load(Ordering::Relaxed);
        let trajectory = settings.sigmas.trajectory(&self.diffusion, settings.steps);
        let latents = sample(
            &settings.solver,
            &trajectory,
            normal(Purpose::Noise, 0) * trajectory.start,
            |x, point| {
                // What becomes of the state is of no interest then.
                if stopped() {
                    return x;
                }
                self.diffusion.denoise(x, point, |x, t| {
                    let captions = captions.clone();
                    self.dit.forward_guided(x, t, captions, settings.guidance)
                })
            },
            |step| normal(Purpose::Churn, step),
            |step, _| {
                if step > 0 && !stopped() {
                    progress();
                }
            },
        );
        (!stopped()).then(|| latents.narrow(0, 0, count))
    }

    /// Pictures below which a batch is filled up, for matrix products of a few elements or rows sum in another order than
    /// larger ones. A network of any use needs two rows at most, which guidance makes of one picture.
    fn least_batch(&self, guidance: f64) -> usize {
        let model = &self.model;
        let tokens = model.tokens();
        let experts = model.moe.as_ref().map_or(usize::MAX, |moe| moe.experts);
        let blocks = model.blocks();
        let of_picture = blocks.iter().map(|block| block.dim.min(block.hidden_dim));
        let of_picture = of_picture.min().unwrap_or(model.dim).min(model.dim);
        let of_token = experts.min(model.patch_dim());
        // Elements and rows up to which `gemm` takes these ways.
        let narrow = 256 / of_picture.min(tokens.saturating_mul(of_token));
        let rows = narrow.max(64 / tokens).max(1) + 1;
        match guidance == 1.0 {
            true => rows,
            false => rows.div_ceil(2),
        }
    }

    fn encode(&self, prompts: &[&str]) -> Tensor<B, 3> {
        match &self.words {
            Words::Hashed(words) => {
                let shape = [prompts.len(), words.tokens, words.channels];
                let data = TensorData::new(words.encode(prompts), shape);
                Tensor::from_data(data, &self.device)
            }
            Words::Network(encoder) => encoder.encode(prompts, &self.device),
        }
    }

    /// The pictures of latents, one by one: a decoder's activations are many times larger than its picture. None for one
    /// that is not finite.
    fn look_at(&self, latents: Tensor<B, 4>) -> impl Iterator<Item = Option<RgbImage>> {
        latents.split(1, 0).into_iter().map(|latent| {
            let (image, scale) = match &self.eyes {
                Eyes::Pixels(codec) => (latent, codec.scale),
                Eyes::Vae(vae) => (vae.decode(latent), 1.0),
            };
            let [_, _, height, width] = image.dims();
            let values: Vec<f32> = image.into_data().iter::<f32>().collect();
            let finite = values.iter().all(|value| value.is_finite());
            let mut pictures = PixelCodec { scale }.decode(&values, width as u32, height as u32);
            pictures.pop().filter(|_| finite)
        })
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
