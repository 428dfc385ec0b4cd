//! The fixed positions of a grid of patches, as a table for one width.

use crate::{net::dit::embed::sincos_axis, ops::DitBackend};
use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};

/// Sine-cosine positions of patches: computed from the configuration, never loaded.
#[derive(Module, Debug)]
pub(crate) struct Positions<B: DitBackend> {
    /// Along one side of the configured grid, `[side, dim / 2]`.
    axis: Tensor<B, 2>,
    interp_scale: f64,
}

impl<B: DitBackend> Positions<B> {
    /// Of tokens of width `dim`, in a grid of `side` by `side`.
    pub(super) fn new(dim: usize, side: usize, interp_scale: f64, device: &B::Device) -> Self {
        Self {
            axis: axis_table(dim, side, interp_scale, device),
            interp_scale,
        }
    }

    /// Patches along one side of the configured grid.
    pub(super) fn side(&self) -> usize {
        self.axis.dims()[0]
    }

    /// Tokens `[batch, rows x columns, dim]` of a grid of `rows` by `columns` patches at their positions.
    pub(super) fn add_to(&self, tokens: Tensor<B, 3>, grid: [usize; 2]) -> Tensor<B, 3> {
        let [batch, count, dim] = tokens.dims();
        // A sample is one row: burn adds a row to many in one vectorised pass, a matrix to many matrices number by number.
        let positions = self.of_grid(grid).reshape([1, count * dim]);
        let rows = tokens.reshape([batch, count * dim]);
        (rows + positions).reshape([batch, count, dim])
    }

    /// Positions of a grid of `rows` by `columns` patches, `[1, rows x columns, dim]`. A grid of any size lies in the plane of the
    /// configured one, from the same corner.
    pub(super) fn of_grid(&self, [rows, columns]: [usize; 2]) -> Tensor<B, 3> {
        let [known, half] = self.axis.dims();
        let longest = rows.max(columns);
        let axis = match longest <= known {
            true => self.axis.clone(),
            false => axis_table(2 * half, longest, self.interp_scale, &self.axis.device()),
        };
        let of_columns = axis
            .clone()
            .narrow(0, 0, columns)
            .reshape([1, columns, half]);
        let of_rows = axis.narrow(0, 0, rows).reshape([rows, 1, half]);
        let size = [rows, columns, half];
        let both = vec![of_columns.expand(size), of_rows.expand(size)];
        Tensor::cat(both, 2).reshape([1, rows * columns, 2 * half])
    }
}

/// Positions along one axis, `[count, dim / 2]`.
fn axis_table<B: DitBackend>(
    dim: usize,
    count: usize,
    interp_scale: f64,
    device: &B::Device,
) -> Tensor<B, 2> {
    let table = sincos_axis(dim, count, interp_scale);
    Tensor::from_data(TensorData::new(table, [count, dim / 2]), device)
}
