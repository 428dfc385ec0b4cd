//! Initial weights, by the reference's scheme: small normals for what is added to the residual stream, Glorot for
//! maps between widths, zeros for modulation and the last projections, so that a fresh network is the identity.

use crate::{
    linear::Linear,
    ops::DitBackend,
    precision::Precision,
    rng::{Purpose, Stream},
};
use burn::{
    module::Param,
    tensor::{Tensor, TensorData},
};

/// Standard deviation of a normal initial weight.
pub const STD: f64 = 0.02;

/// Draws initial weights: parameter after parameter from (seed, parameter's number), so that a seed gives the same
/// network on every backend.
///
/// ```
/// use burn_flex::Flex;
/// use microdit::init::{Init, STD};
///
/// let device = Default::default();
/// let draw = |seed| Init::<Flex>::new(seed, &device).linear(8, 4, false, STD).weight.to_data();
/// assert_eq!(draw(0), draw(0));
/// assert_ne!(draw(0), draw(1));
/// ```
pub struct Init<'a, B: DitBackend> {
    seed: u64,
    drawn: u64,
    device: &'a B::Device,
    precision: Precision,
}

impl<'a, B: DitBackend> Init<'a, B> {
    /// A scheme that draws from `seed` and places the weights on `device`.
    pub fn new(seed: u64, device: &'a B::Device) -> Self {
        Self {
            seed,
            drawn: 0,
            device,
            precision: Precision::F32,
        }
    }

    /// The same scheme for layers that compute in `precision`.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Normal with standard deviation `std`, cut off at +-2 (absolute, which for these widths never cuts).
    pub fn truncated_normal<const D: usize>(
        &mut self,
        shape: [usize; D],
        std: f64,
    ) -> Param<Tensor<B, D>> {
        let values = self.stream().normal(shape.iter().product());
        let cut = |x: f32| (x * std as f32).clamp(-2.0, 2.0);
        self.param(shape, values.into_iter().map(cut).collect())
    }

    /// Uniform in `+-bound`.
    pub fn uniform<const D: usize>(
        &mut self,
        shape: [usize; D],
        bound: f64,
    ) -> Param<Tensor<B, D>> {
        let values = self.stream().uniform(shape.iter().product());
        let spread = |x: f32| (2.0 * x - 1.0) * bound as f32;
        self.param(shape, values.into_iter().map(spread).collect())
    }

    /// Glorot's uniform bound over `fan_in` inputs and `fan_out` outputs: variance `2 / (fan_in + fan_out)`.
    pub fn xavier<const D: usize>(
        &mut self,
        shape: [usize; D],
        fan_in: usize,
        fan_out: usize,
    ) -> Param<Tensor<B, D>> {
        self.uniform(shape, (6.0 / (fan_in + fan_out) as f64).sqrt())
    }

    /// The same value everywhere.
    pub fn constant<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<B, D>> {
        self.param(shape, vec![value; shape.iter().product()])
    }

    /// A linear layer with normal weights and zero bias.
    pub fn linear(&mut self, input: usize, output: usize, bias: bool, std: f64) -> Linear<B> {
        Linear {
            weight: self.truncated_normal([output, input], std),
            bias: bias.then(|| self.constant([output], 0.0)),
            bf16: self.precision == Precision::Bf16,
        }
    }

    /// A linear layer with Glorot weights and zero bias.
    pub fn xavier_linear(&mut self, input: usize, output: usize, bias: bool) -> Linear<B> {
        Linear {
            weight: self.xavier([output, input], input, output),
            bias: bias.then(|| self.constant([output], 0.0)),
            bf16: self.precision == Precision::Bf16,
        }
    }

    /// A linear layer of zeros.
    pub fn zero_linear(&self, input: usize, output: usize, bias: bool) -> Linear<B> {
        Linear {
            weight: self.constant([output, input], 0.0),
            bias: bias.then(|| self.constant([output], 0.0)),
            bf16: self.precision == Precision::Bf16,
        }
    }

    fn stream(&mut self) -> Stream {
        self.drawn += 1;
        Stream::new(self.seed, Purpose::Init, 0, self.drawn)
    }

    fn param<const D: usize>(&self, shape: [usize; D], values: Vec<f32>) -> Param<Tensor<B, D>> {
        let data = TensorData::new(values, shape);
        Param::from_tensor(Tensor::from_data(data, self.device))
    }
}
