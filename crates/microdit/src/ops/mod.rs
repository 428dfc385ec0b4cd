//! `DitBackend`: the operations worth fusing, behind one trait, with the optimizer's and the collectives beside them.
//!
//! Every method has a body composed from burn tensors, so supporting another backend is an empty `impl` of each trait; a
//! backend overrides what it can do faster. The `_backward` methods give the gradients of an operation's inputs from the
//! gradient `grad` of its output; `Autodiff` calls them, so each operation is one node of the graph that keeps its
//! inputs and nothing in between: projections of what is cheap to compute keep what it is computed from. Nobody outside this module knows which version runs.

mod activation;
mod autodiff;
pub mod collectives;
// Public for the benchmarks, which compare the fused operations with it.
#[doc(hidden)]
pub mod composed;
#[cfg(feature = "cubecl")]
mod cube;
#[cfg(test)]
mod finite_differences;
mod flex;
#[cfg(feature = "fusion")]
mod fusion;
#[cfg(test)]
mod narrow_tests;
pub mod optimizer;
#[cfg(test)]
mod tests;

pub use activation::Activation;
pub use collectives::Collectives;
pub(crate) use composed::split_last;
pub use optimizer::{AdamState, AdamStep, OptimizerOps};

use crate::{nn::Precision, worker_pool::KeepAwake};
use burn::tensor::{
    DType, Int, Tensor,
    activation::gelu_approximate,
    backend::{AutodiffBackend, Backend},
    ops::PaddedConvOptions,
};

/// A backend that trains microdit's networks: a [`DitBackend`] under automatic differentiation.
pub trait TrainBackend: DitBackend + AutodiffBackend<InnerBackend: DitBackend> {}

impl<B: DitBackend + AutodiffBackend<InnerBackend: DitBackend>> TrainBackend for B {}

/// Whether this processor has the tiles of AMX for products of bf16, and the system lets this process use them. Then products in bf16
/// take a fraction of the time that they take in f32.
pub fn has_amx() -> bool {
    flex::has_amx()
}

/// A burn backend that runs microdit's networks.
pub trait DitBackend: OptimizerOps + Collectives {
    /// Keeps the workers awake during a step of many short operations, where that helps.
    fn keep_awake() -> Option<KeepAwake> {
        None
    }

