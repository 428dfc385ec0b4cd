//! `DitBackend`: the operations worth fusing, behind one trait.
//!
//! Every method has a body composed from burn tensors, so supporting another backend is one empty `impl`; a backend
//! overrides what it can do faster. Nobody outside this module knows which version runs.

mod backends;

use burn::tensor::{
    IndexingUpdateOp, Int, Tensor,
    activation::{gelu, silu, softmax},
    backend::Backend,
};

/// A burn backend that runs microdit's networks.
pub trait DitBackend: Backend {
    /// `x W^T + b`: `x` `[..., input]`, `weight` `[output, input]`, `bias` `[output]` to `[..., output]`.
    fn project<const D: usize>(
        x: Tensor<Self, D>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, D> {
        let mut dims = x.dims();
        let [output, input] = weight.dims();
        let rows = x.shape().num_elements() / input;
        let mut y = x.reshape([rows, input]).matmul(weight.transpose());
        if let Some(bias) = bias {
            y = y + bias.unsqueeze();
        }
        dims[D - 1] = output;
        y.reshape(dims)
    }

    /// Layer norm over the last dimension, `(x - mean) / sqrt(variance + eps)`, times `weight` if given.
    fn norm<const D: usize>(
        x: Tensor<Self, D>,
        weight: Option<Tensor<Self, 1>>,
        eps: f64,
    ) -> Tensor<Self, D> {
        let centred = x.clone() - x.mean_dim(D - 1);
        let variance = centred.clone().powi_scalar(2).mean_dim(D - 1);
        let normed = centred / (variance + eps).sqrt();
        match weight {
            Some(weight) => normed * weight.unsqueeze(),
            None => normed,
        }
    }

    /// `norm(x) * (1 + scale) + shift`: `x` `[batch, tokens, dim]`, `shift` and `scale` `[batch, dim]`.
    fn modulated_norm(
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        shift: Tensor<Self, 2>,
        scale: Tensor<Self, 2>,
        eps: f64,
    ) -> Tensor<Self, 3> {
        Self::norm(x, Some(weight), eps) * (scale + 1.0).unsqueeze_dim(1) + shift.unsqueeze_dim(1)
    }

    /// `x + gate * update`: `[batch, tokens, dim]`, `gate` `[batch, dim]`.
    fn gated_residual(
        x: Tensor<Self, 3>,
        update: Tensor<Self, 3>,
        gate: Tensor<Self, 2>,
    ) -> Tensor<Self, 3> {
        x + update * gate.unsqueeze_dim(1)
    }

    /// `silu(gate) * x`.
    fn swiglu(gate: Tensor<Self, 3>, x: Tensor<Self, 3>) -> Tensor<Self, 3> {
        silu(gate) * x
    }

    /// Attention over packed heads, queries and keys normalised over the whole width first:
    /// `q` `[batch, tokens, width]`, `k` and `v` `[batch, words, width]` to `[batch, tokens, width]`.
    fn normed_attention(
        q: Tensor<Self, 3>,
        k: Tensor<Self, 3>,
        v: Tensor<Self, 3>,
        heads: usize,
        eps: f64,
    ) -> Tensor<Self, 3> {
        let [batch, tokens, width] = q.dims();
        let head_dim = width / heads;
        let split = |x: Tensor<Self, 3>| {
            let words = x.dims()[1];
            x.reshape([batch, words, heads, head_dim]).swap_dims(1, 2)
        };
        let q = split(Self::norm(q, None, eps)) / (head_dim as f64).sqrt();
        let k = split(Self::norm(k, None, eps));
        let scores = softmax(q.matmul(k.swap_dims(2, 3)), 3); // [batch, heads, tokens, words]
        scores
            .matmul(split(v))
            .swap_dims(1, 2)
            .reshape([batch, tokens, width])
    }

    /// Two-layer GELU experts over the tokens each has chosen, summed back into the tokens' places:
    /// `x` `[batch, tokens, dim]`, `chosen` and `weights` `[batch, experts, taken]`,
    /// `w1` `[experts, dim, hidden]`, `w2` `[experts, hidden, dim]`.
    fn experts(
        x: Tensor<Self, 3>,
        chosen: Tensor<Self, 3, Int>,
        weights: Tensor<Self, 3>,
        w1: Tensor<Self, 3>,
        w2: Tensor<Self, 3>,
    ) -> Tensor<Self, 3> {
        let [batch, tokens, dim] = x.dims();
        let [_, experts, taken] = chosen.dims();
        let rows = experts * taken;
        let places = chosen.reshape([batch, rows, 1]).expand([batch, rows, dim]);
        let input = x
            .clone()
            .gather(1, places.clone())
            .reshape([batch, experts, taken, dim])
            .swap_dims(0, 1)
            .reshape([experts, batch * taken, dim]);
        let output = gelu(input.matmul(w1))
            .matmul(w2)
            .reshape([experts, batch, taken, dim])
            .swap_dims(0, 1)
            .reshape([batch, rows, dim])
            * weights.reshape([batch, rows, 1]);
        Tensor::zeros([batch, tokens, dim], &x.device()).scatter(
            1,
            places,
            output,
            IndexingUpdateOp::Add,
        )
    }
}
