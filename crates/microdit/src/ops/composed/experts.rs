//! Experts, and the tokens they choose.

use super::{
    super::{ExpertGrads, ExpertInputs},
    gelu_slope,
};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, activation::gelu, backend::Backend};

/// Ranks every score by the number of scores before it. The work is quadratic in the tokens, but burn sorts on the host,
/// for which a GPU would have to wait in every layer.
pub fn top_k<B: Backend>(scores: Tensor<B, 3>, taken: usize) -> Tensor<B, 3, Int> {
    let ([batch, rows, tokens], device) = (scores.dims(), scores.device());
    let non_finite = scores.clone().is_nan();
    let scores = scores.mask_fill(non_finite, f32::NEG_INFINITY);
    let place = Tensor::<B, 1, Int>::arange(0..tokens as i64, &device);
    let earlier = place
        .clone()
        .unsqueeze_dim::<2>(0)
        .lower(place.clone().unsqueeze_dim(1));
    let all = [batch, rows, tokens, tokens];
    let one = scores.clone().unsqueeze_dim::<4>(3).expand(all);
    let other = scores.unsqueeze_dim::<4>(2).expand(all);
    let tied = other.clone().equal(one.clone());
    let before = other
        .greater(one)
        .bool_or(tied.bool_and(earlier.unsqueeze::<4>().expand(all)));
    let rank = before.int().sum_dim(3).squeeze_dim::<3>(3);
    let place = place.unsqueeze::<3>().expand([batch, rows, tokens]);
    // Each rank occurs once: the order is the ranks' inverse.
    rank.zeros_like()
        .scatter(2, rank, place, IndexingUpdateOp::Add)
        .slice_dim(2, 0..taken)
}

/// Indices of the chosen tokens over every channel `[batch, experts x taken, dim]`.
fn places<B: Backend>(chosen: Tensor<B, 3, Int>, dim: usize) -> Tensor<B, 3, Int> {
    let [batch, experts, taken] = chosen.dims();
    let rows = experts * taken;
    chosen.reshape([batch, rows, 1]).expand([batch, rows, dim])
}

/// `[batch, experts x taken, dim]` to `[experts, batch x taken, dim]`.
fn by_expert<B: Backend>(x: Tensor<B, 3>, experts: usize) -> Tensor<B, 3> {
    let [batch, rows, dim] = x.dims();
    let taken = rows / experts;
    x.reshape([batch, experts, taken, dim])
        .swap_dims(0, 1)
        .reshape([experts, batch * taken, dim])
}

/// Inverse of [`by_expert`].
fn by_sample<B: Backend>(x: Tensor<B, 3>, batch: usize) -> Tensor<B, 3> {
    let [experts, rows, dim] = x.dims();
    let taken = rows / batch;
    x.reshape([experts, batch, taken, dim])
        .swap_dims(0, 1)
        .reshape([batch, experts * taken, dim])
}

pub fn experts<B: Backend>(inputs: ExpertInputs<B>) -> (Tensor<B, 3>, Tensor<B, 3>) {
    experts_by(inputs, gelu)
}

/// [`experts`] with a GELU of the backend's own.
pub fn experts_by<B: Backend>(
    inputs: ExpertInputs<B>,
    gelu: impl FnOnce(Tensor<B, 3>) -> Tensor<B, 3>,
) -> (Tensor<B, 3>, Tensor<B, 3>) {
    let ExpertInputs {
        x,
        chosen,
        weights,
        w1,
        w2,
    } = inputs;
    let [weights, w1, w2] = [weights, w1, w2].map(|weights| weights.cast(x.dtype()));
    let [batch, _, dim] = x.dims();
    let [_, experts, taken] = chosen.dims();
    let places = places(chosen, dim);
    let input = by_expert(x.clone().gather(1, places.clone()), experts);
    let hidden = input.matmul(w1);
    let output = by_sample(gelu(hidden.clone()).matmul(w2), batch)
        * weights.reshape([batch, experts * taken, 1]);
    let sum = x.zeros_like();
    (
        sum.scatter(1, places, output, IndexingUpdateOp::Add),
        hidden,
    )
}

/// What the backward pass needs between its products: [`activated`](Self::activated) is the GELU of `hidden`
/// `[experts, rows, hidden]`, the others are gradients.
pub struct BetweenProducts<B: Backend> {
    /// `[experts, rows, hidden]`.
    pub activated: Tensor<B, 3>,
    /// Of `hidden`.
    pub hidden: Tensor<B, 3>,
    /// Of the rows' weights `[experts, rows, 1]`.
    pub weights: Tensor<B, 3>,
}

/// From `hidden`, the gradient `back` of its GELU for weights of 1, and the rows' weights `[experts, rows, 1]`.
fn between_products<B: Backend>(
    hidden: Tensor<B, 3>,
    back: Tensor<B, 3>,
    weights: Tensor<B, 3>,
) -> BetweenProducts<B> {
    let activated = gelu(hidden.clone());
    BetweenProducts {
        weights: (back.clone() * activated.clone()).sum_dim(2),
        hidden: back * weights * gelu_slope(hidden),
        activated,
    }
}

pub fn experts_backward<B: Backend>(
    inputs: ExpertInputs<B>,
    hidden: Tensor<B, 3>,
    grad: Tensor<B, 3>,
) -> ExpertGrads<B> {
    experts_backward_by(inputs, hidden, grad, between_products)
}

/// [`experts_backward`] with what is between the products computed in the backend's own way.
pub fn experts_backward_by<B: Backend>(
    inputs: ExpertInputs<B>,
    hidden: Tensor<B, 3>,
    grad: Tensor<B, 3>,
    between: impl FnOnce(Tensor<B, 3>, Tensor<B, 3>, Tensor<B, 3>) -> BetweenProducts<B>,
) -> ExpertGrads<B> {
    let ExpertInputs {
        x,
        chosen,
        weights,
        w1,
        w2,
    } = inputs;
    let dtypes = [&weights, &w1, &w2].map(Tensor::dtype);
    let [weights, w1, w2] = [weights, w1, w2].map(|weights| weights.cast(x.dtype()));
    let [batch, _, dim] = x.dims();
    let [_, experts, taken] = chosen.dims();
    let places = places(chosen, dim);
    let weights = by_expert(weights.reshape([batch, experts * taken, 1]), experts);
    let grad = by_expert(grad.gather(1, places.clone()), experts);
    let back = grad.clone().matmul(w2.swap_dims(1, 2)); // [experts, batch x taken, hidden]
    let BetweenProducts {
        activated,
        hidden: hidden_grad,
        weights: weight_grad,
    } = between(hidden, back, weights.clone());
    let w2_grad = activated.swap_dims(1, 2).matmul(grad * weights);
    let input = by_expert(x.clone().gather(1, places.clone()), experts);
    let w1_grad = input.swap_dims(1, 2).matmul(hidden_grad.clone());
    let x_grad = by_sample(hidden_grad.matmul(w1.swap_dims(1, 2)), batch);
    ExpertGrads {
        x: x.zeros_like()
            .scatter(1, places, x_grad, IndexingUpdateOp::Add),
        weights: by_sample(weight_grad, batch)
            .reshape([batch, experts, taken])
            .cast(dtypes[0]),
        w1: w1_grad.cast(dtypes[1]),
        w2: w2_grad.cast(dtypes[2]),
    }
}
