//! Operations on every element by itself, computed in f32 whatever the elements are stored in, and gates, which are shared
//! by a sample's tokens.

use super::launch::{each, unwritten_like};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

/// `2 sqrt(2 / pi)` and the cubic term of the tanh approximation of GELU.
const ROOT: f32 = 1.595_769_2;
const CUBIC: f32 = 0.044_715;

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cube(launch)]
fn gelu_kernel<F: Float>(x: &Array<F>, y: &mut Array<F>, #[define(F)] _stored: StorageType) {
    if ABSOLUTE_POS < y.len() {
        let x = f32::cast_from(x[ABSOLUTE_POS]);
        y[ABSOLUTE_POS] = F::cast_from(x * sigmoid(x * (x * x * CUBIC + 1.0) * ROOT));
    }
}

/// With `(1 + tanh(u)) / 2 = sigmoid(2 u)`.
pub(super) fn gelu<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    let y = unwritten_like(&x);
    let (count, cube) = each(&x, x.meta.num_elements());
    gelu_kernel::launch(
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
fn gelu_backward_kernel<F: Float>(
    x: &Array<F>,
    grad: &Array<F>,
    x_grad: &mut Array<F>,
    #[define(F)] _stored: StorageType,
) {
    if ABSOLUTE_POS < x_grad.len() {
        let x = f32::cast_from(x[ABSOLUTE_POS]);
        let grad = f32::cast_from(grad[ABSOLUTE_POS]);
        let square = x * x * CUBIC;
        let s = sigmoid(x * (square + 1.0) * ROOT);
        let slope = x * s * (1.0 - s) * (square * 3.0 + 1.0) * ROOT;
        x_grad[ABSOLUTE_POS] = F::cast_from(grad * (s + slope));
    }
}

pub(super) fn gelu_backward<R: CubeRuntime>(
    x: CubeTensor<R>,
    grad: CubeTensor<R>,
) -> CubeTensor<R> {
    let x_grad = unwritten_like(&x);
    let (count, cube) = each(&x, x.meta.num_elements());
    gelu_backward_kernel::launch(
        &x_grad.client,
        count,
        cube,
        x.into_array_arg(),
        grad.into_array_arg(),
        x_grad.clone().into_array_arg(),
        x_grad.dtype.into(),
    );
    x_grad
}

#[cube(launch)]
fn swiglu_kernel<F: Float>(
    gate: &Array<F>,
    x: &Array<F>,
    y: &mut Array<F>,
    #[define(F)] _stored: StorageType,
) {
    if ABSOLUTE_POS < y.len() {
        let gate = f32::cast_from(gate[ABSOLUTE_POS]);
        let x = f32::cast_from(x[ABSOLUTE_POS]);
        y[ABSOLUTE_POS] = F::cast_from(gate * sigmoid(gate) * x);
    }
}

pub(super) fn swiglu<R: CubeRuntime>(gate: CubeTensor<R>, x: CubeTensor<R>) -> CubeTensor<R> {
    let y = unwritten_like(&x);
    let (count, cube) = each(&x, x.meta.num_elements());
    swiglu_kernel::launch(
        &y.client,
        count,
        cube,
        gate.into_array_arg(),
        x.into_array_arg(),
        y.clone().into_array_arg(),
        y.dtype.into(),
    );
    y
}

#[cube(launch)]
fn swiglu_backward_kernel<F: Float>(
    gate: &Array<F>,
    x: &Array<F>,
    grad: &Array<F>,
    gate_grad: &mut Array<F>,
    x_grad: &mut Array<F>,
    #[define(F)] _stored: StorageType,
) {
    if ABSOLUTE_POS < x_grad.len() {
        let gate = f32::cast_from(gate[ABSOLUTE_POS]);
        let x = f32::cast_from(x[ABSOLUTE_POS]);
        let grad = f32::cast_from(grad[ABSOLUTE_POS]);
        // silu' = s + g s (1 - s) with s = sigmoid(g).
        let s = sigmoid(gate);
        let value = gate * s;
        gate_grad[ABSOLUTE_POS] = F::cast_from(grad * x * (s + value * (1.0 - s)));
        x_grad[ABSOLUTE_POS] = F::cast_from(grad * value);
    }
}

/// Gradients of `gate` and `x`.
pub(super) fn swiglu_backward<R: CubeRuntime>(
    gate: CubeTensor<R>,
    x: CubeTensor<R>,
    grad: CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let gate_grad = unwritten_like(&x);
    let x_grad = unwritten_like(&x);
    let (count, cube) = each(&x, x.meta.num_elements());
    swiglu_backward_kernel::launch(
        &x_grad.client,
        count,
        cube,
        gate.into_array_arg(),
        x.into_array_arg(),
        grad.into_array_arg(),
        gate_grad.clone().into_array_arg(),
        x_grad.clone().into_array_arg(),
        x_grad.dtype.into(),
    );
    (gate_grad, x_grad)
}

#[cube(launch)]
fn gated_residual_kernel<F: Float>(
    x: &Array<f32>,
    update: &Array<F>,
    gate: &Array<f32>,
    y: &mut Array<f32>,
    tokens: usize,
    dim: usize,
    #[define(F)] _stored: StorageType,
) {
    let i = ABSOLUTE_POS;
    if i < y.len() {
        let sample = i / (tokens * dim);
        y[i] = x[i] + f32::cast_from(update[i]) * gate[sample * dim + i % dim];
    }
}

/// `x + gate * update`: `[batch, tokens, dim]`, `gate` `[batch, dim]`. All but the update are f32.
pub(super) fn gated_residual<R: CubeRuntime>(
    x: CubeTensor<R>,
    update: CubeTensor<R>,
    gate: CubeTensor<R>,
) -> CubeTensor<R> {
    let (tokens, dim) = (x.meta.shape()[1], x.meta.shape()[2]);
    let y = unwritten_like(&x);
    let stored = update.dtype;
    let (count, cube) = each(&x, x.meta.num_elements());
    gated_residual_kernel::launch(
        &y.client,
        count,
        cube,
        x.into_array_arg(),
        update.into_array_arg(),
        gate.into_array_arg(),
        y.clone().into_array_arg(),
        tokens,
        dim,
        stored.into(),
    );
    y
}

#[cube(launch)]
fn gated_residual_backward_kernel<F: Float>(
    update: &Array<F>,
    gate: &Array<f32>,
    grad: &Array<f32>,
    update_grad: &mut Array<F>,
    gate_grad: &mut Array<f32>,
    tokens: usize,
    dim: usize,
    #[define(F)] _stored: StorageType,
) {
    let column = ABSOLUTE_POS;
    if column < gate_grad.len() {
        let first = column / dim * tokens;
        let gate = gate[column];
        let mut sum = 0f32;
        for token in 0..tokens {
            let place = (first + token) * dim + column % dim;
            sum += grad[place] * f32::cast_from(update[place]);
            update_grad[place] = F::cast_from(grad[place] * gate);
        }
        gate_grad[column] = sum;
    }
}

/// Gradients of `update` and `gate`.
pub(super) fn gated_residual_backward<R: CubeRuntime>(
    update: CubeTensor<R>,
    gate: CubeTensor<R>,
    grad: CubeTensor<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let (tokens, dim) = (update.meta.shape()[1], update.meta.shape()[2]);
    let update_grad = unwritten_like(&update);
    let gate_grad = unwritten_like(&gate);
    let (count, cube) = each(&gate, gate.meta.num_elements());
    gated_residual_backward_kernel::launch(
        &update_grad.client,
        count,
        cube,
        update.into_array_arg(),
        gate.into_array_arg(),
        grad.into_array_arg(),
        update_grad.clone().into_array_arg(),
        gate_grad.clone().into_array_arg(),
        tokens,
        dim,
        update_grad.dtype.into(),
    );
    (update_grad, gate_grad)
}
