//! Settings of an optimizer, and their ranges.

use super::{Lamb, ParamGroup, ParamKind};
use microdit::range::{OutOfRange, require, within};
use serde::{Deserialize, Serialize};

/// How a gradient becomes an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Method {
    /// Adam with decoupled weight decay.
    #[default]
    AdamW,
    /// Adam scaled per tensor, for large batches.
    Lamb(Lamb),
    /// Plain gradient descent, which keeps no state.
    Sgd,
    /// Orthogonalized momentum for the matrices of blocks and experts; AdamW for everything else.
    Muon {
        /// Decay of the momentum, at least 0 and below 1.
        momentum: f64,
        /// Looks ahead along the momentum.
        #[serde(default = "yes")]
        nesterov: bool,
        /// How large an update is.
        #[serde(default)]
        size: MuonSize,
    },
}

fn yes() -> bool {
    true
}

/// What a learning rate of 1 means for an orthogonal update of `rows` by `columns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MuonSize {
    /// `0.2 sqrt(max(rows, columns))`: entries as large as AdamW's, so that learning rate and decay carry over (Moonlight, arXiv
    /// 2502.16982, section 2.2).
    #[default]
    MatchAdamW,
    /// `sqrt(max(1, rows / columns))` (Jordan et al., 2024).
    Original,
    /// `sqrt(rows / columns)` (arXiv 2310.17813).
    Spectral,
}

impl Method {
    /// Muon with the usual choices.
    pub fn muon(momentum: f64) -> Self {
        Self::Muon {
            momentum,
            nesterov: true,
            size: MuonSize::default(),
        }
    }
}

/// Settings of an [`Optimizer`](super::Optimizer).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// The method.
    pub method: Method,
    /// Learning rate before the schedule's multiplier, 0 to 100.
    pub lr: f64,
    /// Decay of the first moment, at least 0 and below 1.
    pub beta1: f64,
    /// Decay of the second moment, at least 0 and below 1.
    pub beta2: f64,
    /// Added to the root of the second moment, 1e-20 to 1.
    pub eps: f64,
    /// Decoupled weight decay, 0 to 1000, and at most 1 once multiplied by the learning rate.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm, 1e-9 to 1e9; none leaves them.
    pub clip_norm: Option<f64>,
    /// Multipliers for kinds of parameters; kinds in no group have 1.
    pub groups: Vec<ParamGroup>,
}

impl Default for OptimizerConfig {
    /// The values of MicroDiT's first phase.
    fn default() -> Self {
        Self {
            method: Method::AdamW,
            lr: 2.4e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            clip_norm: Some(0.25),
            groups: Vec::new(),
        }
    }
}

impl OptimizerConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range, or a rule between several.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        match self.method {
            Method::AdamW | Method::Sgd => {}
            Method::Lamb(lamb) => lamb.validate().map_err(|error| error.inside("method"))?,
            Method::Muon { momentum, .. } => within("method.momentum", momentum, 0.0..1.0)?,
        }
        within("lr", self.lr, 0.0..=100.0)?;
        within("beta1", self.beta1, 0.0..1.0)?;
        within("beta2", self.beta2, 0.0..1.0)?;
        // Smaller values are 0 in f32, and a gradient of 0 would be divided by it.
        within("eps", self.eps, 1e-20..=1.0)?;
        within("weight_decay", self.weight_decay, 0.0..=1000.0)?;
        if let Some(clip) = self.clip_norm {
            within("clip_norm", clip, 1e-9..=1e9)?;
        }
        self.shrinks(1.0, 1.0)?;
        for (i, group) in self.groups.iter().enumerate() {
            let inside = |error: OutOfRange| error.inside(&format!("groups.{i}"));
            group.validate().map_err(inside)?;
            self.shrinks(group.lr, group.weight_decay).map_err(inside)?;
        }
        let kinds: Vec<_> = self.groups.iter().flat_map(|group| &group.kinds).collect();
        let twice = (1..kinds.len()).any(|i| kinds[..i].contains(&kinds[i]));
        require(!twice, "groups", || {
            "a kind of parameters is in two groups".into()
        })
    }

    /// Checks that decay makes parameters smaller: above 1 they would change their sign, and could grow without end.
    fn shrinks(&self, lr: f64, weight_decay: f64) -> Result<(), OutOfRange> {
        let decay = self.lr * lr * self.weight_decay * weight_decay;
        require(decay <= 1.0, "weight_decay", || {
            format!(
                "times the learning rate it is {decay:?}; it must be at most 1, or weights would change their sign"
            )
        })
    }

    /// Multipliers of learning rate and weight decay.
    pub(super) fn multipliers(&self, kind: ParamKind) -> (f64, f64) {
        let group = self.groups.iter().find(|group| group.kinds.contains(&kind));
        group.map_or((1.0, 1.0), |group| (group.lr, group.weight_decay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_key() {
        let default = OptimizerConfig::default;
        let group = |lr, weight_decay| ParamGroup {
            kinds: vec![ParamKind::Moe],
            lr,
            weight_decay,
        };
        let muon = Method::muon;
        for (config, key) in [
            (
                OptimizerConfig {
                    lr: f64::INFINITY,
                    ..default()
                },
                "lr",
            ),
            (
                OptimizerConfig {
                    beta2: 1.0,
                    ..default()
                },
                "beta2",
            ),
            (
                OptimizerConfig {
                    eps: 0.0,
                    ..default()
                },
                "eps",
            ),
            (
                OptimizerConfig {
                    weight_decay: -1.0,
                    ..default()
                },
                "weight_decay",
            ),
            (
                OptimizerConfig {
                    lr: 1.0,
                    weight_decay: 1.1,
                    ..default()
                },
                "weight_decay",
            ),
            (
                OptimizerConfig {
                    clip_norm: Some(0.0),
                    ..default()
                },
                "clip_norm",
            ),
            (
                OptimizerConfig {
                    method: muon(1.0),
                    ..default()
                },
                "method.momentum",
            ),
            (
                OptimizerConfig {
                    method: Method::Lamb(Lamb {
                        corrected_weight_decay: true,
                        ..Lamb::default()
                    }),
                    ..default()
                },
                "method.corrected_weight_decay",
            ),
            (
                OptimizerConfig {
                    groups: vec![group(-1.0, 1.0)],
                    ..default()
                },
                "groups.0.lr",
            ),
            (
                OptimizerConfig {
                    lr: 1.0,
                    groups: vec![group(11.0, 1.0)],
                    ..default()
                },
                "groups.0.weight_decay",
            ),
            (
                OptimizerConfig {
                    groups: vec![group(1.0, 1.0), group(1.0, 1.0)],
                    ..default()
                },
                "groups",
            ),
        ] {
            assert_eq!(config.validate().unwrap_err().key, key, "{config:?}");
        }
        default().validate().unwrap();
    }
}
