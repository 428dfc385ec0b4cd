//! How far a run has come.

use super::manifest::STATE;
use microdit_data::Position;
use serde::{Deserialize, Serialize};

/// More steps, samples or passes than any run has: a larger number was not written here.
const MAX_COUNT: u64 = 1 << 53;

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Index of the stage.
    pub stage: usize,
    /// Finished steps of the stage.
    pub stage_step: u64,
    /// Finished steps of the run.
    pub step: u64,
    /// Images seen by the run.
    pub images: u64,
    /// Where the next batch begins.
    pub position: Position,
    /// Steps the optimizer has taken.
    pub optimizer_steps: u64,
    /// Time spent, in seconds.
    pub seconds: f64,
}

impl Progress {
    /// Checks the numbers, and names the first that is impossible.
    pub(super) fn check(&self) -> Result<(), String> {
        let places = self.position.sources.iter();
        let counts = [
            ("stage", self.stage as u64),
            ("stage_step", self.stage_step),
            ("step", self.step),
            ("images", self.images),
            ("optimizer_steps", self.optimizer_steps),
            ("position.drawn", self.position.drawn),
        ];
        let counts = counts.into_iter().chain(places.flat_map(|place| {
            [
                ("position.sources.epoch", place.epoch),
                ("position.sources.shard", place.shard as u64),
                ("position.sources.sample", place.sample),
            ]
        }));
        for (name, count) in counts {
            if count > MAX_COUNT {
                return Err(format!("{STATE}: {name} is {count}, more than a run has"));
            }
        }
        if self.stage_step > self.step {
            let (stage, run) = (self.stage_step, self.step);
            return Err(format!(
                "{STATE}: {stage} steps of the stage, but {run} of the run"
            ));
        }
        if !(self.seconds.is_finite() && self.seconds >= 0.0) {
            return Err(format!(
                "{STATE}: {} is not a time in seconds",
                self.seconds
            ));
        }
        Ok(())
    }
}
