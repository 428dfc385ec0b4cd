//! Kernels for GPUs, in CubeCL: what burn would compute in a dozen passes over memory takes one or two. They are written
//! for the types of numbers the network has there, f32 or also bf16; others take the composed operations.

mod adam;
mod attention;
mod collectives;
mod gelu;
mod launch;
mod norm;
mod pointwise;
mod routing;
#[cfg(all(test, feature = "wgpu"))]
mod tests;

use super::{
    AdamState, AdamStep, DitBackend, ExpertGrads, ExpertInputs, ModulatedNormGrads, OptimizerOps,
    composed::{self, BetweenProducts},
    optimizer,
};
use attention::{Part, Plan};
use burn::tensor::{DType, Int, Tensor, TensorPrimitive, activation::gelu_approximate};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use launch::unwritten_like;

/// Rows that one thread sums at most, where all of them are summed.
const ROWS_OF_A_SUM: usize = 64;

/// The tensor in one piece of memory.
fn flat<R, F, I, T, const D: usize>(x: Tensor<CubeBackend<R, F, I, T>, D>) -> CubeTensor<R>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    into_contiguous(x.into_primitive().tensor())
}

fn tensor<R, F, I, T, const D: usize>(x: CubeTensor<R>) -> Tensor<CubeBackend<R, F, I, T>, D>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

/// Whether all of the tensors are of 32-bit floats.
macro_rules! all_f32 {
    ($($x:expr),*) => {
        $($x.dtype() == DType::F32)&&*
    };
}

/// Whether all of the tensors are of one type, f32 or bf16.
macro_rules! all_alike {
    ($first:expr $(, $x:expr)*) => {
        matches!($first.dtype(), DType::F32 | DType::BF16) $(&& $x.dtype() == $first.dtype())*
    };
}

/// How the attention kernels would run on these tensors, with heads side by side in `width` columns; nothing where they are not
/// made for them.
fn plan<R, F, I, T, const N: usize>(
    tensors: [&Tensor<CubeBackend<R, F, I, T>, 3>; N],
    width: usize,
    heads: usize,
) -> Option<Plan>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    let alike = tensors.iter().all(|x| all_alike!(tensors[0], x));
    let empty = tensors.iter().any(|x| x.dims().contains(&0));
    (alike && !empty)
        .then(|| Plan::new::<R>(&tensors[0].device(), width, heads))
        .flatten()
}

