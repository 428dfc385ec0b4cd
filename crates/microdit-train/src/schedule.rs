//! Learning-rate schedules: a multiplier of the base rate by step.

use microdit::range::{OutOfRange, require, within};
use serde::{Deserialize, Serialize};

/// How the learning rate changes over a run.
///
/// ```
/// use microdit_train::schedule::{Curve, Schedule};
/// let schedule = Schedule::new(Curve::Cosine { warmup: 10, total: None, floor: 0.1 });
/// let in_stage = |step| schedule.multiplier(step, 110);
/// assert_eq!(in_stage(5), 0.5);
/// assert_eq!(in_stage(10), 1.0);
/// assert!((in_stage(110) - 0.1).abs() < 1e-12);
///
/// let schedule = Schedule::new(Curve::WarmupStableDecay { warmup: 10, total: Some(110), decay: 20, floor: 0.0 });
/// assert_eq!([10, 90, 100, 110].map(|step| schedule.multiplier(step, 500)), [1.0, 1.0, 0.5, 0.0]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The curve.
    pub curve: Curve,
    /// Train batch b with the multiplier of batch b - 1, as the reference's trainer does: it advances the schedule
    /// before it counts the batch, so that batches 0 and 1 share a multiplier.
    #[serde(default)]
    pub one_batch_lag: bool,
}

/// A multiplier as a function of the step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Curve {
    /// 1 throughout, after a linear rise from 0.
    Constant {
        /// Steps of the rise.
        #[serde(default)]
        warmup: u64,
    },
    /// A linear rise from 0, then half a cosine down to a floor, which holds from then on.
    Cosine {
        /// Steps of the rise.
        #[serde(default)]
        warmup: u64,
        /// Step at which the floor is reached, warm-up included; at least 1 and `warmup`. The stage's last one if absent.
        #[serde(default)]
        total: Option<u64>,
        /// Multiplier at the end, 0 to 1.
        #[serde(default)]
        floor: f64,
    },
    /// Warm-up, stable, decay (arXiv 2404.06395): a linear rise from 0, then 1, then a straight line down to a floor,
    /// which holds from then on.
    WarmupStableDecay {
        /// Steps of the rise.
        #[serde(default)]
        warmup: u64,
        /// Step at which the floor is reached; at least 1 and `warmup + decay`. The stage's last one if absent.
        #[serde(default)]
        total: Option<u64>,
        /// Steps of the fall, the last ones before `total`.
        decay: u64,
        /// Multiplier at the end, 0 to 1.
        #[serde(default)]
        floor: f64,
    },
}

impl Default for Curve {
    /// No schedule.
    fn default() -> Self {
        Self::Constant { warmup: 0 }
    }
}

impl Schedule {
    /// A schedule without lag.
    pub fn new(curve: Curve) -> Self {
        Self {
            curve,
            one_batch_lag: false,
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let curve = self.curve.validate();
        curve.map_err(|error| error.inside("curve"))
    }

    /// Multiplier of the base learning rate while batch `step`, counted from 0, of a stage of `steps` is trained.
    pub fn multiplier(&self, step: u64, steps: u64) -> f64 {
        let step = if self.one_batch_lag {
            step.saturating_sub(1)
        } else {
            step
        };
        self.curve.at(step, steps)
    }
}

impl Curve {
    /// Whether its end is that of the stage.
    pub(crate) fn ends_with_stage(&self) -> bool {
        match self {
            Self::Constant { .. } => false,
            Self::Cosine { total, .. } | Self::WarmupStableDecay { total, .. } => total.is_none(),
        }
    }

    fn validate(&self) -> Result<(), OutOfRange> {
        let (warmup, total, decay, floor) = match *self {
            Self::Constant { .. } => return Ok(()),
            Self::Cosine {
                warmup,
                total,
                floor,
            } => (warmup, total, 0, floor),
            Self::WarmupStableDecay {
                warmup,
                total,
                decay,
                floor,
            } => (warmup, total, decay, floor),
        };
        within("floor", floor, 0.0..=1.0)?;
        // A stage shorter than its warm-up has only the rise, as with a constant rate.
        let Some(total) = total else {
            return Ok(());
        };
        within("total", total, 1..)?;
        let room = total.checked_sub(warmup);
        require(room.is_some_and(|room| decay <= room), "total", || {
            format!("{total} is less than warmup {warmup} and decay {decay} together")
        })
    }

    /// The multiplier at `step` of a stage of `steps`.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        let (Self::Constant { warmup }
        | Self::Cosine { warmup, .. }
        | Self::WarmupStableDecay { warmup, .. }) = *self;
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        match *self {
            Self::Constant { .. } => 1.0,
            Self::Cosine { total, floor, .. } => {
                let span = total.unwrap_or(steps).saturating_sub(warmup).max(1) as f64;
                let done = ((step - warmup) as f64 / span).min(1.0);
                floor + (1.0 - floor) * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0
            }
            Self::WarmupStableDecay {
                total,
                decay,
                floor,
                ..
            } => {
                let left = total.unwrap_or(steps).saturating_sub(step) as f64 / decay.max(1) as f64;
                floor + (1.0 - floor) * left.min(1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_in_range_stay_between_0_and_1() {
        let most = u64::MAX;
        for curve in [
            Curve::Constant { warmup: most },
            Curve::Cosine {
                warmup: most,
                total: Some(most),
                floor: 0.0,
            },
            Curve::WarmupStableDecay {
                warmup: most - 1,
                total: Some(most),
                decay: 1,
                floor: 1.0,
            },
        ] {
            curve.validate().unwrap();
            for step in [0, 1, most - 1, most] {
                let multiplier = curve.at(step, 1);
                assert!((0.0..=1.0).contains(&multiplier), "{curve:?}: {multiplier}");
            }
        }
    }

    #[test]
    fn a_fall_must_fit_behind_the_warm_up() {
        let decay = |warmup, decay| Curve::WarmupStableDecay {
            warmup,
            total: Some(10),
            decay,
            floor: 0.0,
        };
        let cosine = |warmup, floor| Curve::Cosine {
            warmup,
            total: Some(10),
            floor,
        };
        assert!(decay(4, 6).validate().is_ok() && decay(4, 7).validate().is_err());
        assert!(decay(u64::MAX, u64::MAX).validate().is_err());
        assert!(cosine(10, 0.0).validate().is_ok() && cosine(11, 0.0).validate().is_err());
        assert!(cosine(0, f64::NAN).validate().is_err() && cosine(0, 1.1).validate().is_err());
    }

    #[test]
    fn without_a_total_the_end_is_the_stages() {
        let curves = |total| {
            [
                Curve::Cosine {
                    warmup: 3,
                    total,
                    floor: 0.1,
                },
                Curve::WarmupStableDecay {
                    warmup: 3,
                    total,
                    decay: 4,
                    floor: 0.1,
                },
            ]
        };
        for (own, given) in curves(None).into_iter().zip(curves(Some(20))) {
            for step in 0..30 {
                assert_eq!(own.at(step, 20), given.at(step, 7), "{own:?} at {step}");
            }
            // Even in a stage shorter than the warm-up.
            own.validate().unwrap();
            assert!((0..30).all(|step| (0.0..=1.0).contains(&own.at(step, 2))));
        }
    }
}
