//! Distillation of a one-step student from a teacher that takes many steps.

use super::{
    Adaptable, Adapted, ClipTerm, DistillConfig, Draws, Dropout, FadingWeight, ImageEmbedder,
    Losses, OneStep, OwnValues, Samples, Task, TermTarget, TimestepRange, clamped_clip_loss,
    critic_rows, regression_loss, score_gradient, vsd_loss,
};
use crate::{
    diffusion::{Diffusion as _, Family, Guidance, Row},
    net::{
        Conditioning, Denoiser, Inputs, Output,
        dit::embed::{patchify, unpatchify},
    },
    nn::{
        lora::Lora,
        params::{Role, Roles},
    },
    ops::DitBackend,
    range::OutOfRange,
    rng::{Purpose, Stream},
};
use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use std::ops::Range;

/// A student that turns noise into an image in one call, and learns it without images by
/// [variational score distillation](super::score_gradient) (SwiftBrush, arXiv 2312.05239).
///
/// One step trains student and critic: the critic's loss is taken on the student's images as they were before its update,
/// so that the gradients of both are those of training them by turns. Their paths begin with `denoiser` and `critic`, and with `lora`
/// where the student has adapters that are trained; the teacher is frozen.
///
/// Without a critic the teacher is compared with the noise that is in the images, as in score distillation sampling (DreamFusion,
/// arXiv 2209.14988), and nothing else is learned.
///
/// Two terms may be added to the student's loss: [`clip`](Self::with_clip) and [`regression`](DistillConfig::regression). Both compare the
/// images that the student made in the same call, and neither counts where a loss is measured, since it is another one at every step.
///
/// ```
/// use burn_flex::Flex;
/// use microdit::{
///     DitConfig,
///     net::Denoiser,
///     task::{DistillConfig, Draws, HostBatch, Task},
/// };
///
/// let config = DitConfig::tiny_2().with_input_size(8).with_dim(32).with_depth(2).with_head_dim(16)
///     .with_multiple_of(16).with_caption_channels(12).with_mixer(None).with_moe(None);
/// let device = Default::default();
/// let teacher = config.init::<Flex>(0, &device)?;
/// let task = DistillConfig::default().init(teacher.clone(), teacher, 0, &device)?;
/// let batch = HostBatch {
///     latents: vec![0.5; 2 * 4 * 8 * 8],
///     shape: [4, 8, 8],
///     captions: vec![1.0; 2 * 5 * 12],
///     caption: [5, 12],
/// };
/// let prepared = task.prepare(&batch.on::<Flex>(&device), 0..2, &Draws::of_step(0, 0));
/// let output = task.denoiser().predict(task.inputs(&prepared));
/// let losses = task.losses(&prepared, &output);
/// assert_eq!(losses.0.iter().map(|term| term.name).collect::<Vec<_>>(), ["vsd", "critic"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct Distill<B: DitBackend, D: Module<B>, E: Module<B> = OwnValues<B>> {
    /// The student.
    pub denoiser: D,
    /// The student's adapters, where some are trained.
    pub lora: Option<Lora<B>>,
    /// Whether these are trained alone.
    frozen: bool,
    /// The teacher, frozen.
    pub teacher: D,
    /// Adapters with which the teacher learns what the student's images look like, if it does.
    pub critic: Option<Lora<B>>,
    /// What its images are compared with captions by; there is a term for it.
    embedder: Option<E>,
    #[module(skip)]
    clip: Option<ClipTerm>,
    #[module(skip)]
    start: OneStep,
    #[module(skip)]
    family: Family,
    #[module(skip)]
    config: DistillConfig,
}

/// Images with noise of their own.
#[derive(Clone, Debug)]
pub struct Noising<B: DitBackend> {
    /// Noise levels.
    pub rows: Vec<Row>,
    /// Standard normal noise `[batch, channels, height, width]`.
    pub noise: Tensor<B, 4>,
}

