//! How far drawn pictures are from held-out ones while a network is trained: a [`Probe`].

use crate::{
    EvalError,
    classifier::{Labels, Progress},
    evaluate::{
        Against, CLASS_ACCURACY, EvaluateError, Extractor, Judge, PublishedExtractor, Reference,
        Seen, Sight, captions, class_accuracy,
    },
    features::Features,
    metrics::{Metric, Moments, kernel},
    prompts::Suite,
};
use image::RgbImage;
use microdit::{
    TrainBackend,
    task::{Task as _, TrainTask},
};
use microdit_encoders::features::FeatureNetwork;
use microdit_train::{
    Recipe, TrainError,
    encoders::Encoders,
    probe::{Numbers, Probe, View},
    recipe::{FeatureDistanceConfig, FeatureNetworkConfig, SamplingConfig, Stage},
    sampling::{Drawing, Naming, Order, Pipeline, Surroundings},
};
use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Pictures that are drawn before the network sees them.
const BATCH: usize = 16;

/// How the preparation gets on.
#[derive(Clone, Copy, Debug)]
pub enum Preparing<'a> {
    /// Steps of a classifier that is trained first.
    Classifier(Progress),
    /// Pictures of the reference that were seen.
    Reference(Seen<'a>),
}

/// Draws pictures with the first average of the weights, or as trained if there is none, always of the same captions with the same
/// noise, and compares their features with those of held-out pictures: `fd-...`, and where the reference is more than
/// statistics `kd-...`, by the names that `microdit eval` gives them (FID and KID over Inception-V3); of a classifier
/// `class-accuracy` too. The Fréchet distance of few pictures is biased upwards, so that it is compared at equal numbers of
/// pictures only; the kernel distance is not biased. Both are what [`distances`](crate::evaluate::distances) makes of the same
/// pictures.
pub struct FeatureDistance<B: TrainBackend> {
    network: Box<dyn Extractor>,
    reference: Reference,
    /// What is drawn, and how.
    settings: SamplingConfig,
    /// Steps between evaluations, unless a stage says otherwise.
    default: u64,
    /// The same in the stage that was entered.
    every: u64,
    encoders: Encoders<B::InnerBackend>,
}

