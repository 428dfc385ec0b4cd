//! The block that CLIP's towers and DINOv2 are stacks of, under the names of the libraries that publish them.

use crate::{
    layers::{LayerNorm, Linear},
    weights::{At, MAX_LAYERS, MAX_WIDTH},
};
use burn::{module::Module, tensor::Tensor};
use microdit::{DitBackend, nn::Precision, ops::Activation, weights::WeightsError};

/// The nonlinearity that transformers calls `name`.
pub(crate) fn activation_named(name: &str) -> Result<Activation, String> {
    Ok(match name {
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_fast" | "gelu_accurate" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        other => {
            let known = "gelu, gelu_pytorch_tanh, quick_gelu, relu or silu";
            return Err(format!("hidden_act is `{other}`; expected {known}"));
        }
    })
}

/// Whose names a network's tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// CLIP in open_clip.
    OpenClip,
    /// CLIP in transformers.
    Clip,
    /// DINOv2 as its authors publish it.
    DinoV2,
    /// DINOv2 in transformers.
    Dinov2,
}

/// Sizes of a stack of [`Block`]s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockConfig {
    /// Channels of a token.
    pub(crate) width: usize,
    /// Attention heads.
    pub(crate) heads: usize,
    /// Width of the feed-forward layers.
    pub(crate) hidden: usize,
    /// Added to variances.
    pub(crate) eps: f64,
    /// Of a feed-forward layer that is not gated.
    pub(crate) activation: Activation,
    /// Whether queries, keys and values have biases.
    pub(crate) qkv_bias: bool,
    /// Whether each residual is multiplied by a factor per channel.
    pub(crate) layer_scale: bool,
    /// Whether the feed-forward layers are SwiGLU.
    pub(crate) gated: bool,
}

impl BlockConfig {
    /// Checks that there can be `layers` such blocks.
    pub(crate) fn check(&self, at: &At<'_>, layers: usize) -> Result<(), WeightsError> {
        if self.heads == 0 || !self.width.is_multiple_of(self.heads) {
            let message = format!("{} heads do not divide width {}", self.heads, self.width);
            return Err(at.unusable(&message));
        }
        at.within("the width", self.width, 1..=MAX_WIDTH)?;
        at.within("the feed-forward width", self.hidden, 1..=MAX_WIDTH)?;
        at.within("the number of layers", layers, 1..=MAX_LAYERS)?;
        at.epsilon("the epsilon of norms", self.eps)
    }
}

/// Pre-norm self-attention and feed-forward layers.
#[derive(Module, Debug)]
struct Block<B: DitBackend> {
    norms: [LayerNorm<B>; 2],
    /// Queries, keys and values stacked.
    qkv: Linear<B>,
    out: Linear<B>,
    feed_forward: FeedForward<B>,
    /// Factors of the residuals, `[width]`.
    scales: Option<[Tensor<B, 1>; 2]>,
    heads: usize,
    /// Of the linear layers' products.
    #[module(skip)]
    precision: Precision,
}

impl<B: DitBackend> Block<B> {
    fn load(
        config: &BlockConfig,
        names: Names,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let width = config.width;
        let (norms, out, scales) = match names {
            Names::OpenClip => (
                ["ln_1", "ln_2"],
                "attn.out_proj",
                ["ls_1.gamma", "ls_2.gamma"],
            ),
            Names::Clip => (
                ["layer_norm1", "layer_norm2"],
                "self_attn.out_proj",
                ["layer_scale1.lambda1", "layer_scale2.lambda1"],
            ),
            Names::DinoV2 => (["norm1", "norm2"], "attn.proj", ["ls1.gamma", "ls2.gamma"]),
            Names::Dinov2 => (
                ["norm1", "norm2"],
                "attention.output.dense",
                ["layer_scale1.lambda1", "layer_scale2.lambda1"],
            ),
        };
        let norm = |name: &str| LayerNorm::load(&at.at(name), width, config.eps, device);
        let scale = |name: &str| at.tensor(name, [width], device);
        Ok(Self {
            norms: [norm(norms[0])?, norm(norms[1])?],
            qkv: Self::qkv(config, names, at, device)?,
            out: Linear::load(&at.at(out), [width; 2], true, device)?,
            feed_forward: FeedForward::load(config, names, &at.at("mlp"), device)?,
            scales: match config.layer_scale {
                true => Some([scale(scales[0])?, scale(scales[1])?]),
                false => None,
            },
            heads: config.heads,
            precision: Precision::F32,
        })
    }

