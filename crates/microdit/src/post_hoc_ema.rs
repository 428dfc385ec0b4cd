//! Averages of weights whose length is chosen afterwards (EDM2, arXiv 2312.02696, section 3): two power-function averages are
//! tracked, snapshots of them are kept, and that of any other length is the combination of snapshots nearest to it.
//!
//! A power-function average after `t` steps weighs the weights of step `s` by `s^gamma`. Its relative width `sigma_rel` is the
//! standard deviation of that profile over `t`, so that an average grows with the training.

use crate::{
    ema::{Decay, EmaConfig},
    range::{OutOfRange, within},
};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Relative widths of the averages that are tracked: those of the paper.
pub const TRACKED: [f64; 2] = [0.05, 0.1];

/// Relative widths there are; 0.2887 is the mean of all steps alike.
pub const SIGMA_RELS: RangeInclusive<f64> = 0.005..=0.28;

/// Snapshots of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostHocConfig {
    /// Steps between snapshots, at least 1; the end of the stage has one too.
    pub every: u64,
}

impl PostHocConfig {
    /// Checks the range.
    ///
    /// # Errors
    /// `every`, with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("every", self.every, 1..)
    }

    /// The averages that are tracked.
    pub fn averages() -> [EmaConfig; 2] {
        TRACKED.map(|sigma_rel| EmaConfig {
            decay: Decay::Power(sigma_rel),
            start: 0,
            every: 1,
        })
    }
}

/// The exponent of the profile of relative width `sigma_rel`: the largest root of `g^3 + 7 g^2 + (16 - s^-2) g + 12 - s^-2`
/// (equation 126).
///
/// ```
/// use microdit::post_hoc_ema::{gamma, sigma_rel};
/// assert!((gamma(0.05) - 16.97).abs() < 0.01 && (gamma(0.1) - 6.94).abs() < 0.01);
/// assert!((sigma_rel(gamma(0.15)) - 0.15).abs() < 1e-12);
/// ```
pub fn gamma(sigma_rel: f64) -> f64 {
    let inverse = sigma_rel.powi(-2);
    // The cubic is positive, increasing and convex from here down to its largest root: Newton's steps never pass it.
    let mut gamma = 1.0 / sigma_rel;
    loop {
        let value = ((gamma + 7.0) * gamma + 16.0 - inverse) * gamma + 12.0 - inverse;
        let slope = (3.0 * gamma + 14.0) * gamma + 16.0 - inverse;
        let next = gamma - value / slope;
        // Rounding ends the descent; a cubic without such a root has no descent at all.
        if next.is_nan() || next >= gamma {
            return gamma;
        }
        gamma = next;
    }
}

/// The relative width of the profile of exponent `gamma`, above -1 (equation 123).
pub fn sigma_rel(gamma: f64) -> f64 {
    ((gamma + 1.0) / ((gamma + 2.0).powi(2) * (gamma + 3.0))).sqrt()
}

/// A power-function profile: how much an average weighs each moment of the training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Steps after which it ends, above 0; any other measure of time does, as long as all profiles are in it.
    pub end: f64,
    /// Its exponent, above -0.5.
    pub gamma: f64,
}

impl Profile {
    /// Of relative width `sigma_rel`, after `end` steps.
    pub fn new(end: f64, sigma_rel: f64) -> Self {
        Self {
            end,
            gamma: gamma(sigma_rel),
        }
    }

    /// Weight of the moment `at`, which integrates to 1; nothing after the end.
    pub fn density(&self, at: f64) -> f64 {
        match (0.0..=self.end).contains(&at) {
            true => (self.gamma + 1.0) / self.end * (at / self.end).powf(self.gamma),
            false => 0.0,
        }
    }

