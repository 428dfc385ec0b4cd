//! Metrics over features, each with its uncertainty over the pictures.

use crate::{
    error::EvalError,
    features::{Features, Rows},
    measured::{Measured, ReferenceSet},
    metrics::{
        Gaussian, Metric, Moments, SPLITS, frechet, inception_score,
        kernel::{self, Kernel},
        neighbours,
    },
    statistics::{Groups, Jackknife, SIGNIFICANCE, jackknife, quantile},
};
use microdit::rng::{Purpose, Stream};
use std::collections::BTreeMap;

/// Groups of pictures that are left out in turn.
const GROUPS: usize = 10;

/// Pictures that are compared with.
#[derive(Clone, Debug)]
pub enum Reference {
    /// Their features.
    Features(Features, ReferenceSet),
    /// Mean and covariance of features, from a file that says no more.
    Statistics(Box<Gaussian>, ReferenceSet),
}

impl Reference {
    /// Which pictures they are.
    pub fn set(&self) -> &ReferenceSet {
        match self {
            Self::Features(_, set) | Self::Statistics(_, set) => set,
        }
    }

    fn rows(&self) -> Option<Rows<'_, f32>> {
        match self {
            Self::Features(features, _) => Some(features.rows()),
            Self::Statistics(..) => None,
        }
    }

    fn gaussian(&self) -> Result<Gaussian, EvalError> {
        let gaussian = match self {
            Self::Features(features, _) => Moments::of(features.rows()).gaussian()?,
            Self::Statistics(gaussian, _) => (**gaussian).clone(),
        };
        gaussian.check_reference()?;
        Ok(gaussian)
    }
}

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

