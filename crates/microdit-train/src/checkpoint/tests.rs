//! Only what was saved is loaded, and nothing is lost while saving.

use super::{shelf::file_names, tensors::save_slots, *};
use crate::{
    Recipe, StageTask,
    optim::{FIRST, Gradients, MOMENTUM, Method, OptimizerConfig, SECOND, Slots},
};
use burn::module::AutodiffModule as _;
use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit::{
    net::{Conditioning, Denoiser as _},
    rng::{Purpose, Stream},
    task::Task as _,
};
use microdit_data::{Place, Position};
use std::{fs, path::Path};

type Tracked = Autodiff<Flex>;
type Network = StageTask<Tracked>;

/// The quickstart with a network of a block, and these settings.
pub(crate) fn tiny(settings: &[&str]) -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
    let network = [
        "model.dim=16",
        "model.depth=1",
        "model.head_dim=8",
        "model.mixer=None",
        "stages.masked.masking=Naive(ratio: 0.75)",
        "model.moe=None",
        "model.multiple_of=8",
        "model.caption_channels=8",
    ];
    let all = network.iter().chain(settings);
    let all: Vec<String> = all.map(|&set| set.into()).collect();
    Recipe::load(&path, &all).unwrap()
}

fn recipe() -> Recipe {
    tiny(&[])
}

fn untrained(recipe: &Recipe) -> Network {
    recipe.stages[0].task(0, &Default::default()).unwrap()
}

/// The state after a step, with moments and an average.
fn state(recipe: &Recipe) -> State<Tracked, Network> {
    let stage = &recipe.stages[0];
    let device = Default::default();
    let task: Network = stage.task(0, &device).unwrap();
    let [channels, height, width] = stage.model.latent();
    let captions = Tensor::ones([1, 3, stage.model.caption_channels()], &device);
    let loss = task.denoiser().image(
        Tensor::ones([1, channels, height, width], &device),
        Tensor::ones([1], &device),
        Conditioning { captions },
    );
    let loss = loss.sum();
    let grads = Gradients::collect(&task, &mut loss.backward());
    let mut optimizer = Optimizer::new(stage.optimizer.clone());
    let (task, _) = optimizer.step::<Tracked, _>(task, grads, &loss.inner(), 1e-3);
    let position = Position {
        drawn: 400,
        sources: vec![Place {
            epoch: 1,
            shard: 2,
            sample: 3,
        }],
        pending: None,
    };
    State {
        progress: Progress {
            stage: 1,
            stage_step: 40,
            step: 140,
            images: 1120,
            position,
            optimizer_steps: 140,
            seconds: 12.5,
        },
        emas: vec![Ema::resume(
            stage.ema.first().copied().unwrap_or(SLOW),
            Some(task.valid()),
        )],
        post_hoc: Vec::new(),
        task,
        optimizer,
    }
}

const SLOW: microdit::ema::EmaConfig = microdit::ema::EmaConfig {
    decay: microdit::ema::Decay::Smoothing(0.9),
    start: 0,
    every: 1,
};

fn save(
    state: &State<Tracked, Network>,
    step: u64,
    config: CheckpointConfig,
    checkpoints: &Path,
) -> Checkpoint {
    let progress = Progress {
        step,
        stage_step: step,
        ..state.progress.clone()
    };
    let (task, optimizer, emas) = (
        state.task.clone(),
        state.optimizer.clone(),
        state.emas.clone(),
    );
    let state = State {
        progress,
        task,
        optimizer,
        emas,
        post_hoc: Vec::new(),
    };
    state.save(checkpoints, &config, None).unwrap()
}