    /// Integral of the product of both densities (equation 151).
    pub fn product(&self, other: &Self) -> f64 {
        let [first, last] = match self.end < other.end {
            true => [self, other],
            false => [other, self],
        };
        let scale = (first.gamma + 1.0) * (last.gamma + 1.0) / (first.gamma + last.gamma + 1.0);
        scale * (first.end / last.end).powf(last.gamma) / last.end
    }
}

/// How much of each snapshot makes the average nearest to `target`, by least squares between the profiles; they sum to 1. None
/// where two snapshots are the same.
pub fn coefficients(snapshots: &[Profile], target: &Profile) -> Option<Vec<f64>> {
    let row = |a: &Profile| snapshots.iter().map(|b| a.product(b)).collect();
    let products = snapshots.iter().map(row).collect();
    let wanted = snapshots.iter().map(|a| a.product(target)).collect();
    let mut found = solve(products, wanted)?;
    let sum: f64 = found.iter().sum();
    found.iter_mut().for_each(|x| *x /= sum);
    found.iter().all(|x| x.is_finite()).then_some(found)
}

/// The solution of `rows x = right`, by elimination with the largest pivot; none where there is no single one.
fn solve(mut rows: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let count = right.len();
    for i in 0..count {
        let size = |row: &usize| rows[*row][i].abs();
        let pivot = (i..count).max_by(|a, b| size(a).total_cmp(&size(b)))?;
        rows.swap(i, pivot);
        right.swap(i, pivot);
        let (above, below) = rows.split_at_mut(i + 1);
        let row = &above[i];
        if row[i] == 0.0 {
            return None;
        }
        for (k, other) in below.iter_mut().enumerate() {
            let factor = other[i] / row[i];
            for (value, above) in other[i..].iter_mut().zip(&row[i..]) {
                *value -= factor * above;
            }
            right[i + 1 + k] -= factor * right[i];
        }
    }
    for i in (0..count).rev() {
        let known: f64 = (i + 1..count).map(|j| rows[i][j] * right[j]).sum();
        right[i] = (right[i] - known) / rows[i][i];
    }
    Some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The profile's standard deviation over its end is `sigma_rel`, and its products are integrals.
    #[test]
    fn a_profile_has_the_width_it_is_named_by() {
        let count = 200_000;
        let integral = |f: &dyn Fn(f64) -> f64| -> f64 {
            let width = 100.0 / f64::from(count);
            (0..count)
                .map(|i| f((f64::from(i) + 0.5) * width) * width)
                .sum()
        };
        for sigma in [0.03, 0.1, 0.25] {
            let profile = Profile::new(100.0, sigma);
            let mean = integral(&|t| t * profile.density(t));
            let variance = integral(&|t| (t - mean).powi(2) * profile.density(t));
            assert!(
                (variance.sqrt() / 100.0 / sigma - 1.0).abs() < 1e-4,
                "{sigma}"
            );
            for other in [Profile::new(60.0, 0.1), Profile::new(100.0, 0.05)] {
                let expected = integral(&|t| profile.density(t) * other.density(t));
                for found in [profile.product(&other), other.product(&profile)] {
                    assert!((found / expected - 1.0).abs() < 1e-4, "{sigma}");
                }
            }
        }
    }

    /// An average that was tracked is found again in its own snapshot, and in nothing else.
    #[test]
    fn a_tracked_average_is_its_own_reconstruction() {
        let ends = [10.0, 20.0, 30.0];
        let of = |end: f64| TRACKED.map(|sigma| Profile::new(end, sigma));
        let snapshots: Vec<Profile> = ends.into_iter().flat_map(of).collect();
        for (i, target) in snapshots.iter().enumerate() {
            let found = coefficients(&snapshots, target).unwrap();
            for (k, found) in found.iter().enumerate() {
                let expected = f64::from(u8::from(k == i));
                assert!((found - expected).abs() < 1e-10, "{i} {k}: {found}");
            }
        }
        let twice = [snapshots[0], snapshots[0]];
        assert_eq!(coefficients(&twice, &snapshots[1]), None);
    }
}
