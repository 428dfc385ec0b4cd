//! An evaluation: networks that see pictures, what these are compared with, and the numbers that follow.

use super::{
    distances::{Reference, distances, score_of_logits},
    error::EvaluateError,
    extract::{Extraction, extract},
    extractor::Extractor,
    pictures::PictureSet,
    prompt_accuracy::PromptAccuracy,
    wanted::{CLASS_ACCURACY, DEFAULT, Wanted},
};
use crate::{
    classifier::{Accuracy, largest},
    features::{Family, Features, Rows},
    measured::{Measured, ReferenceSet},
    metrics::Metric,
    npz,
};
use microdit::checksum;
use microdit_data::{LeftOut, files::file_name};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

/// What pictures are compared with.
#[derive(Clone, Debug)]
pub enum Against {
    /// Other pictures.
    Pictures(PictureSet),
    /// Statistics or features in an `.npz` file. Which network they are of, whoever gives it has to know.
    File(PathBuf),
}

/// Everything pictures are judged by.
pub struct Evaluation {
    /// Networks that see them.
    pub networks: Vec<Box<dyn Extractor>>,
    /// What they are compared with.
    pub against: Option<Against>,
    /// The numbers asked for; all that can be had, if there are none.
    pub wanted: Vec<Wanted>,
    /// Directory that features are kept in, by the content of what they are of.
    pub cache: PathBuf,
    /// Share of pictures that may be damaged, in 0..=1.
    pub max_damage: f64,
}

/// What can be said with no more than the mean and covariance of a reference.
const OF_STATISTICS: [Metric; 3] = [
    Metric::Frechet,
    Metric::FrechetInfinite,
    Metric::InceptionScore,
];

/// How an evaluation gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// The network.
    pub network: &'a str,
    /// Whose pictures it sees.
    pub set: &'a str,
    /// Pictures so far.
    pub done: u64,
    /// Pictures in all, where that is known.
    pub of: Option<u64>,
}

impl Evaluation {
    /// Checks that everything asked for can be measured, before anything is drawn.
    ///
    /// # Errors
    /// A metric whose network or reference is missing; nothing to measure at all.
    pub fn check(&self) -> Result<(), EvaluateError> {
        if self.wanted.is_empty() && self.against.is_none() {
            // Networks that say nothing about pictures alone.
            let compares = |family| !matches!(family, Family::Inception | Family::Classifier);
            let mut families = self.networks.iter().map(|network| network.network().family);
            if let Some(family) = families.find(|&family| compares(family)) {
                let name = Metric::Frechet.name(family);
                let metric = name.map_or("", |name| name.key).to_owned();
                return Err(EvaluateError::NoReference { metric });
            }
        }
        for wanted in &self.wanted {
            if let Wanted::Features(metric, family) = *wanted {
                if metric == Metric::ClipScore || family == Family::CleanClip {
                    let metric = wanted.to_string();
                    return Err(EvaluateError::NotBuilt { metric });
                }
                let of_file = matches!(self.against, Some(Against::File(_)));
                if of_file && !OF_STATISTICS.contains(&metric) {
                    let metric = wanted.to_string();
                    return Err(EvaluateError::NeedsPictures { metric });
                }
            }
            let (family, compares) = match *wanted {
                Wanted::Features(metric, family) => (family, metric != Metric::InceptionScore),
                Wanted::ClassAccuracy => (Family::Classifier, false),
                Wanted::PromptAccuracy => continue,
            };
            let metric = wanted.to_string();
            let mut networks = self.networks.iter();
            if !networks.any(|network| network.network().family == family) {
                return Err(EvaluateError::NoNetwork { metric, family });
            }
            if compares && self.against.is_none() {
                return Err(EvaluateError::NoReference { metric });
            }
        }
        Ok(())
    }

    fn wants(&self, wanted: Wanted) -> bool {
        self.wanted.is_empty() || self.wanted.contains(&wanted)
    }

    /// Metrics asked of the network of a family.
    fn metrics_of(&self, family: Family) -> Vec<Metric> {
        if self.wanted.is_empty() {
            return DEFAULT.into();
        }
        let of_family = |wanted: &Wanted| match *wanted {
            Wanted::Features(metric, of) if of == family => Some(metric),
            _ => None,
        };
        self.wanted.iter().filter_map(of_family).collect()
    }

