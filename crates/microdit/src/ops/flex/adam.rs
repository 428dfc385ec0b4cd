//! One pass of AdamW over a parameter, in place.

use super::{
    flat, is_f32,
    pointwise::TASK,
    simd::{simd, sum},
    slices, tensor,
};
use crate::ops::optimizer::{self, AdamState, AdamStep, OptimizerOps};
use burn::tensor::{Tensor, TensorPrimitive};
use burn_flex::Flex;
use rayon::prelude::*;

impl OptimizerOps for Flex {
    fn sum_of_squares(x: Tensor<Flex, 1>) -> Tensor<Flex, 1> {
        if !is_f32(&x) {
            return x.powi_scalar(2).sum();
        }
        tensor(vec![sum_of_squares(flat(x).storage())], [1])
    }

    fn adam(
        state: AdamState<Flex>,
        grad: Tensor<Flex, 1>,
        scale: Tensor<Flex, 1>,
        step: &AdamStep,
    ) -> AdamState<Flex> {
        if !is_f32(&state.param) || !is_f32(&grad) || !is_f32(&state.first) {
            return optimizer::adam(state, grad, scale, step);
        }
        let AdamState {
            param,
            first,
            second,
        } = state;
        // In place where nobody else holds the memory; a copy of the shared otherwise.
        let [mut param, mut first, mut second] = [flat(param), flat(first), flat(second)];
        let tensors = [flat(grad), flat(scale)];
        let [grad, scale] = slices(&tensors);
        self::step(
            param.storage_mut(),
            first.storage_mut(),
            second.storage_mut(),
            grad,
            scale[0],
            step,
        );
        let [param, first, second] =
            [param, first, second].map(|x| Tensor::from_primitive(TensorPrimitive::Float(x)));
        AdamState {
            param,
            first,
            second,
        }
    }
}

/// Updates parameter and moments with the gradient times `scale`.
fn step(
    param: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    grad: &[f32],
    scale: f32,
    step: &AdamStep,
) {
    if scale.is_nan() {
        return;
    }
    let (correction1, correction2) = step.corrections();
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (rest1, rest2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let root = correction2.sqrt() as f32;
    let (rate, eps) = ((step.lr / correction1) as f32, step.eps as f32);
    let shrink = (1.0 - step.lr * step.weight_decay) as f32;
    let state = (
        param.par_chunks_mut(TASK),
        first.par_chunks_mut(TASK),
        second.par_chunks_mut(TASK),
    );
    state
        .into_par_iter()
        .zip(grad.par_chunks(TASK))
        .for_each(|((param, first, second), grad)| {
            simd(
                #[inline(always)]
                || {
                    let state = param.iter_mut().zip(first).zip(second);
                    for (((param, first), second), grad) in state.zip(grad) {
                        let grad = grad * scale;
                        *first = *first * beta1 + grad * rest1;
                        *second = *second * beta2 + grad * grad * rest2;
                        *param = *param * shrink - *first / (second.sqrt() / root + eps) * rate;
                    }
                },
            );
        });
}

/// Sum of the squares.
fn sum_of_squares(x: &[f32]) -> f32 {
    let partial: Vec<f32> = x
        .par_chunks(TASK)
        .map(|x| {
            simd(
                #[inline(always)]
                || sum(x, |x| x * x),
            )
        })
        .collect();
    sum(&partial, |x| x)
}
