//! ldm_ckpt: single files of latent diffusion, in each of their formats and with either set of weights.

use super::Inner;
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use burn::tensor::{Int, Tensor, TensorData, f16};
use microdit::{
    UNetConfig,
    net::{Conditioning, Denoiser as _},
    weights::{LdmNames, LdmPart, StateDict, WeightSet, WeightsFile},
};
use microdit_encoders::{
    Weights,
    text::{ClipTextConfig, Pooling},
    vae::AutoencoderKlConfig,
};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Outputs, relative to their largest value; and those of weights that were rounded to f16.
const OUTPUT: f64 = 5e-5;
const OUTPUT_F16: f64 = 5e-2;

/// A file in LDM's names gives the tensors of the one that `config.expected` names, whichever format it is written in.
pub(super) fn ldm_ckpt(path: &Path, report: &mut Report) {
    let json: Value =
        serde_json::from_slice(&std::fs::read(path).expect("a golden file is readable"))
            .expect("a golden description is JSON");
    let config = &json["config"];
    let name = config["expected"]
        .as_str()
        .expect("config.expected is a name");
    let golden = Golden::open(&path.with_file_name(format!("{name}.safetensors")));
    let is_f16 = config["dtype"] == "float16";
    // What the file's own name of the U-Net's weights stands for, and whether their average lies beside them.
    let (own, two_sets) = match config["weights"].as_str() {
        Some("EMA only") => ("unet_ema", false),
        Some("raw and EMA") => ("unet", true),
        _ => ("unet", false),
    };
    let mut sets = vec![(WeightSet::Own, own)];
    if two_sets {
        sets.push((WeightSet::Average, "unet_ema"));
    }
    let files = ["safetensors", "ckpt"].map(|extension| path.with_extension(extension));
    let files: Vec<PathBuf> = files.into_iter().filter(|file| file.is_file()).collect();
    for file in &files {
        let case = Case {
            file,
            golden: &golden,
            is_f16,
            format: file
                .extension()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        };
        case.names(&json, two_sets, report);
        for (set, unet) in &sets {
            case.tensors(LdmPart::UNet, *set, unet, report);
        }
        case.tensors(LdmPart::Vae, WeightSet::Own, "vae", report);
        case.tensors(LdmPart::TextEncoder, WeightSet::Own, "text_encoder", report);
        for (set, unet) in &sets {
            let output = match *unet {
                "unet_ema" => "sample_ema",
                _ => "sample",
            };
            case.unet(*set, output, report);
        }
        case.networks(report);
    }
    let count = files.len() as f64;
    report.at_most("files of this case are missing", 1.0 - count, 0.0);
}

struct Case<'a> {
    file: &'a Path,
    golden: &'a Golden,
    is_f16: bool,
    format: String,
}

