use super::*;
use crate::features::{Family, FeatureNetwork};

const DIM: usize = 4;

fn network(family: Family) -> FeatureNetwork {
    FeatureNetwork {
        family,
        name: "test".into(),
        sha256: "00".into(),
        resize: "none".into(),
        source: None,
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
    Reference::of_features(normal(family, 400, 1, 0.0), set)
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
    // The same again, to the last bit, with what the reference has kept and without.
    assert_eq!(
        distances(&ALL, &pictures, &self::reference(Family::Clip), 0).unwrap(),
        found
    );
    assert_eq!(distances(&ALL, &pictures, &reference, 0).unwrap(), found);
    // A classifier has no CMMD.
    let pictures = normal(Family::Classifier, 300, 2, 0.3);
    let found = distances(&ALL, &pictures, &self::reference(Family::Classifier), 0).unwrap();
    assert_eq!(found.len(), ALL.len() - 2);
}

#[test]
fn cmmd_sees_directions_alone() {
    let pictures = normal(Family::Clip, 300, 2, 0.3);
    let longer = pictures.values().iter().map(|value| 7.0 * value).collect();
    let longer = Features::new(network(Family::Clip), DIM, longer).unwrap();
    let reference = reference(Family::Clip);
    let value = |pictures: &Features| {
        let found = distances(&[Metric::Cmmd], pictures, &reference, 0).unwrap();
        found[0].value
    };
    let (one, other) = (value(&pictures), value(&longer));
    assert!((one / other - 1.0).abs() < 1e-5, "{one} {other}");
    // The definition, over features of unit length.
    let [a, b] = [pictures.rows(), reference.rows().unwrap()].map(unit);
    let rows = |values: &'_ [f32]| Rows::new(values, DIM).map(|rows| rows.select(&[0]));
    let lengths = [rows(&a), rows(&b)].map(|row| row.unwrap().iter().map(|x| x * x).sum::<f32>());
    assert!(
        lengths.iter().all(|length| (length - 1.0).abs() < 1e-6),
        "{lengths:?}"
    );
    let expected = kernel::cmmd(Rows::new(&a, DIM).unwrap(), Rows::new(&b, DIM).unwrap());
    assert!((one - expected.unwrap().biased).abs() < 1e-12);
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
fn a_share_that_only_rounding_scatters_has_wilsons_interval() {
    let (pictures, against) = (normal(Family::Clip, 20, 2, 0.0), reference(Family::Clip));
    let found = Jackknife {
        mean: 0.1,
        standard_error: 1.4e-17,
    };
    let row = |metric| {
        let value = Value::new(0.1, Some(found));
        measured(metric, &pictures, Some(against.set()), value).unwrap()
    };
    let [low, high] = row(Metric::Recall).interval.unwrap();
    assert!(low > 0.0 && low < 0.05 && high > 0.2, "{low} {high}");
    // A density is not a share: without scatter it has no interval.
    assert_eq!(row(Metric::Density).interval, None);
}

#[test]
fn intervals_of_shares_stay_within_what_shares_are_and_have_a_width() {
    const SHARES: [Metric; 3] = [Metric::Precision, Metric::Recall, Metric::Coverage];
    let against = reference(Family::Clip);
    let of = |count, mean| {
        let pictures = normal(Family::Clip, count, 2, mean);
        distances(&SHARES, &pictures, &against, 0).unwrap()
    };
    // Far from the reference, where no share scatters, few pictures without a jackknife, and some on its edge.
    for (count, mean) in [(20, 100.0), (8, 0.0), (15, 1.5), (40, 2.0), (400, 0.0)] {
        for row in of(count, mean) {
            let [low, high] = row.interval.unwrap();
            let inside = 0.0 <= low && low <= row.value && row.value <= high && high <= 1.0;
            assert!(inside && low < high, "{count} {mean}: {row:?}");
        }
    }
    // None of twenty: Wilson's interval, with z of 1.96.
    let square = 1.959_963_984_540_054f64.powi(2);
    for row in of(20, 100.0) {
        let [low, high] = row.interval.unwrap();
        assert_eq!((row.value, low, row.standard_error), (0.0, 0.0, None));
        assert!((high - square / (20.0 + square)).abs() < 1e-9, "{row:?}");
    }
}

#[test]
fn statistics_allow_frechet_distances_alone() {
    let pictures = normal(Family::Inception, 300, 2, 0.3);
    let features = reference(Family::Inception);
    let gaussian = Moments::of(features.rows().unwrap()).gaussian().unwrap();
    let statistics = Reference::of_statistics(gaussian, features.set().clone());
    let found = distances(&ALL, &pictures, &statistics, 0).unwrap();
    let keys: Vec<&str> = found.iter().map(|row| row.metric.as_str()).collect();
    assert_eq!(keys, ["fid", "fid-infinite"]);
    assert_eq!(
        found[0],
        distances(&ALL, &pictures, &features, 0).unwrap()[0]
    );
    // Fewer pictures than features are no reference.
    let set = features.set().clone();
    let few = Reference::of_features(normal(Family::Inception, DIM, 1, 0.0), set);
    let error = distances(&ALL, &pictures, &few, 0).unwrap_err().to_string();
    assert!(error.contains("at least 5 are needed"), "{error}");
}
