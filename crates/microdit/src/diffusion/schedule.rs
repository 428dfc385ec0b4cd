//! The noise levels visited while sampling.

use super::{
    config::{DiffusionConfig, Family},
    family::{Diffusion, Level, Point},
    flow_matching::{FlowMatching, shifted},
    trajectory::{Trajectory, numbered},
    vp::VpTable,
};
use crate::range::{OutOfRange, above, require, within};
use serde::{Deserialize, Serialize};

/// The clean image in a family whose time there is 0.
fn clean() -> Point {
    Point {
        time: 0.0,
        level: Level::CLEAN,
    }
}

/// Noise levels from `sigma_max` to `sigma_min`, evenly spaced in `sigma^(1/rho)` (EDM, arXiv 2206.00364, equation 5).
///
/// ```
/// let sigmas = microdit::diffusion::schedule::SigmaSchedule::default().sigmas(30);
/// assert_eq!((sigmas[0], sigmas.len(), sigmas[30]), (80.0, 31, 0.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SigmaSchedule {
    /// Last noise level before 0, 1e-6 to 1e6, below `sigma_max`.
    pub sigma_min: f64,
    /// First noise level, 1e-6 to 1e6.
    pub sigma_max: f64,
    /// Larger values spend more steps at low noise; 1 to 1000.
    pub rho: f64,
}

impl Default for SigmaSchedule {
    fn default() -> Self {
        Self {
            sigma_min: 0.002,
            sigma_max: 80.0,
            rho: 7.0,
        }
    }
}

impl SigmaSchedule {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("sigma_min", self.sigma_min, 1e-6..=1e6)?;
        within("sigma_max", self.sigma_max, 1e-6..=1e6)?;
        within("rho", self.rho, 1.0..=1e3)?;
        require(self.sigma_min < self.sigma_max, "sigma_min", || {
            let (min, max) = (self.sigma_min, self.sigma_max);
            format!("{min} must be below sigma_max {max}")
        })
    }

    /// `steps` noise levels, falling, followed by 0.
    pub fn sigmas(&self, steps: usize) -> Vec<f64> {
        let (max, min) = (
            self.sigma_max.powf(1.0 / self.rho),
            self.sigma_min.powf(1.0 / self.rho),
        );
        let last = steps.saturating_sub(1).max(1) as f64;
        (0..steps)
            .map(|i| (max + i as f64 / last * (min - max)).powf(self.rho))
            .enumerate()
            // The first level is exact, not a power of a root.
            .map(|(i, sigma)| if i == 0 { self.sigma_max } else { sigma })
            .chain([0.0])
            .collect()
    }

    /// The path over these levels in any family.
    pub fn trajectory(&self, family: &impl Diffusion, steps: usize) -> Trajectory {
        let mut sigmas = self.sigmas(steps);
        sigmas.pop();
        let points: Vec<Point> = sigmas.iter().map(|&sigma| family.at_sigma(sigma)).collect();
        let start = points.first().map_or(1.0, |first| first.level.noise);
        Trajectory::new(&points, clean(), start)
    }
}

/// How the visited timesteps are spaced among the trained ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spacing {
    /// A whole number of timesteps apart, upwards from the first: the last one is never visited.
    Leading,
    /// The same, downwards from the last.
    #[default]
    Trailing,
    /// From the first to the last.
    Linspace,
}

/// The conventions samplers were published with, which differ in rounding and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convention {
    /// Of DDIM: whole timesteps, each step as long as the others.
    #[default]
    Ddim,
    /// Of k-diffusion's samplers: timesteps may lie between two.
    Euler,
    /// Of DPM-Solver: whole timesteps, one more interval.
    Dpm,
}

/// Where the last step ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// At the clean image.
    #[default]
    Clean,
    /// At the first trained timestep, which has a little noise.
    FirstTimestep,
}

/// Timesteps of a [`VpTable`] that are visited (the conventions of diffusers' schedulers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimestepSchedule {
    /// How they are spaced among the trained ones.
    pub spacing: Spacing,
    /// Added to the timesteps of leading spacing.
    pub offset: usize,
    /// Where the last step ends.
    pub end: End,
    /// Keeps the ends and spaces noise over signal between them as EDM does, with rho 7.
    pub karras: bool,
}

