//! A budget over all points: what each pays for its steps, and how many it therefore gets.

use super::{
    calibration::Calibration,
    definition::Budget,
    error::SweepError,
    points::{Sweep, flops_per_step},
    steps::{Cost, total, within_budget},
};
use microdit_train::{Recipe, recipe::Stage};
use std::collections::BTreeSet;

/// Seconds of an hour.
const HOUR: f64 = 3600.0;

/// The budget of a sweep, and what its settings cost.
pub(super) struct Budgeted<'a> {
    sweep: &'a Sweep,
    calibration: &'a Calibration,
    /// Names of the stages that are made longer or shorter; all, if there are none.
    scaled: BTreeSet<&'a str>,
    /// FLOPs of the reference.
    reference: f64,
}

impl<'a> Budgeted<'a> {
    pub(super) fn new(sweep: &'a Sweep, calibration: &'a Calibration) -> Self {
        let recipes = (0..sweep.settings.len()).map(|i| sweep.recipe_of(i));
        let stages = recipes.flat_map(|recipe| &recipe.stages);
        let masked = stages.filter(|stage| {
            let tokens = stage.model.tokens();
            stage.masking.kept(tokens) < tokens
        });
        let mut budgeted = Self {
            sweep,
            calibration,
            scaled: masked.map(|stage| stage.name.as_str()).collect(),
            reference: 0.0,
        };
        let first = sweep.recipe_of(0);
        budgeted.reference = total(&budgeted.costs(first, |_, stage| flops_per_step(stage)));
        budgeted
    }

    /// The steps of each stage of a setting.
    pub(super) fn steps(&self, setting: usize) -> Result<Vec<u64>, SweepError> {
        let recipe = self.sweep.recipe_of(setting);
        let label = || self.sweep.settings[setting].label();
        let timed = |seconds: f64| {
            let pace = self.calibration.seconds_per_step(&self.sweep.pace(setting));
            let pace = pace.ok_or_else(|| SweepError::Calibration {
                label: label(),
                reason: "it was not calibrated".into(),
            })?;
            let costs = self.costs(recipe, |i, _| pace.get(i).copied().unwrap_or(0.0));
            Ok::<_, SweepError>((costs, seconds))
        };
        let (costs, budget) = match self.sweep.definition.budget {
            Budget::Steps => return Ok(recipe.stages.iter().map(|stage| stage.steps).collect()),
            Budget::Flops => {
                let costs = self.costs(recipe, |_, stage| flops_per_step(stage));
                (costs, self.reference)
            }
            Budget::Hours(hours) => timed(hours * HOUR)?,
            Budget::Dollars(dollars) => {
                let price = recipe
                    .run
                    .budget
                    .usd_per_gpu_hour
                    .filter(|price| *price > 0.0);
                let price = price.ok_or_else(|| SweepError::Budget {
                    label: label(),
                    message: "a budget in dollars needs the price of a device in the recipe, budget.usd_per_gpu_hour"
                        .into(),
                })?;
                timed(dollars / price * HOUR)?
            }
        };
        within_budget(&costs, budget).map_err(|message| SweepError::Budget {
            label: label(),
            message,
        })
    }

    fn costs(&self, recipe: &Recipe, per_step: impl Fn(usize, &Stage) -> f64) -> Vec<Cost> {
        let stages = recipe.stages.iter().enumerate();
        let cost = |(i, stage): (usize, &Stage)| Cost {
            steps: stage.steps,
            per_step: per_step(i, stage),
            scaled: self.scaled.is_empty() || self.scaled.contains(stage.name.as_str()),
        };
        stages.map(cost).collect()
    }
}
