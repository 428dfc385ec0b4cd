//! flow: losses and trajectories of flow matching, with the toy network of the VP cases.

use super::{
    Inner, Train,
    diffusion::{CLOSE, flag, number, text},
};
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use burn::tensor::Tensor;
use microdit::{
    diffusion::{
        Density, Diffusion, FlowMatching, FlowWeighting, InitImage,
        sampler::{Solver, sample},
        schedule::Shift,
    },
    net::Output,
};
use serde_json::Value;
use std::{cell::RefCell, path::Path};

/// Losses and their gradients, and trajectories of flow matching.
pub(super) fn flow(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let losses = golden.config["losses"].as_object().expect("losses");
    for (name, settings) in losses {
        flow_loss(&golden, name, settings, report);
    }
    let samplers = golden.config["samplers"].as_object().expect("samplers");
    for (name, settings) in samplers {
        flow_sampler(&golden, name, settings, report);
    }
}

fn flow_loss(golden: &Golden, name: &str, settings: &Value, report: &mut Report) {
    let device = Default::default();
    let (density, draws) = match text(settings, "density", "uniform") {
        "logit_normal" => {
            let (mean, std) = (number(settings, "mean", 0.0), number(settings, "std", 1.0));
            (Density::LogitNormal { mean, std }, "in.normal")
        }
        "uniform" => (Density::Uniform, "in.uniform"),
        "mode" => {
            let scale = number(settings, "mode_scale", number(settings, "scale", 1.29));
            (Density::Mode { scale }, "in.uniform")
        }
        other => panic!("{name}: unknown density {other}"),
    };
    let family = FlowMatching {
        density,
        shift: number(settings, "shift", 1.0),
        weighting: match text(settings, "weighting", "none") {
            "none" => FlowWeighting::Uniform,
            "sigma_sqrt" => FlowWeighting::SigmaSqrt,
            "cosmap" => FlowWeighting::CosMap,
            other => panic!("{name}: unknown weighting {other}"),
        },
    };
    let draws = golden.get(draws);
    let times: Vec<f64> = draws.data.iter().map(|&draw| family.time(draw)).collect();
    let rows = family.rows(&times);
    let float = |name: &str| golden.get(name).float::<Train, 4>(&device);
    let scalar = |name: &str| golden.get(name).float::<Train, 1>(&device).require_grad();
    let [a, b, c] = ["in.model_a", "in.model_b", "in.model_c"].map(scalar);
    let direction = float("in.model_dir").require_grad();
    let time: Tensor<Train, 4> = Array {
        shape: vec![times.len(), 1, 1, 1],
        data: times.clone(),
    }
    .float(&device);
    let (clean, noise) = (float("in.x0"), float("in.noise"));
    let (x, _) = family.input(clean.clone(), noise.clone(), &rows);
    let factor = |number: &Tensor<Train, 1>| number.clone().reshape([1, 1, 1, 1]);
    let predicted = x * factor(&a) + direction.clone() * factor(&b) + time * factor(&c);
    let output = Output::all(microdit::net::dit::embed::patchify(predicted.clone(), 1));
    let losses = family.loss(&output, clean.clone(), noise.clone(), &rows, 1);
    let loss = losses.clone().mean();
    let grads = loss.backward();
    let weights: Vec<f64> = rows.iter().map(|row| row.weight).collect();
    let unweighted = values(losses)
        .into_iter()
        .zip(&weights)
        .map(|(loss, weight)| loss / weight);
    let of = |number: &Tensor<Train, 1>| values(number.grad(&grads).expect("it matters"));
    let mut check = |part: &str, found: Vec<f64>| {
        let expected = golden.get(&format!("out.{name}.{part}"));
        report.close(
            format!("{name}.{part}"),
            &found,
            expected,
            CLOSE * expected.max_abs(),
        );
    };
    check("t", times);
    check(
        "x_t",
        values(family.noisy(clean.clone(), noise.clone(), &rows)),
    );
    check("target", values(family.target(clean, noise, &rows)));
    check("pred", values(predicted));
    check("loss_per_sample", unweighted.collect());
    check("weight", weights);
    check("loss", values(loss));
    check("grad_a", of(&a));
    check("grad_b", of(&b));
    check("grad_c", of(&c));
    check(
        "grad_dir",
        values(direction.grad(&grads).expect("it matters")),
    );
}

fn flow_sampler(golden: &Golden, name: &str, settings: &Value, report: &mut Report) {
    let device = Default::default();
    let family = FlowMatching::default();
    let shift = match flag(settings, "use_dynamic_shifting", false) {
        true => Shift::Dynamic {
            mu: number(settings, "mu", 0.0),
        },
        false => Shift::Static(number(settings, "shift", 1.0)),
    };
    let whole = shift.trajectory(&family, number(settings, "steps", 0.0) as usize);
    let noise = golden.get("in.start").float::<Inner, 4>(&device);
    let (start, trajectory) = match settings["strength"].as_f64() {
        None => (noise * whole.start, whole),
        Some(strength) => {
            let trajectory = whole.with_strength(strength);
            let init = InitImage::new(golden.get("in.start_x0").float(&device), noise);
            (init.start(&trajectory), trajectory)
        }
    };
    let [a, b, c] = ["in.model_a", "in.model_b", "in.model_c"].map(|name| golden.get(name).data[0]);
    let direction: Tensor<Inner, 4> = golden.get("in.model_dir").float(&device);
    let states = RefCell::new(Vec::new());
    sample(
        &Solver::Euler,
        &trajectory,
        start,
        |x, point| {
            let velocity = |x: Tensor<Inner, 4>, _| x * a + direction.clone() * b + c * point.time;
            family.denoise(x, point, velocity)
        },
        |_| unreachable!("Euler's method adds no noise"),
        |_, state| states.borrow_mut().extend(values(state.clone())),
    );
    let times: Vec<f64> = trajectory.steps.iter().map(|step| step.from.time).collect();
    let sigmas: Vec<f64> = times.iter().copied().chain([0.0]).collect();
    let thousandths = times.iter().map(|time| 1000.0 * time).collect();
    let parts = [
        ("sigmas", sigmas),
        ("timesteps", thousandths),
        ("steps", states.into_inner()),
    ];
    for (part, found) in parts {
        let expected = golden.get(&format!("out.{name}.{part}"));
        report.close(
            format!("{name}.{part}"),
            &found,
            expected,
            CLOSE * expected.max_abs(),
        );
    }
}
