//! An evaluation: networks that see pictures, what these are compared with, and the numbers that follow.

use super::{
    against::Against,
    captioned::Captioned,
    distances::{distances_but, score_of_logits},
    error::EvaluateError,
    extractor::Extractor,
    left_out::LeftOutMetrics,
    pictures::PictureSet,
    prompt_accuracy::PromptAccuracy,
    reference::Reference,
    sight::{Seen, Sight},
    wanted::{DEFAULT, Wanted},
};
use crate::{
    error::EvalError,
    features::{Family, Features, Rows},
    measured::Measured,
    metrics::Metric,
};
use microdit_data::LeftOut;
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

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
const OF_STATISTICS: [Metric; 2] = [Metric::Frechet, Metric::FrechetInfinite];

/// What says something about pictures without others.
const ALONE: [Metric; 2] = [Metric::InceptionScore, Metric::ClipScore];

impl Evaluation {
    /// Checks that everything asked for can be measured, before anything is drawn.
    ///
    /// # Errors
    /// A metric whose network or reference is missing; nothing to measure at all.
    pub fn check(&self) -> Result<(), EvaluateError> {
        for wanted in &self.wanted {
            self.check_one(*wanted)?;
        }
        match self.wanted.is_empty() && self.against.is_none() {
            true => self.check_alone(),
            false => Ok(()),
        }
    }

    fn check_one(&self, wanted: Wanted) -> Result<(), EvaluateError> {
        let metric = wanted.to_string();
        let (of, family) = match wanted {
            Wanted::Features(of, family) => (Some(of), family),
            Wanted::ClassAccuracy => (None, Family::Classifier),
            Wanted::PromptAccuracy => return Ok(()),
        };
        let mut networks = self.networks.iter();
        let Some(network) = networks.find(|network| network.network().family == family) else {
            return Err(EvaluateError::NoNetwork { metric, family });
        };
        let Some(of) = of.filter(|of| !ALONE.contains(of)) else {
            let unread = of == Some(Metric::ClipScore) && !network.reads_texts();
            return match unread {
                true => Err(EvaluateError::NoTexts {
                    metric,
                    network: network.network().name.clone(),
                }),
                false => Ok(()),
            };
        };
        match &self.against {
            None => Err(EvaluateError::NoReference { metric }),
            Some(against) if against.is_statistics() && !OF_STATISTICS.contains(&of) => {
                Err(EvaluateError::NeedsPictures { metric })
            }
            Some(_) => Ok(()),
        }
    }

    /// Checks that no network was given that says nothing about pictures without others.
    fn check_alone(&self) -> Result<(), EvaluateError> {
        let mut families = self.networks.iter().filter_map(|network| {
            let family = network.network().family;
            let alone = matches!(family, Family::Inception | Family::Classifier);
            (!alone && !network.reads_texts()).then_some(family)
        });
        match families.next() {
            Some(family) => {
                let metric = key(Metric::Frechet, family).to_owned();
                Err(EvaluateError::NoReference { metric })
            }
            None => Ok(()),
        }
    }

    /// Checks that images drawn from these prompts can be measured, so that nothing is drawn in vain.
    ///
    /// # Errors
    /// Nothing that can be measured, since no metric goes by a network's features and no prompt is one that a metric reads.
    pub fn check_prompts(&self, prompts: &[String]) -> Result<(), EvaluateError> {
        let by_features = match self.wanted.as_slice() {
            [] => !self.networks.is_empty(),
            wanted => wanted
                .iter()
                .any(|wanted| matches!(wanted, Wanted::Features(..))),
        };
        let any = |reads: &dyn Fn(&str) -> bool| prompts.iter().any(|prompt| reads(prompt));
        let of_class = |prompt: &str| {
            let mut networks = self.networks.iter();
            networks.any(|network| network.class_of(prompt).is_some())
        };
        let classes = self.wants(Wanted::ClassAccuracy) && any(&of_class);
        let scenes = self.wants(Wanted::PromptAccuracy) && any(&PromptAccuracy::reads);
        if by_features || classes || scenes {
            return Ok(());
        }
        Err(match self.wanted.as_slice() {
            [Wanted::ClassAccuracy] => EvaluateError::NoClass {
                pictures: prompts.len(),
            },
            _ => EvaluateError::NothingToMeasure,
        })
    }

