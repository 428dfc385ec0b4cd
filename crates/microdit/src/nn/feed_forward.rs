//! Feed-forward layers: the dense ones, SwiGLU and GELU, and the choice between them and experts.

use crate::{
    nn::{
        BlockConfig, Dense, Linear,
        init::{self, Init},
        moe::{ExpertChoice, Unmodulated},
        params::{Role, Roles},
    },
    ops::{DitBackend, over_rows},
};
use burn::{module::Module, tensor::Tensor};

/// `w3(silu(w1 x) * w2 x)` (arXiv 2002.05202).
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{DitConfig, nn::{feed_forward::SwiGlu, init::Init}};
///
/// let device = Default::default();
/// let layer = SwiGlu::<Flex>::new(&DitConfig::tiny_2().blocks()[0], &Init::new(0, &device));
/// assert_eq!(layer.forward(Tensor::ones([2, 16, 512], &device)).dims(), [2, 16, 512]);
/// ```
#[derive(Module, Debug)]
pub struct SwiGlu<B: DitBackend> {
    /// The gated branch `[hidden, dim]`.
    pub w1: Linear<B>,
    /// The linear branch `[hidden, dim]`.
    pub w2: Linear<B>,
    /// Output `[dim, hidden]`.
    pub w3: Linear<B>,
}

impl<B: DitBackend> SwiGlu<B> {
    /// A layer of the widths of `block`.
    pub fn new(block: &BlockConfig, init: &Init<'_, B>) -> Self {
        let (dim, hidden, bias) = (block.dim, block.hidden_dim, block.use_bias);
        Self {
            w1: init.at("w1").linear(dim, hidden, bias, init::STD),
            w2: init.at("w2").linear(dim, hidden, bias, block.output_std),
            w3: init.at("w3").linear(hidden, dim, bias, block.output_std),
        }
    }

    /// `[batch, tokens, dim]` to the same, in the type it computes in.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = self.w1.enter(x);
        let gate = self.w1.compute(x.clone());
        let (weight, bias) = self.w3.values();
        B::project_swiglu(gate, self.w2.compute(x), weight, bias)
    }
}

/// `fc2(gelu(fc1 x))` with GELU in its tanh approximation: the feed-forward of DiT (arXiv 2212.09748).
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{Dense, DitConfig, nn::{feed_forward::Gelu, init::Init}};
///
/// let device = Default::default();
/// let block = &DitConfig::tiny_2().with_feed_forward(Dense::Gelu).blocks()[0];
/// let layer = Gelu::<Flex>::new(block, &Init::new(0, &device));
/// assert_eq!(layer.forward(Tensor::ones([2, 16, 512], &device)).dims(), [2, 16, 512]);
/// ```
#[derive(Module, Debug)]
pub struct Gelu<B: DitBackend> {
    /// `[hidden, dim]`.
    pub fc1: Linear<B>,
    /// `[dim, hidden]`.
    pub fc2: Linear<B>,
}

impl<B: DitBackend> Gelu<B> {
    /// A layer of the widths of `block`.
    pub fn new(block: &BlockConfig, init: &Init<'_, B>) -> Self {
        let (dim, hidden, bias) = (block.dim, block.hidden_dim, block.use_bias);
        Self {
            fc1: init.at("fc1").linear(dim, hidden, bias, init::STD),
            fc2: init.at("fc2").linear(hidden, dim, bias, block.output_std),
        }
    }

    /// `[batch, tokens, dim]` to the same, in the type it computes in.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let (weight, bias) = self.fc2.values();
        over_rows(self.fc1.compute(x), |x| B::project_gelu(x, weight, bias))
    }
}

/// The feed-forward of a block.
///
/// ```
/// use burn_flex::Flex;
/// use microdit::{DitConfig, nn::{feed_forward::FeedForward, init::Init}};
///
/// let device = Default::default();
/// let blocks = DitConfig::tiny_2().blocks(); // experts in every second block
/// let init = Init::<Flex>::new(0, &device);
/// assert!(matches!(FeedForward::new(&blocks[0], &init), FeedForward::Dense(_)));
/// assert!(matches!(FeedForward::new(&blocks[1], &init), FeedForward::Experts(_)));
/// ```
// A network has a handful of these: their size on the stack does not matter, and a box would be in everyone's way.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum FeedForward<B: DitBackend> {
    /// Every token through one SwiGLU.
    Dense(SwiGlu<B>),
    /// Every token through two layers.
    Gelu(Gelu<B>),
    /// Every expert through the tokens it chooses.
    Experts(ExpertChoice<B>),
}

impl<B: DitBackend> FeedForward<B> {
    /// The layer `block` asks for.
    pub fn new(block: &BlockConfig, init: &Init<'_, B>) -> Self {
        match &block.moe {
            Some(moe) => Self::Experts(ExpertChoice::new(block, moe, init)),
            None => match block.dense {
                Dense::SwiGlu => Self::Dense(SwiGlu::new(block, init)),
                Dense::Gelu => Self::Gelu(Gelu::new(block, init)),
            },
        }
    }

    /// Whether it has experts whose router is [decoupled](crate::Router::Decoupled).
    pub fn is_decoupled(&self) -> bool {
        matches!(self, Self::Experts(experts) if experts.is_decoupled())
    }

    /// `[batch, tokens, dim]` to the same, in the type it computes in; `unmodulated` is for a decoupled router.
    ///
    /// # Panics
    /// If the router is decoupled and there is no `unmodulated`.
    pub fn forward(&self, x: Tensor<B, 3>, unmodulated: Option<Unmodulated<B>>) -> Tensor<B, 3> {
        match self {
            Self::Dense(dense) => dense.forward(x),
            Self::Gelu(gelu) => gelu.forward(x),
            Self::Experts(experts) => experts.forward(x, unmodulated),
        }
    }
}

impl<B: DitBackend> Roles for FeedForward<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match self {
            Self::Dense(_) | Self::Gelu(_) => Role::plain(path, rank),
            Self::Experts(experts) => experts.role(path, rank),
        }
    }
}
