//! Expert-choice mixture of experts (arXiv 2202.09368): every expert takes the tokens it scores highest, so the load
//! is balanced by construction, and a token may be processed by several experts or by none.

use crate::{
    nn::{
        BlockConfig, Linear, MoeConfig, Precision, Router,
        init::{self, Init},
        params::{Role, Roles},
    },
    ops::{DitBackend, ExpertInputs},
};
use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, activation::softmax},
};

/// Two-layer GELU experts over tokens they choose themselves, per image.
///
/// ```
/// use burn::tensor::{Distribution, Tensor};
/// use burn_flex::Flex;
/// use microdit::{DitConfig, nn::{init::Init, moe::ExpertChoice}};
///
/// let device = Default::default();
/// let config = DitConfig::tiny_2(); // 8 experts of capacity 2
/// let moe = config.moe.as_ref().expect("it has experts");
/// let experts = ExpertChoice::<Flex>::new(&config.blocks()[0], moe, &Init::new(0, &device));
/// let x = Tensor::random([2, 64, 512], Distribution::Default, &device);
/// assert_eq!(experts.route(x.clone(), None).tokens.dims(), [2, 8, 2 * 64 / 8]);
/// assert_eq!(experts.forward(x, None).dims(), [2, 64, 512]);
/// ```
#[derive(Module, Debug)]
pub struct ExpertChoice<B: DitBackend> {
    /// First layers `[experts, dim, hidden]`.
    pub w1: Param<Tensor<B, 3>>,
    /// Second layers `[experts, hidden, dim]`.
    pub w2: Param<Tensor<B, 3>>,
    /// Router `[experts, dim]`.
    pub gate: Linear<B>,
    /// What a [decoupled](Router::Decoupled) router makes of the time, `[experts, condition_dim]`. Together with `gate` it is one
    /// map of token and time side by side.
    pub time_gate: Option<Linear<B>>,
    capacity: f64,
    bf16: bool,
}

/// What a [decoupled](Router::Decoupled) router sees.
#[derive(Clone, Debug)]
pub struct Unmodulated<B: DitBackend> {
    /// Normalized tokens before their modulation, `[batch, tokens, dim]`.
    pub tokens: Tensor<B, 3>,
    /// The embedded noise level `[batch, condition_dim]`, or `[1, condition_dim]` for all alike.
    pub time: Tensor<B, 2>,
}

/// Which tokens each expert takes, and how much each counts.
#[derive(Clone, Debug)]
pub struct Routing<B: DitBackend> {
    /// Softmax over the experts `[batch, tokens, experts]`.
    pub probabilities: Tensor<B, 3>,
    /// Chosen tokens, best first `[batch, experts, taken]`.
    pub tokens: Tensor<B, 3, Int>,
    /// Their probabilities `[batch, experts, taken]`.
    pub weights: Tensor<B, 3>,
}

impl<B: DitBackend> ExpertChoice<B> {
    /// Experts of the widths of `block`.
    pub fn new(block: &BlockConfig, moe: &MoeConfig, init: &Init<'_, B>) -> Self {
        let (dim, hidden) = (block.dim, block.hidden_dim);
        let gate = |name, input| {
            let gate = init.at(name).linear(input, moe.experts, false, init::STD);
            gate.in_f32()
        };
        Self {
            w1: init
                .at("w1")
                .truncated_normal([moe.experts, dim, hidden], init::STD),
            w2: init
                .at("w2")
                .truncated_normal([moe.experts, hidden, dim], block.output_std),
            gate: gate("gate", dim),
            time_gate: (block.router == Router::Decoupled)
                .then(|| gate("time_gate", block.condition_dim)),
            capacity: moe.capacity,
            bf16: block.precision == Precision::Bf16,
        }
    }

    /// Routes `x` `[batch, tokens, dim]`: each expert takes `floor(capacity x tokens / experts)` tokens. A decoupled router looks
    /// at `unmodulated` instead, any other does not need it.
    ///
    /// # Panics
    /// If the router is decoupled and there is no `unmodulated`.
    pub fn route(&self, x: Tensor<B, 3>, unmodulated: Option<Unmodulated<B>>) -> Routing<B> {
        let scores = match &self.time_gate {
            None => self.gate.forward(x),
            Some(time_gate) => {
                let seen = unmodulated.expect("a decoupled router sees unmodulated tokens");
                let time = time_gate.forward(seen.time).unsqueeze_dim(1);
                self.gate.forward(seen.tokens) + time
            }
        };
        let probabilities = softmax(scores, 2);
        let [_, tokens, experts] = probabilities.dims();
        let taken = (self.capacity * tokens as f64 / experts as f64) as usize;
        let by_expert = probabilities.clone().swap_dims(1, 2); // [batch, experts, tokens]
        let chosen = B::top_k(by_expert.clone(), taken);
        Routing {
            weights: by_expert.gather(2, chosen.clone()),
            tokens: chosen,
            probabilities,
        }
    }

