//! ema, lr_schedule, pos_embed, manifest: numbers that need no network to run.

use super::Inner;
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use burn::{
    module::{Module, Param, ParamId},
    tensor::{Tensor, backend::Backend},
};
use microdit::{
    DitConfig,
    ema::blend,
    net::{DenoiserConfig as _, dit::embed::sincos_positions},
    weights::StateDict,
};
use microdit_train::schedule::{Curve, Schedule};
use std::{collections::BTreeMap, path::Path};

/// Any parameter, flattened: the average works element by element.
#[derive(Module, Debug)]
pub(super) struct Parameter<B: Backend> {
    pub(super) value: Param<Tensor<B, 1>>,
}

/// A module of these values.
pub(super) fn parameter(array: &Array) -> Parameter<Inner> {
    let tensor = array.tensor([array.data.len()], &Default::default());
    Parameter {
        value: Param::initialized(ParamId::new(), tensor),
    }
}

/// One update per state w1, w2, ..., starting from w0.
pub(super) fn ema(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let names: Vec<&str> = golden.with_prefix("in.w0.").map(|(name, _)| name).collect();
    for name in names {
        let mut average = parameter(golden.get(&format!("in.w0.{name}")));
        for update in 1..=golden.number("updates") as usize {
            let live = parameter(golden.get(&format!("in.w{update}.{name}")));
            average = blend(average, &live, golden.number("smoothing"), |_| true);
            let expected = golden.get(&format!("out.ema{update}.{name}"));
            // Two roundings of f32.
            let limit = 2.0 * f64::from(f32::EPSILON) * expected.max_abs();
            report.close(
                format!("ema{update}.{name}"),
                &values(average.value.val()),
                expected,
                limit,
            );
        }
    }
}

/// Multipliers as the schedule states them, and with the one-batch lag of a real run.
pub(super) fn lr_schedule(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let curves = golden.config.as_object().expect("one entry per curve");
    for (name, settings) in curves {
        let count = |key: &str| settings[key].as_u64().expect("a step is a whole number");
        let curve = Curve::Cosine {
            warmup: count("t_warmup"),
            total: None,
            floor: settings["alpha_f"].as_f64().expect("a floor is a number"),
        };
        let steps = golden.get(&format!("in.{name}.step"));
        for (kind, one_batch_lag) in [("alpha", false), ("effective", true)] {
            let schedule = Schedule {
                curve,
                one_batch_lag,
            };
            let found: Vec<f64> = steps
                .data
                .iter()
                .map(|&step| schedule.multiplier(step as u64, count("t_max")))
                .collect();
            let expected = golden.get(&format!("out.{name}.{kind}"));
            // f64 arithmetic in another order.
            report.close(format!("{name}.{kind}"), &found, expected, 1e-12);
        }
    }
}

/// The position tables.
pub(super) fn pos_embed(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let tables = golden.config.as_object().expect("one entry per table");
    for (name, settings) in tables {
        let number = |key: &str| {
            settings[key]
                .as_f64()
                .expect("a table's setting is a number")
        };
        // The coordinates are scaled by base / grid, which the model always has at 1.
        let interp = number("pos_interp_scale") * number("grid") / number("base_size");
        let found: Vec<f64> =
            sincos_positions(number("dim") as usize, [number("grid") as usize; 2], interp)
                .into_iter()
                .map(f64::from)
                .collect();
        // Sine and cosine of f64, rounded to f32 once.
        report.close(
            name.clone(),
            &found,
            golden.get(&format!("out.{name}")),
            1.2e-7,
        );
    }
}

/// Every parameter's name and shape, and the totals, of the full-size networks.
pub(super) fn manifest(path: &Path, report: &mut Report) {
    let text = std::fs::read_to_string(path).expect("a manifest is readable");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("a manifest is json");
    let arguments = &manifest["kwargs"];
    let constructor = manifest["constructor"].as_str().unwrap_or_default();
    let preset = match constructor {
        "MicroDiT_Tiny_2" => DitConfig::tiny_2(),
        "MicroDiT_XL_2" => DitConfig::xl_2(),
        other => panic!("unknown constructor {other}"),
    };
    let mut config = preset;
    for (key, value) in arguments.as_object().expect("arguments are named") {
        let number = value
            .as_f64()
            .unwrap_or_else(|| panic!("argument {key} is a number"));
        config = match key.as_str() {
            "input_size" => config.with_input_size(number as usize),
            "pos_interp_scale" => config.with_pos_interp_scale(number),
            "in_channels" => config.with_in_channels(number as usize),
            "caption_channels" => config.with_caption_channels(number as usize),
            other => panic!("unknown argument {other}"),
        };
    }
    config.validate().expect("a published network is valid");
    let total = |key: &str| manifest[key].as_f64().unwrap_or(f64::NAN);
    report.equal(
        "total_parameters",
        &[config.parameters() as f64],
        &[total("total_parameters")],
    );
    report.equal(
        "moe_parameters",
        &[config.expert_parameters() as f64],
        &[total("moe_parameters")],
    );
    report.equal("tokens", &[config.tokens() as f64], &[total("tokens")]);
    let expected: BTreeMap<String, Vec<f64>> = manifest["entries"]
        .as_array()
        .expect("entries are a list")
        .iter()
        .filter(|entry| entry["kind"] == "parameter")
        .map(|entry| {
            let shape = entry["shape"].as_array().expect("a shape is a list");
            let shape = shape.iter().filter_map(serde_json::Value::as_f64).collect();
            (entry["name"].as_str().unwrap_or_default().to_owned(), shape)
        })
        .collect();
    // Building XL/2 takes 4.6 GB: the names are checked on the network itself only where it is small.
    if total("total_parameters") < 3e8 {
        let dit = config
            .init::<Inner>(0, &Default::default())
            .expect("a published network is valid");
        let state = StateDict::from_module(&dit).into_reference();
        report.equal(
            "number of parameters' names",
            &[state.len() as f64],
            &[expected.len() as f64],
        );
        for (name, shape) in &expected {
            let found: Vec<f64> = state
                .get(name)
                .map(|data| data.shape.iter().map(|&side| side as f64).collect())
                .unwrap_or_default();
            report.equal(name.clone(), &found, shape);
        }
    }
}
