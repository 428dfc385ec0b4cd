//! The experts' exact GELU, and what their backward pass needs between its products: a cube of threads for each row.

use super::{
    launch::{cubes, each, unwritten_like},
    norm::{THREADS, sum_over_cube},
};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

/// `1 / sqrt(2)`, and `1 / sqrt(2 pi)`.
const HALF_ROOT: f32 = std::f32::consts::FRAC_1_SQRT_2;
const BELL: f32 = 0.398_942_3;

/// Share of the normal distribution below `x`. (Of any type, since `f32` is to have an `erf` of its own.)
#[cube]
fn cumulative<N: Float>(x: N) -> N {
    (N::erf(x * N::new(HALF_ROOT)) + N::new(1.0)) * N::new(0.5)
}

#[cube(launch)]
fn exact_gelu_kernel<F: Float>(x: &Array<F>, y: &mut Array<F>, #[define(F)] _stored: StorageType) {
    if ABSOLUTE_POS < y.len() {
        let x = f32::cast_from(x[ABSOLUTE_POS]);
        y[ABSOLUTE_POS] = F::cast_from(x * cumulative::<f32>(x));
    }
}

/// `x Phi(x)`, of any shape.
pub(super) fn exact<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    let y = unwritten_like(&x);
    let (count, cube) = each(&x, x.meta.num_elements());
    exact_gelu_kernel::launch(
        &y.client,
        count,
        cube,
        x.into_array_arg(),
        y.clone().into_array_arg(),
        y.dtype.into(),
    );
    y
}

#[cube(launch)]
fn through_experts_kernel<F: Float>(
    hidden: &Array<F>,
    back: &Array<F>,
    weights: &Array<F>,
    activated: &mut Array<F>,
    hidden_grad: &mut Array<F>,
    weight_grad: &mut Array<F>,
    dim: usize,
    #[define(F)] _stored: StorageType,
) {
    let mut shared = SharedMemory::<f32>::new(THREADS);
    let row = CUBE_POS;
    if row < weights.len() {
        let weight = f32::cast_from(weights[row]);
        let mut sum = 0f32;
        let mut i = UNIT_POS as usize;
        while i < dim {
            let place = row * dim + i;
            let x = f32::cast_from(hidden[place]);
            let back = f32::cast_from(back[place]);
            let share = cumulative::<f32>(x);
            let bell = (x * x * -0.5).exp() * BELL;
            activated[place] = F::cast_from(x * share);
            hidden_grad[place] = F::cast_from(back * weight * (share + x * bell));
            sum += back * x * share;
            i += THREADS;
        }
        let sum = sum_over_cube(sum, &mut shared);
        if UNIT_POS == 0 {
            weight_grad[row] = F::cast_from(sum);
        }
    }
}

/// From `hidden` `[experts, rows, hidden]`, the gradient `back` of its GELU for a weight of 1, and the rows' weights
/// `[experts, rows, 1]`: the GELU, the gradient of `hidden`, and that of the weights.
pub(super) fn through_experts<R: CubeRuntime>(
    hidden: CubeTensor<R>,
    back: CubeTensor<R>,
    weights: CubeTensor<R>,
) -> [CubeTensor<R>; 3] {
    let made = [&hidden, &hidden, &weights].map(unwritten_like);
    let [activated, hidden_grad, weight_grad] = made.clone();
    let dim = hidden.meta.shape()[2];
    let (count, cube) = cubes(weights.meta.num_elements(), THREADS);
    through_experts_kernel::launch(
        &activated.client.clone(),
        count,
        cube,
        hidden.into_array_arg(),
        back.into_array_arg(),
        weights.into_array_arg(),
        activated.into_array_arg(),
        hidden_grad.into_array_arg(),
        weight_grad.into_array_arg(),
        dim,
        made[0].dtype.into(),
    );
    made
}
