//! Layer norm, with or without modulation: a cube of threads per row, which stays in the cache between its passes.

use super::launch::{cubes, each, unwritten, unwritten_like};
use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

/// Threads that share a row; a power of two.
pub(super) const THREADS: usize = 256;

/// Sum of every thread's value.
#[cube]
pub(super) fn sum_over_cube(value: f32, shared: &mut SharedMemory<f32>) -> f32 {
    let thread = UNIT_POS as usize;
    // Some threads may still be reading the previous sum.
    sync_cube();
    shared[thread] = value;
    sync_cube();
    let mut half = comptime!(THREADS / 2).runtime();
    while half > 0 {
        if thread < half {
            let other = shared[thread + half];
            shared[thread] += other;
        }
        half /= 2;
        sync_cube();
    }
    shared[0]
}

/// Mean and `1 / sqrt(variance + eps)` of the row that starts at `start`.
#[cube]
pub(super) fn statistics<F: Float>(
    x: &Array<F>,
    start: usize,
    dim: usize,
    eps: f32,
    shared: &mut SharedMemory<f32>,
) -> (f32, f32) {
    let mut sum = 0f32;
    let mut i = UNIT_POS as usize;
    while i < dim {
        sum += f32::cast_from(x[start + i]);
        i += THREADS;
    }
    let mean = sum_over_cube(sum, shared) / dim as f32;
    let mut squares = 0f32;
    let mut i = UNIT_POS as usize;
    while i < dim {
        let centred = f32::cast_from(x[start + i]) - mean;
        squares += centred * centred;
        i += THREADS;
    }
    let variance = sum_over_cube(squares, shared) / dim as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// What a normed element is multiplied by, `place` being that of its sample and column.
#[cube]
fn gain(weight: f32, scale: &ComptimeOption<Array<f32>>, place: usize) -> f32 {
    let mut gain = weight;
    #[comptime]
    if let ComptimeOption::Some(scale) = scale {
        gain *= scale[place] + 1.0;
    }
    gain
}

#[cube(launch)]
fn forward_kernel(
    x: &Array<f32>,
    weight: &Array<f32>,
    shift: &ComptimeOption<Array<f32>>,
    scale: &ComptimeOption<Array<f32>>,
    y: &mut Array<f32>,
    tokens: usize,
    eps: f32,
) {
    let mut shared = SharedMemory::<f32>::new(THREADS);
    let dim = weight.len();
    let start = CUBE_POS * dim;
    if start < x.len() {
        let (mean, inverse) = statistics(x, start, dim, eps, &mut shared);
        let sample = CUBE_POS / tokens * dim;
        let mut i = UNIT_POS as usize;
        while i < dim {
            let normed = (x[start + i] - mean) * inverse * gain(weight[i], scale, sample + i);
            #[comptime]
            let shifted = match shift {
                ComptimeOption::Some(shift) => normed + shift[sample + i],
                ComptimeOption::None => normed,
            };
            y[start + i] = shifted;
            i += THREADS;
        }
    }
}

/// Rows, and how many of them share a row of the modulation: `[rows, dim]` or `[batch, tokens, dim]`.
fn rows_and_tokens<R: CubeRuntime>(x: &CubeTensor<R>) -> (usize, usize) {
    let shape = x.meta.shape();
    let outer = &shape[..shape.len() - 1];
    (outer.iter().product(), outer[outer.len() - 1])
}

/// Of `[rows, dim]`, or of `[batch, tokens, dim]` with a modulation `[shift, scale]`.
pub(super) fn forward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    modulation: Option<[CubeTensor<R>; 2]>,
    eps: f64,
) -> CubeTensor<R> {
    let (rows, tokens) = rows_and_tokens(&x);
    let (shift, scale) = modulation.map(|[shift, scale]| (shift, scale)).unzip();
    let y = unwritten_like(&x);
    let (count, cube) = cubes(rows, THREADS);
    forward_kernel::launch(
        &y.client,
        count,
        cube,
        x.into_array_arg(),
        weight.into_array_arg(),
        shift.map(CubeTensor::into_array_arg).into(),
        scale.map(CubeTensor::into_array_arg).into(),
        y.clone().into_array_arg(),
        tokens,
        eps as f32,
    );
    y
}

