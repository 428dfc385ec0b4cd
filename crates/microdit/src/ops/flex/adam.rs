//! One pass of AdamW over a parameter, in place.

use super::{
    super::AdamStep,
    pointwise::TASK,
    simd::{simd, sum},
};
use rayon::prelude::*;

/// Updates parameter and moments with the gradient times `scale`.
pub(super) fn step(
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
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
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