/// What is drawn for samples of a step.
#[derive(Clone, Debug)]
pub struct Distilled<B: DitBackend> {
    /// What the student makes images of: standard normal noise `[batch, channels, height, width]`.
    pub noise: Tensor<B, 4>,
    /// How the images are noised for teacher and critic to be compared.
    pub compared: Noising<B>,
    /// How they are noised for the critic to learn them.
    pub learned: Noising<B>,
    /// What the images show.
    pub conditioning: Conditioning<B>,
    /// What guidance points away from.
    pub null: Conditioning<B>,
    /// Whether the critic learns without captions in this step.
    pub without_captions: bool,
    /// Embeddings of the captions `[batch, dim]`, while the CLIP term has a weight.
    pub captions: Option<TermTarget<B, 2>>,
    /// The data's latents of these captions `[batch, channels, height, width]`, while regression has a weight.
    pub real: Option<TermTarget<B, 4>>,
    /// What adapters that learn drop; nothing where a loss is measured.
    pub dropout: Option<Dropout>,
}

impl<B: DitBackend, D: Denoiser<B>> Distill<B, D> {
    /// The task of `config`, whose parts fit each other.
    pub(super) fn new(
        student: D,
        teacher: D,
        critic: Option<Lora<B>>,
        family: Family,
        config: DistillConfig,
    ) -> Self {
        Self {
            denoiser: student,
            lora: None,
            frozen: false,
            teacher: teacher.no_grad(),
            critic,
            embedder: None,
            clip: None,
            start: OneStep::of(&family),
            family,
            config,
        }
    }
}

impl<B: DitBackend, D: Denoiser<B>, E: ImageEmbedder<B>> Distill<B, D, E> {
    /// The diffusion family.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// Where the student begins.
    pub fn start(&self) -> OneStep {
        self.start
    }

    /// The same with a CLIP term, or without one. Then batches have to say what [captions](Samples::embeddings) are compared as, in as
    /// many values as `embedder` makes of images.
    ///
    /// # Errors
    /// The first field of the term outside of its range.
    pub fn with_clip<F: Module<B>>(
        self,
        clip: Option<(ClipTerm, F)>,
    ) -> Result<Distill<B, D, F>, OutOfRange> {
        let (clip, embedder) = clip.unzip();
        if let Some(clip) = &clip {
            clip.validate().map_err(|error| error.inside("clip"))?;
        }
        Ok(Distill {
            denoiser: self.denoiser,
            lora: self.lora,
            frozen: self.frozen,
            teacher: self.teacher,
            critic: self.critic,
            embedder: embedder.map(Module::no_grad),
            clip,
            start: self.start,
            family: self.family,
            config: self.config,
        })
    }

    /// The same with a student that begins elsewhere.
    #[must_use]
    pub fn with_start(self, start: OneStep) -> Self {
        Self { start, ..self }
    }

    /// The student's images `[batch, channels, height, width]`, from its prediction.
    pub fn images(&self, distilled: &Distilled<B>, output: &Output<B>) -> Tensor<B, 4> {
        let noise = distilled.noise.clone();
        let [_, _, height, width] = noise.dims();
        self.start.image(&self.family, noise, |_, _| {
            unpatchify(
                output.patches.clone(),
                self.denoiser.patch_size(),
                [height, width],
            )
        })
    }

    /// The direction away from which `images` move, which must not be recorded.
    pub fn gradient(&self, distilled: &Distilled<B>, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let Noising { rows, noise } = &distilled.compared;
        let (x, time) = self.family.input(images.clone(), noise.clone(), rows);
        let guidance = Guidance::scale(self.config.guidance);
        let (towards, away) = (&distilled.conditioning, &distilled.null);
        let predict = |network: &D| {
            // Without an interval, guidance acts alike at every level.
            guidance.predict(network, x.clone(), time.clone(), 1.0, towards, away)
        };
        let away = match &self.critic {
            Some(critic) => predict(&critic.clone().no_grad().apply(self.teacher.clone(), 1.0)),
            None => self.family.target(images, noise.clone(), rows),
        };
        score_gradient(predict(&self.teacher), away, rows)
    }

