//! Low-rank adapters of linear layers and convolutions (LoRA, arXiv 2106.09685).
//!
//! No layer knows of them. [`Lora::apply`] gives a network the weights `W + strength * scale * up down`, which stay part of the
//! recorded computation: gradients flow through them into the adapters, and merging for good is the same call on a network
//! that is not recorded. The network that was given keeps its own weights, so that un-merging is exact: it is still there.
//!
//! What this costs, beside computing `up (down x)` next to every layer: `2 rank inputs outputs` FLOPs a layer and
//! application, whatever the batch; one more copy of the adapted weights while the application is in use; and in training the
//! gradient of every adapted weight, as full training computes it. Optimizer state and gradients that are kept are those of
//! the adapters alone. It pays wherever a batch has more tokens than a layer has inputs; in return every layer, precision,
//! fused operation and activation checkpointing works with adapters as without.

mod config;

pub use config::{LoraConfig, LoraConfigError, LoraInit, LoraSizes};

use super::{
    params::{self, MapParams, Role, Roles, VisitParams},
    storage::whole,
};
use crate::{
    ops::DitBackend,
    rng::{Purpose, Stream},
};
use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use std::collections::BTreeMap;

/// What ends the path of the weight of a layer.
const WEIGHT: &str = "weight";

/// A layer that can be adapted: linear, or a convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its path in the network, joined by dots.
    pub path: String,
    /// Shape of its weight: `[outputs, inputs]`, or `[outputs, inputs, height, width]`.
    pub shape: Vec<usize>,
    /// What the weight is for.
    pub role: Role,
}

/// The layers of `network` that can be adapted, in its order: every parameter called `weight` of two or four dimensions is one's.
pub fn layers<B: Backend, M: Module<B> + Roles>(network: &M) -> Vec<Layer> {
    struct Collect<'a, M>(&'a M, Vec<Layer>);
    impl<B: Backend, M: Roles> VisitParams<B> for Collect<'_, M> {
        fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
            if let ([layer @ .., WEIGHT], 2 | 4) = (path, D) {
                self.1.push(Layer {
                    path: layer.join("."),
                    // Of a network that is not built, too.
                    shape: param.lazy_shape().to_vec(),
                    role: self.0.role(path, D),
                });
            }
        }
    }
    params::visit(network, Collect(network, Vec::new())).1
}

/// Adapters of some layers of a network.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::nn::{init::{Init, STD}, lora::{LoraConfig, Lora}};
///
/// let device = Default::default();
/// let layer = Init::<Flex>::new(0, &device).linear(8, 4, true, STD);
/// // A layer by itself has an empty path, which `*` stands for.
/// let config = LoraConfig { layers: vec!["*".into()], rank: 2, ..LoraConfig::default() };
/// let lora = config.init(&layer, 0, &device)?;
/// // Fresh adapters change nothing.
/// let x = Tensor::<Flex, 2>::ones([3, 8], &device);
/// let adapted = lora.apply(layer.clone(), 1.0);
/// assert_eq!(adapted.forward(x.clone()).into_data(), layer.forward(x).into_data());
/// # Ok::<(), microdit::nn::lora::LoraConfigError>(())
/// ```
#[derive(Module, Debug)]
pub struct Lora<B: Backend> {
    /// The adapters, each of another layer.
    pub adapters: Vec<Adapter<B>>,
}

/// The adapter of one layer: `scale * up down` is added to its weight.
#[derive(Module, Debug)]
pub struct Adapter<B: Backend> {
    /// From the inputs: `[rank, inputs]`; of a convolution `[rank, inputs x height x width]`. Others call it A.
    pub down: Param<Tensor<B, 2>>,
    /// To the outputs: `[outputs, rank]`. Others call it B.
    pub up: Param<Tensor<B, 2>>,
    #[module(skip)]
    layer: Layer,
    alpha: f64,
    rslora: bool,
    dropout: f64,
}

impl<B: Backend> Adapter<B> {
    /// An adapter that scales by `alpha / rank`, or by `alpha / sqrt(rank)` with `rslora` (arXiv 2312.03732).
    ///
    /// # Panics
    /// If the tensors do not fit the layer.
    pub fn new(
        layer: Layer,
        down: Param<Tensor<B, 2>>,
        up: Param<Tensor<B, 2>>,
        alpha: f64,
        rslora: bool,
    ) -> Self {
        let rank = down.dims()[0];
        assert_eq!(up.dims(), [layer.shape[0], rank], "{}: up", layer.path);
        let inputs: usize = layer.shape[1..].iter().product();
        assert_eq!(down.dims(), [rank, inputs], "{}: down", layer.path);
        Self {
            down,
            up,
            layer,
            alpha,
            rslora,
            dropout: 0.0,
        }
    }

