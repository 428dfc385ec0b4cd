//! Prompts in, pictures out.

mod drawing;
mod init;
mod label;
mod prompts;
mod published;

pub use drawing::{Drawing, Drawn, Naming, Order};
pub use init::STRENGTHS;
pub use label::Label;
pub use prompts::{read_prompts, warn_of_long_prompts};
pub use published::unet_of_files;
pub(crate) use published::unet_weights;

use crate::{
    checkpoint::Checkpoint,
    encoders::Encoders,
    error::TrainError,
    recipe::{EncoderConfig, Recipe, SamplingConfig, Stage},
    run::{Choice, RunDir},
};
use burn::tensor::{Tensor, TensorData, cast::ToElement as _};
use image::RgbImage;
use microdit::{
    DitBackend,
    diffusion::{Diffusion as _, DiffusionConfig, Family, Point, sampler::sample},
    net::{Denoiser, Network, NetworkConfig},
    range::require,
    rng::{Purpose, Stream},
    task::{OneStep, Task as _},
    weights::{CaptionSource, LatentSource, LoraFile, StateDict, WeightsFile},
};
use microdit_encoders::{Codec, Conditioner, HashedWords, PixelCodec, Trimmed, vae};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use init::Init;

/// A trained network and what turns prompts into its conditioning and latents into pictures.
pub struct Pipeline<B: DitBackend, D> {
    model: NetworkConfig,
    family: Family,
    denoiser: D,
    conditioner: Named<dyn Conditioner<B>>,
    codec: Named<dyn Codec<B>>,
    device: B::Device,
    diffusion: DiffusionConfig,
    /// What its label says about the weights.
    weights: String,
    /// Height and width of the latents.
    latent: [usize; 2],
    init: Option<Init<B>>,
    /// Guides in place of the network without a prompt.
    guide: Option<(String, D)>,
    /// Where a student begins.
    one_step: Option<OneStep>,
}

/// A part of a pipeline, and what the pictures' labels call it.
pub type Named<P> = (String, Arc<P>);

/// What a network needs to draw, besides its weights.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Sizes of the latents and the conditioning, among others.
    pub model: NetworkConfig,
    /// The diffusion it was trained with.
    pub diffusion: DiffusionConfig,
    /// How its latents become pictures.
    pub latents: LatentSource,
    /// How prompts become its conditioning.
    pub captions: CaptionSource,
    /// Of a student that draws in one step, the noise level at which it does, by the time of its diffusion.
    pub one_step: Option<f64>,
}

impl Surroundings {
    /// Those of a network that was trained in `stage`.
    pub fn of_stage(stage: &Stage) -> Self {
        let encoders = EncoderConfig::default();
        Self {
            model: stage.model.clone(),
            diffusion: stage.diffusion,
            latents: stage.latent_source(&encoders),
            captions: stage.caption_source(&encoders),
            one_step: stage.one_step(),
        }
    }

    /// What turns prompts into the conditioning, and what it is called.
    pub(crate) fn conditioner<B: DitBackend>(
        &self,
        encoders: &Encoders<B>,
    ) -> Result<Named<dyn Conditioner<B>>, TrainError> {
        Ok(match self.captions {
            CaptionSource::HashedWords { tokens } => {
                let words = HashedWords {
                    tokens,
                    channels: self.model.caption_channels(),
                };
                (format!("hashed words, {tokens}"), Arc::new(words))
            }
            CaptionSource::Encoded {
                tokens, trimmed, ..
            } => {
                let text = encoders.text()?.reading(tokens)?;
                let name = encoders.text_content()?;
                match trimmed {
                    true => (name, Arc::new(Trimmed(text))),
                    false => (name, text),
                }
            }
        })
    }

    fn codec<B: DitBackend>(
        &self,
        encoders: &Encoders<B>,
    ) -> Result<Named<dyn Codec<B>>, TrainError> {
        Ok(match self.latents {
            LatentSource::Pixels { scale } => (
                format!("pixels, scale {scale}"),
                Arc::new(PixelCodec { scale }),
            ),
            LatentSource::Encoded { .. } => {
                let vae = encoders.vae()?;
                (encoders.vae_content()?, vae)
            }
        })
    }
}

/// What a pipeline is made of.
pub struct Parts<B: DitBackend, D> {
    /// Sizes of the latents and the conditioning, among others.
    pub model: NetworkConfig,
    /// The diffusion the network was trained with.
    pub diffusion: DiffusionConfig,
    /// The network.
    pub denoiser: D,
    /// What labels say about its weights.
    pub weights: String,
    /// As in [`Surroundings`].
    pub one_step: Option<f64>,
    /// Prompts to conditioning.
    pub conditioner: Named<dyn Conditioner<B>>,
    /// Latents to pictures.
    pub codec: Named<dyn Codec<B>>,
}