    /// The loss on `images` of the `critic`, `[batch]`; its pass is recorded as a whole.
    fn learned(
        &self,
        critic: &Lora<B>,
        distilled: &Distilled<B>,
        images: Tensor<B, 4>,
    ) -> Tensor<B, 1> {
        let Noising { rows, noise } = &distilled.learned;
        let (x, time) = self.family.input(images.clone(), noise.clone(), rows);
        let conditioning = match distilled.without_captions {
            true => &distilled.null,
            false => &distilled.conditioning,
        };
        let critic = match distilled.dropout {
            Some(dropout) => dropout.applied(Adapted::Critic, critic, self.teacher.clone()),
            None => critic.apply(self.teacher.clone(), 1.0),
        };
        let patch = self.teacher.patch_size();
        let predicted = critic.image(x, time, conditioning.clone());
        let output = Output::all(patchify(predicted, patch));
        let rows = critic_rows(rows);
        self.family
            .loss(&output, images, noise.clone(), &rows, patch)
    }

    /// A noise level at which teacher and critic are compared.
    fn compared_time(&self, random: &mut Stream) -> f64 {
        let Family::Vp(table) = &self.family else {
            return self.family.draw_time(random);
        };
        let count = table.shares().len();
        let place = |share: f64| (share * count as f64).round() as usize;
        let TimestepRange { from, to } = self.config.timesteps;
        let [from, to] = [from, to].map(place);
        (from + random.below((to - from).max(1))).min(count - 1) as f64
    }
}

/// What is drawn for one sample, in this order, from a stream of its own.
struct Drawn {
    noise: Vec<f32>,
    compared: (f64, Vec<f32>),
    learned: (f64, Vec<f32>),
}

impl<B: DitBackend, D: Denoiser<B>, E: ImageEmbedder<B>> Roles for Distill<B, D, E> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match path {
            ["denoiser", rest @ ..] => self.denoiser.role(rest, rank),
            ["lora", rest @ ..] => self.lora.role(rest, rank),
            ["teacher", rest @ ..] => self.teacher.role(rest, rank),
            ["critic", rest @ ..] => self.critic.role(rest, rank),
            _ => Role::plain(path, rank),
        }
    }
}

impl<B: DitBackend, D: Denoiser<B>, E: ImageEmbedder<B>> Adaptable<B> for Distill<B, D, E> {
    fn adaptable(&mut self) -> (&mut D, &mut Option<Lora<B>>, &mut bool) {
        (&mut self.denoiser, &mut self.lora, &mut self.frozen)
    }
}

impl<B: DitBackend, D: Denoiser<B>, E: ImageEmbedder<B>> Task<B> for Distill<B, D, E> {
    type Denoiser = D;
    type Prepared = Distilled<B>;

    fn denoiser(&self) -> &D {
        &self.denoiser
    }

    fn adapters(&self) -> Option<&Lora<B>> {
        self.lora.as_ref()
    }

    fn predictor(&self, distilled: &Distilled<B>) -> D {
        match (&self.lora, distilled.dropout) {
            (Some(lora), Some(dropout)) => {
                dropout.applied(Adapted::Network, lora, self.denoiser.clone())
            }
            _ => self.network(),
        }
    }

