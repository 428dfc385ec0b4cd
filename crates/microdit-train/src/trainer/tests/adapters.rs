//! Adapters through the trainer: trained alone, beside their network, and of a student.

use super::*;
use crate::recipe::Distillation;
use microdit::nn::{Storage, lora::LoraConfig};

pub(super) fn lora() -> LoraConfig {
    LoraConfig {
        layers: vec!["qkv".into(), "w1".into()],
        rank: 2,
        dropout: 0.2,
        ..LoraConfig::default()
    }
}

/// Two stages. A fresh network's last layer is zeros, and so are the gates before its blocks: the first stage takes the steps that open both,
/// without which no adapter has a gradient.
pub(super) fn adapted(change: impl Fn(&mut Stage)) -> Recipe {
    let mut recipe = recipe(1e-3, 100, 10);
    recipe.stages[0].optimizer.lr = 1e-2;
    recipe.stages[0].steps = 5;
    let stage = &mut recipe.stages[1];
    stage.lora = Some(lora());
    stage.ema = vec![EmaConfig {
        decay: Decay::Smoothing(0.7),
        start: 1,
        every: 1,
    }];
    change(stage);
    recipe
}

/// The parts of a state, by the first names of their paths.
fn parts(state: &StateDict) -> BTreeSet<String> {
    let names = state.iter().map(|(name, _)| name.split('.').next());
    names.map(|name| name.unwrap().to_owned()).collect()
}

/// What a stage trains is in its checkpoints, what it does not beside them; both resume bit for bit, and come out alike over replicas and
/// recomputation.
#[test]
fn adapters_are_what_is_trained_and_saved() {
    let _alone = super::alone();
    let distill = Distillation {
        guidance: 2.0,
        critic: Some(LoraConfig { rank: 3, ..lora() }),
        teacher_storage: Storage::Bf16,
        ..Distillation::default()
    };
    let alone = |_: &mut Stage| ();
    let beside = |stage: &mut Stage| stage.lora_alone = false;
    let student = |stage: &mut Stage| stage.distill = Some(distill.clone());
    let without_critic = |stage: &mut Stage| {
        let critic = None;
        let distill = distill.clone();
        stage.distill = Some(Distillation { critic, ..distill });
    };
    for (name, recipe, saved, frozen) in [
        ("alone", adapted(alone), &["lora"][..], &["denoiser"][..]),
        ("beside", adapted(beside), &["denoiser", "lora"], &[]),
        (
            "student",
            adapted(student),
            &["critic", "lora"],
            &["denoiser", "teacher"],
        ),
        (
            "without critic",
            adapted(without_critic),
            &["lora"],
            &["denoiser", "teacher"],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let run = |name: &str, recipe: &Recipe, stops: &[u64], devices| {
            with_stops::<Tracked, _>(&at(name), recipe, stops, devices, &Stage::task::<Tracked>)
        };
        let once = run("once", &recipe, &[], 1);
        let checkpoints = at("once").join("checkpoints");
        let newest = Checkpoint::newest(&checkpoints).unwrap().unwrap();
        let set = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|&name| name.to_owned()).collect()
        };
        let trained = StateDict::read(&newest.trained()).unwrap();
        assert_eq!(parts(&trained), set(saved), "{name}");
        let kept = checkpoints.join("frozen-1.safetensors");
        assert_eq!(kept.exists(), !frozen.is_empty(), "{name}");
        if kept.exists() {
            let kept = StateDict::read(&kept).unwrap();
            assert_eq!(parts(&kept), set(frozen), "{name}");
        }
        // Adapters begin with an `up` of zeros, which those of open gates have left.
        let mut ups = trained.iter().filter(|(path, _)| path.ends_with(".up"));
        let moved = ups.any(|(_, data)| data.iter::<f32>().any(|value| value != 0.0));
        assert!(moved, "{name}");
        let often = run("often", &recipe, &[1, 6, 9], 1);
        for (path, data) in once.iter() {
            assert_eq!(often.get(path), Some(data), "{name}: {path}");
        }
        let average = |name: &str| StateDict::read(&at(name).join("ema.safetensors")).unwrap();
        for (path, data) in average("once").iter() {
            assert_eq!(average("often").get(path), Some(data), "{name}: {path}");
        }
        // Without dropout the weights are others; replicas and parts agree.
        let mut plain = recipe.clone();
        plain.stages[1].lora.as_mut().unwrap().dropout = 0.0;
        let distill = plain.stages[1].distill.as_mut();
        if let Some(critic) = distill.and_then(|distill| distill.critic.as_mut()) {
            critic.dropout = 0.0;
        }
        let whole = run("whole", &plain, &[], 1);
        assert!(distance(&whole, &once) > 0.0);
        for stage in &mut plain.stages {
            stage.activation_checkpointing = ActivationCheckpointing::On;
        }
        let two = run("two", &plain, &[], 2);
        // Six steps of 1e-3; rounding moves few weights by a step, where a gradient is almost 0.
        let apart = distance(&whole, &two);
        assert!(apart < 1e-4, "{name}: {apart}");
    }
}
