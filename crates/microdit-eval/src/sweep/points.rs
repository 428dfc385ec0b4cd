//! The points of a sweep: a definition with its recipes resolved, one for every setting and seed.

use super::{
    budget::Budgeted,
    calibration::Calibration,
    conditions::{FEATURE_DISTANCE, HELD_OUT},
    definition::{Definition, Metric, Setting},
    error::SweepError,
    names,
};
use microdit_train::{
    Recipe, plan,
    recipe::{Override, Stage},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

/// Hexadecimal digits of a point's identity.
const DIGITS: usize = 16;

/// A sweep that was read, with the recipes of its settings.
#[derive(Debug)]
pub struct Sweep {
    pub(super) definition: Definition,
    pub(super) settings: Vec<Setting>,
    path: PathBuf,
    base: PathBuf,
    /// Overrides of all points, below those of their settings.
    sets: Vec<Override>,
    /// Those of the settings, with the steps they have by themselves and the first seed.
    recipes: Vec<Recipe>,
}

/// One run of a sweep.
#[derive(Clone, Debug)]
pub struct Point {
    /// What is hashed from the values that decide its results, in 16 hexadecimal digits: the same for the same run,
    /// whatever it is called.
    pub id: String,
    /// Index of its setting.
    pub setting: usize,
    /// Its seed.
    pub seed: u64,
    /// Its recipe, with the steps its budget pays for.
    pub recipe: Recipe,
    /// The values the identity is of.
    pub(super) decisive: BTreeMap<String, String>,
    /// What its data are, if they were looked at and could be.
    pub(super) data: Option<String>,
}

impl Point {
    /// FLOPs of its training steps, by the cost model.
    pub fn flops(&self) -> f64 {
        let of = |stage: &Stage| flops_per_step(stage) * stage.steps as f64;
        self.recipe.stages.iter().map(of).sum()
    }
}

/// FLOPs of a step of `stage`, by the cost model.
pub(super) fn flops_per_step(stage: &Stage) -> f64 {
    plan::flop_per_image(stage) * stage.batch as f64
}

impl Sweep {
    /// Reads the definition at `path`; `sets` replaces values of its base recipe as `train --set` does.
    ///
    /// # Errors
    /// A definition or a recipe that is not valid, with file and line; points that are the same; metrics that the recipe does not
    /// log.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, SweepError> {
        let (definition, settings, base) = Definition::read(path)?;
        let sets = sets.iter().map(|set| Override::of_command_line(set));
        let mut sweep = Self {
            definition,
            settings,
            path: path.to_owned(),
            base,
            sets: sets.collect(),
            recipes: Vec::new(),
        };
        let seed = sweep.definition.seeds[0];
        let recipes = sweep
            .settings
            .iter()
            .map(|setting| sweep.recipe(setting, seed, &[]));
        sweep.recipes = recipes.collect::<Result<_, _>>()?;
        sweep.require_evaluation()?;
        let decisive =
            |(setting, recipe): (&Setting, &Recipe)| recipe.decisive(moves_data(setting));
        let all: Vec<_> = sweep
            .settings
            .iter()
            .zip(&sweep.recipes)
            .map(decisive)
            .collect();
        sweep.require_distinct(all.iter().map(identity))?;
        Ok(sweep)
    }

    /// The same, compared by other metrics.
    ///
    /// # Errors
    /// A metric that the recipe does not log.
    pub fn with_metrics(mut self, metrics: Vec<Metric>) -> Result<Self, SweepError> {
        self.definition.metrics = metrics;
        self.require_evaluation()?;
        Ok(self)
    }

    /// Checks that every recipe says where its data lie, which a plan does not need.
    ///
    /// # Errors
    /// The first that does not.
    pub fn require_data(&self) -> Result<(), SweepError> {
        let mut recipes = self.recipes.iter();
        Ok(recipes.try_for_each(Recipe::require_shards)?)
    }

    /// The definition as read.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Every combination of values, in the order of the axes.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The recipe of a setting, as it is by itself.
    pub fn recipe_of(&self, setting: usize) -> &Recipe {
        &self.recipes[setting]
    }

    /// Every point, in the order of the settings and then of the seeds. Budgets of time need the `calibration` of every setting.
    ///
    /// # Errors
    /// A budget that pays for no step, or steps a recipe cannot have.
    pub fn points(&self, calibration: &Calibration) -> Result<Vec<Point>, SweepError> {
        let budgeted = Budgeted::new(self, calibration);
        let mut points = Vec::new();
        for (index, setting) in self.settings.iter().enumerate() {
            let steps = budgeted.steps(index)?;
            let total: u64 = steps.iter().sum();
            let own = &self.recipes[index];
            let stages = own.stages.iter().zip(steps);
            let changed = stages.filter(|(stage, steps)| stage.steps != *steps);
            let mut sets: Vec<String> = changed
                .map(|(stage, steps)| format!("stages.{}.steps={steps}", stage.name))
                .collect();
            // What points are compared by is measured of their results.
            if own.run.evaluation.is_some() {
                let last = own.last_stage();
                let every = last
                    .evaluate_every
                    .or(own.run.evaluation.as_ref().map(|e| e.every));
                let every = ends_at(total, every.unwrap_or(total));
                sets.push(format!("stages.{}.evaluate_every={every}", last.name));
            }
            let steps: Vec<Override> = sets
                .iter()
                .map(|set| Override::of_command_line(set))
                .collect();
            for &seed in &self.definition.seeds {
                let recipe = self.recipe(setting, seed, &steps)?;
                require_averages(&recipe, &self.recipes[index], setting)?;
                let decisive = recipe.decisive(moves_data(setting));
                points.push(Point {
                    id: identity(&decisive),
                    setting: index,
                    seed,
                    recipe,
                    decisive,
                    data: None,
                });
            }
        }
        // A budget may give two settings the same steps.
        let first = self.definition.seeds[0];
        let of_first = points.iter().filter(|point| point.seed == first);
        self.require_distinct(of_first.map(|point| point.id.clone()))?;
        Ok(points)
    }

    /// The recipe of a setting with this seed, and `more` values replaced.
    pub(super) fn recipe(
        &self,
        setting: &Setting,
        seed: u64,
        more: &[Override],
    ) -> Result<Recipe, SweepError> {
        let own = [Override::of_command_line(&format!("seed={seed}"))];
        let all = [&self.sets[..], &setting.overrides, &own, more].concat();
        Recipe::load_with(&self.base, &all).map_err(|error| {
            // Errors of a file name it; those of derived values need the point.
            match more.is_empty() {
                true => error.into(),
                false => SweepError::Point {
                    label: setting.label(),
                    error: error.into(),
                },
            }
        })
    }

    /// What a calibration of a setting is known by: its identity without its steps and its seed.
    pub(super) fn pace(&self, setting: usize) -> String {
        let mut decisive = self.recipes[setting].decisive(false);
        decisive.retain(|key, _| key != "seed" && !key.ends_with(".steps"));
        identity(&decisive)
    }

    /// Checks that a number has a name, unless it is of a log that is not written, which is said below.
    fn require_known(&self, metric: &str) -> Result<(), SweepError> {
        let is_logged = names::is_logged(metric);
        let logs = |recipe: &&Recipe| !is_logged || recipe.run.evaluation.is_some();
        let near = self
            .recipes
            .iter()
            .filter(logs)
            .find_map(|recipe| names::require(metric, recipe).err());
        near.map_or(Ok(()), |near| {
            Err(SweepError::UnknownMetric {
                path: self.path.clone(),
                metric: metric.to_owned(),
                near,
            })
        })
    }

    fn require_evaluation(&self) -> Result<(), SweepError> {
        for metric in &self.definition.metrics {
            let mut distilled = self
                .recipes
                .iter()
                .map(|recipe| &recipe.last_stage().distill);
            if metric.name.starts_with(HELD_OUT) && distilled.any(Option::is_some) {
                return Err(SweepError::NoLoss {
                    path: self.path.clone(),
                    metric: metric.name.clone(),
                });
            }
            self.require_known(&metric.name)?;
            if !names::is_logged(&metric.name) {
                continue;
            }
            let compares = metric.name.starts_with(FEATURE_DISTANCE);
            let measured = |recipe: &Recipe| {
                let evaluation = recipe.run.evaluation.as_ref();
                evaluation.is_some_and(|config| !compares || config.feature_distance.is_some())
            };
            if !self.recipes.iter().all(measured) {
                let lacking = match compares {
                    true => "feature_distance: (samples: ..., network: ...)",
                    false => "every: ..., samples: ...",
                };
                return Err(SweepError::NoEvaluation {
                    path: self.path.clone(),
                    metric: metric.name.clone(),
                    lacking,
                });
            }
        }
        Ok(())
    }

    fn require_distinct(&self, ids: impl Iterator<Item = String>) -> Result<(), SweepError> {
        let mut known = HashMap::new();
        for (setting, id) in self.settings.iter().zip(ids) {
            if let Some(one) = known.insert(id, setting) {
                return Err(SweepError::Same {
                    path: self.path.clone(),
                    one: Setting::label(one),
                    other: setting.label(),
                });
            }
        }
        Ok(())
    }
}

