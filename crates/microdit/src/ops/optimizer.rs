//! What an optimizer does to every parameter.

use burn::tensor::{Tensor, backend::Backend};

/// Sizes and constants of one optimizer step (AdamW, arXiv 1711.05101, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the corrected second moment.
    pub eps: f64,
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// This step's number, from 1: corrects the moments' start at zero.
    pub step: u64,
}

/// A parameter and its moments, flattened.
#[derive(Clone, Debug)]
pub struct AdamState<B: Backend> {
    /// The parameter.
    pub param: Tensor<B, 1>,
    /// Mean of the gradients.
    pub first: Tensor<B, 1>,
    /// Mean of the squared gradients.
    pub second: Tensor<B, 1>,
}

impl AdamStep {
    /// What the moments lack of their final scale: `1 - beta^step`.
    pub fn corrections(&self) -> (f64, f64) {
        let lacking = |beta: f64| 1.0 - beta.powf(self.step as f64);
        (lacking(self.beta1), lacking(self.beta2))
    }
}

/// Optimizer kernels of a backend; every method has a body composed from burn tensors.
pub trait OptimizerOps: Backend {
    /// Sum of the squares of all elements, `[1]`.
    fn sum_of_squares(x: Tensor<Self, 1>) -> Tensor<Self, 1> {
        x.powi_scalar(2).sum()
    }

    /// One AdamW step with the gradient times `scale` `[1]`. Where the scale is NaN, nothing changes: so a step
    /// with a non-finite gradient is skipped without the host having to look.
    fn adam(
        state: AdamState<Self>,
        grad: Tensor<Self, 1>,
        scale: Tensor<Self, 1>,
        step: &AdamStep,
    ) -> AdamState<Self> {
        adam(state, grad, scale, step)
    }
}

/// AdamW, composed from burn tensors.
pub fn adam<B: Backend>(
    state: AdamState<B>,
    grad: Tensor<B, 1>,
    scale: Tensor<B, 1>,
    step: &AdamStep,
) -> AdamState<B> {
    let non_finite = scale.clone().is_nan().expand(grad.dims());
    let keep = |old: Tensor<B, 1>, new: Tensor<B, 1>| new.mask_where(non_finite.clone(), old);
    let grad = grad * scale;
    let first = state.first.clone() * step.beta1 + grad.clone() * (1.0 - step.beta1);
    let second = state.second.clone() * step.beta2 + grad.powi_scalar(2) * (1.0 - step.beta2);
    let (correction1, correction2) = step.corrections();
    let root = second.clone().sqrt() / correction2.sqrt() + step.eps;
    let change = first.clone() / root * (step.lr / correction1);
    let param = state.param.clone() * (1.0 - step.lr * step.weight_decay) - change;
    AdamState {
        param: keep(state.param, param),
        first: keep(state.first, first),
        second: keep(state.second, second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{Draw, assert_close, cases};
    use burn_flex::Flex;

    #[test]
    fn adam_steps() {
        for case in cases(4) {
            let (state, grad, step) = Draw::new(case).adam();
            let scale = Tensor::from_data([0.3], &Default::default());
            let untouched = state.clone();
            let non_finite = Tensor::from_data([f32::NAN], &Default::default());
            for left in [
                Flex::adam(state.clone(), grad.clone(), non_finite.clone(), &step),
                adam(state.clone(), grad.clone(), non_finite, &step),
            ] {
                assert_eq!(
                    left.param.into_data(),
                    state.param.to_data(),
                    "a non-finite step is skipped"
                );
                assert_eq!(left.second.into_data(), state.second.to_data());
            }
            let found = Flex::adam(state, grad.clone(), scale.clone(), &step);
            // The caller's other handle on the memory sees nothing of the update.
            let expected = adam(untouched, grad.clone(), scale, &step);
            assert_close("adam: parameter", &found.param, &expected.param);
            assert_close("adam: first moment", &found.first, &expected.first);
            assert_close("adam: second moment", &found.second, &expected.second);
            let squares = grad.clone().powi_scalar(2).sum();
            assert_close("sum of squares", &Flex::sum_of_squares(grad), &squares);
        }
    }
}
