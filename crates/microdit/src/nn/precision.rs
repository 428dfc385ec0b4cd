//! Mixed precision: f32 weights, residuals and islands around bf16 products, as PyTorch's autocast has it.

use crate::ops::DitBackend;
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// What matrix products, attention and experts compute in. Weights, residual stream, norms, softmax, modulation, router
/// and loss stay f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// 24 bits of mantissa.
    #[default]
    F32,
    /// 8 bits of mantissa and the range of f32.
    Bf16,
}

impl Precision {
    /// From the flag a module keeps, since modules hold plain values only.
    pub(crate) fn of(bf16: bool) -> Self {
        if bf16 { Self::Bf16 } else { Self::F32 }
    }

    /// The type of what products take and give.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// A tensor as products take it. The weights of what is trained stay f32: whoever computes a product rounds them for it.
    pub fn enter<B: DitBackend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => B::cast(x, DType::BF16),
        }
    }

    /// A tensor as the residual stream takes it.
    pub fn leave<B: DitBackend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::F32 => x,
            Self::Bf16 => B::cast(x, DType::F32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Masking, TokenMask,
        diffusion::Diffusion as _,
        net::{
            Conditioning, Denoiser as _,
            dit::tests::{config, shaken},
        },
        nn::params::{self, VisitParams},
        rng::{Purpose, Stream},
        task::{DenoiseConfig, Noised, Task as _},
    };
    use burn::{module::Param, tensor::TensorData};
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;
    use std::collections::BTreeMap;

    type Tracked = Autodiff<Flex>;

    fn draw<const D: usize>(key: u64, shape: [usize; D]) -> TensorData {
        let count = shape.iter().product();
        TensorData::new(Stream::new(3, Purpose::Noise, 0, key).normal(count), shape)
    }

    /// Loss and gradients of one network of random weights.
    fn loss(precision: Precision) -> (f32, BTreeMap<String, Vec<f32>>) {
        struct Collect<'a>(
            &'a <Tracked as burn::tensor::backend::AutodiffBackend>::Gradients,
            BTreeMap<String, Vec<f32>>,
        );
        impl VisitParams<Tracked> for Collect<'_> {
            fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<Tracked, D>>) {
                assert_eq!(param.val().dtype(), DType::F32, "weights stay f32");
                let grad = param.val().grad(self.0).expect("every parameter matters");
                assert_eq!(grad.dtype(), DType::F32);
                self.1
                    .insert(path.join("."), grad.into_data().iter().collect());
            }
        }
        let config = config().with_precision(precision);
        let device = Default::default();
        let dit = shaken::<Tracked>(&config);
        let settings = DenoiseConfig {
            masking: Masking::Deferred { ratio: 0.5 },
            ..DenoiseConfig::default()
        };
        let task = settings.init(dit.clone()).unwrap();
        let keep = TokenMask::draw(settings.masking, [config.grid(); 2], 0, 0, 0..2, &device);
        let noised = Noised {
            clean: Tensor::from_data(draw(0, [2, 4, 8, 8]), &device),
            noise: Tensor::from_data(draw(1, [2, 4, 8, 8]), &device),
            rows: task.family().rows(&[0.5, 2.0]),
            conditioning: Conditioning {
                captions: Tensor::from_data(draw(2, [2, 5, 12]), &device),
            },
            dropout: None,
            keep,
        };
        let output = task.denoiser().predict(task.inputs(&noised));
        let loss = task.losses(&noised, &output).total().mean();
        assert_eq!(loss.dtype(), DType::F32);
        let value = loss.clone().into_data().iter::<f32>().next().unwrap();
        let grads = loss.backward();
        let collect = params::visit(&dit, Collect(&grads, BTreeMap::new()));
        (value, collect.1)
    }

    #[test]
    fn bf16_follows_f32_at_its_precision() {
        let ((wide, grads), (narrow, rounded)) = (loss(Precision::F32), loss(Precision::Bf16));
        let error = (narrow / wide - 1.0).abs();
        // A rounding is 2^-9; a dozen layers of them add up to a few percent, a wrong formula to all of it. Equality
        // would mean that nothing was computed in bf16.
        assert!((1e-6..0.03).contains(&error), "loss {wide} and {narrow}");
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
        let (mut distance, mut size) = (0.0, 0.0);
        for (name, grad) in &grads {
            let other = &rounded[name];
            assert!(other.iter().all(|x| x.is_finite()), "{name}");
            distance += norm(&mut grad.iter().zip(other).map(|(a, b)| a - b)).powi(2);
            size += norm(&mut grad.iter().copied()).powi(2);
        }
        let error = (distance / size).sqrt();
        assert!((1e-4..0.15).contains(&error), "gradients differ by {error}");
    }
}
