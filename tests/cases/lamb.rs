//! lamb: steps of LAMB over tensors of any names and shapes, some of them without weight decay.

use super::Inner;
use crate::{
    golden::{Golden, values},
    report::Report,
};
use burn::tensor::{Tensor, backend::BackendTypes};
use microdit::ops::{AdamState, AdamStep};
use microdit_train::optim::{Gradients, Lamb, LambStep, lamb};
use std::{collections::BTreeMap, path::Path};

/// Of a tensor's largest value: some ten roundings of f32, which a wrong formula exceeds by orders of magnitude.
const RELATIVE: f64 = 2e-6;

type Flat = Tensor<Inner, 1>;

/// Every step's parameters, and the last step's moments.
pub(super) fn lamb_steps(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let device = <Inner as BackendTypes>::Device::default();
    let settings = &golden.config["settings"];
    let number = |value: &serde_json::Value| value.as_f64().expect("a setting is a number");
    let base_lr = number(&settings["lr"]);
    // Options that a file does not name are timm's defaults.
    let options = Lamb::default();
    let option = |key: &str, default: bool| settings[key].as_bool().unwrap_or(default);
    let options = Lamb {
        bias_correction: option("bias_correction", options.bias_correction),
        grad_averaging: option("grad_averaging", options.grad_averaging),
        always_adapt: option("always_adapt", options.always_adapt),
        trust_clip: option("trust_clip", options.trust_clip),
        caution: option("caution", options.caution),
        decoupled_decay: option("decoupled_decay", options.decoupled_decay),
        corrected_weight_decay: option("corrected_weight_decay", options.corrected_weight_decay),
    };
    let decayed: Vec<&str> = golden.config["decay_groups"]["decayed"]
        .as_array()
        .expect("a list of names")
        .iter()
        .filter_map(|name| name.as_str())
        .collect();
    let flat = |name: &str| -> Flat {
        let array = golden.get(name);
        array.tensor([array.data.len()], &device)
    };
    let mut states: BTreeMap<String, AdamState<Inner>> = golden
        .with_prefix("in.p0.")
        .map(|(name, _)| {
            let param = flat(&format!("in.p0.{name}"));
            let state = AdamState {
                first: param.zeros_like(),
                second: param.zeros_like(),
                param,
            };
            (name.to_owned(), state)
        })
        .collect();
    let steps =
        (1..).take_while(|step| golden.with_prefix(&format!("in.g{step}.")).next().is_some());
    for step in steps {
        let gradient = |name: &String| flat(&format!("in.g{step}.{name}"));
        let all = states.keys().map(|name| (name.clone(), gradient(name)));
        let norm = Gradients::from_tensors(all).norm();
        let found = values(norm.clone())[0];
        let expected = number(&golden.config["global_grad_norms"][step - 1]);
        report.at_most(
            format!("norm.{step}"),
            (found / expected - 1.0).abs(),
            RELATIVE,
        );
        let scale = match settings["max_grad_norm"].as_f64() {
            Some(clip) => norm.recip().mul_scalar(clip).clamp_max(1.0),
            None => norm.ones_like(),
        };
        states = states
            .into_iter()
            .map(|(name, state)| {
                let decay = number(&settings["weight_decay"]);
                let adam = AdamStep {
                    beta1: number(&settings["betas"][0]),
                    beta2: number(&settings["betas"][1]),
                    eps: number(&settings["eps"]),
                    // A file may say the rate of every step.
                    lr: golden.config["lrs"][step - 1].as_f64().unwrap_or(base_lr),
                    weight_decay: if decayed.contains(&&*name) {
                        decay
                    } else {
                        0.0
                    },
                    step: step as u64,
                };
                let numbers = LambStep {
                    base_lr,
                    adam,
                    options,
                };
                let state = lamb(state, gradient(&name), scale.clone(), &numbers);
                let key = format!("out.p{step}.{name}");
                compare(&golden, &key, &state.param, report);
                (name, state)
            })
            .collect();
    }
    for (name, state) in &states {
        compare(&golden, &format!("out.m.{name}"), &state.first, report);
        compare(&golden, &format!("out.v.{name}"), &state.second, report);
    }
}

fn compare(golden: &Golden, key: &str, found: &Flat, report: &mut Report) {
    let expected = golden.get(key);
    let limit = RELATIVE * expected.max_abs().max(1e-12);
    report.close(key, &values(found.clone()), expected, limit);
}
