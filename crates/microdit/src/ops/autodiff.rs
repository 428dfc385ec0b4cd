//! The operations under automatic differentiation: each is one node of burn's graph, whose backward step calls the
//! inner backend's gradients.

mod record;

use super::{Collectives, DitBackend, ExpertInputs, GroupNormOptions, OptimizerOps};
use crate::worker_pool::KeepAwake;
use burn::tensor::{
    DType, Int, Tensor,
    ops::{FloatTensor, PaddedConvOptions},
};
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use record::{raw, record, record_experts, record_projection, tensor, wrap};

/// Gradients are not differentiated again.
impl<B: DitBackend, C: CheckpointStrategy> OptimizerOps for Autodiff<B, C> {}
impl<B: DitBackend, C: CheckpointStrategy> Collectives for Autodiff<B, C> {}

impl<B: DitBackend, C: CheckpointStrategy> DitBackend for Autodiff<B, C> {
    fn keep_awake() -> Option<KeepAwake> {
        B::keep_awake()
    }

    fn bf16_advice() -> Option<&'static str> {
        B::bf16_advice()
    }

    fn cast<const D: usize>(x: Tensor<Self, D>, dtype: DType) -> Tensor<Self, D> {
        let before = x.dtype();
        if before == dtype {
            return x;
        }
        wrap(record::<B, C, _, 1>([raw(x)], |[x]| {
            let y = B::cast::<D>(wrap(x), dtype);
            let pullback = move |grad| [raw(B::cast::<D>(wrap(grad), before))];
            (raw(y), pullback)
        }))
    }

    fn project(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        Self::project_as(x.clone(), weight, bias, x.dtype())
    }

    fn project_as(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
        dtype: DType,
    ) -> Tensor<Self, 2> {
        let before = x.dtype();
        let make = move |[x]: [&FloatTensor<B>; 1]| B::cast::<2>(tensor(x), dtype);
        let pull = move |_: [&FloatTensor<B>; 1], grad| [raw(B::cast::<2>(grad, before))];
        wrap(match bias {
            Some(bias) => {
                record_projection::<B, C, _, _, _>([raw(x), raw(weight), raw(bias)], make, pull)
            }
            None => record_projection::<B, C, _, _, _>([raw(x), raw(weight)], make, pull),
        })
    }

    fn project_gelu(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        let make = |[x]: [&FloatTensor<B>; 1]| B::tanh_gelu(tensor(x));
        let pull = |[x]: [&FloatTensor<B>; 1], grad| [raw(B::tanh_gelu_backward(tensor(x), grad))];
        wrap(match bias {
            Some(bias) => {
                record_projection::<B, C, _, _, _>([raw(x), raw(weight), raw(bias)], make, pull)
            }
            None => record_projection::<B, C, _, _, _>([raw(x), raw(weight)], make, pull),
        })
    }

    fn project_swiglu(
        gate: Tensor<Self, 3>,
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 2>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 3> {
        let make = |[gate, x]: [&FloatTensor<B>; 2]| B::swiglu(tensor(gate), tensor(x));
        let pull = |[gate, x]: [&FloatTensor<B>; 2], grad| {
            let (gate, x) = B::swiglu_backward(tensor(gate), tensor(x), grad);
            [raw(gate), raw(x)]
        };
        let (gate, x, weight) = (raw(gate), raw(x), raw(weight));
        wrap(match bias {
            Some(bias) => {
                record_projection::<B, C, _, _, _>([gate, x, weight, raw(bias)], make, pull)
            }
            None => record_projection::<B, C, _, _, _>([gate, x, weight], make, pull),
        })
    }

    fn norm(x: Tensor<Self, 2>, weight: Tensor<Self, 1>, eps: f64) -> Tensor<Self, 2> {
        wrap(record::<B, C, _, 2>([raw(x), raw(weight)], |[x, w]| {
            let y = B::norm(tensor(&x), tensor(&w), eps);
            let pullback = move |grad| {
                let (x, w) = B::norm_backward(tensor(&x), tensor(&w), eps, wrap(grad));
                [raw(x), raw(w)]
            };
            (raw(y), pullback)
        }))
    }

    fn modulated_norm(
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        shift: Tensor<Self, 2>,
        scale: Tensor<Self, 2>,
        eps: f64,
    ) -> Tensor<Self, 3> {
        let inputs = [raw(x), raw(weight), raw(shift), raw(scale)];
        wrap(record::<B, C, _, 4>(inputs, |[x, w, shift, scale]| {
            let y = B::modulated_norm(tensor(&x), tensor(&w), wrap(shift), tensor(&scale), eps);
            let pullback = move |grad| {
                let (x, w, scale) = (tensor(&x), tensor(&w), tensor(&scale));
                let grads = B::modulated_norm_backward(x, w, scale, eps, wrap(grad));
                [
                    raw(grads.x),
                    raw(grads.weight),
                    raw(grads.shift),
                    raw(grads.scale),
                ]
            };
            (raw(y), pullback)
        }))
    }

    fn residual(x: Tensor<Self, 3>, update: Tensor<Self, 3>) -> Tensor<Self, 3> {
        let dtype = update.dtype();
        wrap(record::<B, C, _, 2>(
            [raw(x), raw(update)],
            |[x, update]| {
                let y = B::residual(wrap(x), wrap(update));
                let pullback = move |grad: FloatTensor<B>| {
                    let update = B::cast::<3>(tensor(&grad), dtype);
                    [grad, raw(update)]
                };
                (raw(y), pullback)
            },
        ))
    }

    fn gated_residual(
        x: Tensor<Self, 3>,
        update: Tensor<Self, 3>,
        gate: Tensor<Self, 2>,
    ) -> Tensor<Self, 3> {
        let inputs = [raw(x), raw(update), raw(gate)];
        wrap(record::<B, C, _, 3>(inputs, |[x, update, gate]| {
            let y = B::gated_residual(wrap(x), tensor(&update), tensor(&gate));
            let pullback = move |grad: FloatTensor<B>| {
                let (update, gate) =
                    B::gated_residual_backward(tensor(&update), tensor(&gate), tensor(&grad));
                [grad, raw(update), raw(gate)]
            };
            (raw(y), pullback)
        }))
    }

    fn tanh_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(record::<B, C, _, 1>([raw(x)], |[x]| {
            let y = B::tanh_gelu(tensor(&x));
            let pullback = move |grad| [raw(B::tanh_gelu_backward(tensor(&x), wrap(grad)))];
            (raw(y), pullback)
        }))
    }

    fn swiglu(gate: Tensor<Self, 3>, x: Tensor<Self, 3>) -> Tensor<Self, 3> {
        wrap(record::<B, C, _, 2>([raw(gate), raw(x)], |[gate, x]| {
            let y = B::swiglu(tensor(&gate), tensor(&x));
            let pullback = move |grad| {
                let (gate, x) = B::swiglu_backward(tensor(&gate), tensor(&x), wrap(grad));
                [raw(gate), raw(x)]
            };
            (raw(y), pullback)
        }))
    }

    fn self_attention(qkv: Tensor<Self, 3>, heads: usize, eps: f64) -> Tensor<Self, 3> {
        wrap(record::<B, C, _, 1>([raw(qkv)], |[qkv]| {
            let y = B::self_attention(tensor(&qkv), heads, eps);
            let pullback = move |grad| {
                [raw(B::self_attention_backward(
                    tensor(&qkv),
                    heads,
                    eps,
                    wrap(grad),
                ))]
            };
            (raw(y), pullback)
        }))
    }

    fn cross_attention(
        q: Tensor<Self, 3>,
        kv: Tensor<Self, 3>,
        heads: usize,
        eps: f64,
    ) -> Tensor<Self, 3> {
        wrap(record::<B, C, _, 2>([raw(q), raw(kv)], |[q, kv]| {
            let y = B::cross_attention(tensor(&q), tensor(&kv), heads, eps);
            let pullback = move |grad| {
                let (q, kv) = (tensor(&q), tensor(&kv));
                let (q, kv) = B::cross_attention_backward(q, kv, heads, eps, wrap(grad));
                [raw(q), raw(kv)]
            };
            (raw(y), pullback)
        }))
    }

    fn plain_attention(
        q: Tensor<Self, 3>,
        k: Tensor<Self, 3>,
        v: Tensor<Self, 3>,
        heads: usize,
    ) -> Tensor<Self, 3> {
        wrap(record::<B, C, _, 3>(
            [raw(q), raw(k), raw(v)],
            |[q, k, v]| {
                let y = B::plain_attention(tensor(&q), tensor(&k), tensor(&v), heads);
                let pullback = move |grad| {
                    let (q, k, v) = (tensor(&q), tensor(&k), tensor(&v));
                    B::plain_attention_backward(q, k, v, heads, wrap(grad)).map(raw)
                };
                (raw(y), pullback)
            },
        ))
    }

    fn geglu(x: Tensor<Self, 3>) -> Tensor<Self, 3> {
        wrap(record::<B, C, _, 1>([raw(x)], |[x]| {
            let y = B::geglu(tensor(&x));
            let pullback = move |grad| [raw(B::geglu_backward(tensor(&x), wrap(grad)))];
            (raw(y), pullback)
        }))
    }

    fn group_norm(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 1>,
        bias: Tensor<Self, 1>,
        options: GroupNormOptions,
    ) -> Tensor<Self, 4> {
        let inputs = [raw(x), raw(weight), raw(bias)];
        wrap(record::<B, C, _, 3>(inputs, |[x, weight, bias]| {
            let y = B::group_norm(tensor(&x), tensor(&weight), tensor(&bias), options);
            let pullback = move |grad| {
                let (x, weight, bias) = (tensor(&x), tensor(&weight), tensor(&bias));
                let grads = B::group_norm_backward(x, weight, bias, options, wrap(grad));
                [raw(grads.x), raw(grads.weight), raw(grads.bias)]
            };
            (raw(y), pullback)
        }))
    }

    fn convolution(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Option<Tensor<Self, 1>>,
        options: &PaddedConvOptions<2>,
    ) -> Tensor<Self, 4> {
        let after = options.clone();
        wrap(match bias {
            Some(bias) => record::<B, C, _, 3>([raw(x), raw(weight), raw(bias)], |[x, w, b]| {
                let y = B::convolution(tensor(&x), tensor(&w), Some(wrap(b)), options);
                let pullback = move |grad| {
                    let bias = B::sum_pixels(tensor(&grad));
                    let (x, w) = (tensor(&x), tensor(&w));
                    let (x, w) = B::convolution_backward(x, w, &after, wrap(grad));
                    [raw(x), raw(w), raw(bias)]
                };
                (raw(y), pullback)
            }),
            None => record::<B, C, _, 2>([raw(x), raw(weight)], |[x, w]| {
                let y = B::convolution(tensor(&x), tensor(&w), None, options);
                let pullback = move |grad| {
                    let (x, w) = (tensor(&x), tensor(&w));
                    let (x, w) = B::convolution_backward(x, w, &after, wrap(grad));
                    [raw(x), raw(w)]
                };
                (raw(y), pullback)
            }),
        })
    }

    fn top_k(scores: Tensor<Self, 3>, taken: usize) -> Tensor<Self, 3, Int> {
        Tensor::from_inner(B::top_k(scores.inner(), taken))
    }

    /// The hidden layer it returns is not tracked.
    fn experts(inputs: ExpertInputs<Self>) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        let dtype = inputs.x.dtype();
        record_experts(inputs, dtype).into()
    }

    fn experts_as(inputs: ExpertInputs<Self>, dtype: DType) -> Tensor<Self, 3> {
        let [output, _] = record_experts(inputs, dtype);
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    type Tracked = Autodiff<Flex>;

    #[test]
    fn no_gradient_is_lost_while_another_thread_computes_its_own() {
        let done = AtomicBool::new(false);
        let lost = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let x = Tensor::<Tracked, 1>::ones([1], &Default::default());
                    x.require_grad().sum().backward();
                }
            });
            let device = Default::default();
            let x = Tensor::<Tracked, 2>::ones([64, 32], &device);
            let weight = Tensor::<Tracked, 2>::ones([32, 32], &device).require_grad();
            // Once it was used, a parameter is no part of the next graph, which begins with operations.
            let lost = (0..500).filter(|_| {
                let mut y = Tracked::project(x.clone(), weight.clone(), None);
                for _ in 0..4 {
                    y = Tracked::tanh_gelu(y);
                }
                weight.grad(&y.sum().backward()).is_none()
            });
            let lost = lost.count();
            done.store(true, Ordering::Relaxed);
            lost
        });
        assert_eq!(lost, 0, "of 500");
    }
}
