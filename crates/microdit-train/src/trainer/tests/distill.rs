//! A student, its frozen teacher and its critic, through the trainer.

use super::*;
use crate::optim::{ParamGroup, ParamKind};
use burn::tensor::backend::BackendTypes;
use microdit::{
    nn::lora::LoraConfig,
    rng::{Purpose, Stream},
    task::{Distill, DistillConfig},
};

type Student = Distill<Tracked, Network<Tracked>>;

/// A student that starts as its teacher, in which nothing is zero.
fn build(
    stage: &Stage,
    seed: u64,
    device: &<Tracked as BackendTypes>::Device,
) -> Result<Student, TrainError> {
    let network = stage.model.init::<Tracked>(seed, device)?;
    let noisy = StateDict::from_module(&network.valid());
    let noisy = noisy.iter().map(|(name, data)| {
        let mut random = Stream::named(seed, Purpose::Noise, name);
        let values = random.normal(data.num_elements()).into_iter();
        let values: Vec<f32> = values.map(|value| 0.2 * value).collect();
        (name.clone(), TensorData::new(values, data.shape.clone()))
    });
    let noisy = StateDict::from_tensors(noisy);
    let teacher = noisy.load_into(network, device)?;
    let config = DistillConfig {
        diffusion: stage.diffusion,
        guidance: 2.0,
        critic: Some(LoraConfig {
            layers: vec!["qkv".into(), "w1".into()],
            rank: 2,
            ..LoraConfig::default()
        }),
        ..DistillConfig::default()
    };
    let task = config.init(teacher.clone(), teacher, seed, device);
    Ok(task.expect("the network has these layers"))
}

/// Eight steps, asked to stop after each number of steps in `stops` and resumed.
fn distilled(path: &Path, recipe: &Recipe, stops: &[u64], devices: usize) -> StateDict {
    with_stops::<Tracked, _>(path, recipe, stops, devices, &build)
}

/// The networks of a checkpoint that differ from those the run began with.
fn moved(state: &StateDict, recipe: &Recipe) -> BTreeSet<String> {
    let initial = build(&recipe.stages[0], recipe.run.seed, &Default::default());
    let initial = StateDict::from_module(&initial.unwrap().valid());
    let moved = initial
        .iter()
        .filter(|(name, data)| state.get(name) != Some(*data));
    let parts = moved.map(|(name, _)| name.split('.').next().unwrap().to_owned());
    parts.collect()
}

#[test]
fn student_and_critic_learn_while_the_teacher_stays_over_resumes_and_replicas() {
    let _alone = super::alone();
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = recipe(1e-4, 100, 10);
    for stage in &mut recipe.stages {
        stage.optimizer.lr = 1e-4;
        stage.optimizer.groups = vec![ParamGroup {
            kinds: vec![ParamKind::Adapters],
            lr: 10.0,
            weight_decay: 1.0,
        }];
    }
    let at_once = distilled(&folder.path().join("once"), &recipe, &[], 1);
    assert_eq!(
        moved(&at_once, &recipe),
        ["critic", "denoiser"].map(String::from).into()
    );
    // The teacher is saved once, beside the checkpoints.
    let checkpoints = folder.path().join("once/checkpoints");
    let newest = Checkpoint::newest(&checkpoints).unwrap().unwrap();
    let saved = StateDict::read(&newest.trained()).unwrap();
    assert!(!saved.iter().any(|(name, _)| name.starts_with("teacher")));
    for stage in 0..2 {
        let frozen = format!("frozen-{stage}.safetensors");
        let frozen = StateDict::read(&checkpoints.join(frozen)).unwrap();
        assert!(
            frozen
                .iter()
                .all(|(name, data)| at_once.get(name) == Some(data))
        );
        assert_eq!(frozen.len() + saved.len(), at_once.len());
    }
    // The log has both losses.
    let log = fs::read_to_string(folder.path().join("once/metrics.jsonl")).unwrap();
    for line in log.lines() {
        assert!(
            line.contains("\"vsd\"") && line.contains("\"critic\""),
            "{line}"
        );
    }
    // The result is the student alone, bit for bit.
    let result = StateDict::read(&folder.path().join("once/weights.safetensors")).unwrap();
    let student = at_once.clone().denoiser().into_reference();
    assert_eq!(result.len(), student.len());
    assert!(
        student
            .iter()
            .all(|(name, data)| result.get(name) == Some(data))
    );
    // In the middle of either stage, and at its end.
    let resumed = distilled(&folder.path().join("often"), &recipe, &[1, 2, 5], 1);
    for (name, data) in at_once.iter() {
        assert_eq!(resumed.get(name), Some(data), "{name}");
    }
    for stage in &mut recipe.stages {
        stage.activation_checkpointing = ActivationCheckpointing::On;
    }
    let replicas = distilled(&folder.path().join("two"), &recipe, &[], 2);
    // Eight steps of 1e-4 and 1e-3; rounding moves few weights by a step where a gradient is almost 0.
    let error = distance(&at_once, &replicas);
    assert!(error * 1e4 < 0.1, "{error}");
}