    /// The layer it adapts.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// Width of the adapter.
    pub fn rank(&self) -> usize {
        self.down.dims()[0]
    }

    /// What the scale is `1 / rank` of.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Whether the scale is `alpha / sqrt(rank)`.
    pub fn is_rslora(&self) -> bool {
        self.rslora
    }

    /// What `up down` is multiplied by.
    pub fn scale(&self) -> f64 {
        let rank = self.rank() as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// What it adds to the weight, `[outputs, inputs]` or, of a convolution, `[outputs, inputs x height x width]`.
    fn delta(&self) -> Tensor<B, 2> {
        self.up.val().matmul(self.down.val()) * self.scale()
    }

    /// The same with a share of the layer's inputs dropped; the others count for more, so that the mean stays.
    fn dropping(mut self, random: &mut Stream) -> Self {
        if self.dropout == 0.0 {
            return self;
        }
        let inputs = self.layer.shape[1];
        let taps: usize = self.layer.shape[2..].iter().product();
        let factor = |draw: f32| match f64::from(draw) < self.dropout {
            true => 0.0,
            false => (1.0 / (1.0 - self.dropout)) as f32,
        };
        let factors = random.uniform(inputs).into_iter().map(factor);
        let factors: Vec<f32> = factors
            .flat_map(|factor| std::iter::repeat_n(factor, taps))
            .collect();
        let factors = TensorData::new(factors, [1, inputs * taps]);
        let down = self.down.val();
        let kept = Tensor::from_data(factors, (&down.device(), down.dtype()));
        self.down = Param::initialized(self.down.id, down * kept);
        self
    }
}

impl<B: DitBackend> Lora<B> {
    /// `network` with `strength` times what the adapters add to its weights: 1 is as trained, -1 takes out what was merged. Several
    /// are applied one after the other.
    ///
    /// # Panics
    /// If the network does not have one of the layers.
    #[must_use]
    pub fn apply<M: Module<B>>(&self, network: M, strength: f64) -> M {
        let adapters = self.adapters.iter();
        let mut add = Add {
            adapters: adapters
                .map(|adapter| (adapter.layer.path.as_str(), adapter))
                .collect(),
            strength,
        };
        let network = params::map(network, &mut add);
        let left = add.adapters.into_keys().next();
        assert!(left.is_none(), "the network has no layer {left:?}");
        network
    }

    /// The adapters as training step `step` sees them: each without the inputs that its dropout takes. What is drawn differs with `set`,
    /// for tasks that train several sets of adapters, below 2^32.
    ///
    /// Dropped are inputs of a layer (for a convolution, channels), the same for all tokens of the step, where peft draws anew for
    /// every token: a weight has no tokens. Gradients flow to `down` itself.
    #[must_use]
    pub fn dropping(self, seed: u64, step: u64, set: u64) -> Self {
        let adapters = self.adapters.into_iter().enumerate();
        let adapters = adapters.map(|(i, adapter)| {
            let place = (set << 32) | i as u64;
            adapter.dropping(&mut Stream::new(seed, Purpose::AdapterDropout, step, place))
        });
        Self {
            adapters: adapters.collect(),
        }
    }
}

impl<B: Backend> Roles for Lora<B> {
    fn role(&self, _path: &[&str], _rank: usize) -> Role {
        Role::Adapter
    }
}

/// Adds adapters to the weights of their layers.
struct Add<'a, B: Backend> {
    adapters: BTreeMap<&'a str, &'a Adapter<B>>,
    strength: f64,
}

impl<B: Backend> MapParams<B> for Add<'_, B> {
    fn map<const D: usize>(
        &mut self,
        path: &[&str],
        param: Param<Tensor<B, D>>,
    ) -> Param<Tensor<B, D>> {
        let [layer @ .., WEIGHT] = path else {
            return param;
        };
        let Some(adapter) = self.adapters.remove(layer.join(".").as_str()) else {
            return param;
        };
        let weight = param.val();
        let delta = adapter.delta().reshape(weight.dims()) * self.strength;
        // A weight kept in 16 bits would swallow what is learned.
        let weight = whole(weight);
        // Not `Param::map` and not `from_tensor`: what is recorded must stay so.
        Param::initialized(param.id, weight + delta)
    }
}

#[cfg(test)]
mod tests;