    /// What to tell who trains a network whose products are in bf16, where they take longer than in f32.
    fn bf16_advice() -> Option<&'static str> {
        None
    }

    /// The same numbers as `dtype` has them, f32 or bf16.
    fn cast<const D: usize>(x: Tensor<Self, D>, dtype: DType) -> Tensor<Self, D> {
        x.cast(dtype)
    }

    /// `x W^T + b`: `x` `[rows, input]`, `weight` `[output, input]`, `bias` `[output]` to `[rows, output]` in the type of `x`.
    /// Weight and bias may be f32 where `x` is bf16: then they are rounded like it for the product, and their gradients are f32. A weight
    /// that is not trained may be rounded before.
    fn project(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        composed::project(x, weight, bias)
    }

    /// [`project`](Self::project) of `x` as `dtype` has it, f32 or bf16. For an `x` that several layers take: automatic differentiation
    /// keeps it as it is, once for all of them, and rounds it again.
    fn project_as(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        dtype: DType,
    ) -> Tensor<Self, 2> {
        Self::project(Self::cast(x, dtype), weight, bias)
    }

    /// [`project`](Self::project) of [`tanh_gelu`](Self::tanh_gelu). Automatic differentiation keeps `x`, and computes the GELU again.
    fn project_gelu(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        Self::project(Self::tanh_gelu(x), weight, bias)
    }

    /// [`project`](Self::project) of every token of [`swiglu`](Self::swiglu). Automatic differentiation keeps `gate` and `x`, and
    /// computes the SwiGLU again.
    fn project_swiglu(
        gate: Tensor<Self, 3>,
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 3> {
        over_rows(Self::swiglu(gate, x), |x| Self::project(x, weight, bias))
    }

    /// Gradients of `x` and `weight` of [`project`](Self::project); [`sum_rows`](Self::sum_rows) of `grad` is `bias`'s.
    fn project_backward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        grad: Tensor<Self, 2>,
    ) -> (Tensor<Self, 2>, Tensor<Self, 2>) {
        composed::project_backward(x, weight, grad)
    }

    /// Sum of all rows: `[rows, dim]` to `[dim]`, in f32 if they are bf16.
    fn sum_rows(x: Tensor<Self, 2>) -> Tensor<Self, 1> {
        composed::sum_rows(x)
    }

    /// Layer norm `(x - mean) / sqrt(variance + eps) * weight` of every row: `x` `[rows, dim]`, `weight` `[dim]`.
    fn norm(x: Tensor<Self, 2>, weight: Tensor<Self, 1>, eps: f64) -> Tensor<Self, 2> {
        composed::norm(x, eps) * weight.unsqueeze()
    }

    /// Gradients of `x` and `weight` of [`norm`](Self::norm).
    fn norm_backward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 1>,
        eps: f64,
        grad: Tensor<Self, 2>,
    ) -> (Tensor<Self, 2>, Tensor<Self, 1>) {
        composed::norm_backward(x, weight, eps, grad)
    }

    /// Layer norm with weight and bias (arXiv 1607.06450): `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension,
    /// as `precision` has it: `x` `[batch, tokens, dim]`, f32, `weight` and `bias` `[dim]`. It is differentiated as it is composed.
    ///
    /// # Panics
    /// If weight or bias has another length.
    fn affine_norm(
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        bias: Tensor<Self, 1>,
        eps: f64,
        precision: Precision,
    ) -> Tensor<Self, 3> {
        composed::affine_norm(x, weight, bias, eps, precision)
    }

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (arXiv 1910.07467), as `precision` has it: `x` `[batch, tokens, dim]`,
    /// f32, and `weight` `[dim]`. It is differentiated as it is composed.
    ///
    /// # Panics
    /// If the weight has another length.
    fn rms_norm(
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        eps: f64,
        precision: Precision,
    ) -> Tensor<Self, 3> {
        composed::rms_norm(x, weight, eps, precision)
    }

    /// `norm(x) * (1 + scale) + shift`: `x` `[batch, tokens, dim]`, `shift` and `scale` `[batch, dim]`.
    fn modulated_norm(
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        shift: Tensor<Self, 2>,
        scale: Tensor<Self, 2>,
        eps: f64,
    ) -> Tensor<Self, 3> {
        composed::modulated_norm(x, weight, shift, scale, eps)
    }

    /// Gradients of `x`, `weight`, `shift` and `scale` of [`modulated_norm`](Self::modulated_norm).
    fn modulated_norm_backward(
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        scale: Tensor<Self, 2>,
        eps: f64,
        grad: Tensor<Self, 3>,
    ) -> ModulatedNormGrads<Self> {
        composed::modulated_norm_backward(x, weight, scale, eps, grad)
    }

    /// `x + update`, of one shape and in the type of `x`. The update may be bf16 where `x` is f32.
    ///
    /// # Panics
    /// If the shapes differ.
    fn residual(x: Tensor<Self, 3>, update: Tensor<Self, 3>) -> Tensor<Self, 3> {
        assert_eq!(x.dims(), update.dims(), "shapes of a residual");
        let dtype = x.dtype();
        x + update.cast(dtype)
    }

    /// `x + gate * update`: `[batch, tokens, dim]`, `gate` `[batch, dim]`. The update may be bf16 where the others are f32.
    fn gated_residual(
        x: Tensor<Self, 3>,
        update: Tensor<Self, 3>,
        gate: Tensor<Self, 2>,
    ) -> Tensor<Self, 3> {
        composed::gated_residual(x, update, gate)
    }

    /// Gradients of `update` and `gate` of [`gated_residual`](Self::gated_residual); `x`'s is `grad` itself.
    fn gated_residual_backward(
        update: Tensor<Self, 3>,
        gate: Tensor<Self, 2>,
        grad: Tensor<Self, 3>,
    ) -> (Tensor<Self, 3>, Tensor<Self, 2>) {
        composed::gated_residual_backward(update, gate, grad)
    }

    /// GELU in its tanh approximation (arXiv 1606.08415).
    fn tanh_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        gelu_approximate(x)
    }

    /// Gradient of `x` of [`tanh_gelu`](Self::tanh_gelu).
    fn tanh_gelu_backward(x: Tensor<Self, 2>, grad: Tensor<Self, 2>) -> Tensor<Self, 2> {
        composed::gelu_backward(x, grad)
    }

    /// `silu(gate) * x`, of one shape: [`gated`](Self::gated) by the SiLU, with a backward pass of its own.
    fn swiglu(gate: Tensor<Self, 3>, x: Tensor<Self, 3>) -> Tensor<Self, 3> {
        composed::swiglu(gate, x)
    }

    /// Gradients of `gate` and `x` of [`swiglu`](Self::swiglu).
    fn swiglu_backward(
        gate: Tensor<Self, 3>,
        x: Tensor<Self, 3>,
        grad: Tensor<Self, 3>,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        composed::swiglu_backward(gate, x, grad)
    }

    /// Self-attention over packed heads, queries and keys normalized over the whole width first: `qkv`
    /// `[batch, tokens, 3 x width]` to `[batch, tokens, width]`.
    fn self_attention(qkv: Tensor<Self, 3>, heads: usize, eps: f64) -> Tensor<Self, 3> {
        composed::self_attention(qkv, heads, eps)
    }

    /// Gradient of `qkv` of [`self_attention`](Self::self_attention).
    fn self_attention_backward(
        qkv: Tensor<Self, 3>,
        heads: usize,
        eps: f64,
        grad: Tensor<Self, 3>,
    ) -> Tensor<Self, 3> {
        composed::self_attention_backward(qkv, heads, eps, grad)
    }

    /// Attention of `q` `[batch, tokens, width]` to the packed `kv` `[batch, caption tokens, 2 x width]`, with the same
    /// normalization.
    fn cross_attention(
        q: Tensor<Self, 3>,
        kv: Tensor<Self, 3>,
        heads: usize,
        eps: f64,
    ) -> Tensor<Self, 3> {
        composed::cross_attention(q, kv, heads, eps)
    }

    /// Gradients of `q` and `kv` of [`cross_attention`](Self::cross_attention).
    fn cross_attention_backward(
        q: Tensor<Self, 3>,
        kv: Tensor<Self, 3>,
        heads: usize,
        eps: f64,
        grad: Tensor<Self, 3>,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        composed::cross_attention_backward(q, kv, heads, eps, grad)
    }

    /// Attention without any normalization: `q` `[batch, tokens, width]` and `k`, `v` `[batch, words, width]`, each of `heads`
    /// heads side by side, to `[batch, tokens, width]`.
    fn plain_attention(
        q: Tensor<Self, 3>,
        k: Tensor<Self, 3>,
        v: Tensor<Self, 3>,
        heads: usize,
    ) -> Tensor<Self, 3> {
        composed::plain_attention(q, k, v, heads)
    }

    /// Gradients of `q`, `k` and `v` of [`plain_attention`](Self::plain_attention).
    fn plain_attention_backward(
        q: Tensor<Self, 3>,
        k: Tensor<Self, 3>,
        v: Tensor<Self, 3>,
        heads: usize,
        grad: Tensor<Self, 3>,
    ) -> [Tensor<Self, 3>; 3] {
        composed::plain_attention_backward(q, k, v, heads, grad)
    }

    /// Attention within `qkv` `[batch, tokens, 3 x width]`, of `heads` heads side by side, without any normalization, to
    /// `[batch, tokens, width]`. Where it is `causal`, a token attends to itself and to those before it. It is differentiated as it is composed.
    fn packed_attention(qkv: Tensor<Self, 3>, heads: usize, causal: bool) -> Tensor<Self, 3> {
        if causal {
            return composed::packed_attention(qkv, heads, causal);
        }
        let [q, k, v] = composed::split_last(qkv);
        Self::plain_attention(q, k, v, heads)
    }

    /// Attention within `qkv` `[batch, tokens, 3 x width]`, of heads side by side, to `[batch, tokens, width]`, whose scores are not divided
    /// by the root of a head's width: `bias` `[heads, tokens, tokens]` is added to them, and `padding` `[batch, tokens]` to those of every
    /// head and query (T5, arXiv 1910.10683). Both are f32. It is differentiated as it is composed.
    ///
    /// # Panics
    /// If bias or padding has another shape.
    fn biased_attention(
        qkv: Tensor<Self, 3>,
        bias: Tensor<Self, 3>,
        padding: Option<Tensor<Self, 2>>,
    ) -> Tensor<Self, 3> {
        composed::biased_attention(qkv, bias, padding)
    }

    /// A nonlinearity of `gate`, times `x`, of one shape. It is differentiated as it is composed.
    fn gated(gate: Tensor<Self, 3>, x: Tensor<Self, 3>, activation: Activation) -> Tensor<Self, 3> {
        composed::gated(gate, x, activation)
    }

    /// A nonlinearity, element by element. It is differentiated as it is composed.
    fn activate(x: Tensor<Self, 3>, activation: Activation) -> Tensor<Self, 3> {
        composed::activate(x, activation)
    }

    /// `value * gelu(gate)` with the exact GELU, of the halves `[value, gate]` of every row: `[batch, tokens, 2 x width]` to
    /// `[batch, tokens, width]` (arXiv 2002.05202).
    fn geglu(x: Tensor<Self, 3>) -> Tensor<Self, 3> {
        composed::geglu(x)
    }

    /// Gradient of `x` of [`geglu`](Self::geglu).
    fn geglu_backward(x: Tensor<Self, 3>, grad: Tensor<Self, 3>) -> Tensor<Self, 3> {
        composed::geglu_backward(x, grad)
    }

    /// Group norm (arXiv 1803.08494): `x` `[batch, channels, height, width]` over every one of `groups` runs of channels, times
    /// `weight` plus `bias`, both `[channels]`; with `silu`, the SiLU of it.
    fn group_norm(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 1>,
        bias: Tensor<Self, 1>,
        options: GroupNormOptions,
    ) -> Tensor<Self, 4> {
        composed::group_norm(x, weight, bias, options)
    }

    /// Gradients of `x`, `weight` and `bias` of [`group_norm`](Self::group_norm).
    fn group_norm_backward(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 1>,
        bias: Tensor<Self, 1>,
        options: GroupNormOptions,
        grad: Tensor<Self, 4>,
    ) -> GroupNormGrads<Self> {
        composed::group_norm_backward(x, weight, bias, options, grad)
    }

    /// Convolution of `x` `[batch, input, height, width]` with `weight` `[output, input / groups, rows, columns]`, plus `bias`
    /// `[output]`: to `[batch, output, ..]`, in the types that [`project`](Self::project) has. (A backend's own `conv2d` is
    /// burn's, of primitives.)
    fn convolution(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Option<Tensor<Self, 1>>,
        options: &PaddedConvOptions<2>,
    ) -> Tensor<Self, 4> {
        composed::convolution(x, weight, bias, options)
    }

    /// Gradients of `x` and `weight` of [`convolution`](Self::convolution); [`sum_pixels`](Self::sum_pixels) of `grad` is
    /// `bias`'s.
    fn convolution_backward(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        options: &PaddedConvOptions<2>,
        grad: Tensor<Self, 4>,
    ) -> (Tensor<Self, 4>, Tensor<Self, 4>) {
        composed::convolution_backward(x, weight, options, grad)
    }

    /// Sum of every channel over all pixels of all images: `[batch, channels, height, width]` to `[channels]`, in f32 if they
    /// are bf16.
    fn sum_pixels(x: Tensor<Self, 4>) -> Tensor<Self, 1> {
        composed::sum_pixels(x)
    }

    /// Indices of the `taken` largest scores of every row of `scores` `[batch, rows, tokens]`, largest first
    /// `[batch, rows, taken]`, each index once; equal scores and NaN come in any order.
    fn top_k(scores: Tensor<Self, 3>, taken: usize) -> Tensor<Self, 3, Int> {
        composed::top_k(scores, taken)
    }

    /// Two-layer GELU experts over the tokens each has chosen, summed back into the tokens' places; also returns what
    /// the backward pass needs again, the hidden layer before its GELU `[experts, batch x taken, hidden]`.
    fn experts(inputs: ExpertInputs<Self>) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        composed::experts(inputs)
    }

    /// The output of [`experts`](Self::experts) of tokens as `dtype` has them, f32 or bf16. For tokens that a router takes in f32: automatic
    /// differentiation keeps them as they are, once for both, and rounds them again.
    fn experts_as(mut inputs: ExpertInputs<Self>, dtype: DType) -> Tensor<Self, 3> {
        inputs.x = Self::cast(inputs.x, dtype);
        Self::experts(inputs).0
    }

    /// Gradients of the float inputs of [`experts`](Self::experts).
    fn experts_backward(
        inputs: ExpertInputs<Self>,
        hidden: Tensor<Self, 3>,
        grad: Tensor<Self, 3>,
    ) -> ExpertGrads<Self> {
        composed::experts_backward(inputs, hidden, grad)
    }
}

