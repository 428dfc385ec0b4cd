//! Muon (Jordan et al., 2024): momentum whose matrices are made orthogonal before they are applied.

use super::MuonSize;
use burn::tensor::{Tensor, backend::Backend};

/// Parameter and momentum after a step with the gradient times `scale` `[1]`; the parameter is a stack of matrices of
/// `shape` = `[count, rows, columns]`, flattened. The momentum is a mean of gradients, as `torch.optim.Muon` keeps it.
pub fn muon<B: Backend>(
    param: Tensor<B, 1>,
    momentum: Tensor<B, 1>,
    grad: Tensor<B, 1>,
    scale: Tensor<B, 1>,
    shape: [usize; 3],
    settings: &MuonStep,
) -> [Tensor<B, 1>; 2] {
    let grad = grad * scale;
    let decay = settings.momentum;
    let momentum = momentum * decay + grad.clone() * (1.0 - decay);
    let direction = match settings.nesterov {
        true => grad * (1.0 - decay) + momentum.clone() * decay,
        false => momentum.clone(),
    };
    let count = param.dims()[0];
    let update = orthogonalize(direction.reshape(shape), &settings.iteration).reshape([count]);
    let [_, rows, columns] = shape.map(|side| side as f64);
    let size = match settings.size {
        MuonSize::MatchAdamW => 0.2 * rows.max(columns).sqrt(),
        MuonSize::Original => (rows / columns).max(1.0).sqrt(),
        MuonSize::Spectral => (rows / columns).sqrt(),
    };
    let param = param * (1.0 - settings.lr * settings.weight_decay) - update * (settings.lr * size);
    [param, momentum]
}

/// Numbers of a step.
#[derive(Clone, Copy, Debug)]
pub struct MuonStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the momentum.
    pub momentum: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Looks ahead along the momentum.
    pub nesterov: bool,
    /// How large an update is.
    pub size: MuonSize,
    /// How it is made orthogonal.
    pub iteration: NewtonSchulz,
}

/// Newton-Schulz iteration: `x <- a x + (b g + c g g) x` with `g = x x^T`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewtonSchulz {
    /// Number of iterations.
    pub steps: usize,
    /// `a`, `b` and `c`.
    pub coefficients: [f64; 3],
    /// Least norm it divides by at the start.
    pub eps: f64,
}

impl Default for NewtonSchulz {
    /// Every singular value in (0, 1] is driven into about 0.7..1.2.
    fn default() -> Self {
        Self {
            steps: 5,
            coefficients: [3.4445, -4.775, 2.0315],
            eps: 1e-7,
        }
    }
}

/// About the orthogonal matrix nearest to each of `x` `[count, rows, columns]`, by Newton-Schulz iteration.
fn orthogonalize<B: Backend>(x: Tensor<B, 3>, iteration: &NewtonSchulz) -> Tensor<B, 3> {
    let [_, rows, columns] = x.dims();
    let tall = rows > columns;
    // The products are over the longer side.
    let x = if tall { x.swap_dims(1, 2) } else { x };
    // The Frobenius norm bounds the largest singular value.
    let norm = x
        .clone()
        .powi_scalar(2)
        .sum_dim(2)
        .sum_dim(1)
        .sqrt()
        .clamp_min(iteration.eps);
    let [a, b, c] = iteration.coefficients;
    let x = (0..iteration.steps).fold(x / norm, |x, _| {
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
            let y = orthogonalize(x, &NewtonSchulz::default());
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
