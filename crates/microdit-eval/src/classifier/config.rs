//! How a classifier is built and trained, and the ranges of it.

use super::network::GROUPS;
use microdit::range::{OutOfRange, above, require, within};
use microdit_train::{
    optim::{Method, OptimizerConfig},
    schedule::{Curve, Schedule},
};
use serde::{Deserialize, Serialize};

/// How a [`Classifier`](super::Classifier) is built and trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// Side of the pictures in pixels, a multiple of 8 from 8 to 256.
    pub side: usize,
    /// Channels of the stages, each of which halves the side: multiples of 8 from 8 to 1024. The last are the features.
    pub widths: [usize; 3],
    /// Passes over the training pictures, 1 to 1000.
    pub epochs: u64,
    /// Pictures in a step, 1 to 4096.
    pub batch: usize,
    /// Learning rate after the warm-up, above 0 and at most 1; it falls to 0 along half a cosine.
    pub lr: f64,
    /// Decoupled weight decay, 0 to 1.
    pub weight_decay: f64,
    /// Pixels a training picture is shifted by at most, 0 to half the side.
    pub shift: usize,
    /// Seed of initial weights, order and augmentation.
    pub seed: u64,
}

impl Default for ClassifierConfig {
    /// For pictures of 32 pixels, such as CIFAR-10's.
    fn default() -> Self {
        Self {
            side: 32,
            widths: [32, 64, 128],
            epochs: 6,
            batch: 128,
            lr: 4e-3,
            weight_decay: 0.05,
            shift: 4,
            seed: 0,
        }
    }
}

impl ClassifierConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("side", self.side, 8..=256)?;
        require(self.side.is_multiple_of(8), "side", || {
            format!("must be a multiple of 8, not {}", self.side)
        })?;
        for (i, &width) in self.widths.iter().enumerate() {
            let key = format!("widths.{i}");
            within(&key, width, GROUPS..=1024)?;
            require(width.is_multiple_of(GROUPS), &key, || {
                format!("must be a multiple of {GROUPS}, not {width}")
            })?;
        }
        within("epochs", self.epochs, 1..=1000)?;
        within("batch", self.batch, 1..=4096)?;
        within("lr", self.lr, above(0.0, 1.0))?;
        within("weight_decay", self.weight_decay, 0.0..=1.0)?;
        within("shift", self.shift, 0..=self.side / 2)
    }

    /// Muon for the convolutions, AdamW for the rest.
    pub(super) fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            method: Method::muon(0.9),
            lr: self.lr,
            weight_decay: self.weight_decay,
            clip_norm: None,
            ..OptimizerConfig::default()
        }
    }

    /// A rise over the first twentieth of the steps, then half a cosine.
    pub(super) fn schedule(steps: u64) -> Schedule {
        Schedule::new(Curve::Cosine {
            warmup: steps / 20,
            total: None,
            floor: 0.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Every number has a range, and none of them ends a program.
    #[test]
    fn every_number_has_a_range() {
        let sound = ClassifierConfig::default();
        sound.validate().unwrap();
        let value = serde_json::to_value(&sound).unwrap();
        let leaves = [
            "/side",
            "/widths/0",
            "/widths/2",
            "/epochs",
            "/batch",
            "/lr",
            "/weight_decay",
            "/shift",
        ];
        let numbers = value.as_object().unwrap().len();
        // All but the seed, and the widths as one.
        assert_eq!(numbers, leaves.len());
        for leaf in leaves {
            for bad in [
                json!(u64::MAX),
                json!(1e300),
                json!(-1),
                json!(-1e-3),
                json!(4097),
            ] {
                let mut value = value.clone();
                *value.pointer_mut(leaf).unwrap() = bad.clone();
                let refused = match serde_json::from_value::<ClassifierConfig>(value) {
                    Ok(config) => config.validate().is_err(),
                    Err(_) => true,
                };
                assert!(refused, "{leaf}: {bad}");
            }
        }
        let mut other: Value = value;
        other["widht"] = json!(3);
        assert!(serde_json::from_value::<ClassifierConfig>(other).is_err());
    }
}