/// What [`DitBackend::experts`] computes with.
#[derive(Clone, Debug)]
pub struct ExpertInputs<B: Backend> {
    /// Tokens `[batch, tokens, dim]`. The weights may be f32 where these are bf16: then they are rounded like them for the
    /// products, and their gradients are f32.
    pub x: Tensor<B, 3>,
    /// The tokens each expert takes `[batch, experts, taken]`; an expert takes a token at most once.
    pub chosen: Tensor<B, 3, Int>,
    /// How much each counts `[batch, experts, taken]`.
    pub weights: Tensor<B, 3>,
    /// First layers `[experts, dim, hidden]`.
    pub w1: Tensor<B, 3>,
    /// Second layers `[experts, hidden, dim]`.
    pub w2: Tensor<B, 3>,
}

/// Gradients of the float inputs of [`DitBackend::experts`], shaped like them.
#[derive(Clone, Debug)]
pub struct ExpertGrads<B: Backend> {
    /// Of the tokens.
    pub x: Tensor<B, 3>,
    /// Of the tokens' weights.
    pub weights: Tensor<B, 3>,
    /// Of the first layers.
    pub w1: Tensor<B, 3>,
    /// Of the second layers.
    pub w2: Tensor<B, 3>,
}

/// Gradients of the inputs of [`DitBackend::modulated_norm`], shaped like them.
#[derive(Clone, Debug)]
pub struct ModulatedNormGrads<B: Backend> {
    /// Of the tokens.
    pub x: Tensor<B, 3>,
    /// Of the norm's weight.
    pub weight: Tensor<B, 1>,
    /// Of the shift.
    pub shift: Tensor<B, 2>,
    /// Of the scale.
    pub scale: Tensor<B, 2>,
}

/// What [`DitBackend::group_norm`] computes.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormOptions {
    /// Runs of channels with a mean and a variance of their own.
    pub groups: usize,
    /// Added to variances.
    pub eps: f64,
    /// Whether a SiLU follows.
    pub silu: bool,
}

/// Gradients of the inputs of [`DitBackend::group_norm`], shaped like them.
#[derive(Clone, Debug)]
pub struct GroupNormGrads<B: Backend> {
    /// Of the pixels.
    pub x: Tensor<B, 4>,
    /// Of the norm's weight.
    pub weight: Tensor<B, 1>,
    /// Of the norm's bias.
    pub bias: Tensor<B, 1>,
}

/// Applies an operation on rows, such as [`DitBackend::tanh_gelu`], over the last dimension of `x`.
pub fn over_rows<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    op: impl FnOnce(Tensor<B, 2>) -> Tensor<B, 2>,
) -> Tensor<B, D> {
    let mut dims = x.dims();
    let rows: usize = dims[..D - 1].iter().product();
    let y = op(x.reshape([rows, dims[D - 1]]));
    dims[D - 1] = y.dims()[1];
    y.reshape(dims)
}