impl<B: TrainBackend> FeatureDistance<B> {
    /// The probe that a recipe asks for, if it does: opens or trains its network, and looks at the pictures to compare with, whose
    /// features are kept in `cache`.
    ///
    /// # Errors
    /// A network, pictures, prompts or encoders that are not there, cannot be read, or are too few.
    pub fn of_recipe(
        recipe: &Recipe,
        cache: &Path,
        device: &B::Device,
        mut progress: impl FnMut(Preparing<'_>),
    ) -> Result<Option<Self>, EvaluateError> {
        let Some((every, config)) = recipe.run.evaluation.as_ref().and_then(|evaluation| {
            let config = evaluation.feature_distance.as_ref()?;
            Some((evaluation.every, config))
        }) else {
            return Ok(None);
        };
        let encoders = Encoders::open(&recipe.run.encoders, device)?;
        let size = recipe.last_stage().data.image_size();
        let spec = Against::of_recipe(recipe).ok_or_else(|| EvaluateError::NoReference {
            metric: "evaluation.feature_distance".into(),
        })?;
        let against = Against::open(&spec, config.reference_samples, size)?;
        let settings = settings(&recipe.run.sampling, config, &against)?;
        let network: Box<dyn Extractor> = match &config.network {
            FeatureNetworkConfig::Published(path) => {
                let network = FeatureNetwork::<B::InnerBackend>::open(path, device)?;
                Box::new(PublishedExtractor::new(network, device.clone()))
            }
            FeatureNetworkConfig::Classifier { shards, labels } => {
                let show = |done| progress(Preparing::Classifier(done));
                let labels = Labels::named(labels.as_deref());
                let judge =
                    Judge::trained::<B>(shards, Some(&spec), labels, size, cache, device, show)?;
                Box::new(judge)
            }
        };
        let mut sight = Sight {
            cache,
            max_damage: recipe.last_stage().data.max_damage(),
            stop: &AtomicBool::new(false),
            progress: &mut |seen| progress(Preparing::Reference(seen)),
        };
        let Some(reference) = against.seen_by(&*network, &mut sight)? else {
            return Ok(None);
        };
        // Too small a reference is said before anything is trained.
        reference.frechet()?;
        Ok(Some(Self {
            network,
            reference,
            settings,
            default: every,
            every,
            encoders,
        }))
    }

    /// Features of the pictures, as they are drawn; none if it was stopped before all were.
    fn draw<T: TrainTask<B>>(
        &mut self,
        view: &View<'_, B, T>,
    ) -> Result<Option<Vec<f32>>, TrainError> {
        let pipeline = Pipeline::new(
            Surroundings::of_stage(view.stage),
            view.drawn_with().network(),
            format!("{}, step {}", view.recipe.run.name, view.step),
            &self.encoders,
            view.device.clone(),
        )?;
        let order = Order {
            settings: &self.settings,
            seed: view.recipe.run.seed,
            place: 0,
            sheet: None,
            singles: None,
            naming: Naming::Place,
            overwrite: false,
        };
        let mut features = Vec::new();
        let mut pictures: Vec<RgbImage> = Vec::with_capacity(BATCH);
        let network = &mut *self.network;
        let drawn = Drawing::new(&pipeline, order)?.for_each(
            view.stop,
            || (),
            |_, picture| {
                // Borrowed as a whole: it may cross threads, and not be shared by them.
                let network = &mut *network;
                pictures.push(picture);
                if pictures.len() == BATCH && !view.stop.load(Ordering::Relaxed) {
                    features.extend(network.features(&pictures));
                    pictures.clear();
                }
                Ok(())
            },
        )?;
        if drawn.stopped {
            return Ok(None);
        }
        if !pictures.is_empty() {
            features.extend(self.network.features(&pictures));
        }
        Ok(Some(features))
    }

    /// What the features of the pictures say.
    fn numbers(&self, features: Vec<f32>) -> Result<Numbers, EvalError> {
        let network = self.network.network();
        let name = |metric: Metric| metric.name(network.family).map(|name| name.key);
        let prompt = |i: usize| {
            let prompt = self.settings.prompts.get(i / self.settings.count)?;
            Some(prompt.as_str())
        };
        let accuracy = class_accuracy(&*self.network, &features, prompt);
        let pictures = Features::new(network.clone(), self.network.dim(), features)?;
        let rows = pictures.rows();
        let mut numbers = Numbers::new();
        if let Some(name) = name(Metric::Frechet) {
            let gaussian = Moments::of(rows).gaussian()?;
            numbers.insert(name, self.reference.frechet()?.distance(&gaussian)?);
        }
        if let (Some(name), Some(reference)) = (name(Metric::Kernel), self.reference.rows()) {
            numbers.insert(name, kernel::distance(rows, reference, 0)?.mean);
        }
        numbers.extend(accuracy.map(|accuracy| (CLASS_ACCURACY, accuracy.share())));
        Ok(numbers)
    }
}

/// What is drawn: as the recipe's prompts are, but of the captions or prompts of the evaluation.
fn settings(
    sampling: &SamplingConfig,
    config: &FeatureDistanceConfig,
    against: &Against,
) -> Result<SamplingConfig, EvaluateError> {
    let mut prompts: Vec<String> = match (&config.prompts, against) {
        (Some(file), _) => {
            let prompts = Suite::of(file, config.samples).read(file)?;
            prompts.into_iter().map(|prompt| prompt.text).collect()
        }
        (None, Against::Pictures(set)) => captions(set, config.samples)?,
        (None, Against::File(path, ..)) => {
            let name = path.display().to_string();
            return Err(EvaluateError::NoCaptions { name });
        }
    };
    prompts.truncate(config.samples);
    Ok(SamplingConfig {
        count: config.samples / prompts.len(),
        prompts,
        ..sampling.clone()
    })
}

impl<B: TrainBackend, T: TrainTask<B>> Probe<B, T> for FeatureDistance<B> {
    fn name(&self) -> &'static str {
        "feature_distance"
    }

    fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    fn enter(
        &mut self,
        _recipe: &Recipe,
        stage: &Stage,
        _stop: &AtomicBool,
    ) -> Result<(), TrainError> {
        self.every = stage.evaluate_every.unwrap_or(self.default);
        Ok(())
    }

    /// Pictures that cannot be drawn or compared do not end a run: what went wrong is a warning.
    fn run(&mut self, view: &View<'_, B, T>) -> Result<Option<Numbers>, TrainError> {
        let warn = |error: &dyn std::fmt::Display| {
            tracing::warn!("no feature distance at step {}: {error}", view.step);
        };
        let features = match self.draw(view) {
            Ok(Some(features)) => features,
            Ok(None) => return Ok(None),
            Err(error) => {
                warn(&error);
                return Ok(None);
            }
        };
        let numbers = self.numbers(features);
        Ok(numbers.inspect_err(|error| warn(error)).ok())
    }
}
