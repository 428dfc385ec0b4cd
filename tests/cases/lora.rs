//! lora, lora_file: adapters of a U-Net as peft computes them, and the files that diffusers writes.

use super::{
    Inner, Train,
    training::{LOSS, gradients},
};
use crate::{
    golden::{Golden, values},
    report::Report,
};
use burn::{
    module::Module,
    tensor::{DType, Tensor, backend::Backend},
};
use microdit::{
    DitBackend, UNet, UNetConfig,
    net::{Conditioning, Denoiser as _},
    nn::lora::{Lora, LoraConfig},
    weights::{LoraFile, StateDict, write_lora},
};
use microdit_train::optim::Gradients;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Where the file keeps the adapters, beside the network.
const ADAPTERS: &str = "lora.";

/// The network of a file, without adapters.
pub(super) fn unet<B: DitBackend>(golden: &Golden) -> UNet<B> {
    let device = Default::default();
    let config = golden.config["unet"].as_object().expect("a configuration");
    let config = UNetConfig::from_diffusers(config).expect("a network that is supported");
    let state = golden.state_dict("weights.");
    let own = state.iter().filter(|(name, _)| !name.starts_with(ADAPTERS));
    let own = StateDict::from_tensors(own.map(|(name, data)| (name.clone(), data.clone())));
    let unet = config.init(0, &device).expect("a network");
    own.load_into(unet, &device).expect("its weights")
}

/// The settings of a file's adapters.
pub(super) fn settings(golden: &Golden) -> LoraConfig {
    let lora = &golden.config["lora"];
    let targets = lora["target_modules"].as_array().expect("target modules");
    LoraConfig {
        layers: targets
            .iter()
            .map(|target| target.as_str().expect("the end of a path").to_owned())
            .collect(),
        rank: lora["r"].as_u64().expect("a rank") as usize,
        alpha: lora["alpha"].as_f64(),
        rslora: lora["use_rslora"].as_bool().unwrap_or(false),
        ..LoraConfig::default()
    }
}

/// The adapters of a file, with its settings in place of metadata.
pub(super) fn adapters<B: DitBackend>(golden: &Golden, network: &UNet<B>) -> Lora<B> {
    let lora = &golden.config["lora"];
    let keys = [
        ("r", "r"),
        ("alpha", "lora_alpha"),
        ("use_rslora", "use_rslora"),
    ];
    let keys = keys.into_iter().chain([("alpha_pattern", "alpha_pattern")]);
    let configuration: Map<String, Value> = keys
        .filter(|(key, _)| !lora[*key].is_null())
        .map(|(key, theirs)| (format!("unet.{theirs}"), lora[key].clone()))
        .collect();
    let state = golden.state_dict(&format!("weights.{ADAPTERS}"));
    let file = LoraFile::of_state(&state, configuration).expect("plain adapters");
    file.load(network, &Default::default())
        .expect("adapters of the network")
}

/// Gradients or parameters of adapters under peft's names.
pub(super) fn peft_name<B: Backend>(lora: &Lora<B>, path: &str) -> String {
    let mut parts = path.rsplit('.');
    let (part, index) = (parts.next(), parts.next());
    let index: usize = index.and_then(|index| index.parse().ok()).expect("a place");
    let part = match part {
        Some("down") => "lora_A",
        _ => "lora_B",
    };
    format!("{}.{part}.weight", lora.adapters[index].layer().path)
}

struct Case<'a> {
    golden: Golden,
    report: &'a mut Report,
}

