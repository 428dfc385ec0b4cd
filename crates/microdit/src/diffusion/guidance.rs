//! Guidance: how several predictions become one. It acts on the network's output, whatever the family.

use crate::{
    net::{Conditioning, Denoiser},
    ops::DitBackend,
    range::{OutOfRange, require, within},
};
use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// How far predictions are pushed away from those without the caption (classifier-free guidance, arXiv 2207.12598).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guidance {
    /// `other + scale (prediction - other)`; 1 is none.
    pub scale: f64,
    /// Share, in `0..=1`, of the guided prediction that is brought back to the standard deviation of the unguided one
    /// (arXiv 2305.08891, section 3.4), which keeps pictures from overexposure.
    pub rescale: f64,
    /// Noise over signal within which guidance acts (arXiv 2404.07724); everywhere if absent.
    pub interval: Option<Interval>,
}

/// From one noise level to another, as noise over signal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The lowest, 0 to 1e6.
    pub from: f64,
    /// The highest, not below `from`; at most 1e6.
    pub to: f64,
}

impl Default for Guidance {
    fn default() -> Self {
        Self {
            scale: 1.0,
            rescale: 0.0,
            interval: None,
        }
    }
}

impl Guidance {
    /// The range of scales: 0 ignores the caption, 1 does not guide.
    pub const SCALES: RangeInclusive<f64> = 0.0..=1000.0;

    /// Plain guidance of that scale.
    pub fn scale(scale: f64) -> Self {
        Self {
            scale,
            ..Self::default()
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("scale", self.scale, Self::SCALES)?;
        within("rescale", self.rescale, 0.0..=1.0)?;
        let Some(Interval { from, to }) = self.interval else {
            return Ok(());
        };
        within("interval.from", from, 0.0..=1e6)?;
        within("interval.to", to, 0.0..=1e6)?;
        require(from <= to, "interval", || {
            format!("its beginning {from} must not be above its end {to}")
        })
    }

    /// The prediction at this noise over signal: `one` with the caption, or `both` with and without it where guidance acts.
    pub fn guide<B: Backend>(
        &self,
        sigma: f64,
        one: impl FnOnce() -> Tensor<B, 4>,
        both: impl FnOnce() -> [Tensor<B, 4>; 2],
    ) -> Tensor<B, 4> {
        if !self.acts_at(sigma) {
            return one();
        }
        let [prediction, other] = both();
        self.combine(prediction, other)
    }

    /// The guided prediction of one network: `x` and `time` as in [`Inputs`](crate::net::Inputs), at noise over signal `sigma`,
    /// towards `conditioning` and away from `other`. Both are computed in one batch.
    pub fn predict<B: DitBackend, D: Denoiser<B>>(
        &self,
        denoiser: &D,
        x: Tensor<B, 4>,
        time: Tensor<B, 1>,
        sigma: f64,
        conditioning: &Conditioning<B>,
        other: &Conditioning<B>,
    ) -> Tensor<B, 4> {
        let (twice, times) = (vec![x.clone(); 2], time.clone());
        self.guide(
            sigma,
            || denoiser.image(x, time, conditioning.clone()),
            || {
                let times = match times.dims() {
                    [1] => times,
                    _ => Tensor::cat(vec![times.clone(), times], 0),
                };
                let both = conditioning.clone().followed_by(other.clone());
                let predicted = denoiser.image(Tensor::cat(twice, 0), times, both);
                let halves = predicted.chunk(2, 0);
                halves.try_into().expect("two halves")
            },
        )
    }

    /// Whether a second prediction is needed at this noise over signal.
    pub fn acts_at(&self, sigma: f64) -> bool {
        let inside = |interval: Interval| (interval.from..=interval.to).contains(&sigma);
        self.scale != 1.0 && self.interval.is_none_or(inside)
    }

    /// The guided prediction: `prediction` with the caption, and `other` without it, of a negative prompt, or of a weaker
    /// network (autoguidance, arXiv 2406.02507); `[batch, channels, height, width]`.
    pub fn combine<B: Backend>(
        &self,
        prediction: Tensor<B, 4>,
        other: Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let guided = other.clone() + (prediction.clone() - other) * self.scale;
        if self.rescale == 0.0 {
            return guided;
        }
        let factor = deviation(prediction) / deviation(guided.clone());
        guided.clone() * factor * self.rescale + guided * (1.0 - self.rescale)
    }
}

/// Unbiased standard deviation of each sample, `[batch, 1, 1, 1]`.
fn deviation<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let [batch, channels, height, width] = x.dims();
    let flat = x.reshape([batch, channels * height * width]);
    flat.var(1).sqrt().reshape([batch, 1, 1, 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    #[test]
    fn it_acts_inside_its_interval_only() {
        let guidance = Guidance {
            interval: Some(Interval { from: 0.3, to: 5.0 }),
            ..Guidance::scale(3.0)
        };
        assert_eq!(
            [0.1, 1.0, 9.0].map(|sigma| guidance.acts_at(sigma)),
            [false, true, false]
        );
        assert!(!Guidance::default().acts_at(1.0));
    }

    #[test]
    fn full_rescaling_restores_the_deviation() {
        let values =
            |seed| crate::rng::Stream::new(seed, crate::rng::Purpose::Noise, 0, 0).normal(24);
        let tensor = |seed| {
            Tensor::<Flex, 1>::from_floats(&values(seed)[..], &Default::default())
                .reshape([2, 3, 2, 2])
        };
        let guidance = Guidance {
            rescale: 1.0,
            ..Guidance::scale(7.5)
        };
        let guided = guidance.combine(tensor(1), tensor(2));
        let ratio = deviation(guided) / deviation(tensor(1));
        assert!((ratio - 1.0).abs().max().into_scalar() < 1e-5);
    }
}
