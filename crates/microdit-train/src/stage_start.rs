//! The states a run or a stage begins in: untrained, handed on by the stage before, imported from another trainer.

use crate::{
    begin::Given,
    checkpoint::{Progress, State},
    error::TrainError,
    optim::{FIRST, Optimizer, SECOND},
    recipe::{Handed, Recipe, Stage},
};
use burn::tensor::{Tensor, TensorData, backend::BackendTypes};
use microdit::{
    TrainBackend,
    ema::Ema,
    task::{Task as _, TrainTask},
    weights::{StateDict, TrainerCheckpoint, reference_name},
};
use microdit_data::Position;
use std::sync::Arc;

/// Makes the untrained task of a stage from the stage, the run's seed and a device.
pub type Build<B, T> =
    dyn Fn(&Stage, u64, &<B as BackendTypes>::Device) -> Result<T, TrainError> + Sync;

/// A run that has not taken a step.
pub(crate) fn fresh<B: TrainBackend, T: TrainTask<B>>(
    recipe: &Recipe,
    build: &Build<B, T>,
    device: &B::Device,
) -> Result<State<B, T>, TrainError> {
    let stage = &recipe.stages[0];
    Ok(State {
        progress: Progress::default(),
        task: stage.begun(
            build(stage, recipe.run.seed, device)?,
            Given::Nothing,
            device,
        )?,
        optimizer: Optimizer::new(stage.optimizers()),
        emas: stage.ema.iter().copied().map(Ema::new).collect(),
        post_hoc: stage
            .post_hoc_averages()
            .into_iter()
            .map(Ema::new)
            .collect(),
    })
}

/// The state in which the next stage begins, whose untrained task is `task`.
pub(crate) fn hand_over<B: TrainBackend, T: TrainTask<B>>(
    state: State<B, T>,
    stage: &Stage,
    task: T,
    device: &B::Device,
) -> Result<State<B, T>, TrainError> {
    let average = state.emas.first().and_then(Ema::average);
    let live = state.task.valid();
    let old = match (stage.hand_over.weights, average) {
        (Handed::Ema, Some(average)) => average,
        _ => &live,
    };
    let weights = StateDict::from_module(old);
    let sizes = |state: &StateDict| {
        let sized = state.iter();
        sized
            .map(|(name, data)| (name.clone(), data.shape.clone()))
            .collect::<Vec<_>>()
    };
    // A new network, because positions belong to a resolution.
    let alike = sizes(&weights) == sizes(&StateDict::from_module(&task.valid()));
    let given = match alike {
        true => Given::All(weights),
        false => Given::parts(StateDict::from_module(&old.network()), weights),
    };
    let task = stage.begun(task, given, device)?;
    let old = state.optimizer;
    let same = alike && old.config().method == stage.optimizer.method;
    let optimizer = if stage.hand_over.optimizer && same {
        let (steps, slots) = (old.steps(), old.into_slots());
        Optimizer::resume(stage.optimizers(), steps, slots)
    } else {
        Optimizer::new(stage.optimizers())
    };
    Ok(State {
        progress: Progress {
            stage: state.progress.stage + 1,
            stage_step: 0,
            optimizer_steps: optimizer.steps(),
            ..state.progress
        },
        task,
        optimizer,
        emas: stage.ema.iter().copied().map(Ema::new).collect(),
        post_hoc: stage
            .post_hoc_averages()
            .into_iter()
            .map(Ema::new)
            .collect(),
    })
}

/// The state from which `recipe` continues where the trainer's checkpoint ends: its batches are counted through the recipe's
/// stages, and the data start over, because their order is another.
///
/// # Errors
/// If the checkpoint does not fit the recipe's network, or has trained for longer than the recipe does.
pub fn take_over<B: TrainBackend, T: TrainTask<B>>(
    recipe: &Recipe,
    checkpoint: TrainerCheckpoint,
    build: &Build<B, T>,
    device: &B::Device,
) -> Result<State<B, T>, TrainError> {
    let (mut index, mut stage_step) = (0, checkpoint.batches);
    while stage_step > recipe.stages[index].steps && index + 1 < recipe.stages.len() {
        stage_step -= recipe.stages[index].steps;
        index += 1;
    }
    let stage = &recipe.stages[index];
    if stage_step > stage.steps {
        return Err(TrainError::TrainedFor {
            batches: checkpoint.batches,
            steps: recipe.stages.iter().map(|stage| stage.steps).sum(),
        });
    }
    let untrained = build(stage, recipe.run.seed, device)?;
    // Their shapes are those of the weights they were read with, and those are checked against the network here.
    let task = checkpoint.weights.load_into(untrained, device)?;
    let flat = |data: Arc<TensorData>| {
        let mut data = Arc::unwrap_or_clone(data);
        data.shape = [data.num_elements()].into();
        Tensor::<B::InnerBackend, 1>::from_data(data, device)
    };
    // Where the recipe's optimizer keeps something else, it starts over.
    let mut moments = checkpoint.moments;
    let kept = stage.optimizers().kept(&task).into_iter();
    let slots = kept.filter_map(|(path, kept)| {
        let moments = moments.remove(&reference_name(&path))?;
        let named = [FIRST, SECOND].into_iter().zip(moments.map(flat));
        let slots = named
            .filter(|(slot, _)| kept.slots.contains(slot))
            .collect();
        Some((path, slots))
    });
    let slots = slots.collect();
    let steps = checkpoint.optimizer_steps;
    Ok(State {
        progress: Progress {
            stage: index,
            stage_step,
            step: checkpoint.batches,
            images: checkpoint.samples,
            position: Position::default(),
            optimizer_steps: steps,
            seconds: 0.0,
        },
        task,
        optimizer: Optimizer::resume(stage.optimizers(), steps, slots),
        emas: stage.ema.iter().copied().map(Ema::new).collect(),
        post_hoc: stage
            .post_hoc_averages()
            .into_iter()
            .map(Ema::new)
            .collect(),
    })
}