    /// Measures a set of pictures; none if `stop` is set before it is done.
    ///
    /// # Errors
    /// Pictures or references that cannot be read, too many damaged ones, too few for a metric; nothing that can be measured.
    pub fn measure(
        &self,
        set: &PictureSet,
        stop: &AtomicBool,
        mut progress: impl FnMut(Seen<'_>),
    ) -> Result<Option<Vec<Measured>>, EvaluateError> {
        let mut found = Vec::new();
        for network in &self.networks {
            let family = network.network().family;
            let mut metrics = self.metrics_of(family);
            let judges = family == Family::Classifier && self.wants(Wanted::ClassAccuracy);
            if metrics.is_empty() && !judges {
                continue;
            }
            let Some((pictures, places)) = self.see(set, &**network, stop, &mut progress)? else {
                return Ok(None);
            };
            if judges {
                found.extend(class_accuracy(
                    set,
                    &**network,
                    &pictures,
                    &places,
                    !self.wanted.is_empty(),
                )?);
            }
            if metrics.contains(&Metric::InceptionScore)
                && Metric::InceptionScore.name(family).is_some()
                && let Some((classes, logits)) = network.logits(pictures.values())
            {
                found.extend(score_of_logits(&pictures, Rows::new(&logits, classes)?)?);
            }
            let compares = |metric: &Metric| {
                *metric != Metric::InceptionScore && metric.name(family).is_some()
            };
            if self.against.is_some() && metrics.iter().any(compares) {
                let Some(reference) = self.reference(&**network, stop, &mut progress)? else {
                    return Ok(None);
                };
                let dim = network.dim();
                if let Reference::Features(seen, _) = &reference
                    && self.wanted.is_empty()
                    && seen.pictures() <= dim
                {
                    tracing::warn!(
                        "no Fréchet distance: the reference has {} pictures, and a covariance of {dim} features needs more",
                        seen.pictures()
                    );
                    metrics.retain(|metric| *metric != Metric::Frechet);
                }
                if metrics.contains(&Metric::Frechet) && pictures.pictures() <= dim {
                    tracing::warn!(
                        "{} pictures for {dim} features: the Fréchet distance is mostly bias; compare it at this number of pictures only",
                        pictures.pictures()
                    );
                }
                found.extend(distances(&metrics, &pictures, &reference, 0)?);
            }
        }
        if self.wants(Wanted::PromptAccuracy) {
            let mut accuracy = PromptAccuracy::default();
            let (mut seen, mut left_out) = (0, LeftOut::default());
            let lacking = set.for_each(|picture| {
                seen += 1;
                if let Some(prompt) = &picture.caption
                    && PromptAccuracy::reads(prompt)
                {
                    match picture.pixels() {
                        Ok(pixels) => accuracy.judge(prompt, &pixels),
                        Err(reason) => left_out.note("pictures", &picture.name, &reason),
                    }
                }
                Ok(!stop.load(Ordering::Relaxed))
            })?;
            seen += lacking.total();
            left_out.add(&lacking);
            left_out.within(self.max_damage, seen, false)?;
            found.extend(accuracy.measured());
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match found.is_empty() {
            true => Err(EvaluateError::NothingToMeasure),
            false => Ok(Some(found)),
        }
    }

    /// Features of a set, and the places of the pictures they are of.
    fn see(
        &self,
        set: &PictureSet,
        network: &dyn Extractor,
        stop: &AtomicBool,
        progress: &mut impl FnMut(Seen<'_>),
    ) -> Result<Option<(Features, Vec<u64>)>, EvaluateError> {
        let (name, of) = (&network.network().name, set.len());
        let extraction = extract(set, network, &self.cache, stop, |done| {
            progress(Seen {
                network: name,
                set: set.name(),
                done,
                of,
            });
        })?;
        let Some(Extraction {
            features,
            places,
            left_out,
            sizes,
        }) = extraction
        else {
            return Ok(None);
        };
        let seen = features.pictures() as u64 + left_out.total();
        left_out.within(self.max_damage, seen, false)?;
        if left_out.total() > 0 {
            let reasons = microdit_data::reasons(&left_out.counts);
            tracing::warn!(
                "{}: {} of {seen} pictures were left out: {reasons}",
                set.name(),
                left_out.total()
            );
        }
        if sizes.len() > 1 {
            let sizes = microdit_data::reasons(&sizes);
            tracing::warn!(
                "{}: pictures of several sizes ({sizes}); each is resized as the network wants it",
                set.name()
            );
        }
        Ok(Some((features, places)))
    }

    /// What is compared with, as a network sees it.
    fn reference(
        &self,
        network: &dyn Extractor,
        stop: &AtomicBool,
        progress: &mut impl FnMut(Seen<'_>),
    ) -> Result<Option<Reference>, EvaluateError> {
        match &self.against {
            None => Ok(None),
            Some(Against::Pictures(set)) => {
                let seen = self.see(set, network, stop, progress)?;
                Ok(seen.map(|(features, _)| {
                    let set = ReferenceSet {
                        name: set.name().to_owned(),
                        sha256: set.identity(),
                        samples: Some(features.pictures() as u64),
                    };
                    Reference::Features(features, set)
                }))
            }
            Some(Against::File(path)) => {
                let gaussian = npz::read_statistics(path)?;
                let (_, sha256) = checksum::of_file(path).map_err(EvaluateError::io(path))?;
                let set = ReferenceSet {
                    name: file_name(path),
                    sha256,
                    samples: gaussian.samples.map(|samples| samples as u64),
                };
                Ok(Some(Reference::Statistics(Box::new(gaussian), set)))
            }
        }
    }
}

/// The share of pictures whose prompt asks for a class that the network sees in them; none if no prompt asks for one, which is an
/// error where the share is asked for by its name.
fn class_accuracy(
    set: &PictureSet,
    network: &dyn Extractor,
    pictures: &Features,
    places: &[u64],
    named: bool,
) -> Result<Option<Measured>, EvaluateError> {
    let Some((classes, logits)) = network.logits(pictures.values()) else {
        return Ok(None);
    };
    let mut asked = Vec::new();
    set.for_each(|picture| {
        asked.push(picture.caption.and_then(|prompt| network.class_of(&prompt)));
        Ok(true)
    })?;
    let mut accuracy = Accuracy::default();
    for (row, &place) in logits.chunks_exact(classes).zip(places) {
        if let Some(Some(class)) = asked.get(place as usize) {
            accuracy.count(largest(row) == *class);
        }
    }
    if accuracy.of == 0 {
        return match named {
            true => Err(EvaluateError::NoClass {
                pictures: places.len(),
            }),
            false => Ok(None),
        };
    }
    let share = accuracy.share();
    let own = network.own_accuracy().into_iter();
    Ok(Some(Measured {
        metric: CLASS_ACCURACY.to_owned(),
        value: share,
        standard_error: Some((share * (1.0 - share) / accuracy.of as f64).sqrt()),
        interval: Some(accuracy.interval()),
        samples: accuracy.of,
        reference: None,
        network: Some(network.network().clone()),
        constants: own.map(|own| ("own-accuracy".to_owned(), own)).collect(),
        labels: BTreeMap::new(),
    }))
}