/// A picture to draw: its noise follows from the seed and its place.
#[derive(Clone, Copy, Debug)]
struct Picture<'a> {
    place: u64,
    prompt: &'a str,
}

/// The stage that the weights of `recipe` are of: that of their checkpoint, or of final weights the last.
fn stage_of<'a>(recipe: &'a Recipe, checkpoint: Option<&Checkpoint>) -> &'a Stage {
    let stage = checkpoint.and_then(|of| recipe.stages.get(of.progress().stage));
    stage.unwrap_or(recipe.last_stage())
}

/// The network with the weights in a file of `checkpoint`, where adapters or frozen parts lie apart from it; none where the file holds all
/// of it.
pub(crate) fn adapted<B: DitBackend>(
    recipe: &Recipe,
    checkpoint: &Checkpoint,
    weights: &Path,
    device: &B::Device,
) -> Result<Option<Network<B>>, TrainError> {
    let stage = stage_of(recipe, Some(checkpoint));
    if stage.lora.is_none() && checkpoint.beginning().frozen.is_empty() {
        return Ok(None);
    }
    let task = stage.drawing_task::<B>(recipe.run.seed, device)?;
    let all = checkpoint.read(weights)?;
    Ok(Some(all.load_into(task, device)?.network()))
}

impl<B: DitBackend> Pipeline<B, Network<B>> {
    /// The same, [guided](Self::with_guide) away from a network of the same sizes with the weights at `path`.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub fn guided_by(self, path: &Path) -> Result<Self, TrainError> {
        let network = self.model.init(0, &self.device)?;
        let guide = StateDict::read(path)?.denoiser();
        let guide = guide.load_into(network, &self.device)?;
        Ok(self.with_guide(guide, label::of_file(path)?))
    }

    /// The same with `strength` times the adapters in the file at `path` added to its weights.
    ///
    /// # Errors
    /// A file without adapters, and adapters of layers the network does not have.
    pub fn adapted_by(mut self, path: &Path, strength: f64) -> Result<Self, TrainError> {
        let file = LoraFile::open(path)?;
        if let [first, ..] = file.left_out() {
            let count = file.left_out().len();
            tracing::warn!(
                "{}: {count} tensors are of a text encoder and left out, such as {first}",
                path.display()
            );
        }
        let lora = file.load(&self.denoiser, &self.device)?;
        self.denoiser = lora.apply(self.denoiser, strength);
        self.weights += &format!(" + {strength} x {}", label::of_file(path)?);
        Ok(self)
    }

    /// A pipeline over the weights in a file.
    ///
    /// # Errors
    /// Missing encoders, and weights or encoders that do not fit the network.
    pub fn of_weights(
        weights: &Path,
        surroundings: Surroundings,
        encoders: &Encoders<B>,
        device: B::Device,
    ) -> Result<Self, TrainError> {
        let model = &surroundings.model;
        fits::<B>(
            model,
            &*surroundings.conditioner(encoders)?.1,
            &*surroundings.codec(encoders)?.1,
        )?;
        let denoiser = load(model, WeightsFile::open(weights)?, &device)?;
        let weights = label::of_file(weights)?;
        Self::new(surroundings, denoiser, weights, encoders, device)
    }

    /// Loads weights of a run: the final ones or, of an unfinished one, its newest checkpoint's. Encoders not given are those its recipe names. Also returns the recipe.
    ///
    /// # Errors
    /// If the directory holds no weights, or they do not fit its recipe, or its pictures need encoders that are not
    /// there.
    pub fn load(
        run: &Path,
        choice: Choice,
        encoders: Encoders<B>,
        device: B::Device,
    ) -> Result<(Self, Recipe), TrainError> {
        let (run, recipe) = RunDir::open(run)?;
        let encoders = encoders.or_open(&recipe.run.encoders, &device)?;
        let weights = run.weights_of(choice)?;
        let checkpoint = Checkpoint::beside(&weights)?;
        let of_adapters = match &checkpoint {
            Some(checkpoint) => adapted(&recipe, checkpoint, &weights, &device)?,
            None => None,
        };
        let stage = stage_of(&recipe, checkpoint.as_ref());
        let denoiser = match of_adapters {
            Some(network) => network,
            None => {
                let denoiser = stage.model.init(recipe.run.seed, &device)?;
                let trained = StateDict::read(&weights)?.denoiser();
                trained.load_into(denoiser, &device)?
            }
        };
        let weights = label::of_file(&weights)?;
        let surroundings = Surroundings::of_stage(stage);
        let pipeline = Self::new(surroundings, denoiser, weights, &encoders, device)?;
        Ok((pipeline, recipe))
    }
}