    fn qkv(
        config: &BlockConfig,
        names: Names,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<Linear<B>, WeightsError> {
        let width = config.width;
        let (attention, parts) = match names {
            Names::OpenClip => {
                let at = at.at("attn");
                let weight = at.tensor("in_proj_weight", [3 * width, width], device)?;
                let bias = config.qkv_bias;
                let bias = bias.then(|| at.tensor("in_proj_bias", [3 * width], device));
                return Ok(Linear::new(weight, bias.transpose()?));
            }
            Names::DinoV2 => {
                let at = at.at("attn.qkv");
                return Linear::load(&at, [width, 3 * width], config.qkv_bias, device);
            }
            Names::Clip => ("self_attn", ["q_proj", "k_proj", "v_proj"]),
            Names::Dinov2 => ("attention.attention", ["query", "key", "value"]),
        };
        let attention = at.at(attention);
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for name in parts {
            let at = attention.at(name);
            weights.push(at.tensor("weight", [width; 2], device)?);
            if config.qkv_bias {
                biases.push(at.tensor("bias", [width], device)?);
            }
        }
        let bias = config.qkv_bias.then(|| Tensor::cat(biases, 0));
        Ok(Linear::new(Tensor::cat(weights, 0), bias))
    }

    fn computing_in(self, precision: Precision) -> Self {
        Self {
            qkv: self.qkv.computing_in(precision),
            out: self.out.computing_in(precision),
            feed_forward: self.feed_forward.computing_in(precision),
            precision,
            ..self
        }
    }

    /// `[batch, tokens, width]` to the same; where it is `causal`, a token sees itself and those before it.
    fn forward(&self, x: Tensor<B, 3>, causal: bool) -> Tensor<B, 3> {
        let precision = self.precision;
        let normed = self.norms[0].forward_in(precision, x.clone());
        let qkv = self.qkv.forward(normed);
        let attended = B::packed_attention(qkv, self.heads, causal);
        let x = B::residual(x, self.scaled(0, self.out.forward(attended)));
        let hidden = self.norms[1].forward_in(precision, x.clone());
        let update = self.feed_forward.forward(hidden);
        B::residual(x, self.scaled(1, update))
    }

    fn scaled(&self, which: usize, x: Tensor<B, 3>) -> Tensor<B, 3> {
        match &self.scales {
            Some(scales) => self.precision.leave(x) * scales[which].clone().unsqueeze::<3>(),
            None => x,
        }
    }
}

/// Blocks, one after the other.
#[derive(Module, Debug)]
pub(crate) struct Stack<B: DitBackend> {
    blocks: Vec<Block<B>>,
}

impl<B: DitBackend> Stack<B> {
    /// So many blocks with the weights below `at`, by their numbers.
    ///
    /// # Errors
    /// Missing and misshapen tensors, and those of more blocks.
    pub(crate) fn load(
        config: &BlockConfig,
        layers: usize,
        names: Names,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let load = |i| Block::load(config, names, &at.at(i), device);
        let blocks = (0..layers).map(load).collect::<Result<_, _>>()?;
        at.all_read()?;
        Ok(Self { blocks })
    }

    /// The same whose linear layers and attention compute in `precision`; norms and what one block hands to the next stay f32.
    /// For bf16, weights are rounded for good.
    pub(crate) fn computing_in(self, precision: Precision) -> Self {
        let blocks = self.blocks.into_iter();
        let blocks = blocks.map(|block| block.computing_in(precision));
        Self {
            blocks: blocks.collect(),
        }
    }

    /// `[batch, tokens, width]` to the same; `state` sees what goes into the first block as 0, and as `i` what comes out of block
    /// `i`, counted from 1.
    pub(crate) fn forward(
        &self,
        mut x: Tensor<B, 3>,
        causal: bool,
        mut state: impl FnMut(usize, &Tensor<B, 3>),
    ) -> Tensor<B, 3> {
        state(0, &x);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, causal);
            state(i + 1, &x);
        }
        x
    }
}

/// Two layers with a nonlinearity between them.
#[derive(Module, Debug)]
struct FeedForward<B: DitBackend> {
    inner: Linear<B>,
    /// None for SwiGLU (arXiv 2002.05202): the first layer makes gates and values side by side.
    #[module(skip)]
    activation: Option<Activation>,
    outer: Linear<B>,
}

impl<B: DitBackend> FeedForward<B> {
    fn load(
        config: &BlockConfig,
        names: Names,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let (width, hidden) = (config.width, config.hidden);
        let (inner, outer) = match (names, config.gated) {
            (Names::OpenClip, _) => ("c_fc", "c_proj"),
            (Names::DinoV2, true) => ("w12", "w3"),
            (_, true) => ("weights_in", "weights_out"),
            (_, false) => ("fc1", "fc2"),
        };
        let linear = |name: &str, sizes| Linear::load(&at.at(name), sizes, true, device);
        let outer = linear(outer, [hidden, width])?;
        let parts = if config.gated { 2 } else { 1 };
        Ok(Self {
            inner: linear(inner, [width, parts * hidden])?,
            activation: (!config.gated).then_some(config.activation),
            outer,
        })
    }

    fn computing_in(self, precision: Precision) -> Self {
        Self {
            inner: self.inner.computing_in(precision),
            outer: self.outer.computing_in(precision),
            ..self
        }
    }

    /// Of what the precision has entered, and to the same.
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = self.inner.forward(x);
        let hidden = match self.activation {
            Some(activation) => B::activate(x, activation),
            None => {
                let [gate, value] = x
                    .chunk(2, 2)
                    .try_into()
                    .expect("an even number of channels");
                B::gated(gate, value, Activation::Silu)
            }
        };
        self.outer.forward(hidden)
    }
}
