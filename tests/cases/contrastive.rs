//! cfm: contrastive flow matching, by the loss of the example.

#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/microdit-train/examples/custom_objective.rs"]
mod custom_objective;

use super::Train;
use crate::{
    golden::{Golden, values},
    report::Report,
};
use burn::tensor::{Int, Tensor};
use custom_objective::contrast;
use microdit::{
    diffusion::{Diffusion as _, FlowMatching},
    net::{Output, dit::embed::patchify},
    task::Losses,
};
use std::path::Path;

/// Relative to the largest value of a tensor.
const CLOSE: f64 = 2e-6;

pub(super) fn cfm(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let device = Default::default();
    let float = |name: &str| golden.get(name).float::<Train, 4>(&device);
    let (clean, noise, times) = (float("in.x0"), float("in.noise"), golden.get("in.t"));
    let family = FlowMatching::default();
    let rows = family.rows(&times.data);
    let null = &golden.get("in.is_null").data;
    let count = null.len();
    let with_caption = null.iter().filter(|&&null| null == 0.0).count();
    let weight = match golden.config["rescale_null"].as_bool() {
        Some(true) => count as f32 / with_caption as f32,
        _ => 1.0,
    };
    let factors = null.iter().map(|&null| (1.0 - null as f32) * weight);
    let negative = golden.get("in.negative").data.iter();
    let negative: Vec<i32> = negative.map(|&place| place as i32).collect();
    let negative = Tensor::<Train, 1, Int>::from_ints(&negative[..], &device);

    let predicted = float("in.pred").require_grad();
    let output = Output::all(patchify(predicted.clone(), 1));
    let target = family.target(clean.clone(), noise.clone(), &rows);
    let other = patchify(target.clone().select(0, negative), 1);
    let flow = family.loss(&output, clean.clone(), noise.clone(), &rows, 1);
    let contrast = contrast(&output, other, &factors.collect::<Vec<_>>());
    let losses = Losses::one("denoise", flow.clone());
    let losses = losses.and("contrast", -golden.number("lambda"), contrast.clone());
    let each = losses.total();
    let loss = each.clone().mean();
    let grads = loss.backward();
    let found = [
        ("x_t", values(family.noisy(clean, noise, &rows))),
        ("target", values(target)),
        ("flow_loss", values(flow)),
        ("contrastive_loss", values(contrast)),
        ("loss_per_sample", values(each)),
        ("loss", values(loss)),
        (
            "grad_pred",
            values(predicted.grad(&grads).expect("it matters")),
        ),
    ];
    for (name, found) in found {
        let expected = golden.get(&format!("out.{name}"));
        report.close(name, &found, expected, CLOSE * expected.max_abs());
    }
}