impl TimestepSchedule {
    /// The path of `steps` steps, at least one.
    pub fn trajectory(&self, table: &VpTable, convention: Convention, steps: usize) -> Trajectory {
        let count = table.shares().len();
        let times = self.times(count, convention, steps);
        let first_time = Point {
            time: 0.0,
            level: table.at_time(0.0).level,
        };
        let end = match self.end {
            End::Clean => clean(),
            End::FirstTimestep => first_time,
        };
        if convention == Convention::Ddim {
            // Every step has the same length, so that with trailing spacing it may end beside the next one's start.
            let length = (count / steps.max(1)) as f64;
            let pair = |&time: &f64| {
                let to = match time - length {
                    before if before < 0.0 => end,
                    before => table.at_time(before),
                };
                (table.at_time(time), to)
            };
            return Trajectory {
                steps: numbered(times.iter().map(pair).collect()),
                start: 1.0,
            };
        }
        let sigmas: Vec<f64> = times.iter().map(|&time| table.sigma_at(time)).collect();
        let points: Vec<Point> = if self.karras {
            let (max, min) = match convention {
                Convention::Dpm => (table.sigmas().last(), table.sigmas().first()),
                _ => (sigmas.first(), sigmas.last()),
            };
            let spaced = SigmaSchedule {
                sigma_max: max.copied().unwrap_or(1.0),
                sigma_min: min.copied().unwrap_or(1.0),
                ..SigmaSchedule::default()
            };
            let spaced = spaced.sigmas(steps);
            let point = |&sigma: &f64| {
                let point = table.at_sigma(sigma);
                let time = match convention {
                    Convention::Dpm => point.time.round_ties_even(),
                    _ => point.time,
                };
                Point { time, ..point }
            };
            spaced[..steps].iter().map(point).collect()
        } else {
            let point = |(&time, &sigma): (&f64, &f64)| Point {
                time,
                level: Level::variance_preserving(sigma),
            };
            times.iter().zip(&sigmas).map(point).collect()
        };
        let start = match (convention, self.spacing, points.first()) {
            (Convention::Euler, Spacing::Linspace | Spacing::Trailing, Some(first)) => {
                first.level.noise
            }
            _ => 1.0,
        };
        Trajectory::new(&points, end, start)
    }

    /// The timesteps, falling.
    fn times(&self, count: usize, convention: Convention, steps: usize) -> Vec<f64> {
        let last = (count - 1) as f64;
        match (self.spacing, convention) {
            (Spacing::Linspace, Convention::Dpm) => {
                let at = |i: usize| (last * i as f64 / steps as f64).round_ties_even();
                (1..=steps).rev().map(at).collect()
            }
            (Spacing::Linspace, _) => {
                let gaps = steps.saturating_sub(1).max(1) as f64;
                let at = |i: usize| match convention {
                    Convention::Ddim => (last * i as f64 / gaps).round_ties_even(),
                    _ => last * i as f64 / gaps,
                };
                (0..steps).rev().map(at).collect()
            }
            (Spacing::Leading, Convention::Dpm) => {
                let length = count / (steps + 1);
                (1..=steps)
                    .rev()
                    .map(|i| (i * length + self.offset) as f64)
                    .collect()
            }
            (Spacing::Leading, _) => {
                let length = count / steps;
                (0..steps)
                    .rev()
                    .map(|i| (i * length + self.offset) as f64)
                    .collect()
            }
            (Spacing::Trailing, _) => {
                let length = count as f64 / steps as f64;
                (0..steps)
                    .map(|i| (count as f64 - i as f64 * length).round_ties_even() - 1.0)
                    .collect()
            }
        }
    }
}

/// How the visited times of [`FlowMatching`] are moved towards noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Shift {
    /// By a factor like [`FlowMatching::shift`], applied to the ends and again to all (the convention of diffusers).
    Static(f64),
    /// By `e^mu / (e^mu + 1 / t - 1)`, for a `mu` that grows with the number of tokens.
    Dynamic {
        /// Logarithm of the factor.
        mu: f64,
    },
}

