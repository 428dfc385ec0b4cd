//! Whether a run may resume under a recipe, and with the data it finds: a run does not silently become another one.

use crate::{
    checkpoint::{Checkpoint, Progress},
    error::TrainError,
    recipe::{Change, Effect, Recipe},
    run::RunDir,
    source::Inputs,
};

/// Checks that the recipe of a run that has checkpoints can be read: if it is of an earlier version, so are the
/// checkpoints, and they are not damaged.
///
/// # Errors
/// A recipe that cannot be read, unless `insist`.
pub(crate) fn check_own_recipe(run: &RunDir, insist: bool) -> Result<(), TrainError> {
    let begun = std::fs::read_dir(run.checkpoints()).is_ok_and(|mut saved| saved.next().is_some());
    if insist || !begun || !run.recipe().is_file() {
        return Ok(());
    }
    match Recipe::load(&run.recipe(), &[]) {
        Ok(_) => Ok(()),
        Err(reason) => Err(TrainError::NoOwnRecipe(Box::new(reason))),
    }
}

/// What has to be known before a run resumes.
pub(crate) struct Accepted {
    /// What the recipe changes.
    pub(crate) changes: Vec<Change>,
    /// Whether the checkpoint's position belongs to the data that were found.
    pub(crate) same_data: bool,
}

/// Accepts `recipe` for the run in `run`, which is at `checkpoint`, or whatever it changes if `insist`.
///
/// # Errors
/// A recipe that trains something other than the run's own, data that are not those the run was trained on, or a recipe of
/// the run that cannot be read.
pub(crate) fn accept(
    recipe: &Recipe,
    run: &RunDir,
    checkpoint: &Checkpoint,
    inputs: &Inputs,
    insist: bool,
) -> Result<Accepted, TrainError> {
    let progress = checkpoint.progress();
    let same_data = has_same_data(recipe, checkpoint, inputs);
    let old = match Recipe::load(&run.recipe(), &[]) {
        Ok(old) => old,
        Err(reason) if insist => {
            tracing::warn!("the run's own recipe cannot be read: {reason}");
            return Ok(Accepted {
                changes: Vec::new(),
                same_data,
            });
        }
        Err(reason) => return Err(TrainError::NoOwnRecipe(Box::new(reason))),
    };
    for (i, (old, new)) in old.stages.iter().zip(&recipe.stages).enumerate() {
        if i <= progress.stage && old.name != new.name {
            return Err(TrainError::OtherStage {
                number: i,
                old: old.name.clone(),
                new: new.name.clone(),
            });
        }
    }
    if !insist && let Some(stage) = recipe.stages.get(progress.stage) {
        stage.check_origins(&checkpoint.beginning().origins)?;
    }
    let changes = recipe.changes_from(&old, progress.stage);
    let alters = |change: &&Change| match change.effect {
        Effect::None => false,
        Effect::Training => true,
        Effect::Moved { stage } => !(same_data && moved_alike(&old, recipe, progress, stage)),
    };
    let refused: Vec<String> = changes
        .iter()
        .filter(alters)
        .map(Change::to_string)
        .collect();
    if !insist && !refused.is_empty() {
        return Err(TrainError::OtherRecipe {
            directory: run.path().to_owned(),
            refused,
        });
    }
    if !insist && !same_data {
        let found = inputs.of_stage(progress.stage);
        return Err(TrainError::OtherData {
            stage: recipe.stages[progress.stage].name.clone(),
            expected: checkpoint
                .data()
                .map(ToString::to_string)
                .unwrap_or_default(),
            found: found.map(ToString::to_string).unwrap_or_default(),
        });
    }
    Ok(Accepted { changes, same_data })
}

/// Whether the data of `stage` have moved like those of the stage the run is in, or are no longer needed.
fn moved_alike(old: &Recipe, new: &Recipe, progress: &Progress, stage: usize) -> bool {
    let like_current = |recipe: &Recipe| {
        let current = recipe.stages.get(progress.stage);
        let lists = recipe.stages[stage].data.lists();
        current.is_some_and(|current| current.data.lists() == lists)
    };
    stage <= progress.stage || (like_current(old) && like_current(new))
}

/// Whether the checkpoint's position belongs to the data it will be used in.
fn has_same_data(recipe: &Recipe, checkpoint: &Checkpoint, inputs: &Inputs) -> bool {
    let progress = checkpoint.progress();
    let next = next_stage(recipe, progress);
    let (Some(expected), Some(current), Some(stage)) = (
        checkpoint.data(),
        recipe.stages.get(progress.stage),
        recipe.stages.get(next),
    ) else {
        // Nothing was drawn yet, or nothing will be.
        return true;
    };
    // Another dataset starts at its beginning, and missing data are an error of their own.
    let begins = next != progress.stage && !current.reads_what(stage);
    begins || inputs.of_stage(next).is_none_or(|found| found == expected)
}

/// The stage that the run's next step belongs to; one too many if there is none.
pub(crate) fn next_stage(recipe: &Recipe, progress: &Progress) -> usize {
    let current = recipe.stages.get(progress.stage);
    let ended = current.is_some_and(|stage| progress.stage_step >= stage.steps);
    progress.stage + usize::from(ended)
}
