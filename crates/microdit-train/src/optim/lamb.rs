//! LAMB (arXiv 1904.00962): Adam's update, scaled per tensor to the size of the parameter it changes.

use burn::tensor::{Tensor, backend::Backend};
use microdit::ops::{AdamState, AdamStep};

/// One step with the gradient times `scale` `[1]`. The decay is part of the update; the trust ratio
/// `|parameter| / |update|` is 1 where either is zero, and for parameters without decay.
pub fn lamb<B: Backend>(
    state: AdamState<B>,
    grad: Tensor<B, 1>,
    scale: Tensor<B, 1>,
    step: &AdamStep,
) -> AdamState<B> {
    let grad = grad * scale;
    let first = state.first * step.beta1 + grad.clone() * (1.0 - step.beta1);
    let second = state.second * step.beta2 + grad.powi_scalar(2) * (1.0 - step.beta2);
    let (correction1, correction2) = step.corrections();
    let root = second.clone().sqrt() / correction2.sqrt() + step.eps;
    let mut update = first.clone() / correction1 / root;
    if step.weight_decay != 0.0 {
        update = update + state.param.clone() * step.weight_decay;
        let size = |x: &Tensor<B, 1>| x.clone().powi_scalar(2).sum().sqrt();
        let (param, change) = (size(&state.param), size(&update));
        let none = param
            .clone()
            .equal_elem(0.0)
            .bool_or(change.clone().equal_elem(0.0));
        update = update * (param / change).mask_fill(none, 1.0);
    }
    AdamState {
        param: state.param - update * step.lr,
        first,
        second,
    }
}