/// All metrics of `wanted` that the features and the reference allow, in their order. Precision, recall, density and coverage
/// are computed together; statistics in place of a reference's features allow Fréchet distances alone.
///
/// # Errors
/// Features of different networks' sizes, too few pictures on a side.
pub fn distances(
    wanted: &[Metric],
    pictures: &Features,
    reference: &Reference,
    seed: u64,
) -> Result<Vec<Measured>, EvalError> {
    let rows = pictures.rows();
    let mut shares: Option<Shares> = None;
    let mut found = Vec::new();
    let named = |metric: &&Metric| metric.name(pictures.network().family).is_some();
    for &metric in wanted.iter().filter(named) {
        let value = match (metric, reference.rows()) {
            (Metric::Frechet, _) => frechet_distance(rows, reference, seed)?,
            (Metric::FrechetInfinite, _) => extrapolated(rows, reference, seed)?,
            (Metric::Kernel, Some(reference)) => kernel_distance(rows, reference, seed)?,
            (Metric::Cmmd | Metric::CmmdUnbiased, Some(reference)) => {
                cmmd(metric, rows, reference, seed)?
            }
            (
                Metric::Precision | Metric::Recall | Metric::Density | Metric::Coverage,
                Some(reference),
            ) => {
                if shares.is_none() {
                    shares = Some(all_shares(rows, reference, seed)?);
                }
                let mut all = shares.iter().flatten();
                let Some((_, share)) = all.find(|(of, _)| *of == metric) else {
                    continue;
                };
                share.with(&[("k", neighbours::NEIGHBOURS as f64)])
            }
            _ => continue,
        };
        found.extend(measured(metric, pictures, Some(reference.set()), value));
    }
    Ok(found)
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

fn measured(
    metric: Metric,
    pictures: &Features,
    reference: Option<&ReferenceSet>,
    value: Value,
) -> Option<Measured> {
    let network = pictures.network();
    let name = metric.name(network.family)?;
    let width = quantile(1.0 - SIGNIFICANCE / 2.0, value.freedom);
    let interval = value.standard_error.map(|error| {
        let half = width * error;
        let share = matches!(
            metric,
            Metric::Precision | Metric::Recall | Metric::Coverage
        );
        let most = if share { 1.0 } else { f64::INFINITY };
        [value.value - half, (value.value + half).min(most)]
    });
    let constants = value.constants.into_iter();
    Some(Measured {
        metric: name.key.to_owned(),
        value: value.value,
        standard_error: value.standard_error,
        interval,
        samples: pictures.pictures() as u64,
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
    let to = frechet::Reference::new(&reference.gaussian()?)?;
    let value = to.distance(&Moments::of(rows).gaussian()?)?;
    let groups = groups(rows.len(), seed);
    let error = groups
        .map(|groups| to.jackknife(rows, &groups))
        .transpose()?;
    Ok(Value::new(value, error))
}

fn extrapolated(rows: Rows<'_, f32>, reference: &Reference, seed: u64) -> Result<Value, EvalError> {
    let to = frechet::Reference::new(&reference.gaussian()?)?;
    let found = frechet::infinite(&to, rows, seed)?;
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
        let subsets = (0..kernel::SUBSETS as u64).map(|subset| {
            let mut chosen = order(rows.len(), subset, 0);
            chosen.truncate(part);
            (chosen, against.clone())
        });
        let kernel = Kernel::kid(reference.dim());
        let spread = kernel::distance_of(rows, reference, kernel, subsets)?.deviation;
        let (kept, left_out) = (part as f64, (rows.len() - part) as f64);
        value.standard_error = Some((spread * (kept / left_out).sqrt()).hypot(of_subsets));
        value.freedom = (kernel::SUBSETS - 1) as f64;
    }
    Ok(value.with(&[
        ("subsets", kernel::SUBSETS as f64),
        ("subset-size", distance.subset_size as f64),
    ]))
}

/// `of` with its jackknife, where there are enough pictures.
fn with_jackknife(
    rows: Rows<'_, f32>,
    seed: u64,
    of: impl Fn(Rows<'_, f32>) -> Result<f64, EvalError>,
) -> Result<Value, EvalError> {
    let value = of(rows)?;
    let Some(groups) = groups(rows.len(), seed) else {
        return Ok(Value::new(value, None));
    };
    let found = jackknife(&groups, |left_out| {
        let values = rows.select(&groups.without(left_out));
        of(Rows::new(&values, rows.dim())?)
    })?;
    Ok(Value::new(value, Some(found)))
}

fn cmmd(
    metric: Metric,
    rows: Rows<'_, f32>,
    reference: Rows<'_, f32>,
    seed: u64,
) -> Result<Value, EvalError> {
    let [rows, reference] = [rows, reference].map(unit);
    let rows = Rows::new(&rows.1, rows.0)?;
    let reference = Rows::new(&reference.1, reference.0)?;
    let value = with_jackknife(rows, seed, |rows| {
        let found = kernel::cmmd(rows, reference)?;
        Ok(match metric {
            Metric::CmmdUnbiased => found.unbiased,
            _ => found.biased,
        })
    })?;
    Ok(value.with(&[("sigma", kernel::CMMD_SIGMA), ("scale", kernel::CMMD_SCALE)]))
}

/// Rows brought to unit length, and their size.
fn unit(rows: Rows<'_, f32>) -> (usize, Vec<f32>) {
    let row = |i| {
        let row: &[f32] = rows.row(i);
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(move |x| x / length.max(f32::MIN_POSITIVE))
    };
    (rows.dim(), (0..rows.len()).flat_map(row).collect())
}

type Shares = [(Metric, Value); 4];

fn all_shares(
    rows: Rows<'_, f32>,
    reference: Rows<'_, f32>,
    seed: u64,
) -> Result<Shares, EvalError> {
    let of = |rows: Rows<'_, f32>| {
        let found = neighbours::prdc(reference, rows, neighbours::NEIGHBOURS)?;
        let neighbours::Prdc {
            precision,
            recall,
            density,
            coverage,
        } = found;
        Ok::<_, EvalError>([precision, recall, density, coverage])
    };
    let values = of(rows)?;
    let groups = groups(rows.len(), seed);
    let groups = groups.filter(|groups| rows.len() - groups.size() > neighbours::NEIGHBOURS);
    // All four without each group: they come together.
    let mut without = Vec::with_capacity(GROUPS);
    if let Some(groups) = &groups {
        for group in 0..groups.count() {
            let values = rows.select(&groups.without(group));
            without.push(of(Rows::new(&values, rows.dim())?)?);
        }
    }
    let value = |i: usize| {
        let found = groups
            .as_ref()
            .map(|groups| jackknife(groups, |group| Ok::<_, EvalError>(without[group][i])));
        Ok::<_, EvalError>(Value::new(values[i], found.transpose()?))
    };
    Ok([
        (Metric::Precision, value(0)?),
        (Metric::Recall, value(1)?),
        (Metric::Density, value(2)?),
        (Metric::Coverage, value(3)?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Family, FeatureNetwork};

    const DIM: usize = 4;

    fn network(family: Family) -> FeatureNetwork {
        FeatureNetwork {
            family,
            name: "test".into(),
            sha256: "00".into(),
            resize: "none".into(),
        }
    }

    /// Normal rows around `mean`.
    fn normal(family: Family, count: usize, seed: u64, mean: f32) -> Features {
        let values = Stream::new(seed, Purpose::Noise, 0, 0).normal(count * DIM);
        let values = values.into_iter().map(|value| value + mean).collect();
        Features::new(network(family), DIM, values).unwrap()
    }

    fn reference(family: Family) -> Reference {
        let set = ReferenceSet {
            name: "reference".into(),
            sha256: "11".into(),
            samples: Some(400),
        };
        Reference::Features(normal(family, 400, 1, 0.0), set)
    }

    const ALL: [Metric; 9] = [
        Metric::Frechet,
        Metric::FrechetInfinite,
        Metric::Kernel,
        Metric::Precision,
        Metric::Recall,
        Metric::Density,
        Metric::Coverage,
        Metric::Cmmd,
        Metric::CmmdUnbiased,
    ];

    #[test]
    fn every_metric_has_its_name_its_uncertainty_and_what_it_depends_on() {
        let pictures = normal(Family::Clip, 300, 2, 0.3);
        let reference = reference(Family::Clip);
        let found = distances(&ALL, &pictures, &reference, 0).unwrap();
        let keys: Vec<&str> = found.iter().map(|row| row.metric.as_str()).collect();
        assert_eq!(keys[..3], ["fd-clip", "fd-infinite-clip", "kd-clip"]);
        assert_eq!(found.len(), ALL.len());
        for row in &found {
            let [low, high] = row.interval.unwrap();
            assert!(low < row.value && row.value < high, "{row:?}");
            assert_eq!((row.samples, row.network.is_some()), (300, true));
            assert_eq!(row.reference.as_ref(), Some(reference.set()));
        }
        assert_eq!(found[3].constants["k"], 5.0);
        // The same again, to the last bit.
        assert_eq!(distances(&ALL, &pictures, &reference, 0).unwrap(), found);
        // A classifier has no CMMD.
        let pictures = normal(Family::Classifier, 300, 2, 0.3);
        let found = distances(&ALL, &pictures, &self::reference(Family::Classifier), 0).unwrap();
        assert_eq!(found.len(), ALL.len() - 2);
    }

    #[test]
    fn standard_errors_are_those_of_repeated_drawings() {
        // Twenty sets of pictures: the scatter of their values against the errors each of them gives.
        let reference = reference(Family::Classifier);
        for metric in [Metric::Frechet, Metric::Kernel, Metric::Coverage] {
            let rows: Vec<Measured> = (0..20)
                .flat_map(|seed| {
                    let pictures = normal(Family::Classifier, 200, 10 + seed, 0.5);
                    distances(&[metric], &pictures, &reference, 0).unwrap()
                })
                .collect();
            let count = rows.len() as f64;
            let mean = rows.iter().map(|row| row.value).sum::<f64>() / count;
            let square = rows
                .iter()
                .map(|row| (row.value - mean).powi(2))
                .sum::<f64>();
            let scatter = (square / (count - 1.0)).sqrt();
            let error = rows
                .iter()
                .filter_map(|row| row.standard_error)
                .sum::<f64>()
                / count;
            assert!(
                error / scatter > 0.5 && error / scatter < 2.0,
                "{metric:?}: {error} for a scatter of {scatter}"
            );
        }
    }

    #[test]
    fn statistics_allow_frechet_distances_alone() {
        let pictures = normal(Family::Inception, 300, 2, 0.3);
        let features = reference(Family::Inception);
        let gaussian = features.gaussian().unwrap();
        let statistics = Reference::Statistics(Box::new(gaussian), features.set().clone());
        let found = distances(&ALL, &pictures, &statistics, 0).unwrap();
        let keys: Vec<&str> = found.iter().map(|row| row.metric.as_str()).collect();
        assert_eq!(keys, ["fid", "fid-infinite"]);
        assert_eq!(
            found[0],
            distances(&ALL, &pictures, &features, 0).unwrap()[0]
        );
        // Fewer pictures than features are no reference.
        let set = features.set().clone();
        let few = Reference::Features(normal(Family::Inception, DIM, 1, 0.0), set);
        let error = distances(&ALL, &pictures, &few, 0).unwrap_err().to_string();
        assert!(error.contains("at least 5 are needed"), "{error}");
    }
}
