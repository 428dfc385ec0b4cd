//! Initial weights, by the reference's scheme: small normals for what is added to the residual stream, Glorot for
//! maps between widths, zeros for modulation and the last projections, so that a fresh network is the identity.

use crate::{
    nn::{Conv2d, Linear, Precision},
    ops::DitBackend,
    rng::{Purpose, Stream},
};
use burn::{
    module::{Param, ParamId},
    tensor::{Tensor, TensorData},
};
use std::fmt::Display;

/// Standard deviation of a normal initial weight.
pub const STD: f64 = 0.02;

/// Draws initial weights, each from (seed, path of the parameter): a seed gives the same network on every backend, and two
/// networks start equal in all they have in common.
///
/// A module that draws several parameters draws each [`at`](Self::at) the name of its field; at one path, two of them would be
/// the same numbers.
///
/// ```
/// use burn_flex::Flex;
/// use microdit::nn::init::{Init, STD};
///
/// let device = Default::default();
/// let draw = |seed| Init::<Flex>::new(seed, &device).linear(8, 4, false, STD).weight.to_data();
/// assert_eq!(draw(0), draw(0));
/// assert_ne!(draw(0), draw(1));
/// let init = Init::<Flex>::new(0, &device);
/// let draw = |layer| init.at(layer).linear(8, 4, false, STD).weight.to_data();
/// assert_ne!(draw("q_linear"), draw("kv_linear"));
/// ```
pub struct Init<'a, B: DitBackend> {
    seed: u64,
    /// Ends with a dot, unless it is empty.
    path: String,
    device: &'a B::Device,
    precision: Precision,
    /// Whether only shapes are wanted.
    deferred: bool,
}

impl<'a, B: DitBackend> Init<'a, B> {
    /// A scheme that draws from `seed` and places the weights on `device`.
    pub fn new(seed: u64, device: &'a B::Device) -> Self {
        Self {
            seed,
            path: String::new(),
            device,
            precision: Precision::F32,
            deferred: false,
        }
    }

    /// The same scheme for a network of which only the shapes are looked at, or whose weights are loaded: nothing is drawn, and nothing
    /// allocated before it is needed. A value that is looked at all the same is 0.
    #[must_use]
    pub fn deferred(mut self) -> Self {
        self.deferred = true;
        self
    }

    /// The same scheme for layers that compute in `precision`.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The scheme for the field `name`, or the place in a list, of the module this one is for.
    #[must_use]
    pub fn at(&self, name: impl Display) -> Self {
        Self {
            path: format!("{}{name}.", self.path),
            ..*self
        }
    }

    /// Normal with standard deviation `std`, cut off at +-2 (absolute, which for these widths never cuts).
    pub fn truncated_normal<const D: usize>(
        &self,
        shape: [usize; D],
        std: f64,
    ) -> Param<Tensor<B, D>> {
        let cut = |x: f32| (x * std as f32).clamp(-2.0, 2.0);
        self.param(shape, |count| {
            let values = self.stream().normal(count).into_iter();
            values.map(cut).collect()
        })
    }

    /// Uniform in `+-bound`.
    pub fn uniform<const D: usize>(&self, shape: [usize; D], bound: f64) -> Param<Tensor<B, D>> {
        let spread = |x: f32| (2.0 * x - 1.0) * bound as f32;
        self.param(shape, |count| {
            let values = self.stream().uniform(count).into_iter();
            values.map(spread).collect()
        })
    }

    /// Glorot's uniform bound over `fan_in` inputs and `fan_out` outputs: variance `2 / (fan_in + fan_out)`.
    pub fn xavier<const D: usize>(
        &self,
        shape: [usize; D],
        fan_in: usize,
        fan_out: usize,
    ) -> Param<Tensor<B, D>> {
        self.uniform(shape, (6.0 / (fan_in + fan_out) as f64).sqrt())
    }

    /// The same value everywhere.
    pub fn constant<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<B, D>> {
        self.param(shape, |count| vec![value; count])
    }

    /// A linear layer with normal weights and zero bias.
    pub fn linear(&self, input: usize, output: usize, bias: bool, std: f64) -> Linear<B> {
        Linear {
            weight: self.at("weight").truncated_normal([output, input], std),
            bias: bias.then(|| self.constant([output], 0.0)),
            bf16: self.precision == Precision::Bf16,
        }
    }