impl<R, F, I, T> DitBackend for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn norm(x: Tensor<Self, 2>, weight: Tensor<Self, 1>, eps: f64) -> Tensor<Self, 2> {
        if !all_f32!(x, weight) {
            return composed::norm(x, eps) * weight.unsqueeze();
        }
        tensor(norm::forward(flat(x), flat(weight), None, eps))
    }

    fn norm_backward(
        x: Tensor<Self, 2>,
        weight: Tensor<Self, 1>,
        eps: f64,
        grad: Tensor<Self, 2>,
    ) -> (Tensor<Self, 2>, Tensor<Self, 1>) {
        if !all_f32!(x, weight, grad) {
            return composed::norm_backward(x, weight, eps, grad);
        }
        let [x, grad] = [flat(x), flat(grad)];
        let (x_grad, statistics) = norm::backward(x.clone(), flat(weight), None, grad.clone(), eps);
        // A thread for every column alone would be few threads with long sums.
        let [_, along] = norm::sum_runs(x, statistics, grad, ROWS_OF_A_SUM);
        let along: Tensor<Self, 2> = tensor(along);
        (tensor(x_grad), along.sum_dim(0).squeeze_dim(0))
    }

    fn modulated_norm(
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        shift: Tensor<Self, 2>,
        scale: Tensor<Self, 2>,
        eps: f64,
    ) -> Tensor<Self, 3> {
        if !all_f32!(x, weight, shift, scale) {
            return composed::modulated_norm(x, weight, shift, scale, eps);
        }
        let modulation = Some([flat(shift), flat(scale)]);
        tensor(norm::forward(flat(x), flat(weight), modulation, eps))
    }

    fn modulated_norm_backward(
        x: Tensor<Self, 3>,
        weight: Tensor<Self, 1>,
        scale: Tensor<Self, 2>,
        eps: f64,
        grad: Tensor<Self, 3>,
    ) -> ModulatedNormGrads<Self> {
        if !all_f32!(x, weight, scale, grad) {
            return composed::modulated_norm_backward(x, weight, scale, eps, grad);
        }
        let tokens = x.dims()[1];
        let [x, grad] = [flat(x), flat(grad)];
        let gains = (flat(weight.clone()), Some(flat(scale.clone())));
        let (x_grad, statistics) = norm::backward(x.clone(), gains.0, gains.1, grad.clone(), eps);
        let sums = norm::sum_runs(x, statistics, grad, tokens);
        let [shift, along] = sums.map(tensor::<_, _, _, _, 2>);
        ModulatedNormGrads {
            x: tensor(x_grad),
            weight: (along.clone() * (scale + 1.0)).sum_dim(0).squeeze_dim(0),
            shift,
            scale: along * weight.unsqueeze(),
        }
    }

    fn gated_residual(
        x: Tensor<Self, 3>,
        update: Tensor<Self, 3>,
        gate: Tensor<Self, 2>,
    ) -> Tensor<Self, 3> {
        if !all_f32!(x, gate) || !all_alike!(update) {
            return composed::gated_residual(x, update, gate);
        }
        tensor(pointwise::gated_residual(flat(x), flat(update), flat(gate)))
    }

    fn gated_residual_backward(
        update: Tensor<Self, 3>,
        gate: Tensor<Self, 2>,
        grad: Tensor<Self, 3>,
    ) -> (Tensor<Self, 3>, Tensor<Self, 2>) {
        if !all_f32!(gate, grad) || !all_alike!(update) {
            return composed::gated_residual_backward(update, gate, grad);
        }
        let (update, gate) =
            pointwise::gated_residual_backward(flat(update), flat(gate), flat(grad));
        (tensor(update), tensor(gate))
    }

    fn tanh_gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !all_alike!(x) {
            return gelu_approximate(x);
        }
        tensor(pointwise::gelu(flat(x)))
    }

    fn tanh_gelu_backward(x: Tensor<Self, 2>, grad: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if !all_alike!(x, grad) {
            return composed::gelu_backward(x, grad);
        }
        tensor(pointwise::gelu_backward(flat(x), flat(grad)))
    }

    fn swiglu(gate: Tensor<Self, 3>, x: Tensor<Self, 3>) -> Tensor<Self, 3> {
        if !all_alike!(gate, x) {
            return composed::swiglu(gate, x);
        }
        tensor(pointwise::swiglu(flat(gate), flat(x)))
    }

    fn swiglu_backward(
        gate: Tensor<Self, 3>,
        x: Tensor<Self, 3>,
        grad: Tensor<Self, 3>,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        if !all_alike!(gate, x, grad) {
            return composed::swiglu_backward(gate, x, grad);
        }
        let (gate, x) = pointwise::swiglu_backward(flat(gate), flat(x), flat(grad));
        (tensor(gate), tensor(x))
    }

    fn self_attention(qkv: Tensor<Self, 3>, heads: usize, eps: f64) -> Tensor<Self, 3> {
        match plan([&qkv], qkv.dims()[2] / 3, heads) {
            Some(plan) => tensor(attention::forward(Part::all(&flat(qkv)), plan, Some(eps))),
            None => composed::self_attention(qkv, heads, eps),
        }
    }

    fn self_attention_backward(
        qkv: Tensor<Self, 3>,
        heads: usize,
        eps: f64,
        grad: Tensor<Self, 3>,
    ) -> Tensor<Self, 3> {
        let Some(plan) = plan([&qkv, &grad], grad.dims()[2], heads) else {
            return composed::self_attention_backward(qkv, heads, eps, grad);
        };
        let qkv = flat(qkv);
        let qkv_grad = unwritten_like(&qkv);
        let grads = Part::all(&qkv_grad);
        attention::backward(Part::all(&qkv), plan, Some(eps), flat(grad), grads);
        tensor(qkv_grad)
    }

    fn cross_attention(
        q: Tensor<Self, 3>,
        kv: Tensor<Self, 3>,
        heads: usize,
        eps: f64,
    ) -> Tensor<Self, 3> {
        let Some(plan) = plan([&q, &kv], q.dims()[2], heads) else {
            return composed::cross_attention(q, kv, heads, eps);
        };
        let (q, [k, v]) = (Part::whole(&flat(q)), Part::all(&flat(kv)));
        tensor(attention::forward([q, k, v], plan, Some(eps)))
    }

    fn cross_attention_backward(
        q: Tensor<Self, 3>,
        kv: Tensor<Self, 3>,
        heads: usize,
        eps: f64,
        grad: Tensor<Self, 3>,
    ) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        let Some(plan) = plan([&q, &kv, &grad], q.dims()[2], heads) else {
            return composed::cross_attention_backward(q, kv, heads, eps, grad);
        };
        let [q, kv] = [flat(q), flat(kv)];
        let [q_grad, kv_grad] = [&q, &kv].map(unwritten_like);
        let (of_q, [of_k, of_v]) = (Part::whole(&q_grad), Part::all(&kv_grad));
        let (q, [k, v]) = (Part::whole(&q), Part::all(&kv));
        attention::backward([q, k, v], plan, Some(eps), flat(grad), [of_q, of_k, of_v]);
        (tensor(q_grad), tensor(kv_grad))
    }

    fn plain_attention(
        q: Tensor<Self, 3>,
        k: Tensor<Self, 3>,
        v: Tensor<Self, 3>,
        heads: usize,
    ) -> Tensor<Self, 3> {
        let Some(plan) = plan([&q, &k, &v], q.dims()[2], heads) else {
            return composed::plain_attention(q, k, v, heads);
        };
        let inputs = [q, k, v].map(|x| Part::whole(&flat(x)));
        tensor(attention::forward(inputs, plan, None))
    }

    fn plain_attention_backward(
        q: Tensor<Self, 3>,
        k: Tensor<Self, 3>,
        v: Tensor<Self, 3>,
        heads: usize,
        grad: Tensor<Self, 3>,
    ) -> [Tensor<Self, 3>; 3] {
        let Some(plan) = plan([&q, &k, &v, &grad], q.dims()[2], heads) else {
            return composed::plain_attention_backward(q, k, v, heads, grad);
        };
        let inputs = [q, k, v].map(flat);
        let grads = inputs.each_ref().map(unwritten_like);
        let whole = |tensors: &[CubeTensor<R>; 3]| tensors.each_ref().map(|x| Part::whole(x));
        attention::backward(whole(&inputs), plan, None, flat(grad), whole(&grads));
        grads.map(tensor)
    }

    fn experts(inputs: ExpertInputs<Self>) -> (Tensor<Self, 3>, Tensor<Self, 3>) {
        if !all_alike!(inputs.x) {
            return composed::experts(inputs);
        }
        composed::experts_by(inputs, |hidden| tensor(gelu::exact(flat(hidden))))
    }

    fn experts_backward(
        inputs: ExpertInputs<Self>,
        hidden: Tensor<Self, 3>,
        grad: Tensor<Self, 3>,
    ) -> ExpertGrads<Self> {
        if !all_alike!(inputs.x, hidden, grad) {
            return composed::experts_backward(inputs, hidden, grad);
        }
        composed::experts_backward_by(inputs, hidden, grad, |hidden, back, weights| {
            let made = gelu::through_experts(flat(hidden), flat(back), flat(weights));
            let [activated, hidden, weights] = made.map(tensor);
            BetweenProducts {
                activated,
                hidden,
                weights,
            }
        })
    }

    fn top_k(scores: Tensor<Self, 3>, taken: usize) -> Tensor<Self, 3, Int> {
        if !all_f32!(scores) || I::dtype() != DType::I32 || taken == 0 {
            return composed::top_k(scores, taken);
        }
        Tensor::from_primitive(routing::top_k(flat(scores), taken))
    }
}

impl<R, F, I, T> OptimizerOps for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    fn adam(
        state: AdamState<Self>,
        grad: Tensor<Self, 1>,
        scale: Tensor<Self, 1>,
        step: &AdamStep,
    ) -> AdamState<Self> {
        if !all_f32!(state.param, state.first, state.second, grad, scale) {
            return optimizer::adam(state, grad, scale, step);
        }
        let state = [flat(state.param), flat(state.first), flat(state.second)];
        let [param, first, second] = adam::step(state, flat(grad), flat(scale), step).map(tensor);
        AdamState {
            param,
            first,
            second,
        }
    }
}
