//! What frozen weights take in memory: a teacher that is not trained needs no more digits than its products use.

use super::lora::layers;
use super::params::{self, MapParams, Roles};
use crate::ops::DitBackend;
use burn::{
    module::{Module, Param},
    tensor::{DType, Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The type in which the weights of frozen linear layers and convolutions are kept. Whatever it is, they compute as their network's
/// [`Precision`](super::Precision) says, and all other weights are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// 24 bits of mantissa.
    #[default]
    F32,
    /// 11 bits of mantissa, for values up to 65504.
    F16,
    /// 8 bits of mantissa, and the range of f32.
    Bf16,
}

impl Storage {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// `network`, whose weights are kept so and are not trained any more.
    ///
    /// ```
    /// use burn::tensor::DType;
    /// use burn_flex::Flex;
    /// use microdit::nn::{Storage, init::{Init, STD}};
    ///
    /// let layer = Init::<Flex>::new(0, &Default::default()).linear(8, 4, true, STD);
    /// let kept = Storage::Bf16.keep(layer);
    /// assert_eq!(kept.weight.dtype(), DType::BF16);
    /// assert_eq!(kept.bias.map(|bias| bias.dtype()), Some(DType::F32));
    /// ```
    #[must_use]
    pub fn keep<B: DitBackend, M: Module<B> + Roles>(self, network: M) -> M {
        let dtype = match self {
            Self::F32 => return network.no_grad(),
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        };
        let layers = layers(&network).into_iter();
        let mut keep = Keep {
            dtype,
            weights: layers
                .map(|layer| match layer.path.as_str() {
                    "" => "weight".to_owned(),
                    path => format!("{path}.weight"),
                })
                .collect(),
        };
        params::map(network, &mut keep).no_grad()
    }
}

/// Weights as products take them, however they are kept.
pub(super) fn whole<B: Backend, const D: usize>(weight: Tensor<B, D>) -> Tensor<B, D> {
    match weight.dtype() {
        DType::F16 | DType::BF16 => weight.cast(DType::F32),
        _ => weight,
    }
}

struct Keep {
    dtype: DType,
    weights: BTreeSet<String>,
}

impl<B: Backend> MapParams<B> for Keep {
    fn map<const D: usize>(
        &mut self,
        path: &[&str],
        param: Param<Tensor<B, D>>,
    ) -> Param<Tensor<B, D>> {
        match self.weights.contains(&path.join(".")) {
            true => param.map(|weight| weight.detach().cast(self.dtype)),
            false => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::{
            Conditioning, Denoiser as _,
            dit::tests::{config, shaken},
        },
        nn::lora::LoraConfig,
        rng::{Purpose, Stream},
    };
    use burn::tensor::TensorData;
    use burn_flex::Flex;

    fn draw<const D: usize>(key: u64, shape: [usize; D]) -> Tensor<Flex, D> {
        let count = shape.iter().product();
        let values = Stream::new(3, Purpose::Noise, 0, key).normal(count);
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    /// A network kept in 16 bits predicts as one whose weights were rounded to them, and nearly as the one it was made of; with adapters
    /// too, which are as exact as they were.
    #[test]
    fn kept_weights_are_rounded_and_nothing_else_is() {
        let network = shaken::<Flex>(&config());
        let image = |network: &crate::Dit<Flex>| {
            let captions = draw(2, [2, 5, 12]);
            let image = network.image(
                draw(0, [2, 4, 8, 8]),
                draw(1, [2]),
                Conditioning { captions },
            );
            image.into_data().iter::<f64>().collect::<Vec<_>>()
        };
        let lora = LoraConfig {
            layers: vec!["qkv".into()],
            ..LoraConfig::default()
        };
        let lora = lora.init(&network, 0, &Default::default()).unwrap();
        let exact = image(&network);
        let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
        for (storage, dtype, unit) in [
            (Storage::F16, DType::F16, 2f64.powi(-11)),
            (Storage::Bf16, DType::BF16, 2f64.powi(-8)),
        ] {
            let kept = storage.keep(network.clone());
            let mut rounded = Round(dtype);
            let rounded = params::map(kept.clone(), &mut rounded);
            let found = image(&kept);
            assert_eq!(found, image(&rounded), "{storage:?}");
            assert_eq!(found, image(&lora.apply(kept, 1.0)), "{storage:?}");
            let apart: Vec<f64> = found.iter().zip(&exact).map(|(a, b)| a - b).collect();
            let error = norm(&apart) / norm(&exact);
            assert!((unit / 50.0..10.0 * unit).contains(&error), "{error}");
        }
        assert_eq!(image(&Storage::F32.keep(network)), exact);
    }

    /// The same values in f32.
    struct Round(DType);

    impl MapParams<Flex> for Round {
        fn map<const D: usize>(
            &mut self,
            _path: &[&str],
            param: Param<Tensor<Flex, D>>,
        ) -> Param<Tensor<Flex, D>> {
            let kept = param.dtype();
            assert!([DType::F32, self.0].contains(&kept), "{kept:?}");
            param.map(|weight| weight.cast(DType::F32))
        }
    }
}
