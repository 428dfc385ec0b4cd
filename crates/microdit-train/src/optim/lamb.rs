//! LAMB (arXiv 1904.00962): Adam's update, scaled per tensor to the size of the parameter it changes.

use burn::tensor::{Tensor, backend::Backend};
use microdit::{
    ops::{AdamState, AdamStep},
    range::{OutOfRange, require},
};
use serde::{Deserialize, Serialize};

/// What LAMB does besides its numbers, with the names and defaults of timm's implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lamb {
    /// Moments are corrected for their start at zero.
    pub bias_correction: bool,
    /// The first moment is a mean of the gradients, rather than their decaying sum.
    pub grad_averaging: bool,
    /// Parameters without weight decay are scaled too.
    pub always_adapt: bool,
    /// The ratio of parameter and update is at most 1.
    pub trust_clip: bool,
    /// Parts of an update that point against the gradient are left out (arXiv 2411.16085).
    pub caution: bool,
    /// Weights decay by themselves, rather than as a part of the update that is scaled.
    pub decoupled_decay: bool,
    /// With `decoupled_decay`, they decay by the square of the learning rate over its highest value (arXiv 2506.02285).
    pub corrected_weight_decay: bool,
}

impl Default for Lamb {
    fn default() -> Self {
        Self {
            bias_correction: true,
            grad_averaging: true,
            always_adapt: false,
            trust_clip: false,
            caution: false,
            decoupled_decay: false,
            corrected_weight_decay: false,
        }
    }
}

impl Lamb {
    /// Checks that the options go together.
    ///
    /// # Errors
    /// A correction of what is not done.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let used = self.decoupled_decay || !self.corrected_weight_decay;
        require(used, "corrected_weight_decay", || {
            "corrects decoupled decay: set decoupled_decay as well, or remove it".into()
        })
    }
}

/// Numbers of a step of [`lamb`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LambStep {
    /// Those it shares with Adam.
    pub adam: AdamStep,
    /// What it does besides.
    pub options: Lamb,
    /// The learning rate without the schedule's multiplier.
    pub base_lr: f64,
}

/// Least share of an update that [`Lamb::caution`] takes for left over.
const LEAST_LEFT: f64 = 1e-3;

/// One step with the gradient times `scale` `[1]`. The decay is part of the update, unless decoupled; the trust ratio `|parameter| /
/// |update|` is 1 where either is zero, and for parameters without decay, unless always adapted.
pub fn lamb<B: Backend>(
    state: AdamState<B>,
    grad: Tensor<B, 1>,
    scale: Tensor<B, 1>,
    step: &LambStep,
) -> AdamState<B> {
    let LambStep {
        adam,
        options,
        base_lr,
    } = step;
    let of_gradient = match options.grad_averaging {
        true => 1.0 - adam.beta1,
        false => 1.0,
    };
    let (correction1, correction2) = match options.bias_correction {
        true => adam.corrections(),
        false => (1.0, 1.0),
    };
    let grad = grad * scale;
    let first = state.first * adam.beta1 + grad.clone() * of_gradient;
    let second = state.second * adam.beta2 + grad.clone().powi_scalar(2) * (1.0 - adam.beta2);
    let root = second.clone().sqrt() / correction2.sqrt() + adam.eps;
    let mut update = first.clone() / correction1 / root;
    if options.caution {
        let agrees = (update.clone() * grad).greater_elem(0.0).float();
        // What is left grows by as much as was left out.
        let left = agrees.clone().mean().clamp_min(LEAST_LEFT);
        update = update * agrees / left;
    }
    let (mut param, decays) = (state.param, adam.weight_decay != 0.0);
    match options.decoupled_decay {
        _ if !decays => {}
        true => {
            let rate = match options.corrected_weight_decay && *base_lr > 0.0 {
                true => adam.lr * adam.lr / base_lr,
                false => adam.lr,
            };
            param = param * (1.0 - rate * adam.weight_decay);
        }
        false => update = update + param.clone() * adam.weight_decay,
    }
    if decays || options.always_adapt {
        let size = |x: &Tensor<B, 1>| x.clone().powi_scalar(2).sum().sqrt();
        let (of_param, of_update) = (size(&param), size(&update));
        let none = of_param
            .clone()
            .equal_elem(0.0)
            .bool_or(of_update.clone().equal_elem(0.0));
        let ratio = (of_param / of_update).mask_fill(none, 1.0);
        update = update
            * match options.trust_clip {
                true => ratio.clamp_max(1.0),
                false => ratio,
            };
    }
    AdamState {
        param: param - update * adam.lr,
        first,
        second,
    }
}
