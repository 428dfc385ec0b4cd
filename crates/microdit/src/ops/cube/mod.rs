//! Kernels for GPUs, in CubeCL: what burn would compute in a dozen passes over memory takes one or two. They are written
//! for the types of numbers the network has there, f32 or also bf16; others take the composed operations.

mod adam;
mod attention;
mod launch;
mod norm;
mod pointwise;
mod routing;
#[cfg(all(test, feature = "wgpu"))]
mod tests;

use super::{
    AdamState, AdamStep, Collectives, DitBackend, ModulatedNormGrads, OptimizerOps, collectives,
    composed, optimizer,
};
use attention::{Part, Plan};
use burn::tensor::{
    DType, Int, Tensor, TensorPrimitive,
    activation::gelu_approximate,
    backend::{
        DeviceOps,
        distributed::{CollectiveTensor, DistributedBackend, ReduceOperation},
    },
};
use burn_cubecl::{
    BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement, kernel::into_contiguous,
    tensor::CubeTensor,
};
use cubecl::server::ServerCommunication;
use launch::unwritten_like;

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
        let inputs = [flat(weight), flat(shift), flat(scale)];
        tensor(norm::forward(flat(x), inputs, eps))
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
        let [x, grad] = [flat(x), flat(grad)];
        let gains = [flat(weight.clone()), flat(scale.clone())];
        let (x_grad, statistics) = norm::backward(x.clone(), gains, grad.clone(), eps);
        let [shift, along] = norm::sum_tokens(x, statistics, grad).map(tensor::<_, _, _, _, 2>);
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
        if !all_f32!(x, gate) {
            return composed::gated_residual(x, update, gate);
        }
        let update = update.cast(DType::F32);
        tensor(pointwise::gated_residual(flat(x), flat(update), flat(gate)))
    }

    fn gated_residual_backward(
        update: Tensor<Self, 3>,
        gate: Tensor<Self, 2>,
        grad: Tensor<Self, 3>,
    ) -> (Tensor<Self, 3>, Tensor<Self, 2>) {
        if !all_f32!(gate, grad) {
            return composed::gated_residual_backward(update, gate, grad);
        }
        let dtype = update.dtype();
        let update = update.cast(DType::F32);
        let (update, gate) =
            pointwise::gated_residual_backward(flat(update), flat(gate), flat(grad));
        let update: Tensor<Self, 3> = tensor(update);
        (update.cast(dtype), tensor(gate))
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

    fn top_k(scores: Tensor<Self, 3>, taken: usize) -> Tensor<Self, 3, Int> {
        if !all_f32!(scores) || I::dtype() != DType::I32 || taken == 0 {
            return composed::top_k(scores, taken);
        }
        Tensor::from_primitive(routing::top_k(flat(scores), taken))
    }
}

impl<R, F, I, T> Collectives for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    /// Where the devices have a network of their own (CUDA: NCCL), by an all-reduce, in which every device sends and
    /// receives as much as any other.
    fn sum_over_devices(parts: Vec<Tensor<Self, 1>>) -> Option<Tensor<Self, 1>> {
        if !R::Server::SERVER_COMM_ENABLED || parts.len() < 2 {
            return collectives::sum_over_devices(parts);
        }
        let devices: Vec<_> = parts.iter().map(|part| part.device().id()).collect();
        let join = |part: Tensor<Self, 1>| {
            let part = part.into_primitive().tensor();
            Self::all_reduce(part, ReduceOperation::Sum, devices.clone())
        };
        // Every device has to join before the first waits for the others.
        let joined: Vec<_> = parts.into_iter().map(join).collect();
        let sums: Vec<_> = joined.into_iter().map(CollectiveTensor::resolve).collect();
        sums.into_iter().next().map(tensor)
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