    /// Of the batch, captions and the size of the images are used, and the images themselves where there is regression.
    ///
    /// # Panics
    /// If there is a CLIP term and the batch has no [embeddings](Samples::embeddings).
    fn prepare(
        &self,
        batch: &impl Samples<B>,
        samples: Range<usize>,
        draws: &Draws,
    ) -> Distilled<B> {
        let places: Vec<usize> = samples.collect();
        let latents = batch.latents(&places);
        let (shape, device) = (latents.dims(), latents.device());
        let size: usize = shape[1..].iter().product();
        let draw = |&place: &usize| {
            let random = &mut draws.stream(Purpose::Task, place);
            let noise = random.normal(size);
            let compared = (self.compared_time(random), random.normal(size));
            Drawn {
                noise,
                compared,
                learned: (self.family.draw_time(random), random.normal(size)),
            }
        };
        let drawn: Vec<Drawn> = places.iter().map(draw).collect();
        let tensor = |values: &dyn Fn(&Drawn) -> Vec<f32>| {
            let values: Vec<f32> = drawn.iter().flat_map(values).collect();
            Tensor::from_data(TensorData::new(values, shape), &device)
        };
        let noising = |of: fn(&Drawn) -> &(f64, Vec<f32>)| Noising {
            rows: {
                let times: Vec<f64> = drawn.iter().map(|drawn| of(drawn).0).collect();
                self.family.rows(&times)
            },
            noise: tensor(&|drawn| of(drawn).1.clone()),
        };
        let conditioning = batch.conditioning(&places);
        let weight = |term: Option<FadingWeight>| {
            let term = term.filter(|_| !draws.held_out);
            term.and_then(|term| term.at(draws.stage_step))
        };
        let captions = weight(self.clip.map(|clip| clip.fading)).map(|weight| {
            let with = batch.embeddings(&places);
            let with = with.expect("a CLIP term needs embeddings of captions");
            TermTarget { weight, with }
        });
        let real = weight(self.config.regression).map(|weight| TermTarget {
            weight,
            with: latents,
        });
        // One draw for the step, whoever computes which part of it.
        let step = Stream::new(draws.seed, Purpose::CaptionDrop, draws.step, 0).uniform(1)[0];
        Distilled {
            noise: tensor(&|drawn| drawn.noise.clone()),
            compared: noising(|drawn| &drawn.compared),
            learned: noising(|drawn| &drawn.learned),
            null: batch
                .dropped(&places)
                .unwrap_or_else(|| conditioning.null()),
            conditioning,
            without_captions: !draws.held_out && f64::from(step) < self.config.caption_drop,
            captions,
            real,
            dropout: Dropout::of(draws),
        }
    }

    fn inputs(&self, distilled: &Distilled<B>) -> Inputs<B> {
        let row = self.family.row(self.start.point);
        let x = distilled.noise.clone() * (self.start.start * row.c_in);
        let time = Tensor::from_data([row.c_noise as f32], &x.device());
        Inputs::new(x, time, distilled.conditioning.clone())
    }

    fn losses(&self, distilled: &Distilled<B>, output: &Output<B>) -> Losses<B> {
        let images = self.images(distilled, output);
        let fixed = images.clone().detach();
        let gradient = self.gradient(distilled, fixed.clone());
        let student = vsd_loss(images.clone(), gradient);
        let mut losses = match &self.critic {
            Some(critic) => {
                let learned = self.learned(critic, distilled, fixed);
                Losses::one("vsd", student).and("critic", 1.0, learned)
            }
            None => Losses::one("sds", student),
        };
        if let (Some(captions), Some(clip), Some(embedder)) =
            (&distilled.captions, &self.clip, &self.embedder)
        {
            let embedded = embedder.embed(images.clone());
            let loss = clamped_clip_loss(embedded, captions.with.clone(), clip.tau);
            losses = losses.and("clip", captions.weight, loss);
        }
        match &distilled.real {
            Some(real) => {
                let loss = regression_loss(images, real.with.clone());
                losses.and("regression", real.weight, loss)
            }
            None => losses,
        }
    }

    fn updates(&self, path: &[&str], _step: u64) -> bool {
        !self.is_frozen(path)
    }

    fn is_frozen(&self, path: &[&str]) -> bool {
        match path.first() {
            Some(&("teacher" | "embedder")) => true,
            Some(&"denoiser") => self.frozen,
            _ => false,
        }
    }

    /// The student.
    fn is_result(&self, path: &[&str]) -> bool {
        matches!(path.first(), Some(&("denoiser" | "lora")))
    }

    fn times(&self, samples: Range<usize>, _draws: &Draws) -> Vec<f64> {
        vec![self.start.point.time; samples.len()]
    }
}