/// Steps between evaluations of which one is at the end of `total` steps: nearly as often as `every`, or at the end alone.
fn ends_at(total: u64, every: u64) -> u64 {
    let near = (every.div_ceil(2)..=every.min(total)).rev();
    let mut near = near.take(100_000);
    near.find(|every| total.is_multiple_of(*every))
        .unwrap_or(total)
}

/// Whether the place of the data is part of what a setting varies.
fn moves_data(setting: &Setting) -> bool {
    let mut keys = setting.overrides.iter().map(Override::key);
    keys.any(|key| key == "stages" || key.split('.').any(|part| part == "data"))
}

/// SHA-256 of values by their keys, shortened.
fn identity(values: &BTreeMap<String, String>) -> String {
    let mut hasher = Sha256::new();
    for (key, value) in values {
        hasher.update(format!("{key}: {value}\n"));
    }
    let digest = hasher.finalize();
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..DIGITS].to_owned()
}

/// Checks that no average begins after the last step of a stage that its budget made shorter.
fn require_averages(recipe: &Recipe, own: &Recipe, setting: &Setting) -> Result<(), SweepError> {
    for (stage, before) in recipe.stages.iter().zip(&own.stages) {
        let lost = |start: u64| start >= stage.steps && start < before.steps;
        if let Some(ema) = stage.ema.iter().find(|ema| lost(ema.start)) {
            return Err(SweepError::Budget {
                label: setting.label(),
                message: format!(
                    "its budget leaves stage {} {} steps, and an average begins after {}; give the average an earlier `start`",
                    stage.name, stage.steps, ema.start
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
