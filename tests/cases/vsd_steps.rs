//! vsd_steps: a student and its critic trained by turns, each by an optimizer of its own.

use super::{
    Inner, Train,
    lora::{adapters, peft_name, settings, unet},
    training::weights_of,
    vsd::Case,
};
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use burn::{module::AutodiffModule, tensor::Tensor};
use microdit::{
    UNet,
    diffusion::{DiffusionConfig, Family},
    net::{Conditioning, Denoiser as _},
    task::{Distill, DistillConfig, Distilled, Noising, Task as _},
    weights::StateDict,
};
use microdit_train::{
    optim::{Gradients, Method, Optimizer, OptimizerConfig},
    step,
};
use std::path::Path;

/// Losses, relative: the rounding floor of f32 is 1.5e-6 here.
const LOSS: f64 = 1e-5;
/// Gradient norms, relative.
const NORM: f64 = 1e-4;
/// Images and score gradients, relative to the largest value.
const RELATIVE: f64 = 2e-5;

/// An optimizer of torch, by its settings in the file.
fn optimizer(golden: &Golden, key: &str) -> OptimizerConfig {
    let settings = &golden.config[key];
    let number = |value: &serde_json::Value, default: f64| value.as_f64().unwrap_or(default);
    OptimizerConfig {
        method: match settings["name"].as_str() {
            Some("AdamW") => Method::AdamW,
            Some("SGD") => Method::Sgd,
            other => panic!("unknown optimizer {other:?}"),
        },
        lr: number(&settings["lr"], 0.0),
        beta1: number(&settings["betas"][0], 0.9),
        beta2: number(&settings["betas"][1], 0.999),
        eps: number(&settings["eps"], 1e-8),
        weight_decay: number(&settings["weight_decay"], 0.0),
        clip_norm: golden.config["clip_norm"].as_f64(),
        groups: Vec::new(),
    }
}

/// As many of the one caption.
fn repeated(caption: &Array, count: usize) -> Tensor<Train, 3> {
    let caption = caption.float::<Train, 3>(&Default::default());
    let [_, words, channels] = caption.dims();
    caption.expand([count, words, channels])
}

type Network = Distill<Train, UNet<Train>>;

/// The file's task, before its first step.
fn task(case: &Case<'_>) -> Network {
    let Family::Vp(table) = &case.family else {
        unreachable!("the file's diffusion has timesteps")
    };
    let config = DistillConfig {
        diffusion: DiffusionConfig::Vp(*table.config()),
        guidance: case.golden.number("guidance"),
        critic: Some(settings(&case.golden)),
        ..DistillConfig::default()
    };
    let (student, teacher) = (unet(&case.golden), unet(&case.golden));
    let critic = adapters(&case.golden, &teacher);
    let task = config.init(student, teacher, 0, &Default::default());
    let mut task = task.expect("the file's settings are possible");
    task.critic = Some(critic);
    task.with_start(case.student())
}

/// What the file draws for a step.
fn drawn(case: &Case<'_>, step: usize) -> Distilled<Train> {
    let device = Default::default();
    let at = |name: &str| case.golden.get(name).row(step);
    let float = |name: &str| at(name).float::<Train, 4>(&device);
    let noising = |times: &str, noise: &str| Noising {
        rows: case.rows(&at(times).data),
        noise: float(noise),
    };
    let captions = at("in.context").float::<Train, 3>(&device);
    let count = captions.dims()[0];
    Distilled {
        noise: float("in.z"),
        compared: noising("in.t", "in.noise"),
        learned: noising("in.t_lora", "in.noise_lora"),
        conditioning: Conditioning { captions },
        null: Conditioning {
            captions: repeated(case.golden.get("in.null_context"), count),
        },
        captions: None,
        real: None,
        dropout: None,
        without_captions: case.golden.get("in.lora_null").data[step] != 0.0,
    }
}

/// Part of the losses' gradients.
fn of_part(grads: &Gradients<Inner>, part: &str) -> Gradients<Inner> {
    let mut own = grads.clone();
    own.retain(|path| path.first() == Some(&part));
    own
}

pub(super) fn vsd_steps(path: &Path, report: &mut Report) {
    let mut case = Case::open(path, report);
    let steps = case.golden.get("in.z").shape[0];
    for recompute in [false, true] {
        let way = if recompute { ".recomputed" } else { "" };
        let mut task = task(&case);
        let parts = [("denoiser", "optimizer"), ("critic", "optimizer_lora")];
        let mut optimizers =
            parts.map(|(part, key)| (part, Optimizer::new(optimizer(&case.golden, key))));
        for step in 0..steps {
            let distilled = drawn(&case, step);
            let images = task.images(
                &distilled,
                &task.denoiser().predict(task.inputs(&distilled)),
            );
            let images = images.detach();
            let gradient = task.gradient(&distilled, images.clone());
            for (name, found) in [("x0", images), ("score_gradient", gradient)] {
                let expected = case.golden.get(&format!("out.{name}")).row(step);
                let limit = RELATIVE * expected.max_abs();
                let what = format!("{name}.{step}{way}");
                case.report.close(what, &values(found), &expected, limit);
            }
            let count = distilled.noise.dims()[0];
            let computed = step::of_prepared(&task, &distilled, count, recompute);
            assert_eq!(computed.terms, ["vsd", "critic"]);
            let losses = values(computed.losses.clone());
            let mut norms = Vec::new();
            for (part, optimizer) in &mut optimizers {
                let grads = of_part(&computed.grads, part);
                let lr = optimizer.config().lr;
                let (moved, norm) = optimizer.step::<Train, _>(task, grads, &computed.loss(), lr);
                task = moved;
                norms.push(values(norm)[0]);
            }
            for (name, found, limit) in [
                ("vsd_loss", losses[1], LOSS),
                ("lora_loss", losses[2], LOSS),
                ("student_grad_norm", norms[0], NORM),
                ("lora_grad_norm", norms[1], NORM),
            ] {
                let expected = case.golden.get(&format!("out.{name}")).data[step];
                let error = (found / expected - 1.0).abs();
                case.report
                    .at_most(format!("{name}.{step}{way}"), error, limit);
            }
            compare(&mut case, &task, step + 1);
        }
    }
}

/// All networks after a number of steps.
fn compare(case: &mut Case<'_>, task: &Network, after: usize) {
    let task = task.valid();
    let prefix = format!("out.student.{after}.");
    let student = StateDict::from_module(&task.denoiser);
    weights_of(&case.golden, &prefix, &student, case.report);
    let adapters = task.critic.as_ref().expect("it has a critic");
    let critic = StateDict::from_module(adapters);
    let named = critic
        .iter()
        .map(|(path, data)| (peft_name(adapters, path), data.clone()));
    let prefix = format!("out.lora.{after}.");
    let critic = StateDict::from_tensors(named);
    weights_of(&case.golden, &prefix, &critic, case.report);
    for (name, data) in StateDict::from_module(&task.teacher).iter() {
        let expected = &case.golden.get(&format!("weights.{name}")).data;
        let found: Vec<f64> = data.iter().collect();
        case.report
            .equal(format!("teacher {name}"), &found, expected);
    }
}