impl Case<'_> {
    fn open(&self) -> (WeightsFile, LdmNames) {
        let file = WeightsFile::open(self.file).unwrap_or_else(|error| panic!("{error}"));
        let names = LdmNames::of(&file).expect("a file of latent diffusion");
        (file, names)
    }

    fn part(&self, part: LdmPart, set: WeightSet) -> WeightsFile {
        let (file, names) = self.open();
        let part = names.part(file, part, set);
        part.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Every name of the file is that of the parameters the map states, and those that are none are stated, too.
    fn names(&self, json: &Value, two_sets: bool, report: &mut Report) {
        let (file, names) = self.open();
        let format = &self.format;
        let flag = |wrong: bool| f64::from(u8::from(wrong));
        report.at_most(
            format!("{format}: whether there is an average"),
            flag(names.has_average() != two_sets),
            0.0,
        );
        report.equal(
            format!("{format}: unknown tensors"),
            &[names.unknown().count() as f64],
            &[0.0],
        );
        if let (Some(steps), Some(found)) = (
            self.golden.config["global_step"].as_f64(),
            file.global_step(),
        ) {
            report.equal(format!("{format}: steps"), &[found as f64], &[steps]);
        }
        let Some(map) = json["map"].as_object() else {
            return;
        };
        let mut wrong = 0.0;
        for name in file.names() {
            let expected: Vec<&str> = match &map[name] {
                Value::String(one) => vec![one],
                Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            let found: Vec<String> = match names.parameters(name) {
                None => Vec::new(),
                Some((part, set, parameters)) => {
                    let prefix = match (part, set) {
                        (LdmPart::UNet, WeightSet::Own) => "unet",
                        (LdmPart::UNet, WeightSet::Average) => "unet_ema",
                        (LdmPart::Vae, _) => "vae",
                        (LdmPart::TextEncoder, _) => "text_encoder",
                    };
                    parameters
                        .into_iter()
                        .map(|name| format!("{prefix}.{name}"))
                        .collect()
                }
            };
            if found != expected {
                println!("{name}: {found:?}, expected {expected:?}");
                wrong += 1.0;
            }
        }
        report.equal(
            format!("{format}: names"),
            &[file.names().count() as f64],
            &[map.len() as f64],
        );
        report.equal(
            format!("{format}: names that are mapped otherwise"),
            &[wrong],
            &[0.0],
        );
    }

    /// All tensors of a network, value by value; none beside them.
    fn tensors(&self, part: LdmPart, set: WeightSet, prefix: &str, report: &mut Report) {
        let state = StateDict::take(self.part(part, set), self.file);
        let state = state.unwrap_or_else(|error| panic!("{error}"));
        let prefix = format!("weights.{prefix}.");
        let what = format!("{}: {prefix}", self.format);
        let mut differing = 0.0;
        for (name, expected) in self.golden.with_prefix(&prefix) {
            let found = state.get(name);
            let same = found.is_some_and(|found| {
                let round = |value: f64| match self.is_f16 {
                    true => f16::from_f64(value).to_f64(),
                    false => value,
                };
                let mut pairs = found.iter::<f64>().zip(&expected.data);
                found.shape[..] == expected.shape[..]
                    && pairs.all(|(found, value)| found == round(*value))
            });
            if !same {
                println!("{what}{name} differs");
                differing += 1.0;
            }
        }
        let count = self.golden.with_prefix(&prefix).count();
        report.equal(
            format!("{what} tensors"),
            &[state.len() as f64],
            &[count as f64],
        );
        report.equal(format!("{what} tensors that differ"), &[differing], &[0.0]);
    }

    /// What the U-Net makes of the file's inputs.
    fn unet(&self, set: WeightSet, output: &str, report: &mut Report) {
        let device = Default::default();
        let keys = self.golden.config["unet"].as_object();
        let config = UNetConfig::from_diffusers(keys.expect("config.unet is an object"));
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let unet = config.init::<Inner>(0, &device);
        let unet = unet.unwrap_or_else(|error| panic!("{error}"));
        let state = StateDict::take(self.part(LdmPart::UNet, set), self.file);
        let state = state.unwrap_or_else(|error| panic!("{error}"));
        let unet = state.load_into(unet, &device);
        let unet = unet.unwrap_or_else(|error| panic!("{error}"));
        let conditioning = Conditioning {
            captions: self.golden.get("in.context").float(&device),
        };
        let (x, time) = (self.golden.get("in.x"), self.golden.get("in.t"));
        let found = unet.image(x.float(&device), time.float(&device), conditioning);
        self.compare(report, output, found);
    }

    /// What the networks around it make of the file's inputs.
    fn networks(&self, report: &mut Report) {
        let device = Default::default();
        let weights = |part| Weights::of(self.part(part, WeightSet::Own));
        let config: AutoencoderKlConfig = serde_json::from_value(self.golden.config["vae"].clone())
            .expect("the configuration of a VAE");
        let vae = config.load::<Inner>(&weights(LdmPart::Vae).at(""), &device);
        let vae = vae.unwrap_or_else(|error| panic!("{error}"));
        let float = |name: &str| self.golden.get(name).float::<Inner, 4>(&device);
        self.compare(report, "decoded", vae.decode(float("in.latent")));
        self.compare(report, "mean", vae.encode(float("in.image")).mean);
        let text = &self.golden.config["text"];
        let size = |key: &str| text[key].as_u64().unwrap_or_else(|| panic!("text.{key}")) as usize;
        let part = self.part(LdmPart::TextEncoder, WeightSet::Own);
        let hidden = part.shape("text_model.encoder.layers.0.mlp.fc1.bias");
        let config = ClipTextConfig {
            vocabulary: size("vocab_size"),
            tokens: size("context_length"),
            width: size("width"),
            heads: size("heads"),
            layers: size("layers_expected"),
            hidden: hidden.map_or(0, |shape| shape[0]),
            projection: None,
            quick_gelu: text["hidden_act"] == "quick_gelu",
            eps: 1e-5,
            pooling: Pooling::LargestId,
        };
        let tower = config.load::<Inner>(&weights(LdmPart::TextEncoder).at(""), &device);
        let tower = tower.unwrap_or_else(|error| panic!("{error}"));
        let states = tower.forward(ids(self.golden.get("in.ids")));
        self.compare(report, "hidden", states.hidden);
    }

    fn compare<const D: usize>(&self, report: &mut Report, name: &str, found: Tensor<Inner, D>) {
        let expected = self.golden.get(&format!("out.{name}"));
        let limit = if self.is_f16 { OUTPUT_F16 } else { OUTPUT };
        let limit = limit * expected.max_abs();
        report.close(
            format!("{}: {name}", self.format),
            &values(found),
            expected,
            limit,
        );
    }
}

fn ids(array: &Array) -> Tensor<Inner, 2, Int> {
    let ids: Vec<i64> = array.data.iter().map(|&id| id as i64).collect();
    Tensor::from_data(
        TensorData::new(ids, array.shape.clone()),
        &Default::default(),
    )
}
