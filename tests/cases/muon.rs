//! muon: steps of Muon over matrices with given gradients.

use super::Inner;
use crate::{
    golden::{Golden, values},
    report::Report,
};
use burn::tensor::{Tensor, backend::BackendTypes};
use microdit_train::optim::{MuonSize, MuonStep, NewtonSchulz, muon};
use serde_json::Value;
use std::path::Path;

/// Of a tensor's largest value: some roundings of f32, amplified by the iteration.
const RELATIVE: f64 = 5e-6;

type Flat = Tensor<Inner, 1>;

fn step_of(variant: &Value) -> MuonStep {
    let usual = NewtonSchulz::default();
    let number = |key: &str, usual: f64| variant[key].as_f64().unwrap_or(usual);
    MuonStep {
        lr: number("lr", 1e-3),
        momentum: number("momentum", 0.95),
        weight_decay: number("weight_decay", 0.1),
        nesterov: variant["nesterov"].as_bool().unwrap_or(true),
        size: match variant["adjust_lr_fn"].as_str() {
            None | Some("original") => MuonSize::Original,
            Some("match_rms_adamw") => MuonSize::MatchAdamW,
            Some("spectral_unclamped") => MuonSize::Spectral,
            Some(other) => panic!("unknown size of updates {other}"),
        },
        iteration: NewtonSchulz {
            steps: number("ns_steps", usual.steps as f64) as usize,
            coefficients: [0, 1, 2].map(|i| {
                let given = variant["ns_coefficients"][i].as_f64();
                given.unwrap_or(usual.coefficients[i])
            }),
            eps: number("eps", usual.eps),
        },
    }
}

/// Every step's parameters, and the momentum after the last.
pub(super) fn muon_steps(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let device = <Inner as BackendTypes>::Device::default();
    let flat = |name: &str| -> Flat {
        let array = golden.get(name);
        array.tensor([array.data.len()], &device)
    };
    let variants = golden.config["variants"].as_object().expect("variants");
    let steps = golden.number("steps") as usize;
    for (variant, settings) in variants {
        let settings = step_of(settings);
        for (name, start) in golden.with_prefix("in.p0.") {
            let shape = [1, start.shape[0], start.shape[1]];
            let mut param = flat(&format!("in.p0.{name}"));
            let mut momentum = param.zeros_like();
            for step in 1..=steps {
                let grad = flat(&format!("in.g{step}.{name}"));
                let one = Tensor::ones([1], &device);
                [param, momentum] = muon(param, momentum, grad, one, shape, &settings);
                let key = format!("out.{variant}.p{step}.{name}");
                compare(&golden, &key, &param, report);
            }
            let key = format!("out.{variant}.momentum.{name}");
            compare(&golden, &key, &momentum, report);
        }
    }
}

fn compare(golden: &Golden, key: &str, found: &Flat, report: &mut Report) {
    if !golden.has(key) {
        return;
    }
    let expected = golden.get(key);
    let limit = RELATIVE * expected.max_abs();
    report.close(key, &values(found.clone()), expected, limit);
}
