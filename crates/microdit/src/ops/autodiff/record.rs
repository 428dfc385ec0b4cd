//! Nodes of burn's graph, each with what its gradients need.

use crate::ops::{DitBackend, ExpertInputs, over_rows};
use burn::tensor::{DType, Int, Tensor, TensorPrimitive, backend::Backend, ops::FloatTensor};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use std::{array, fmt, iter, sync::Arc};

/// From the gradient of an operation's output to those of its `N` inputs.
struct Pullback<B: Backend, const N: usize>(
    Arc<dyn Fn(FloatTensor<B>) -> [FloatTensor<B>; N] + Send + Sync>,
);

impl<B: Backend, const N: usize> Clone for Pullback<B, N> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend, const N: usize> fmt::Debug for Pullback<B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pullback")
    }
}

#[derive(Debug)]
struct Fused;

impl<B: Backend, const N: usize> Backward<B, N> for Fused {
    type State = Pullback<B, N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let input_grads = (ops.state.0)(grads.consume::<B>(&ops.node));
        for (parent, grad) in ops.parents.into_iter().zip(input_grads) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

/// Runs `forward` on the inner tensors and, if any of them is tracked, records its pullback.
///
/// The inputs count as used until then: each thread's backward pass frees what nothing seems to use in the graphs of all of them
/// (burn's issue 5573), and gradients through that would be lost without a word.
pub(super) fn record<B, C, P, const N: usize>(
    inputs: [FloatTensor<Autodiff<B, C>>; N],
    forward: impl FnOnce([FloatTensor<B>; N]) -> (FloatTensor<B>, P),
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    P: Fn(FloatTensor<B>) -> [FloatTensor<B>; N] + Send + Sync + 'static,
{
    let nodes = inputs.each_ref().map(|input| input.node.clone());
    let used = inputs.each_ref().map(|input| input.rc.clone());
    let (output, pullback) = forward(inputs.map(|input| input.primitive));
    let output = match Backward::<B, N>::prepare::<C>(Fused, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(op) => op.finish(Pullback(Arc::new(pullback)), output),
        OpsKind::UnTracked(op) => op.finish(output),
    };
    drop(used);
    output
}

/// A projection of what `make` computes from `sources`, which alone are kept: for the gradients it is computed again, and `pull` takes its
/// gradient to theirs. The `inputs` are the sources, the weight, and the bias if there is one.
pub(super) fn record_projection<B, C, const D: usize, const S: usize, const N: usize>(
    inputs: [FloatTensor<Autodiff<B, C>>; N],
    make: impl Fn([&FloatTensor<B>; S]) -> Tensor<B, D> + Send + Sync + 'static,
    pull: impl Fn([&FloatTensor<B>; S], Tensor<B, D>) -> [FloatTensor<B>; S] + Send + Sync + 'static,
) -> FloatTensor<Autodiff<B, C>>
where
    B: DitBackend,
    C: CheckpointStrategy,
{
    record::<B, C, _, N>(inputs, |inputs| {
        let bias = inputs.get(S + 1).map(tensor);
        let y = over_rows(make(array::from_fn(|i| &inputs[i])), |x| {
            B::project(x, tensor(&inputs[S]), bias)
        });
        let pullback = move |grad| {
            let sources = array::from_fn(|i| &inputs[i]);
            let x = make(sources);
            let (shape, grad) = (x.dims(), rows(wrap::<B, D>(grad)));
            let bias = (N > S + 1).then(|| raw(B::sum_rows(grad.clone())));
            let (x, weight) = B::project_backward(rows(x), tensor(&inputs[S]), grad);
            let mut found = pull(sources, x.reshape(shape))
                .into_iter()
                .chain(iter::once(raw(weight)))
                .chain(bias);
            array::from_fn(|_| found.next().expect("a gradient for each input"))
        };
        (raw(y), pullback)
    })
}

/// Experts over the tokens as `dtype` has them, which are kept as they are: output and hidden layer, which is not tracked.
pub(super) fn record_experts<B: DitBackend, C: CheckpointStrategy>(
    inputs: ExpertInputs<Autodiff<B, C>>,
    dtype: DType,
) -> [Tensor<Autodiff<B, C>, 3>; 2] {
    let before = inputs.x.dtype();
    let chosen = Tensor::<B, 3, Int>::from_primitive(inputs.chosen.into_primitive());
    let mut kept = None;
    let inputs = [inputs.x, inputs.weights, inputs.w1, inputs.w2].map(raw);
    let y = record::<B, C, _, 4>(inputs, |[x, weights, w1, w2]| {
        let inputs = move || ExpertInputs {
            x: B::cast(tensor(&x), dtype),
            chosen: chosen.clone(),
            weights: tensor(&weights),
            w1: tensor(&w1),
            w2: tensor(&w2),
        };
        let (y, hidden) = B::experts(inputs());
        kept = Some(hidden.clone());
        let pullback = move |grad| {
            let grads = B::experts_backward(inputs(), hidden.clone(), wrap(grad));
            let x = B::cast(grads.x, before);
            [x, grads.weights, grads.w1, grads.w2].map(raw)
        };
        (raw(y), pullback)
    });
    let hidden = kept.expect("the forward pass ran");
    [wrap(y), Tensor::from_inner(hidden)]
}

/// All but the last dimension as one.
fn rows<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, 2> {
    let dims = x.dims();
    x.reshape([dims[..D - 1].iter().product(), dims[D - 1]])
}

/// The tensor's primitive.
pub(super) fn raw<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// The tensor of a primitive.
pub(super) fn tensor<B: Backend, const D: usize>(primitive: &FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive.clone()))
}

/// The tensor that owns a primitive.
pub(super) fn wrap<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}
