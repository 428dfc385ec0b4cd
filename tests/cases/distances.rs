//! fid, prdc: distances between sets of features, and what is computed from them.

use crate::{
    golden::{Array, Golden},
    report::Report,
};
use microdit_eval::{
    features::Rows,
    metrics::{
        Gaussian, Moments, clip_score,
        frechet::Reference,
        kernel::{Kernel, discrepancy, distance_of},
        neighbours::prdc as compare,
    },
};
use serde_json::Value;
use std::path::Path;

/// The rows of a matrix.
fn rows(array: &Array) -> Rows<'_, f64> {
    Rows::new(&array.data, array.shape[1]).expect("features are finite")
}

/// A covariance, row by row.
fn covariance(gaussian: &Gaussian) -> Vec<f64> {
    let side = gaussian.mean.len();
    (0..side * side)
        .map(|at| gaussian.covariance[(at / side, at % side)])
        .collect()
}

/// Sums in another order, in f64.
fn rounding(expected: &Array) -> f64 {
    1e-11 * expected.max_abs().max(1.0)
}

pub(super) fn fid(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let features = ["a", "b"].map(|side| golden.get(&format!("in.features_{side}")));
    let gaussians = features.map(|features| {
        Moments::of(rows(features))
            .gaussian()
            .expect("a covariance")
    });
    let mut scale = 0.0;
    for (side, gaussian) in ["a", "b"].into_iter().zip(&gaussians) {
        let (mean, expected) = (
            format!("mean_{side}"),
            golden.get(&format!("out.mean_{side}")),
        );
        report.close(mean, &gaussian.mean, expected, rounding(expected));
        let (name, expected) = (
            format!("cov_{side}"),
            golden.get(&format!("out.cov_{side}")),
        );
        report.close(name, &covariance(gaussian), expected, rounding(expected));
        scale += expected
            .data
            .iter()
            .step_by(gaussian.mean.len() + 1)
            .sum::<f64>();
    }
    // Roots of the reference's zeros are known to half of the digits; where two of its own ways differ by more, so may we.
    let own = |key: &str| golden.config[key].as_f64();
    let unsure = own("fid_scipy_sqrtm").zip(own("fid_symmetric_eigen"));
    let unsure = unsure.map_or(0.0, |(one, other)| (one - other).abs());
    let limit = (1e-6 * scale).max(10.0 * unsure);
    let reference = Reference::new(&gaussians[0]).expect("a covariance");
    for (name, to) in [("fid", &gaussians[1]), ("fid_self", &gaussians[0])] {
        let found = reference.distance(to).expect("a distance");
        report.close(name, &[found], golden.get(&format!("out.{name}")), limit);
    }
    let [a, b] = features.map(rows);
    let found = discrepancy(a, b, Kernel::kid(a.dim())).expect("two sets");
    let expected = golden.get("out.kid");
    // A difference of numbers of the size of the biased one.
    let limit = rounding(expected) * found.biased.abs().max(1.0);
    report.close("kid", &[found.unbiased], expected, limit);

    let score = clip_score(
        rows(golden.get("in.image_features")),
        rows(golden.get("in.text_features")),
    );
    let score = score.expect("one text per image");
    let mean = score.cosines.iter().sum::<f64>() / score.cosines.len() as f64;
    // The reference computes in f32.
    report.close("cosine", &score.cosines, golden.get("out.cosine"), 1e-6);
    report.close(
        "clip_score",
        &[score.score],
        golden.get("out.clip_score"),
        1e-4,
    );
    report.close(
        "clip_score_mean_cos",
        &[mean],
        golden.get("out.clip_score_mean_cos"),
        1e-6,
    );
}

pub(super) fn prdc(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let (real, fake) = (
        rows(golden.get("in.features_real")),
        rows(golden.get("in.features_fake")),
    );
    for k in golden.config["k"]
        .as_array()
        .expect("numbers of neighbours")
    {
        let k = k.as_u64().expect("a whole number") as usize;
        let found = compare(real, fake, k).expect("more rows than neighbours");
        for (name, value) in [
            ("precision", found.precision),
            ("recall", found.recall),
            ("density", found.density),
            ("coverage", found.coverage),
        ] {
            let name = format!("k{k}.{name}");
            // Shares of counts: one count more or less is far beyond this.
            report.close(&name, &[value], golden.get(&format!("out.{name}")), 1e-12);
        }
    }
    kid(&golden, real, fake, report);
    cmmd(&golden, real, fake, report);
}

fn kid(golden: &Golden, real: Rows<'_, f64>, fake: Rows<'_, f64>, report: &mut Report) {
    let config = &golden.config["kid"];
    let kernel = Kernel::Polynomial {
        degree: config["degree"].as_i64().expect("a degree") as i32,
        gamma: match &config["gamma"] {
            Value::String(text) if text == "dim^-1" => 1.0 / real.dim() as f64,
            gamma => gamma.as_f64().expect("dim^-1 or a number"),
        },
        constant: config["coef"].as_f64().expect("a constant"),
    };
    let indices = |name: &str| {
        let array = golden.get(name);
        let subsets = array.data.chunks(array.shape[1]);
        let subsets = subsets.map(|subset| subset.iter().map(|&row| row as usize).collect());
        subsets.collect::<Vec<Vec<usize>>>()
    };
    let subsets = || {
        indices("in.subset_real")
            .into_iter()
            .zip(indices("in.subset_fake"))
    };
    let one = |subset| {
        let found = distance_of(real, fake, kernel, [subset]);
        found.expect("two rows on each side").mean
    };
    let values: Vec<f64> = subsets().map(one).collect();
    let expected = golden.get("out.kid_subsets");
    report.close("kid_subsets", &values, expected, rounding(expected));
    let found = distance_of(real, fake, kernel, subsets()).expect("subsets");
    report.close(
        "kid_mean",
        &[found.mean],
        golden.get("out.kid_mean"),
        rounding(expected),
    );
    report.close(
        "kid_std",
        &[found.deviation],
        golden.get("out.kid_std"),
        rounding(expected),
    );
}

fn cmmd(golden: &Golden, real: Rows<'_, f64>, fake: Rows<'_, f64>, report: &mut Report) {
    let constant = |key: &str| golden.config["cmmd"][key].as_f64().expect("a constant");
    let (sigma, scale) = (constant("sigma"), constant("scale"));
    let (a, b) = (rows(golden.get("in.clip_a")), rows(golden.get("in.clip_b")));
    for (name, left, right) in [
        ("cmmd", a, b),
        ("cmmd_self", a, a),
        ("cmmd_features", real, fake),
    ] {
        let found = discrepancy(left, right, Kernel::Gaussian { sigma }).expect("two sets");
        // A difference of numbers of size one.
        report.close(
            name,
            &[scale * found.biased],
            golden.get(&format!("out.{name}")),
            1e-12 * scale,
        );
    }
}
