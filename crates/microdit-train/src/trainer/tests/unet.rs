//! A U-Net trains with every option the trainer has, none of which knows what network it is given.

use super::*;
use crate::optim::{FIRST, Lamb, MOMENTUM, Method, MuonSize};
use microdit::{net::NetworkConfig, nn::Precision};
use std::sync::Mutex;

/// `shapes-unet` with a network of two levels.
const NETWORK: &str = "model=UNet(input_size: 16, in_channels: 3, out_channels: 3, caption_channels: 8, \
    down: [(channels: 8, resnets: 1), (channels: 16, resnets: 1, attentions: [1], heads: 2)], \
    mid: (resnets: 1, attentions: [1], heads: 2), \
    up: [(channels: 16, resnets: 2, attentions: [1], heads: 2), (channels: 8, resnets: 2)], \
    norm_groups: 4)";

/// Six steps of it, with an average.
fn recipe() -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/shapes-unet.ron");
    let sets = [
        NETWORK,
        "data.image_size=16",
        "batch=5",
        "log_every=1",
        "stages.all.steps=6",
        "stages.all.schedule.curve=Constant()",
        "checkpoints.every=100",
        "sampling.prompts=[]",
    ];
    Recipe::load(&path, &sets.map(str::to_owned)).unwrap()
}

fn trained(path: &Path, recipe: &Recipe, stops: &[u64], devices: usize) -> StateDict {
    with_stops::<Tracked, _>(path, recipe, stops, devices, &Stage::task::<Tracked>)
}

/// Loss and norm of the gradient of every step.
fn numbers(path: &Path) -> Vec<[f64; 2]> {
    let log = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let number = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        ["loss", "grad_norm"].map(|key| line[key].as_f64().unwrap())
    };
    log.lines().map(number).collect()
}

/// The largest relative difference between the losses and norms of two runs.
fn difference(one: &Path, other: &Path) -> f64 {
    let (one, other) = (numbers(one), numbers(other));
    assert_eq!((one.len(), other.len()), (6, 6));
    let pairs = one.into_iter().flatten().zip(other.into_iter().flatten());
    pairs.map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max)
}

#[test]
fn replicas_micro_batches_and_recomputed_activations_change_nothing_but_rounding() {
    let _alone = super::alone();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let plain = trained(&at("plain"), &recipe(), &[], 1);
    let mut again = recipe();
    again.stages[0].activation_checkpointing = ActivationCheckpointing::On;
    let mut parts = recipe();
    parts.stages[0].micro_batch = Some(2);
    let mut all = again.clone();
    all.stages[0].micro_batch = Some(1);
    let rate = recipe().stages[0].optimizer.lr;
    for (name, recipe, devices) in [
        ("recomputed", &again, 1),
        ("micro-batches", &parts, 1),
        ("two replicas", &recipe(), 2),
        ("everything", &all, 3),
    ] {
        let other = trained(&at(name), recipe, &[], devices);
        let error = difference(&at(name), &at("plain"));
        // A sample that is lost or counted twice changes these by percents.
        assert!(error < 1e-3, "{name}: {error}");
        // Adam turns rounding into a step where a gradient is almost 0, which few are.
        let error = distance(&plain, &other) / rate;
        assert!(error < 0.05, "{name}: {error} steps");
    }
}

