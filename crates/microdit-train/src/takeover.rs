//! A run of the reference's trainer, continued here.

use crate::{
    checkpoint::{Progress, State},
    error::TrainError,
    optim::{Moments, Optimiser},
    recipe::Recipe,
};
use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend};
use microdit::{DitBackend, ema::Ema, weights::TrainerCheckpoint};
use microdit_data::Position;

/// The state `recipe` goes on from where the trainer's checkpoint ends: its batches are counted through the recipe's
/// stages, and the data begin anew, because their order is another one.
///
/// # Errors
/// If the checkpoint does not fit the recipe's network.
pub fn take_over<B>(
    recipe: &Recipe,
    checkpoint: TrainerCheckpoint,
    device: &B::Device,
) -> Result<State<B>, TrainError>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let (mut index, mut stage_step) = (0, checkpoint.batches);
    while stage_step > recipe.stages[index].steps && index + 1 < recipe.stages.len() {
        stage_step -= recipe.stages[index].steps;
        index += 1;
    }
    let stage = &recipe.stages[index];
    let network = stage.model.init::<B>(recipe.run.seed, device)?;
    let flat = |mut data: TensorData| {
        data.shape = [data.num_elements()].into();
        Tensor::<B::InnerBackend, 1>::from_data(data, device)
    };
    let moments = checkpoint
        .moments
        .into_iter()
        .map(|(name, [first, second])| {
            let (first, second) = (flat(first), flat(second));
            (name, Moments { first, second })
        })
        .collect();
    let steps = checkpoint.optimiser_steps;
    Ok(State {
        progress: Progress {
            stage: index,
            stage_step,
            step: checkpoint.batches,
            images: checkpoint.samples,
            position: Position::default(),
            optimiser_steps: steps,
            seconds: 0.0,
        },
        dit: checkpoint.weights.load_into(network, device)?,
        optimiser: Optimiser::resume(stage.optimiser.clone(), steps, moments),
        emas: stage.ema.iter().copied().map(Ema::new).collect(),
    })
}
