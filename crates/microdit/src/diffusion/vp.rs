//! Variance-preserving diffusion in discrete timesteps (DDPM, arXiv 2006.11239), with the predictions, schedules and weights
//! of Stable Diffusion and its successors.

use super::{
    betas::{Betas, final_betas, product},
    family::{Diffusion, Level, Point, Row},
};
use crate::{
    range::{OutOfRange, above, require, within},
    rng::Stream,
};
use serde::{Deserialize, Serialize};

/// What the network predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prediction {
    /// The noise.
    #[default]
    Epsilon,
    /// The velocity `signal * eps - noise * clean` (arXiv 2202.00512).
    V,
    /// The clean image.
    Sample,
}

/// Weight of a timestep in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum VpWeighting {
    /// 1 in the space of the prediction.
    #[default]
    Uniform,
    /// The signal-to-noise ratio, clipped at gamma, as a weight of the denoised estimate (min-SNR, arXiv 2303.09556); 5 in its paper.
    MinSnr(f64),
}

/// Configuration of variance-preserving diffusion.
///
/// ```
/// use microdit::diffusion::{Diffusion, Vp};
///
/// let vp = Vp::default().init()?;
/// let last = vp.at_time(999.0).level;
/// assert!((last.signal - 0.0682649).abs() < 1e-6 && (last.noise - 0.9976672).abs() < 1e-6);
/// # Ok::<(), microdit::range::OutOfRange>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vp {
    /// Timesteps in training, at least 2.
    pub timesteps: usize,
    /// Noise added from one timestep to the next.
    pub betas: Betas,
    /// Rescales the schedule so that nothing of the image is left at the last timestep (arXiv 2305.08891, algorithm 1).
    pub zero_terminal_snr: bool,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Weight of a timestep in the loss.
    pub weighting: VpWeighting,
}

impl Default for Vp {
    /// The values of Stable Diffusion 1.
    fn default() -> Self {
        Self {
            timesteps: 1000,
            betas: Betas::SCALED_LINEAR,
            zero_terminal_snr: false,
            prediction: Prediction::Epsilon,
            weighting: VpWeighting::Uniform,
        }
    }
}

/// [`Vp`] with its tables.
#[derive(Clone, Debug)]
pub struct VpTable {
    config: Vp,
    /// The share of the variance that is signal, `signal^2`, by timestep: falling, in 0..1.
    shares: Vec<f32>,
    /// Noise over signal by timestep, kept finite: growing.
    sigmas: Vec<f64>,
}

/// The signal's share that replaces 0 where the ratio of noise to signal must be finite (diffusers' convention).
pub(in crate::diffusion) const LEAST_SHARE: f64 = 1.0 / (1u32 << 24) as f64;

impl Vp {
    /// Computes the tables.
    ///
    /// # Errors
    /// Values that define no schedule, and a zero terminal SNR with a prediction of the noise: at the last timestep the
    /// input would already be the answer, and the image could not be recovered from it.
    pub fn init(self) -> Result<VpTable, OutOfRange> {
        within("timesteps", self.timesteps, 2..=1 << 20)?;
        let recoverable = !self.zero_terminal_snr || self.prediction != Prediction::Epsilon;
        require(recoverable, "prediction", || {
            "must be V or Sample with zero_terminal_snr: nothing can be learned from predicting the noise in pure noise".into()
        })?;
        if let VpWeighting::MinSnr(gamma) = self.weighting {
            within("weighting", gamma, above(0.0, 1e6))?;
        }
        self.betas.validate()?;
        let betas = self.betas.values(self.timesteps);
        let shares = product(&final_betas(betas, self.zero_terminal_snr));
        let left = shares.last().copied().unwrap_or_default();
        let kept = self.zero_terminal_snr || left > 0.0;
        require(kept, "betas", || {
            "nothing is left of the image at the last of the timesteps; lower start or end, or take fewer timesteps".into()
        })?;
        let sigma = |&share: &f32| {
            let share = f64::from(share).max(LEAST_SHARE);
            ((1.0 - share) / share).sqrt()
        };
        Ok(VpTable {
            config: self,
            sigmas: shares.iter().map(sigma).collect(),
            shares,
        })
    }
}

impl VpTable {
    /// The configuration.
    pub fn config(&self) -> &Vp {
        &self.config
    }

    /// The variance of the noise added at every timestep, as the table has it: that of the configuration, rescaled where
    /// nothing of the image is left at the end.
    pub fn betas(&self) -> Vec<f32> {
        let betas = self.config.betas.values(self.shares.len());
        final_betas(betas, self.config.zero_terminal_snr)
    }

    /// The share of the variance that is signal, `alphas_cumprod` of the field's code, by timestep.
    pub fn shares(&self) -> &[f32] {
        &self.shares
    }

    /// Noise over signal by timestep, growing; kept finite where no signal is left.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// Noise over signal at a timestep that may lie between two: linear between them.
    pub(super) fn sigma_at(&self, time: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let below = (time.clamp(0.0, last as f64) as usize).min(last - 1);
        let part = (time - below as f64).clamp(0.0, 1.0);
        self.sigmas[below] * (1.0 - part) + self.sigmas[below + 1] * part
    }

    /// The timestep at which noise over signal is `sigma`: its logarithm is linear between two.
    pub(super) fn time_of(&self, sigma: f64) -> f64 {
        let above = self.sigmas.partition_point(|&known| known <= sigma);
        let below = above.saturating_sub(1).min(self.sigmas.len() - 2);
        let (low, high) = (self.sigmas[below].ln(), self.sigmas[below + 1].ln());
        below as f64 + ((sigma.ln() - low) / (high - low)).clamp(0.0, 1.0)
    }
}

impl Diffusion for VpTable {
    /// A whole timestep, all equally likely.
    fn draw_time(&self, random: &mut Stream) -> f64 {
        random.below(self.shares.len()) as f64
    }

    /// Whole timesteps are looked up; between two of them noise over signal is linear.
    fn at_time(&self, time: f64) -> Point {
        let level = if time.fract() == 0.0 && time < self.shares.len() as f64 && time >= 0.0 {
            let share = f64::from(self.shares[time as usize]);
            Level {
                signal: share.sqrt(),
                noise: (1.0 - share).sqrt(),
            }
        } else {
            Level::variance_preserving(self.sigma_at(time))
        };
        Point { time, level }
    }

    fn at_sigma(&self, sigma: f64) -> Point {
        Point {
            time: self.time_of(sigma),
            level: Level::variance_preserving(sigma),
        }
    }

    /// `c_noise` is the timestep.
    fn row(&self, point: Point) -> Row {
        let Level { signal, noise } = point.level;
        let snr = (signal / noise).powi(2);
        // Weights are stated for the denoised estimate; an error of the output is `c_out` times as large there.
        let (c_skip, c_out, target_clean, target_noise, squared_c_out_times_snr) =
            match self.config.prediction {
                Prediction::Epsilon => (1.0 / signal, -noise / signal, 0.0, 1.0, 1.0),
                Prediction::V => (signal, -noise, -noise, signal, signal * signal),
                Prediction::Sample => (0.0, 1.0, 1.0, 0.0, snr),
            };
        Row {
            level: point.level,
            c_in: 1.0,
            c_skip,
            c_out,
            c_noise: point.time,
            target_clean,
            target_noise,
            weight: match self.config.weighting {
                VpWeighting::Uniform => 1.0,
                VpWeighting::MinSnr(gamma) if snr <= gamma => squared_c_out_times_snr,
                VpWeighting::MinSnr(gamma) => squared_c_out_times_snr * gamma / snr,
            },
        }
    }
}