#[cube(launch)]
fn backward_kernel(
    x: &Array<f32>,
    weight: &Array<f32>,
    scale: &ComptimeOption<Array<f32>>,
    grad: &Array<f32>,
    x_grad: &mut Array<f32>,
    kept: &mut Array<f32>,
    tokens: usize,
    eps: f32,
) {
    let mut shared = SharedMemory::<f32>::new(THREADS);
    let dim = weight.len();
    let start = CUBE_POS * dim;
    if start < x.len() {
        let (mean, inverse) = statistics(x, start, dim, eps, &mut shared);
        let sample = CUBE_POS / tokens * dim;
        // With n the normed row and g its gradient: (g - mean(g) - n mean(g n)) / sqrt(variance + eps).
        let mut sum = 0f32;
        let mut along = 0f32;
        let mut i = UNIT_POS as usize;
        while i < dim {
            let gained = grad[start + i] * gain(weight[i], scale, sample + i);
            sum += gained;
            along += gained * (x[start + i] - mean) * inverse;
            i += THREADS;
        }
        let sum = sum_over_cube(sum, &mut shared) / dim as f32;
        let along = sum_over_cube(along, &mut shared) / dim as f32;
        let mut i = UNIT_POS as usize;
        while i < dim {
            let gained = grad[start + i] * gain(weight[i], scale, sample + i);
            let normed = (x[start + i] - mean) * inverse;
            x_grad[start + i] = (gained - sum - normed * along) * inverse;
            i += THREADS;
        }
        if UNIT_POS == 0 {
            kept[2 * CUBE_POS] = mean;
            kept[2 * CUBE_POS + 1] = inverse;
        }
    }
}

/// The gradient of `x`, and every row's statistics for [`sum_runs`].
pub(super) fn backward<R: CubeRuntime>(
    x: CubeTensor<R>,
    weight: CubeTensor<R>,
    scale: Option<CubeTensor<R>>,
    grad: CubeTensor<R>,
    eps: f64,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let (rows, tokens) = rows_and_tokens(&x);
    let x_grad = unwritten_like(&x);
    let kept = unwritten(&x, [rows, 2], DType::F32);
    let (count, cube) = cubes(rows, THREADS);
    backward_kernel::launch(
        &x_grad.client,
        count,
        cube,
        x.into_array_arg(),
        weight.into_array_arg(),
        scale.map(CubeTensor::into_array_arg).into(),
        grad.into_array_arg(),
        x_grad.clone().into_array_arg(),
        kept.clone().into_array_arg(),
        tokens,
        eps as f32,
    );
    (x_grad, kept)
}

#[cube(launch)]
fn sum_runs_kernel(
    x: &Array<f32>,
    kept: &Array<f32>,
    grad: &Array<f32>,
    plain: &mut Array<f32>,
    along: &mut Array<f32>,
    run: usize,
    dim: usize,
) {
    let column = ABSOLUTE_POS;
    if column < plain.len() {
        let first = column / dim * run;
        let end = (first + run).min(x.len() / dim);
        let mut sum = 0f32;
        let mut along_sum = 0f32;
        for row in first..end {
            let place = row * dim + column % dim;
            sum += grad[place];
            along_sum += grad[place] * (x[place] - kept[2 * row]) * kept[2 * row + 1];
        }
        plain[column] = sum;
        along[column] = along_sum;
    }
}

/// Sums over every run of so many rows, the last of which may be shorter, `[runs, dim]`: of the gradient, and of the gradient
/// times the normed rows.
pub(super) fn sum_runs<R: CubeRuntime>(
    x: CubeTensor<R>,
    kept: CubeTensor<R>,
    grad: CubeTensor<R>,
    run: usize,
) -> [CubeTensor<R>; 2] {
    let shape = x.meta.shape();
    let dim = shape[shape.len() - 1];
    let runs = kept.meta.shape()[0].div_ceil(run);
    let sums = [(); 2].map(|()| unwritten(&x, [runs, dim], DType::F32));
    let [plain, along] = sums.clone();
    let (count, cube) = each(&x, runs * dim);
    sum_runs_kernel::launch(
        &plain.client.clone(),
        count,
        cube,
        x.into_array_arg(),
        kept.into_array_arg(),
        grad.into_array_arg(),
        plain.into_array_arg(),
        along.into_array_arg(),
        run,
        dim,
    );
    sums
}