fn steps(checkpoints: &Path) -> Vec<u64> {
    folders(checkpoints)
        .unwrap()
        .iter()
        .filter_map(|folder| step_of(folder))
        .collect()
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    let state = state(&recipe);
    let saved = state
        .save(folder.path(), &recipe.run.checkpoints, None)
        .unwrap();
    let loaded = Checkpoint::newest(folder.path()).unwrap().unwrap();
    assert_eq!(loaded.progress(), &state.progress);
    loaded
        .load(&recipe.stages[0], untrained(&recipe), &Default::default())
        .unwrap();
    let mut random = Stream::new(0, Purpose::Shuffle, 0, 0);
    for name in file_names(saved.path()).unwrap() {
        let path = saved.path().join(&name);
        let sound = fs::read(&path).unwrap();
        // All bits of the record, and some of every tensor.
        let bits: Vec<usize> = match name.as_str() {
            STATE => (0..8 * sound.len()).collect(),
            _ => (0..200).map(|_| random.below(8 * sound.len())).collect(),
        };
        let mut flipped = sound.clone();
        for bit in bits {
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            assert!(
                Checkpoint::verify(saved.path()).is_err(),
                "{name}: bit {bit}"
            );
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
        fs::remove_file(&path).unwrap();
        assert!(
            Checkpoint::verify(saved.path()).is_err(),
            "{name} is missing"
        );
        fs::write(&path, &sound).unwrap();
    }
    Checkpoint::verify(saved.path()).unwrap();
}

#[test]
fn counters_are_in_range() {
    let sound = state(&recipe()).progress;
    sound.check().unwrap();
    let broken: [&dyn Fn(&mut Progress); 7] = [
        &|progress| progress.stage = usize::MAX,
        &|progress| progress.step = u64::MAX,
        &|progress| progress.stage_step = progress.step + 1,
        &|progress| progress.optimizer_steps = 1 << 60,
        &|progress| progress.seconds = -1.0,
        &|progress| progress.seconds = f64::NAN,
        &|progress| progress.position.sources[0].epoch = u64::MAX,
    ];
    for change in broken {
        let mut progress = sound.clone();
        change(&mut progress);
        assert!(progress.check().is_err(), "{progress:?}");
    }
}

#[test]
fn slots_are_those_of_the_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    let state = state(&recipe);
    let path = folder.path().join(OPTIMIZER);
    let device = Default::default();
    let name = "denoiser.blocks.0.attn.qkv.weight";
    let config = &recipe.stages[0].optimizer;
    let kept = config.kept(&state.task);
    let slots = state.optimizer.slots();
    save_slots(&path, slots, 1).unwrap();
    let read = read_slots::<Flex>(&path, &kept, &device).unwrap();
    assert!(read.keys().eq(slots.keys()));
    let same = |slot| (read[name][slot].to_data(), slots[name][slot].to_data());
    for (read, written) in [FIRST, SECOND].map(same) {
        assert_eq!(read, written);
    }
    // Muon keeps a single slot of a matrix, and does not accept another method's for it.
    let method = Method::muon(0.9);
    let muon = OptimizerConfig {
        method,
        ..config.clone()
    };
    let error = read_slots::<Flex>(&path, &muon.kept(&state.task), &device);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("expected momentum"), "{error}");
    let three = Tensor::<Flex, 1>::ones([3], &device);
    let all = Tensor::<Flex, 1>::ones([kept[name].size], &device);
    for (parameter, first, second, part) in [
        (name, Some(&three), Some(&all), "has 3 values, expected"),
        (name, Some(&all), Some(&three), "has 3 values, expected"),
        (name, Some(&all), None, "has exp_avg and no exp_avg_sq"),
        (name, None, Some(&all), "has exp_avg_sq and no exp_avg"),
        (
            "strange",
            Some(&three),
            None,
            "is of a parameter the network does not have",
        ),
    ] {
        let found = [(FIRST, first), (SECOND, second)].into_iter();
        let found = found.filter_map(|(slot, tensor)| Some((slot, tensor?.clone())));
        let mut slots = slots.clone();
        slots.insert(parameter.to_owned(), found.collect());
        save_slots(&path, &slots, 1).unwrap();
        let error = read_slots::<Flex>(&path, &kept, &device).unwrap_err();
        let error = error.to_string();
        let named = [OPTIMIZER, parameter, part];
        assert!(named.iter().all(|part| error.contains(part)), "{error}");
    }
    // Under Muon, a matrix has its momentum alone.
    let momentum = BTreeMap::from([(name.to_owned(), Slots::from([(MOMENTUM, all)]))]);
    save_slots(&path, &momentum, 1).unwrap();
    let read = read_slots::<Flex>(&path, &muon.kept(&state.task), &device).unwrap();
    assert!(read[name].keys().eq([&MOMENTUM]));
}