impl<B: DitBackend, D: Denoiser<B>> Pipeline<B, D> {
    /// A pipeline over `denoiser`; what was trained on pre-computed latents needs `encoders`. Labels of its pictures say
    /// about the weights what `weights` says.
    ///
    /// # Errors
    /// If there is no way from texts to caption embeddings or from latents to pictures, or one that does not fit the
    /// network; and a diffusion that is not valid.
    pub fn new(
        surroundings: Surroundings,
        denoiser: D,
        weights: String,
        encoders: &Encoders<B>,
        device: B::Device,
    ) -> Result<Self, TrainError> {
        let parts = Parts {
            conditioner: surroundings.conditioner(encoders)?,
            codec: surroundings.codec(encoders)?,
            model: surroundings.model,
            diffusion: surroundings.diffusion,
            denoiser,
            weights,
            one_step: surroundings.one_step,
        };
        Self::of_parts(parts, device)
    }

    /// A pipeline over parts of your own.
    ///
    /// # Errors
    /// Parts of other sizes, and a diffusion that is not valid.
    pub fn of_parts(parts: Parts<B, D>, device: B::Device) -> Result<Self, TrainError> {
        let model = parts.model;
        fits::<B>(&model, &*parts.conditioner.1, &*parts.codec.1)?;
        let [channels, latent @ ..] = model.latent();
        let extra = model.extra_channels();
        require(
            [0, 1 + channels].contains(&extra),
            "model.in_channels",
            || {
                format!(
                    "{extra} more than the latent's {channels}; known are networks for inpainting, with {} more for mask and masked image",
                    1 + channels
                )
            },
        )?;
        let family = parts.diffusion.init()?;
        Ok(Self {
            one_step: parts.one_step.map(|time| OneStep::at(&family, time)),
            latent,
            model,
            family,
            denoiser: parts.denoiser,
            conditioner: parts.conditioner,
            codec: parts.codec,
            device,
            diffusion: parts.diffusion,
            weights: parts.weights,
            init: None,
            guide: None,
        })
    }

    /// How it draws unless told otherwise, where `settings` are those of any network.
    #[must_use]
    pub fn usual(&self, settings: SamplingConfig) -> SamplingConfig {
        match self.one_step {
            Some(_) => settings.one_step(),
            None => settings,
        }
    }

    /// Checks that it can draw so: a student takes one step, and no guidance.
    fn check(&self, settings: &SamplingConfig) -> Result<(), TrainError> {
        if self.one_step.is_none() {
            return Ok(());
        }
        settings.validate_one_step()?;
        require(self.init.is_none(), "init", || {
            "a student makes a picture of noise alone; leave the image out".into()
        })?;
        Ok(require(self.guide.is_none(), "guide", || {
            "a student draws without guidance; leave it out".into()
        })?)
    }

    /// Width and height of its pictures in pixels.
    pub fn size(&self) -> [u32; 2] {
        let [height, width] = self.latent;
        [width, height].map(|side| (side * self.codec.1.shrinks_by()) as u32)
    }

    /// What labels say about its weights: the SHA-256 of their file.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// Warns about prompts that its text encoder does not read to their end.
    pub fn warn_of_cuts(&self, prompts: &[String]) {
        prompts::warn_of_cuts(prompts, |prompt| self.conditioner.1.cut(prompt));
    }

    /// Latents of `pictures`, none if `stop` was set before they were finished; `progress` is called after every
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

    /// The pictures of latents, one by one: a decoder's activations are many times larger than its picture. None for one
    /// that is not finite.
    fn look_at(&self, latents: Tensor<B, 4>) -> impl Iterator<Item = Option<RgbImage>> {
        latents.split(1, 0).into_iter().map(|latent| {
            let image = self.codec.1.decode(latent);
            let finite = image.clone().is_finite().all().into_scalar().to_bool();
            vae::pictures(image).pop().filter(|_| finite)
        })
    }
}

/// A network with the weights in a file.
fn load<B: DitBackend>(
    model: &NetworkConfig,
    file: WeightsFile,
    device: &B::Device,
) -> Result<Network<B>, TrainError> {
    let path = file.origin().to_owned();
    // Before they are allocated: a file may claim a network of any size.
    let (needed, there) = (model.parameters(), file.values());
    if there < needed {
        return Err(TrainError::TooFewWeights {
            path,
            needed,
            there,
        });
    }
    let fresh = model.init(0, device)?;
    let weights = StateDict::take(file, &path)?.denoiser();
    Ok(weights.load_into(fresh, device)?)
}

/// Checks that the encoders fit what the network was trained on.
fn fits<B: DitBackend>(
    model: &NetworkConfig,
    conditioner: &dyn Conditioner<B>,
    codec: &dyn Codec<B>,
) -> Result<(), TrainError> {
    let misfit = |what, channels, expected| match channels == expected {
        true => Ok(()),
        false => Err(TrainError::Misfit {
            what,
            channels,
            expected,
        }),
    };
    misfit(
        "text encoder",
        conditioner.channels(),
        model.caption_channels(),
    )?;
    misfit("VAE", codec.channels(), model.latent()[0])
}