impl Case<'_> {
    /// Compares values with a tensor of the file, if it has it.
    fn check(&mut self, name: &str, found: &[f64]) {
        let key = format!("out.{name}");
        if self.golden.has(&key) {
            let limit = self.golden.limit(name);
            self.report.close(name, found, self.golden.get(&key), limit);
        }
    }

    fn sample<B: DitBackend>(&self, network: &UNet<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let device = Default::default();
        let captions = self.golden.get("in.context").float(&device);
        let time = self.golden.get("in.t").float(&device);
        network.image(x, time, Conditioning { captions })
    }

    /// The layers that the patterns choose, and what their adapters are scaled by.
    fn layers(&mut self, network: &UNet<Inner>, lora: &Lora<Inner>) {
        let config = settings(&self.golden);
        let chosen = config.init(network, 0, &Default::default());
        let chosen = chosen.expect("the network has these layers");
        let paths = |lora: &Lora<Inner>| {
            let all = lora.adapters.iter();
            let mut paths: Vec<String> = all.map(|one| one.layer().path.clone()).collect();
            paths.sort();
            paths
        };
        if let Some(modules) = self.golden.config["modules"].as_array() {
            let expected: Vec<&str> = modules.iter().filter_map(Value::as_str).collect();
            assert_eq!(paths(&chosen), expected, "the layers that are adapted");
        }
        assert_eq!(paths(lora), paths(&chosen), "the layers of the file");
        let parameters = self.golden.config["lora_parameters"].as_f64();
        if let Some(expected) = parameters {
            let found = lora.num_params() as f64;
            self.report.equal("parameters", &[found], &[expected]);
        }
        if let Some(scale) = self.golden.config["scaling"].as_f64() {
            for adapter in chosen.adapters.iter().chain(&lora.adapters) {
                let error = (adapter.scale() / scale - 1.0).abs();
                self.report.at_most("scaling", error, 1e-12);
            }
        }
    }

    /// Predictions with the adapters, with half of them, without them, and of a network they were merged into.
    fn samples(&mut self) {
        let network = unet::<Inner>(&self.golden);
        let lora = adapters(&self.golden, &network);
        self.layers(&network, &lora);
        let x = || {
            self.golden
                .get("in.x")
                .float::<Inner, 4>(&Default::default())
        };
        let of = |network: &UNet<Inner>| values(self.sample(network, x()));
        let found = [
            ("sample", of(&lora.apply(network.clone(), 1.0))),
            ("sample_scale_half", of(&lora.apply(network.clone(), 0.5))),
            ("sample_base", of(&network)),
        ];
        let merged = StateDict::from_module(&lora.apply(network.clone(), 1.0));
        let plain = unet::<Inner>(&self.golden);
        let plain = merged.clone().load_into(plain, &Default::default());
        let of_merged = of(&plain.expect("weights of the network"));
        for (name, found) in found {
            self.check(name, &found);
        }
        self.check("sample_merged", &of_merged);
        let expected: Vec<String> = self
            .golden
            .with_prefix("out.merged.")
            .map(|(name, _)| name.to_owned())
            .collect();
        for name in expected {
            let data = merged.get(&name).expect("a parameter of the network");
            let found: Vec<f64> = data.iter().collect();
            self.check(&format!("merged.{name}"), &found);
        }
    }

    /// The loss, and its gradients by the input and the adapters of a frozen network.
    fn gradients(&mut self) {
        let network = unet::<Train>(&self.golden).no_grad();
        let lora = adapters(&self.golden, &network);
        let device = Default::default();
        let x = self.golden.get("in.x").float::<Train, 4>(&device);
        let x = x.require_grad();
        let target = self.golden.get("in.target").float::<Train, 4>(&device);
        let sample = self.sample(&lora.apply(network.clone(), 1.0), x.clone());
        let loss: Tensor<Train, 1> = (sample - target).powi_scalar(2).mean();
        let expected = self.golden.get("out.loss").data[0];
        let error = (values(loss.clone())[0] / expected - 1.0).abs();
        self.report.at_most("loss", error, LOSS);
        let mut grads = loss.backward();
        let of_x = x.grad(&grads).expect("the loss depends on the input");
        self.check("grad_x", &values(of_x));
        let frozen = Gradients::<Inner>::collect::<Train, _>(&network, &mut grads);
        assert_eq!(frozen.iter().count(), 0, "the network is frozen");
        let found = Gradients::<Inner>::collect::<Train, _>(&lora, &mut grads);
        let named = found
            .iter()
            .map(|(path, grad)| (peft_name(&lora, path), grad.clone()));
        let named = Gradients::from_tensors(named);
        let global = self.golden.number("grad_norm");
        gradients(&self.golden, "grad.", global, "", &named, self.report);
    }
}

pub(super) fn lora(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let mut case = Case { golden, report };
    case.samples();
    case.gradients();
}

/// The adapters of the case of the same name without `_file`, as diffusers writes them.
pub(super) fn lora_file(path: &Path, report: &mut Report) {
    let file = path.with_extension("safetensors");
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let other: PathBuf = file.with_file_name(name.replacen("lora_file", "lora", 1));
    let golden = Golden::open(&other);
    let network = unet::<Inner>(&golden);
    let expected = adapters(&golden, &network);
    let read = |path: &Path| {
        let read = LoraFile::open(path).expect("a file of adapters");
        read.load(&network, &Default::default())
            .expect("adapters of the network")
    };
    let mut compare = |what: &str, found: &Lora<Inner>| {
        assert_eq!(found.adapters.len(), expected.adapters.len(), "{what}");
        for (found, expected) in found.adapters.iter().zip(&expected.adapters) {
            let layer = &expected.layer().path;
            assert_eq!(&found.layer().path, layer);
            for (part, found, expected) in [
                ("down", &found.down, &expected.down),
                ("up", &found.up, &expected.up),
            ] {
                let name = format!("{what} {layer} {part}");
                report.equal(name, &values(found.val()), &values(expected.val()));
            }
            let error = (found.scale() / expected.scale() - 1.0).abs();
            report.at_most(format!("{what} {layer} scale"), error, 1e-12);
        }
    };
    let found = read(&file);
    compare("read", &found);
    // What is written here is read the same, and says the same.
    let name = format!(
        "microdit-{}-{}.safetensors",
        golden.name,
        std::process::id()
    );
    let own = std::env::temp_dir().join(name);
    write_lora(&found, "unet", &own, DType::F32).expect("adapters are written");
    compare("written", &read(&own));
    let [theirs, ours] = [&file, &own].map(|path| said(path));
    for (key, value) in &theirs {
        // Files name the layers by the ends of their paths, or by the paths.
        if key != "unet.target_modules" {
            assert_eq!(ours.get(key), Some(value), "{key}");
        }
    }
    let _ = std::fs::remove_file(own);
}

/// What a file says about its adapters; nothing if it says nothing.
fn said(path: &Path) -> Map<String, Value> {
    let bytes = std::fs::read(path).expect("a file");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata = header.metadata().as_ref();
    let text = metadata.and_then(|metadata| metadata.get("lora_adapter_metadata"));
    text.map_or_else(Map::new, |text| {
        serde_json::from_str(text).expect("an object")
    })
}