/// Number of timesteps flow matching is assumed to be trained with.
const FLOW_TIMESTEPS: f64 = 1000.0;

impl Shift {
    /// The path of `steps` steps from pure noise.
    pub fn trajectory(self, family: &FlowMatching, steps: usize) -> Trajectory {
        let least = 1.0 / FLOW_TIMESTEPS;
        let (least, shift): (f64, &dyn Fn(f64) -> f64) = match self {
            Self::Static(shift) => (shifted(least, shift), &move |t| shifted(t, shift)),
            Self::Dynamic { mu } => (least, &move |t: f64| mu.exp() / (mu.exp() + 1.0 / t - 1.0)),
        };
        let gaps = steps.saturating_sub(1).max(1) as f64;
        let even = |i: usize| 1.0 + i as f64 / gaps * (least - 1.0);
        let points: Vec<Point> = (0..steps).map(|i| family.at_time(shift(even(i)))).collect();
        Trajectory::new(&points, clean(), 1.0)
    }
}

/// One of the schedules, for recipes and the command line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum ScheduleConfig {
    /// [`SigmaSchedule`], for every family.
    Sigmas(SigmaSchedule),
    /// [`TimestepSchedule`], for [`Vp`](super::Vp).
    Timesteps(TimestepSchedule),
    /// [`Shift`], for [`FlowMatching`].
    Shift(Shift),
}

impl ScheduleConfig {
    /// The usual schedule of a family.
    pub fn of(family: &Family) -> Self {
        match family {
            Family::Edm(_) => Self::Sigmas(SigmaSchedule::default()),
            Family::Vp(_) => Self::Timesteps(TimestepSchedule::default()),
            Family::FlowMatching(_) => Self::Shift(Shift::Static(1.0)),
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        match self {
            Self::Sigmas(sigmas) => sigmas.validate(),
            Self::Timesteps(timesteps) => within("offset", timesteps.offset, 0..=1 << 20),
            Self::Shift(Shift::Static(shift)) => within("shift", *shift, above(0.0, 1e3)),
            Self::Shift(Shift::Dynamic { mu }) => within("mu", *mu, -10.0..=10.0),
        }
    }

    /// Whether it applies to this kind of diffusion.
    pub fn serves(&self, diffusion: &DiffusionConfig) -> bool {
        matches!(
            (self, diffusion),
            (Self::Sigmas(_), _)
                | (Self::Timesteps(_), DiffusionConfig::Vp(_))
                | (Self::Shift(_), DiffusionConfig::FlowMatching(_))
        )
    }

    /// The path of `steps` steps, at least one, with a sampler's convention; for a family it does not apply to, the usual one.
    pub fn trajectory(&self, family: &Family, convention: Convention, steps: usize) -> Trajectory {
        match (self, family) {
            (Self::Sigmas(sigmas), family) => sigmas.trajectory(family, steps),
            (Self::Timesteps(timesteps), Family::Vp(table)) => {
                timesteps.trajectory(table, convention, steps)
            }
            (Self::Shift(shift), Family::FlowMatching(flow)) => shift.trajectory(flow, steps),
            (Self::Timesteps(_) | Self::Shift(_), family) => {
                Self::of(family).trajectory(family, convention, steps)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_in_range_fall_and_are_finite() {
        for sigma_min in [1e-6, 0.002] {
            for rho in [1.0, 7.0, 1e3] {
                let schedule = SigmaSchedule {
                    sigma_min,
                    sigma_max: 1e6,
                    rho,
                };
                schedule.validate().unwrap();
                let levels = schedule.sigmas(9);
                let fall = levels.windows(2).all(|pair| pair[0] > pair[1]);
                assert!(fall && levels[0] == 1e6, "{schedule:?}: {levels:?}");
            }
        }
        let default = SigmaSchedule::default();
        let reversed = SigmaSchedule {
            sigma_min: 90.0,
            ..default
        };
        let flat = SigmaSchedule {
            rho: 0.5,
            ..default
        };
        assert!(reversed.validate().is_err() && flat.validate().is_err());
    }
}