    /// Whether the router sees unmodulated tokens and the time.
    pub fn is_decoupled(&self) -> bool {
        self.time_gate.is_some()
    }

    /// `[batch, tokens, dim]` to the same, in the type the experts compute in: the sum over the experts that took a token, zero
    /// where none did.
    ///
    /// # Panics
    /// As [`route`](Self::route).
    pub fn forward(&self, x: Tensor<B, 3>, unmodulated: Option<Unmodulated<B>>) -> Tensor<B, 3> {
        let routing = self.route(x.clone(), unmodulated);
        let precision = Precision::of(self.bf16);
        if routing.tokens.dims()[2] == 0 {
            return precision.enter(x.zeros_like());
        }
        let inputs = ExpertInputs {
            // A router that sees the same tokens keeps them in f32.
            x: match self.is_decoupled() {
                true => precision.enter(x),
                false => x,
            },
            chosen: routing.tokens,
            weights: routing.weights,
            w1: self.w1.val(),
            w2: self.w2.val(),
        };
        B::experts_as(inputs, precision.dtype())
    }
}

impl<B: DitBackend> Roles for ExpertChoice<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match path {
            ["w1" | "w2"] => Role::Expert,
            ["gate" | "time_gate", "weight"] => Role::Router,
            _ => Role::plain(path, rank),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::dit::tests::config,
        rng::{Purpose, Stream},
    };
    use burn::tensor::TensorData;
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;

    #[test]
    fn experts_that_may_take_nothing_add_nothing() {
        type Tracked = Autodiff<Flex>;
        let device = Default::default();
        let block = config().blocks().remove(1);
        let moe = MoeConfig {
            experts: 8,
            capacity: 1.0,
            every: 2,
        };
        let layer = ExpertChoice::<Tracked>::new(&block, &moe, &Init::new(0, &device));
        // floor(1 x 7 / 8) = 0 tokens each.
        let x = Tensor::ones([2, 7, block.dim], &device).require_grad();
        let y = layer.forward(x.clone(), None);
        assert_eq!(y.clone().abs().max().into_scalar(), 0.0);
        let grads = (x.clone() + y).sum().backward();
        let slope = x.grad(&grads).expect("the tokens themselves");
        assert_eq!(slope.mean().into_scalar(), 1.0);
        // One more token, and each takes its best.
        let x = Tensor::ones([2, 8, block.dim], &device);
        assert_eq!(layer.route(x, None).tokens.dims(), [2, 8, 1]);
    }

    /// Its choice follows from unmodulated tokens and the time, as one linear map of both side by side has it.
    #[test]
    fn a_decoupled_router_does_not_see_the_modulation() {
        let device = Default::default();
        let block = config().with_router(Router::Decoupled).blocks().remove(1);
        let moe = block.moe.clone().expect("it has experts");
        let layer = ExpertChoice::<Flex>::new(&block, &moe, &Init::new(0, &device));
        let draw = |key, shape: [usize; 3]| {
            let values = Stream::new(1, Purpose::Task, 0, key).normal(shape.iter().product());
            Tensor::<Flex, 3>::from_data(TensorData::new(values, shape), &device)
        };
        let tokens = draw(0, [2, 6, block.dim]);
        let time = draw(1, [1, 2, block.condition_dim]).squeeze_dim::<2>(0);
        let seen = |scale: f64| {
            let time = time.clone() * scale;
            Some(Unmodulated {
                tokens: tokens.clone(),
                time,
            })
        };
        let route = |x, seen| layer.route(x, seen).probabilities.into_data();
        let found = route(tokens.clone(), seen(30.0));
        assert_eq!(found, route(draw(2, tokens.dims()), seen(30.0)));
        assert_ne!(found, route(tokens.clone(), seen(-30.0)));
        let time_gate = layer.time_gate.as_ref().expect("it is decoupled");
        let weight = Tensor::cat(vec![layer.gate.weight.val(), time_gate.weight.val()], 1);
        let beside = (time.clone() * 30.0).unsqueeze_dim::<3>(1).repeat_dim(1, 6);
        let whole = Tensor::cat(vec![tokens.clone(), beside], 2);
        let scores = whole.matmul(weight.transpose().unsqueeze());
        let expected = softmax(scores, 2);
        let error = (Tensor::from_data(found, &device) - expected).abs().max();
        assert!(error.into_scalar() < 1e-6);
    }
}
