//! The norm of queries and keys: a cube of threads for each row. Attention reads the statistics and normalizes as it loads,
//! so that normalized queries and keys are never in memory.

use super::Part;
use crate::ops::cube::{
    launch::{cubes, unwritten},
    norm::{THREADS, statistics, sum_over_cube},
};
use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

#[cube(launch)]
fn row_statistics_kernel<F: Float>(
    x: &Array<F>,
    kept: &mut Array<f32>,
    stride: usize,
    offset: usize,
    dim: usize,
    eps: f32,
    #[define(F)] _stored: StorageType,
) {
    let mut shared = SharedMemory::<f32>::new(THREADS);
    let row = CUBE_POS;
    if 2 * row < kept.len() {
        let (mean, inverse) = statistics(x, row * stride + offset, dim, eps, &mut shared);
        if UNIT_POS == 0 {
            kept[2 * row] = mean;
            kept[2 * row + 1] = inverse;
        }
    }
}

/// Mean and `1 / sqrt(variance + eps)` of every row of a tensor `[batch, rows, 2]`.
pub(super) fn row_statistics<R: CubeRuntime>(x: &Part<R>, eps: f64) -> CubeTensor<R> {
    let [batch, rows, dim] = x.dims();
    let kept = unwritten(&x.packed, [batch, rows, 2], DType::F32);
    let (count, cube) = cubes(batch * rows, THREADS);
    row_statistics_kernel::launch(
        &kept.client,
        count,
        cube,
        x.packed.clone().into_array_arg(),
        kept.clone().into_array_arg(),
        x.stride(),
        x.offset(),
        dim,
        eps as f32,
        x.packed.dtype.into(),
    );
    kept
}

#[cube(launch)]
fn through_norm_kernel<F: Float>(
    x: &Array<F>,
    kept: &Array<f32>,
    grad: &mut Array<F>,
    stride: usize,
    offset: usize,
    dim: usize,
    #[define(F)] _stored: StorageType,
) {
    let mut shared = SharedMemory::<f32>::new(THREADS);
    let row = CUBE_POS;
    if 2 * row < kept.len() {
        let start = row * stride + offset;
        let (mean, inverse) = (kept[2 * row], kept[2 * row + 1]);
        // With n the normed row and g its gradient: (g - mean(g) - n mean(g n)) / sqrt(variance + eps).
        let mut sum = 0f32;
        let mut along = 0f32;
        let mut i = UNIT_POS as usize;
        while i < dim {
            let slope = f32::cast_from(grad[start + i]);
            sum += slope;
            along += slope * (f32::cast_from(x[start + i]) - mean) * inverse;
            i += THREADS;
        }
        let sum = sum_over_cube(sum, &mut shared) / dim as f32;
        let along = sum_over_cube(along, &mut shared) / dim as f32;
        let mut i = UNIT_POS as usize;
        while i < dim {
            let slope = f32::cast_from(grad[start + i]);
            let normed = (f32::cast_from(x[start + i]) - mean) * inverse;
            grad[start + i] = F::cast_from((slope - sum - normed * along) * inverse);
            i += THREADS;
        }
    }
}

/// Takes the gradient of the normalized `x` to that of `x`, in its place. Both are packed alike.
pub(super) fn through_norm<R: CubeRuntime>(x: &Part<R>, kept: CubeTensor<R>, grad: &Part<R>) {
    let [batch, rows, dim] = x.dims();
    let (count, cube) = cubes(batch * rows, THREADS);
    through_norm_kernel::launch(
        &kept.client.clone(),
        count,
        cube,
        x.packed.clone().into_array_arg(),
        kept.into_array_arg(),
        grad.packed.clone().into_array_arg(),
        x.stride(),
        x.offset(),
        dim,
        x.packed.dtype.into(),
    );
}
