//! Metrics over features, each with its uncertainty over the pictures.

use super::{
    reference::{Reference, unit},
    share::{interval_of_share, of_scatter},
};
use crate::{
    error::EvalError,
    features::{Features, Rows},
    measured::{Measured, ReferenceSet},
    metrics::{
        ClipScore, Metric, Moments, SPLITS, frechet, inception_score,
        kernel::{self, Kernel, Within},
        neighbours,
    },
    statistics::{Groups, Jackknife, SIGNIFICANCE, jackknife, quantile},
};
use microdit::rng::{Purpose, Stream};
use std::collections::BTreeMap;

/// Groups of pictures that are left out in turn.
const GROUPS: usize = 10;

/// A value with its standard error, and the metric's constants.
struct Value {
    value: f64,
    standard_error: Option<f64>,
    /// Degrees of freedom of the standard error.
    freedom: f64,
    constants: Vec<(&'static str, f64)>,
}

impl Value {
    fn new(value: f64, jackknife: Option<Jackknife>) -> Self {
        Self {
            value,
            standard_error: jackknife.map(|found| found.standard_error),
            freedom: (GROUPS - 1) as f64,
            constants: Vec::new(),
        }
    }

    fn with(&self, constants: &[(&'static str, f64)]) -> Self {
        Self {
            constants: constants.to_vec(),
            ..*self
        }
    }
}

/// All metrics of `wanted` that the features and the reference allow, in their order. What comes together is computed together;
/// statistics in place of a reference's features allow Fréchet distances alone.
///
/// # Errors
/// Features of different networks' sizes, too few pictures on a side.
pub fn distances(
    wanted: &[Metric],
    pictures: &Features,
    reference: &Reference,
    seed: u64,
) -> Result<Vec<Measured>, EvalError> {
    distances_but(wanted, pictures, reference, seed, |_, error| Err(error))
}

/// The same without those metrics of which `left_out` takes what is wrong with them, by their names.
///
/// # Errors
/// What `left_out` gives back.
pub(super) fn distances_but(
    wanted: &[Metric],
    pictures: &Features,
    reference: &Reference,
    seed: u64,
    mut left_out: impl FnMut(&'static str, EvalError) -> Result<(), EvalError>,
) -> Result<Vec<Measured>, EvalError> {
    let mut together = Together::default();
    let mut found = Vec::new();
    for &metric in wanted {
        let Some(name) = metric.name(pictures.network().family) else {
            continue;
        };
        match together.value(metric, pictures.rows(), reference, seed) {
            Ok(Some(value)) => {
                found.extend(measured(metric, pictures, Some(reference.set()), value));
            }
            Ok(None) => {}
            Err(error) => left_out(name.key, error)?,
        }
    }
    Ok(found)
}

/// Values that come with others, so that these need not be computed again.
#[derive(Default)]
struct Together {
    shares: Option<[(Metric, Value); 4]>,
    cmmds: Option<[(Metric, Value); 2]>,
}

impl Together {
    /// A metric's value; none where the reference does not allow it.
    fn value(
        &mut self,
        metric: Metric,
        rows: Rows<'_, f32>,
        reference: &Reference,
        seed: u64,
    ) -> Result<Option<Value>, EvalError> {
        Ok(match (metric, reference.rows()) {
            (Metric::Frechet, _) => Some(frechet_distance(rows, reference, seed)?),
            (Metric::FrechetInfinite, _) => Some(extrapolated(rows, reference, seed)?),
            (Metric::Kernel, Some(reference)) => Some(kernel_distance(rows, reference, seed)?),
            (Metric::Cmmd | Metric::CmmdUnbiased, Some(_)) => {
                if self.cmmds.is_none() {
                    self.cmmds = Some(all_cmmds(rows, reference, seed)?);
                }
                let constants = [("sigma", kernel::CMMD_SIGMA), ("scale", kernel::CMMD_SCALE)];
                of(metric, self.cmmds.iter().flatten()).map(|value| value.with(&constants))
            }
            (Metric::Precision | Metric::Recall | Metric::Density | Metric::Coverage, Some(_)) => {
                if self.shares.is_none() {
                    self.shares = Some(all_shares(rows, reference, seed)?);
                }
                let constants = [("k", neighbours::NEIGHBOURS as f64)];
                of(metric, self.shares.iter().flatten()).map(|value| value.with(&constants))
            }
            _ => None,
        })
    }
}

/// The value of one of several metrics.
fn of<'a>(
    metric: Metric,
    mut among: impl Iterator<Item = &'a (Metric, Value)>,
) -> Option<&'a Value> {
    let found = among.find(|(of, _)| *of == metric);
    found.map(|(_, value)| value)
}

/// The CLIP score of pictures and the texts that were drawn; none over a network that sees no texts.
pub(super) fn score_of_texts(pictures: &Features, score: &ClipScore) -> Option<Measured> {
    let value = Value {
        value: score.score,
        standard_error: score.standard_error,
        freedom: (score.cosines.len() - 1) as f64,
        constants: vec![("scale", ClipScore::SCALE)],
    };
    measured(Metric::ClipScore, pictures, None, value)
}

/// The Inception score from the logits of the pictures; none over another network.
///
/// # Errors
/// Fewer pictures than splits.
pub fn score_of_logits(
    pictures: &Features,
    logits: Rows<'_, f32>,
) -> Result<Option<Measured>, EvalError> {
    // Splits are consecutive, and pictures often sorted by what they show.
    let mut order: Vec<usize> = (0..logits.len()).collect();
    Stream::new(0, Purpose::Subset, u64::MAX, 1).shuffle(&mut order);
    let shuffled = logits.select(&order);
    let score = inception_score(Rows::new(&shuffled, logits.dim())?)?;
    let freedom = (SPLITS - 1) as f64;
    let value = Value {
        value: score.mean,
        standard_error: Some(score.deviation / freedom.sqrt()),
        freedom,
        constants: vec![("splits", SPLITS as f64)],
    };
    Ok(measured(Metric::InceptionScore, pictures, None, value))
}

/// A value as a row. Its interval is that of Student's t around it, cut to what the metric can be; of a share whose standard error is zero or
/// not known, Wilson's, with the width that a share of so many has.
fn measured(
    metric: Metric,
    pictures: &Features,
    reference: Option<&ReferenceSet>,
    value: Value,
) -> Option<Measured> {
    let network = pictures.network();
    let name = metric.name(network.family)?;
    let samples = pictures.pictures() as u64;
    let trials = match metric {
        Metric::Precision => Some(samples),
        // Of the reference; few pictures say little of it, so they count for no more trials than they are.
        Metric::Recall | Metric::Coverage => {
            let there = reference.and_then(|set| set.samples).unwrap_or(samples);
            Some(there.min(samples))
        }
        _ => None,
    };
    let standard_error = of_scatter(value.value, value.standard_error);
    let interval = match (standard_error, trials) {
        (Some(error), _) => {
            let half = quantile(1.0 - SIGNIFICANCE / 2.0, value.freedom) * error;
            Some([value.value - half, value.value + half])
        }
        (None, Some(trials)) => Some(interval_of_share(value.value, trials)),
        (None, None) => None,
    };
    let [least, most] = metric.range();
    let within = |[low, high]: [f64; 2]| {
        // A rounded value may lie outside by itself.
        [
            low.max(least).min(value.value),
            high.min(most).max(value.value),
        ]
    };
    let constants = value.constants.into_iter();
    Some(Measured {
        metric: name.key.to_owned(),
        value: value.value,
        standard_error,
        interval: interval.map(within),
        samples,
        reference: reference.cloned(),
        network: Some(network.clone()),
        constants: constants
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        labels: BTreeMap::new(),
    })
}

/// Groups of the pictures, if there are enough to leave some out.
fn groups(samples: usize, seed: u64) -> Option<Groups> {
    let mut stream = Stream::new(seed, Purpose::Subset, u64::MAX, 0);
    Groups::draw(samples, GROUPS, &mut stream).ok()
}

fn frechet_distance(
    rows: Rows<'_, f32>,
    reference: &Reference,
    seed: u64,
) -> Result<Value, EvalError> {
    let to = reference.frechet()?;
    let value = to.distance(&Moments::of(rows).gaussian()?)?;
    let groups = groups(rows.len(), seed);
    let error = groups
        .map(|groups| to.jackknife(rows, &groups))
        .transpose()?;
    Ok(Value::new(value, error))
}

fn extrapolated(rows: Rows<'_, f32>, reference: &Reference, seed: u64) -> Result<Value, EvalError> {
    let to = reference.frechet()?;
    let found = frechet::infinite(to, rows, seed)?;
    // The line scatters, and its pictures are those that happened to be drawn.
    let groups = groups(rows.len(), seed);
    let drawn = groups
        .map(|groups| to.jackknife(rows, &groups))
        .transpose()?;
    let drawn = drawn.map_or(0.0, |found| found.standard_error);
    Ok(Value {
        value: found.value,
        standard_error: Some(found.standard_error.hypot(drawn)),
        freedom: (GROUPS - 1) as f64,
        constants: vec![("points", found.points.len() as f64)],
    })
}

fn kernel_distance(
    rows: Rows<'_, f32>,
    reference: Rows<'_, f32>,
    seed: u64,
) -> Result<Value, EvalError> {
    let distance = kernel::distance(rows, reference, seed)?;
    let of_subsets = distance.deviation / (kernel::SUBSETS as f64).sqrt();
    // A delete-d jackknife: subsets of at most half of the pictures against one part of the reference (Shao and Wu 1989).
    let part = distance.subset_size.min(rows.len() / 2);
    let order = |count: usize, subset: u64, side: u64| {
        let mut order: Vec<usize> = (0..count).collect();
        Stream::new(seed, Purpose::Subset, kernel::SUBSETS as u64 + subset, side)
            .shuffle(&mut order);
        order
    };
    let mut value = Value::new(distance.mean, None);
    if part >= 2 {
        let mut against = order(reference.len(), 0, 1);
        against.truncate(distance.subset_size);
        let against = reference.select(&against);
        let against = Rows::new(&against, reference.dim())?;
        let within = Within::of("the reference", against, Kernel::kid(reference.dim()))?;
        let subsets = (0..kernel::SUBSETS as u64).map(|subset| {
            let mut chosen = order(rows.len(), subset, 0);
            chosen.truncate(part);
            chosen
        });
        let spread = kernel::distance_from(rows, against, &within, subsets)?.deviation;
        let (kept, left_out) = (part as f64, (rows.len() - part) as f64);
        value.standard_error = Some((spread * (kept / left_out).sqrt()).hypot(of_subsets));
        value.freedom = (kernel::SUBSETS - 1) as f64;
    }
    Ok(value.with(&[
        ("subsets", kernel::SUBSETS as f64),
        ("subset-size", distance.subset_size as f64),
    ]))
}

/// Values that are computed together, each with its jackknife if enough pictures remain for it: more than `least`.
fn with_jackknife<const N: usize>(
    rows: Rows<'_, f32>,
    seed: u64,
    least: usize,
    of: impl Fn(Rows<'_, f32>) -> Result<[f64; N], EvalError>,
) -> Result<[Value; N], EvalError> {
    let values = of(rows)?;
    let groups = groups(rows.len(), seed);
    let groups = groups.filter(|groups| rows.len() - groups.size() > least);
    let mut without = Vec::with_capacity(GROUPS);
    if let Some(groups) = &groups {
        for group in 0..groups.count() {
            let values = rows.select(&groups.without(group));
            without.push(of(Rows::new(&values, rows.dim())?)?);
        }
    }
    let mut found = values.map(|value| Value::new(value, None));
    if let Some(groups) = &groups {
        for (i, value) in found.iter_mut().enumerate() {
            let spread = jackknife(groups, |group| Ok::<_, EvalError>(without[group][i]))?;
            value.standard_error = Some(spread.standard_error);
        }
    }
    Ok(found)
}

fn all_cmmds(
    rows: Rows<'_, f32>,
    reference: &Reference,
    seed: u64,
) -> Result<[(Metric, Value); 2], EvalError> {
    let values = unit(rows);
    let rows = Rows::new(&values, rows.dim())?;
    let [biased, unbiased] = with_jackknife(rows, seed, 1, |rows| {
        let found = reference.cmmd(rows)?;
        Ok([found.biased, found.unbiased])
    })?;
    Ok([(Metric::Cmmd, biased), (Metric::CmmdUnbiased, unbiased)])
}

fn all_shares(
    rows: Rows<'_, f32>,
    reference: &Reference,
    seed: u64,
) -> Result<[(Metric, Value); 4], EvalError> {
    let [precision, recall, density, coverage] =
        with_jackknife(rows, seed, neighbours::NEIGHBOURS, |rows| {
            let neighbours::Prdc {
                precision,
                recall,
                density,
                coverage,
            } = reference.prdc(rows)?;
            Ok([precision, recall, density, coverage])
        })?;
    Ok([
        (Metric::Precision, precision),
        (Metric::Recall, recall),
        (Metric::Density, density),
        (Metric::Coverage, coverage),
    ])
}

#[cfg(test)]
mod tests;