/// Every parameter moves, by the method the recipe names, and a run that was stopped twice ends with the same bits.
#[test]
fn every_optimizer_moves_every_parameter_and_resumes_bit_for_bit() {
    let _alone = super::alone();
    let timm = Lamb {
        always_adapt: true,
        trust_clip: true,
        ..Lamb::default()
    };
    let muon = |size, nesterov| Method::Muon {
        momentum: 0.9,
        nesterov,
        size,
    };
    for method in [
        Method::AdamW,
        Method::Sgd,
        Method::Lamb(Lamb::default()),
        Method::Lamb(timm),
        muon(MuonSize::MatchAdamW, true),
        muon(MuonSize::Original, false),
        muon(MuonSize::Spectral, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut recipe = recipe();
        let stage = &mut recipe.stages[0];
        stage.optimizer.method = method;
        if method == Method::Sgd {
            // Gradients are clipped to a norm of 1 over all parameters.
            stage.optimizer.lr = 0.5;
        }
        stage.activation_checkpointing = ActivationCheckpointing::On;
        let initial = stage.task::<Tracked>(recipe.run.seed, &Default::default());
        let initial = StateDict::from_module(&initial.unwrap().valid());
        let once = trained(&at("once"), &recipe, &[], 1);
        let often = trained(&at("often"), &recipe, &[1, 4], 1);
        assert_eq!(once.len(), initial.len());
        for (name, data) in once.iter() {
            assert!(data.iter::<f32>().all(f32::is_finite), "{method:?}: {name}");
            assert_ne!(initial.get(name), Some(data), "{method:?} leaves {name}");
            assert_eq!(often.get(name), Some(data), "{method:?}: {name}");
        }
        // The averages as well.
        let average = |name: &str| StateDict::read(&at(name).join("ema.safetensors")).unwrap();
        let (one, other) = (average("once"), average("often"));
        assert!(one.iter().all(|(name, data)| other.get(name) == Some(data)));
        let newest = Checkpoint::newest(&at("once/checkpoints"))
            .unwrap()
            .unwrap();
        let file = newest.path().join("optimizer.safetensors");
        let Ok(kept) = StateDict::read(&file) else {
            assert_eq!(method, Method::Sgd, "{method:?} keeps a state");
            continue;
        };
        let with = |slot: &str| kept.iter().filter(|(name, _)| name.contains(slot)).count();
        let is_muon = matches!(method, Method::Muon { .. });
        // Convolutions and projections are matrices; norms, biases and what reads pixels are not.
        assert_eq!(with(MOMENTUM) > 20, is_muon, "{method:?}");
        assert_eq!(with(FIRST) > 20, method != Method::Sgd, "{method:?}");
    }
}

/// Collects the weights after every step.
struct Weights(Arc<Mutex<Vec<StateDict>>>);

impl<B: TrainBackend, T: TrainTask<B>> Probe<B, T> for Weights {
    fn name(&self) -> &'static str {
        "weights"
    }

    fn is_due(&self, _step: u64) -> bool {
        true
    }

    fn run(&mut self, view: &View<'_, B, T>) -> Result<Option<Numbers>, TrainError> {
        let state = StateDict::from_module(view.task);
        self.0.lock().unwrap().push(state);
        Ok(None)
    }
}

/// The average that is kept is the average of the weights, by its definition.
#[test]
fn averages_are_those_of_the_weights() {
    let _alone = super::alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let (smoothing, start, every) = (0.7, 2, 2);
    let mut recipe = recipe();
    recipe.stages[0].ema = vec![EmaConfig {
        decay: Decay::Smoothing(smoothing),
        start,
        every,
    }];
    let collected = Arc::default();
    let run = RunDir::enter(&path, false).unwrap();
    let devices = [Default::default()];
    let training = Training::open(&recipe, &run, &devices, true, &Stage::task::<Tracked>);
    let training = training
        .unwrap()
        .with_probe(Weights(Arc::clone(&collected)));
    let stop = Arc::default();
    let session = Session::alone(&stop);
    training.run(&session, &"a test", |_| ()).unwrap();
    let weights = collected.lock().unwrap();
    let reference = |name: &str, values: Vec<f32>| -> TensorData {
        TensorData::new(values, weights[0].get(name).unwrap().shape.clone())
    };
    // After step 2 a copy, after steps 4 and 6 a mean.
    let expected = weights[1].iter().map(|(name, data)| {
        let mut average: Vec<f64> = data.iter::<f64>().collect();
        for later in [&weights[3], &weights[5]] {
            let later = later.get(name).unwrap().iter::<f64>();
            for (average, new) in average.iter_mut().zip(later) {
                *average = smoothing * *average + (1.0 - smoothing) * new;
            }
        }
        let average = average.into_iter().map(|value| value as f32).collect();
        (name.clone(), reference(name, average))
    });
    let expected = StateDict::from_tensors(expected);
    let found = Checkpoint::newest(&run.checkpoints()).unwrap().unwrap();
    let found = StateDict::read(&found.path().join("ema.safetensors")).unwrap();
    let moved = distance(&expected, &weights[5]);
    let error = distance(&expected, &found);
    assert!(moved > 1e-4 && error < 1e-7, "{error} of {moved}");
}

/// bf16 products, as PyTorch's autocast has them, follow those in f32 at their precision.
#[test]
fn bf16_trains_as_f32_does() {
    let _alone = super::alone();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let wide = trained(&at("wide"), &recipe(), &[], 1);
    let mut recipe = recipe();
    let NetworkConfig::UNet(config) = &mut recipe.stages[0].model else {
        panic!("a U-Net");
    };
    config.precision = Precision::Bf16;
    let narrow = trained(&at("narrow"), &recipe, &[], 1);
    let error = difference(&at("narrow"), &at("wide"));
    assert!((1e-6..0.1).contains(&error), "{error}");
    assert!(
        wide.iter()
            .any(|(name, data)| narrow.get(name) != Some(data))
    );
    // Weights are f32 all the same, and a stopped run is what it would have been.
    let often = trained(&at("often"), &recipe, &[3], 1);
    for (name, data) in narrow.iter() {
        assert_eq!(data.dtype, burn::tensor::DType::F32);
        assert_eq!(often.get(name), Some(data), "{name}");
    }
}
