//! phema: exponents, averages, and the coefficients of post-hoc EMA.

use super::tables::parameter;
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use microdit::{
    ema::{Decay, Ema, EmaConfig},
    post_hoc_ema::{Profile, coefficients, gamma, sigma_rel},
};
use std::path::Path;

/// f64 arithmetic in another order, relative to the largest value.
const RELATIVE: f64 = 1e-12;
/// Roots of the reference's solver for polynomials.
const ROOT: f64 = 1e-9;
/// What a rounding becomes in the solution of a linear system, times its condition number.
const SOLVED: f64 = 1e-13;

fn close(report: &mut Report, golden: &Golden, name: &str, found: &[f64], limit: f64) {
    let expected = golden.get(&format!("out.{name}"));
    report.close(name, found, expected, limit * expected.max_abs());
}

/// The profiles of averages that end after so many images.
fn profiles(ends: &Array, sigma_rels: &Array) -> Vec<Profile> {
    let pairs = ends.data.iter().zip(&sigma_rels.data);
    pairs
        .map(|(&end, &sigma)| Profile::new(end, sigma))
        .collect()
}

/// The averages as training tracks them, in f64 and in the type of weights.
fn averages(golden: &Golden, sigma_rels: &[f64], report: &mut Report) {
    let trajectory = golden.get("in.trajectory");
    let steps = trajectory.shape[0] - 1;
    let (mut betas, mut exact) = (Vec::new(), Vec::new());
    for (k, &sigma_rel) in sigma_rels.iter().enumerate() {
        let config = EmaConfig {
            decay: Decay::Power(sigma_rel),
            start: 0,
            every: 1,
        };
        let mut average = trajectory.row(0).data;
        let mut tracked = Ema::new(config);
        for step in 1..=steps {
            let (live, beta) = (trajectory.row(step), config.smoothing(step as u64));
            for (average, live) in average.iter_mut().zip(&live.data) {
                *average += (1.0 - beta) * (live - *average);
            }
            tracked.update(&parameter(&live), step as u64, |_| true);
            betas.push(beta);
            exact.extend(average.clone());
        }
        let found = tracked.average().expect("it has started").value.val();
        let expected = golden.get("out.ema").row(k).row(steps - 1);
        // Each step rounds twice, and the average forgets roundings as it forgets weights.
        let limit = 20.0 * f64::from(f32::EPSILON) * expected.max_abs();
        report.close(format!("ema.f32.{k}"), &values(found), &expected, limit);
    }
    close(report, golden, "beta", &betas, RELATIVE);
    close(report, golden, "ema", &exact, RELATIVE);
}

/// Everything post-hoc EMA computes.
pub(super) fn phema(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let widths = &golden.get("in.sigma_rel").data;
    let gammas: Vec<f64> = widths.iter().map(|&width| gamma(width)).collect();
    close(report, &golden, "gamma", &gammas, ROOT);
    let back: Vec<f64> = gammas.iter().map(|&gamma| sigma_rel(gamma)).collect();
    close(report, &golden, "sigma_rel_back", &back, RELATIVE);
    let tracked = golden.config["sigma_rels"].as_array();
    let tracked: Vec<f64> = tracked
        .expect("the tracked widths are a list")
        .iter()
        .map(|width| width.as_f64().expect("a width is a number"))
        .collect();
    averages(&golden, &tracked, report);
    let response: Vec<f64> = tracked
        .iter()
        .flat_map(|&width| {
            let steps = golden.get("out.response").shape[1];
            let profile = Profile::new(steps as f64, width);
            let densities: Vec<f64> = (0..steps).map(|t| profile.density(t as f64)).collect();
            let sum: f64 = densities.iter().sum();
            densities.into_iter().map(move |density| density / sum)
        })
        .collect();
    close(report, &golden, "response", &response, RELATIVE);
    let snapshots = profiles(
        golden.get("out.snapshot_nimg"),
        golden.get("out.snapshot_sigma_rel"),
    );
    let gram: Vec<f64> = snapshots
        .iter()
        .flat_map(|a| snapshots.iter().map(|b| a.product(b)))
        .collect();
    close(report, &golden, "gram", &gram, RELATIVE);
    let targets = profiles(
        golden.get("in.target_nimg"),
        golden.get("in.target_sigma_rel"),
    );
    let columns: Vec<Vec<f64>> = targets
        .iter()
        .map(|target| coefficients(&snapshots, target).expect("snapshots differ"))
        .collect();
    let limit = SOLVED * golden.number("condition_number");
    let rows = (0..snapshots.len()).flat_map(|i| columns.iter().map(move |column| column[i]));
    let found: Vec<f64> = rows.collect();
    close(report, &golden, "coefficients", &found, limit);
    let kept = golden.get("out.snapshot");
    let made: Vec<f64> = columns
        .iter()
        .flat_map(|column| {
            (0..kept.shape[1]).map(move |value| {
                let shares = column.iter().enumerate();
                shares
                    .map(|(i, share)| share * kept.row(i).data[value])
                    .sum()
            })
        })
        .collect();
    close(report, &golden, "reconstructed", &made, limit);
}