#[test]
fn what_is_not_finite_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    let mut state = state(&recipe);
    save(&state, 1, recipe.run.checkpoints, folder.path());
    let mut broken = state.optimizer.slots().clone();
    let mut entry = broken.first_entry().unwrap();
    let name = entry.key().clone();
    let infinite = entry.get()[SECOND].clone() / 0.0;
    entry.get_mut().insert(SECOND, infinite);
    state.optimizer = Optimizer::resume(state.optimizer.config().clone(), 1, broken);
    let error = state
        .save(folder.path(), &recipe.run.checkpoints, None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&name) && error.contains("after step 140"),
        "{error}"
    );
    assert_eq!(file_names(folder.path()).unwrap(), ["step-0000000001"]);
}

#[test]
fn only_whole_checkpoints_count_and_the_saved_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let state = state(&recipe());
    let keep = |keep, milestones| CheckpointConfig {
        every: 1,
        keep,
        milestones,
    };
    for step in [1, 2, 3, 4, 5, 6, 7, 8, 9] {
        save(&state, step, keep(9, None), path);
    }
    // Two of them are damaged, one is a stranger's, and 9 is of a run that went back to 7.
    fs::write(path.join("step-0000000006").join(MODEL), "short").unwrap();
    fs::remove_file(path.join("step-0000000005").join(STATE)).unwrap();
    fs::write(path.join("step-0000000000"), "a file").unwrap();
    save(&state, 8, keep(3, Some(2)), path);
    // 8, 7 and 4 are intact; milestones stay, and what is newer than what was saved.
    assert_eq!(steps(path), [2, 4, 5, 6, 7, 8, 9]);
    save(&state, 9, keep(1, None), path);
    assert_eq!(steps(path), [9]);
    // The same step again, and a later one that was damaged.
    save(&state, 12, keep(5, None), path);
    fs::write(path.join("step-0000000012").join(MODEL), "short").unwrap();
    save(&state, 10, keep(1, None), path);
    save(&state, 10, keep(1, None), path);
    assert_eq!(steps(path), [10, 12]);
    let newest = Checkpoint::newest(path).unwrap().unwrap();
    assert_eq!(newest.progress().step, 10);
    assert!(path.join("step-0000000000").is_file());
}

#[test]
fn whatever_a_killed_process_left_is_put_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let state = state(&recipe());
    let config = CheckpointConfig {
        every: 1,
        keep: 9,
        milestones: None,
    };
    for step in [1, 2, 3] {
        save(&state, step, config, path);
    }
    let rename = |from: &str, to: &str| fs::rename(path.join(from), path.join(to)).unwrap();
    // Between the two renames, before the old one was removed, while one was removed or written.
    rename("step-0000000003", ".old-step-0000000003");
    rename("step-0000000001", ".old-step-0000000002");
    fs::create_dir(path.join(".gone-step-0000000000")).unwrap();
    fs::create_dir(path.join(".part-step-0000000003")).unwrap();
    fs::write(path.join(".part-step-0000000003").join(MODEL), "half").unwrap();
    fs::write(path.join(".hidden"), "a stranger's").unwrap();
    tidy(path).unwrap();
    let mut names = file_names(path).unwrap();
    names.sort();
    assert_eq!(names, [".hidden", "step-0000000002", "step-0000000003"]);
    for step in ["step-0000000002", "step-0000000003"] {
        Checkpoint::verify(&path.join(step)).unwrap();
    }
}