    fn wants(&self, wanted: Wanted) -> bool {
        self.wanted.is_empty() || self.wanted.contains(&wanted)
    }

    /// Metrics asked of the network of a family.
    fn metrics_of(&self, family: Family) -> Vec<Metric> {
        if self.wanted.is_empty() {
            return DEFAULT
                .into_iter()
                .filter(|metric| metric.name(family).is_some())
                .collect();
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
        let mut sight = Sight {
            cache: &self.cache,
            max_damage: self.max_damage,
            stop,
            progress: &mut progress,
        };
        let mut found = Vec::new();
        let mut left_out = LeftOutMetrics::new(!self.wanted.is_empty());
        for network in &self.networks {
            match self.by_network(set, &**network, &mut sight, &mut left_out)? {
                Some(rows) => found.extend(rows),
                None => return Ok(None),
            }
        }
        if self.wants(Wanted::PromptAccuracy) {
            found.extend(self.by_prompts(set, stop)?);
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if found.is_empty() {
            let reason = left_out.into_first();
            return Err(reason.map_or(EvaluateError::NothingToMeasure, EvaluateError::Eval));
        }
        left_out.warn();
        Ok(Some(found))
    }

    /// What one network says about the pictures.
    fn by_network(
        &self,
        set: &PictureSet,
        network: &dyn Extractor,
        sight: &mut Sight<'_>,
        left_out: &mut LeftOutMetrics,
    ) -> Result<Option<Vec<Measured>>, EvaluateError> {
        let (named, family) = (!self.wanted.is_empty(), network.network().family);
        let metrics = self.metrics_of(family);
        let judges = family == Family::Classifier && self.wants(Wanted::ClassAccuracy);
        if metrics.is_empty() && !judges {
            return Ok(Some(Vec::new()));
        }
        let Some((pictures, places)) = sight.of(set, network)? else {
            return Ok(None);
        };
        let mut found = Vec::new();
        let scores = metrics.contains(&Metric::ClipScore) && network.reads_texts();
        if judges || scores {
            let captioned = Captioned::new(set, network, &pictures, &places)?;
            if judges {
                found.extend(captioned.class_accuracy(named)?);
            }
            if scores {
                match captioned.clip_score(named) {
                    Err(EvaluateError::Eval(error)) => {
                        left_out.note(key(Metric::ClipScore, family), error)?;
                    }
                    score => found.extend(score?),
                }
            }
        }
        if metrics.contains(&Metric::InceptionScore)
            && let Some((classes, logits)) = network.logits(pictures.values())
        {
            match score_of_logits(&pictures, Rows::new(&logits, classes)?) {
                Err(error) => left_out.note(key(Metric::InceptionScore, family), error)?,
                Ok(score) => found.extend(score),
            }
        }
        if let Some(against) = &self.against
            && metrics.iter().any(|metric| !ALONE.contains(metric))
        {
            let Some(reference) = against.seen_by(network, sight)? else {
                return Ok(None);
            };
            found.extend(self.compare(&metrics, &pictures, &reference, left_out)?);
        }
        Ok(Some(found))
    }

    /// Pictures against a reference that one network has seen.
    fn compare(
        &self,
        metrics: &[Metric],
        pictures: &Features,
        reference: &Reference,
        left_out: &mut LeftOutMetrics,
    ) -> Result<Vec<Measured>, EvaluateError> {
        let dim = pictures.rows().dim();
        let note = |metric: &'static str, error: EvalError| left_out.note(metric, error);
        let found = distances_but(metrics, pictures, reference, 0, note)?;
        let frechet = key(Metric::Frechet, pictures.network().family);
        if found.iter().any(|row| row.metric == frechet) && pictures.pictures() <= dim {
            tracing::warn!(
                "{} pictures for {dim} features: the Fréchet distance is mostly bias; compare it at this number of pictures only",
                pictures.pictures()
            );
        }
        Ok(found)
    }

    /// How much of what prompts of the generated dataset ask for is in the pictures.
    fn by_prompts(
        &self,
        set: &PictureSet,
        stop: &AtomicBool,
    ) -> Result<Vec<Measured>, EvaluateError> {
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
        Ok(accuracy.measured())
    }
}

/// What a metric over the features of a family is called.
fn key(metric: Metric, family: Family) -> &'static str {
    metric.name(family).map_or("", |name| name.key)
}

#[cfg(test)]
mod tests;