    /// A linear layer with Glorot weights and zero bias.
    pub fn xavier_linear(&self, input: usize, output: usize, bias: bool) -> Linear<B> {
        Linear {
            weight: self.at("weight").xavier([output, input], input, output),
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

    /// A convolution with a square kernel of `size`, uniform weights of variance `1 / (3 fan_in)` (PyTorch's) and zero bias.
    pub fn conv(&self, input: usize, output: usize, size: usize, stride: usize) -> Conv2d<B> {
        let bound = ((input * size * size) as f64).powf(-0.5);
        Conv2d {
            weight: self
                .at("weight")
                .uniform([output, input, size, size], bound),
            bias: Some(self.constant([output], 0.0)),
            stride,
            bf16: self.precision == Precision::Bf16,
        }
    }

    /// A convolution of zeros that keeps height and width.
    pub fn zero_conv(&self, input: usize, output: usize, size: usize) -> Conv2d<B> {
        Conv2d {
            weight: self.constant([output, input, size, size], 0.0),
            bias: Some(self.constant([output], 0.0)),
            stride: 1,
            bf16: self.precision == Precision::Bf16,
        }
    }

    /// A linear layer with uniform weights of variance `1 / (3 input)` (PyTorch's) and zero bias.
    pub fn fan_in_linear(&self, input: usize, output: usize, bias: bool) -> Linear<B> {
        Linear {
            weight: self
                .at("weight")
                .uniform([output, input], (input as f64).powf(-0.5)),
            bias: bias.then(|| self.constant([output], 0.0)),
            bf16: self.precision == Precision::Bf16,
        }
    }

    fn stream(&self) -> Stream {
        let path = self.path.strip_suffix('.').unwrap_or_default();
        Stream::named(self.seed, Purpose::Init, path)
    }

    /// A parameter of as many values as `draw` is asked for.
    fn param<const D: usize>(
        &self,
        shape: [usize; D],
        draw: impl FnOnce(usize) -> Vec<f32>,
    ) -> Param<Tensor<B, D>> {
        if self.deferred {
            let zeros = move |device: &B::Device, _| Tensor::zeros(shape, device);
            let device = self.device.clone();
            return Param::uninitialized(ParamId::new(), zeros, device, false, shape.into());
        }
        let data = TensorData::new(draw(shape.iter().product()), shape);
        Param::from_tensor(Tensor::from_data(data, self.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Dit,
        net::dit::tests::config,
        nn::params::{self, VisitParams},
    };
    use burn::tensor::backend::Backend;
    use burn_flex::Flex;
    use std::collections::BTreeMap;

    struct Values(BTreeMap<String, Vec<f32>>);

    impl<B: Backend> VisitParams<B> for Values {
        fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
            let values = param.val().into_data().iter().collect();
            self.0.insert(path.join("."), values);
        }
    }

    fn values(dit: &Dit<Flex>) -> BTreeMap<String, Vec<f32>> {
        params::visit(dit, Values(BTreeMap::new())).0
    }

    #[test]
    fn networks_with_and_without_a_mixer_share_all_other_initial_weights() {
        let device = Default::default();
        let with = values(&config().init(3, &device).unwrap());
        let without = values(&config().with_mixer(None).init(3, &device).unwrap());
        let (mixer, common): (BTreeMap<_, _>, BTreeMap<_, _>) = with
            .into_iter()
            .partition(|(name, _)| name.starts_with("mixer."));
        assert!(!mixer.is_empty());
        assert!(common.keys().eq(without.keys()));
        for (name, values) in common {
            assert!(without[&name] == values, "{name}");
        }
    }

    #[test]
    fn every_weight_is_drawn_at_its_own_path() {
        let mut drawn = 0;
        for (name, found) in values(&config().init(3, &Default::default()).unwrap()) {
            if found.iter().all(|value| *value == found[0]) {
                continue;
            }
            let stream = || Stream::named(3, Purpose::Init, &name);
            let uniform = stream().uniform(found.len());
            let uniform = uniform.into_iter().map(|x| 2.0 * x - 1.0).collect();
            // Of one distribution or the other, up to its size.
            let fits = [stream().normal(found.len()), uniform]
                .iter()
                .any(|expected| {
                    let scale = found[0] / expected[0];
                    let mut pairs = found.iter().zip(expected);
                    pairs.all(|(a, b)| (a - b * scale).abs() <= 1e-4 * scale.abs())
                });
            assert!(fits, "{name}");
            drawn += 1;
        }
        assert!(drawn > 40, "{drawn} of the weights are drawn");
    }
}
