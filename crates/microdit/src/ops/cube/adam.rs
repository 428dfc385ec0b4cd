//! AdamW in one pass, in place where nobody else holds the memory.

use super::launch::each;
use crate::ops::AdamStep;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

#[cube(launch)]
fn step_kernel(
    param: &mut Array<f32>,
    first: &mut Array<f32>,
    second: &mut Array<f32>,
    grad: &Array<f32>,
    scale: &Array<f32>,
    beta1: f32,
    beta2: f32,
    eps: f32,
    kept: f32,
    rate: f32,
    root_correction: f32,
) {
    let i = ABSOLUTE_POS;
    let scale = scale[0];
    if i < param.len() && !scale.is_nan() {
        let grad = grad[i] * scale;
        let mean = first[i] * beta1 + grad * (1.0 - beta1);
        let square = second[i] * beta2 + grad * grad * (1.0 - beta2);
        let root = square.sqrt() / root_correction + eps;
        param[i] = param[i] * kept - mean / root * rate;
        first[i] = mean;
        second[i] = square;
    }
}

/// Steps `[param, first moment, second moment]`.
pub(super) fn step<R: CubeRuntime>(
    state: [CubeTensor<R>; 3],
    grad: CubeTensor<R>,
    scale: CubeTensor<R>,
    step: &AdamStep,
) -> [CubeTensor<R>; 3] {
    let state = state.map(|x| if x.can_mut() { x } else { x.copy() });
    let [param, first, second] = state.clone();
    let (count, cube) = each(&param, param.meta.num_elements());
    let (correction1, correction2) = step.corrections();
    step_kernel::launch(
        &grad.client.clone(),
        count,
        cube,
        param.into_array_arg(),
        first.into_array_arg(),
        second.into_array_arg(),
        grad.into_array_arg(),
        scale.into_array_arg(),
        step.beta1 as f32,
        step.beta2 as f32,
        step.eps as f32,
        (1.0 - step.lr * step.weight_decay) as f32,
        (step.lr / correction1) as f32,
        correction2.sqrt() as f32,
    );
    state
}
