//! How many threads a kernel gets, and where it writes.

use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeRuntime, ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};
use cubecl::{CubeCount, CubeDim, calculate_cube_count_elemwise};

/// Cubes along one side of the grid; no API takes more.
const SIDE: usize = 65_535;

/// A thread for each of `count` elements, and some more.
pub(super) fn each<R: CubeRuntime>(like: &CubeTensor<R>, count: usize) -> (CubeCount, CubeDim) {
    let cube = CubeDim::new(&like.client, count);
    (
        calculate_cube_count_elemwise(&like.client, count, cube),
        cube,
    )
}

/// A cube of `threads` for each of `rows`, and some more.
pub(super) fn cubes(rows: usize, threads: usize) -> (CubeCount, CubeDim) {
    let (wide, high) = (rows.min(SIDE), rows.div_ceil(SIDE));
    (
        CubeCount::Static(wide as u32, high as u32, 1),
        CubeDim::new_1d(threads as u32),
    )
}

/// A tensor not yet written, on the device of `like`.
pub(super) fn unwritten<R: CubeRuntime>(
    like: &CubeTensor<R>,
    shape: impl Into<Shape>,
    dtype: DType,
) -> CubeTensor<R> {
    let device = like.device.clone();
    empty_device_contiguous_dtype(like.client.clone(), device, shape.into(), dtype)
}

/// The same in the shape and type of `like`.
pub(super) fn unwritten_like<R: CubeRuntime>(like: &CubeTensor<R>) -> CubeTensor<R> {
    unwritten(like, like.meta.shape().clone(), like.dtype)
}
