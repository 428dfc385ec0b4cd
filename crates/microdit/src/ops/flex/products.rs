//! Products of activations, f32 or bf16, with weights, which are f32, or rounded before where nothing is trained: what layers are made
//! of, and their gradients.

use super::{
    bf16,
    buffer::unwritten,
    matrix::{self, Matrix, Threads},
    number::Number,
    pointwise::repeat_row,
};

/// A number of activations.
pub(super) trait Products: Number {
    /// `out = a b`, or `a b + bias` with a number per column; `out` lies row after row.
    ///
    /// # Panics
    /// If the sizes do not fit.
    fn times(
        out: &mut [Self],
        a: Matrix<'_, Self>,
        b: Matrix<'_, f32>,
        bias: Option<&[f32]>,
        threads: Threads,
    );

    /// `out = a^T b`: gradient of the weights that turned rows `a` into rows whose gradients are `b`.
    ///
    /// # Panics
    /// If the sizes do not fit.
    fn gradient(out: &mut [f32], a: Matrix<'_, Self>, b: Matrix<'_, Self>, threads: Threads);
}

impl Products for f32 {
    fn times(
        out: &mut [Self],
        a: Matrix<'_, Self>,
        b: Matrix<'_, f32>,
        bias: Option<&[f32]>,
        threads: Threads,
    ) {
        if let Some(bias) = bias {
            repeat_row(bias, out);
        }
        matrix::multiply(out, b.columns, a, b, 1.0, bias.is_some(), threads);
    }

    fn gradient(out: &mut [f32], a: Matrix<'_, Self>, b: Matrix<'_, Self>, threads: Threads) {
        matrix::multiply(out, b.columns, a.t(), b, 1.0, false, threads);
    }
}

impl Products for burn::tensor::bf16 {
    fn times(
        out: &mut [Self],
        a: Matrix<'_, Self>,
        b: Matrix<'_, f32>,
        bias: Option<&[f32]>,
        threads: Threads,
    ) {
        bf16::multiply(out, a, b, bias, threads);
    }

    fn gradient(out: &mut [f32], a: Matrix<'_, Self>, b: Matrix<'_, Self>, threads: Threads) {
        bf16::multiply(out, a.t(), b, None, threads);
    }
}

/// `x W^T + bias`: `x` `[rows, input]` and `weight` `[output, input]` to `[rows, output]`.
pub(super) fn project<N: Products>(
    x: &[N],
    weight: &[f32],
    bias: Option<&[f32]>,
    [rows, input, output]: [usize; 3],
) -> Vec<N> {
    let mut y = unwritten(rows * output);
    let weight = Matrix::new(weight, output, input).t();
    N::times(
        &mut y,
        Matrix::new(x, rows, input),
        weight,
        bias,
        Threads::All,
    );
    y
}

/// The same with weights that are rounded already.
pub(super) fn project_rounded(
    x: &[burn::tensor::bf16],
    weight: &[burn::tensor::bf16],
    bias: Option<&[f32]>,
    [rows, input, output]: [usize; 3],
) -> Vec<burn::tensor::bf16> {
    let mut y = unwritten(rows * output);
    let weight = Matrix::new(weight, output, input).t();
    let x = Matrix::new(x, rows, input);
    bf16::multiply(&mut y, x, weight, bias, Threads::All);
    y
}

/// Gradients of `x` and `weight`.
pub(super) fn project_backward<N: Products>(
    x: &[N],
    weight: &[f32],
    grad: &[N],
    [rows, input, output]: [usize; 3],
) -> (Vec<N>, Vec<f32>) {
    let mut x_grad = unwritten(rows * input);
    let mut weight_grad = unwritten(output * input);
    let grad = Matrix::new(grad, rows, output);
    let weight = Matrix::new(weight, output, input);
    N::times(&mut x_grad, grad, weight, None, Threads::All);
    let x = Matrix::new(x, rows, input);
    N::gradient(&mut weight_grad, grad, x, Threads::All);
    (x_grad, weight_grad)
}
