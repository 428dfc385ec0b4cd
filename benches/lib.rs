//! Benchmarks: `cargo bench --profile dev --workspace --bench ops` (`run`, `loader`), with the build of the tests;
//! `compare.py` against PyTorch.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use microdit::rng::{Purpose, Stream};

/// Standard normal numbers, different in every `stream`.
pub fn normal<B: Backend, const D: usize>(stream: u64, shape: [usize; D]) -> Tensor<B, D> {
    let values = Stream::new(0, Purpose::Noise, 0, stream).normal(shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}
