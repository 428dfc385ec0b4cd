//! edm_sampler: the Heun sampler, guided, unguided and stochastic.

use super::Inner;
use crate::{
    golden::{Golden, values},
    report::Report,
};
use microdit::{
    diffusion::{
        Diffusion as _, Edm, Guidance,
        sampler::{Churn, Heun, sample},
        schedule::SigmaSchedule,
    },
    net::Conditioning,
};
use std::{cell::RefCell, path::Path};

/// Latents, relative to their largest value.
const LATENT: f64 = 1e-4;

/// Steps and guidance from a run's name such as `s18_cfg5`.
fn parse(run: &str) -> Option<(usize, f64)> {
    let (steps, scale) = run.strip_prefix('s')?.split_once("_cfg")?;
    Some((steps.parse().ok()?, scale.parse().ok()?))
}

/// Every run in the file, told by the names of its tensors.
pub(super) fn edm_sampler(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let device = Default::default();
    let dit = golden.load::<Inner>(&device);
    let edm = Edm {
        sigma_data: golden.number("sigma_data"),
        ..Edm::default()
    };
    let schedule = SigmaSchedule {
        sigma_min: golden.number("sigma_min"),
        sigma_max: golden.number("sigma_max"),
        rho: golden.number("rho"),
    };
    let y = Conditioning {
        captions: golden.get("in.y").captions::<Inner>(&device),
    };
    for (steps, expected) in golden.with_prefix("out.t_steps_") {
        let steps: usize = steps.parse().expect("t_steps_ ends in a number of steps");
        // f64 throughout: only the rounding of two powers may differ.
        report.close(
            format!("t_steps_{steps}"),
            &schedule.sigmas(steps),
            expected,
            1e-12 * schedule.sigma_max,
        );
    }
    let runs: Vec<&str> = golden
        .with_prefix("out.")
        .filter_map(|(name, _)| name.strip_suffix(".final"))
        .collect();
    for run in runs {
        let stochastic = run == "churn";
        let (steps, scale, churn) = if stochastic {
            // The settings goldens/README states for this run.
            let churn = Churn {
                s_churn: 3.0,
                s_min: 0.05,
                s_max: Some(50.0),
                s_noise: 1.003,
            };
            (golden.get("in.churn_noise").shape[0], 5.0, churn)
        } else {
            let (steps, scale) = parse(run).unwrap_or_else(|| panic!("unknown run {run}"));
            (steps, scale, Churn::default())
        };
        let (states, estimates) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let evaluated = RefCell::new(Vec::new());
        let trajectory = schedule.trajectory(&edm, steps).with_churn(&churn, &edm);
        let noise = golden.get("in.noise");
        let end = sample(
            &Heun,
            &trajectory,
            noise.float::<Inner, 4>(&device) * trajectory.start,
            |x, point| {
                let sigma = point.level.sigma();
                let denoised = edm.denoise(x, point, |x, t| {
                    Guidance::scale(scale).predict(&dit, x, t, sigma, &y, &y.null())
                });
                evaluated.borrow_mut().push(point.time);
                estimates.borrow_mut().extend(values(denoised.clone()));
                denoised
            },
            |step| golden.get("in.churn_noise").row(step).float(&device),
            |_, state| states.borrow_mut().extend(values(state.clone())),
        );
        let mut check = |part: &str, found: &[f64]| {
            let key = format!("out.{run}.{part}");
            if golden.has(&key) {
                let expected = golden.get(&key);
                report.close(
                    format!("{run}.{part}"),
                    found,
                    expected,
                    LATENT * expected.max_abs(),
                );
            }
        };
        check("final", &values(end));
        check("steps", &states.borrow());
        check("denoised", &estimates.borrow());
        check("eval_sigma", &evaluated.borrow());
    }
}
