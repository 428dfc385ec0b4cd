//! Muon (Jordan et al., 2024): momentum whose matrices are made orthogonal before they are applied.

use burn::tensor::{Tensor, backend::Backend};

/// Coefficients of the quintic iteration: every singular value in (0, 1] is driven into about 0.7..1.2.
const QUINTIC: (f64, f64, f64) = (3.4445, -4.775, 2.0315);

/// Iterations.
const ITERATIONS: usize = 5;

/// Size of an update's entries that matches AdamW's, so that learning rate and decay carry over
/// (Moonlight, arXiv 2502.16982, section 2.2).
const MATCHED_RMS: f64 = 0.2;

/// Parameter and momentum after a step with the gradient times `scale` `[1]`; the parameter is a stack of matrices of
/// `shape` = `[count, rows, columns]`, flattened.
pub(super) fn muon<B: Backend>(
    param: Tensor<B, 1>,
    momentum: Tensor<B, 1>,
    grad: Tensor<B, 1>,
    scale: Tensor<B, 1>,
    shape: [usize; 3],
    settings: &MuonStep,
) -> [Tensor<B, 1>; 2] {
    let grad = grad * scale;
    let momentum = momentum * settings.momentum + grad.clone();
    let nesterov = grad + momentum.clone() * settings.momentum;
    let count = param.dims()[0];
    let update = orthogonalise(nesterov.reshape(shape)).reshape([count]);
    let size = MATCHED_RMS * (shape[1].max(shape[2]) as f64).sqrt();
    let param = param * (1.0 - settings.lr * settings.weight_decay) - update * (settings.lr * size);
    [param, momentum]
}

/// Numbers of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct MuonStep {
    pub(super) lr: f64,
    pub(super) momentum: f64,
    pub(super) weight_decay: f64,
}

/// About the orthogonal matrix nearest to each of `x` `[count, rows, columns]`, by Newton-Schulz iteration.
fn orthogonalise<B: Backend>(x: Tensor<B, 3>) -> Tensor<B, 3> {
    let [_, rows, columns] = x.dims();
    let tall = rows > columns;
    // The products are over the longer side.
    let x = if tall { x.swap_dims(1, 2) } else { x };
    // The Frobenius norm bounds the largest singular value.
    let norm = x.clone().powi_scalar(2).sum_dim(2).sum_dim(1).sqrt() + 1e-7;
    let (a, b, c) = QUINTIC;
    let x = (0..ITERATIONS).fold(x / norm, |x, _| {
        let gram = x.clone().matmul(x.clone().swap_dims(1, 2));
        let polynomial = gram.clone() * b + gram.clone().matmul(gram) * c;
        x.clone() * a + polynomial.matmul(x)
    });
    if tall { x.swap_dims(1, 2) } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use burn_flex::Flex;
    use microdit::rng::{Purpose, Stream};

    #[test]
    fn singular_values_are_near_one() {
        for shape in [[2, 6, 6], [1, 4, 16], [3, 16, 4]] {
            let count = shape.iter().product();
            let values = Stream::new(0, Purpose::Noise, 0, 0).normal(count);
            let x =
                Tensor::<Flex, 3>::from_data(TensorData::new(values, shape), &Default::default());
            let y = orthogonalise(x);
            let y = if shape[1] > shape[2] {
                y.swap_dims(1, 2)
            } else {
                y
            };
            let rank = shape[1].min(shape[2]);
            // The trace of y y^T is the sum of the squared singular values; a tiny one of x may stay behind.
            let gram = y.clone().matmul(y.swap_dims(1, 2)).into_data();
            let gram: Vec<f32> = gram.iter().collect();
            for matrix in gram.chunks_exact(rank * rank) {
                let trace: f32 = (0..rank).map(|i| matrix[i * (rank + 1)]).sum();
                let mean = trace / rank as f32;
                assert!((0.4..1.5).contains(&mean), "{shape:?}: mean square {mean}");
                let beside = (0..rank * rank).filter(|i| i % (rank + 1) != 0);
                let largest = beside.map(|i| matrix[i].abs()).fold(0.0, f32::max);
                assert!(largest < 0.45, "{shape:?}: rows overlap by {largest}");
            }
        }
    }
}
