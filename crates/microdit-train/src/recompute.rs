//! Gradients with check-points between the blocks (arXiv 1604.06174): the forward pass keeps what flows from segment to
//! segment, and the backward pass computes one segment at a time again, so that one segment's activations are all there
//! ever is.

use crate::{objective::Objective, optim::Gradients, parallel::Computed};
use burn::{
    module::AutodiffModule,
    tensor::{Tensor, backend::AutodiffBackend},
};
use microdit::{Dit, DitBackend, Flow};
use microdit_data::Batch;
use std::ops::Range;

/// The part of `samples` in the mean loss of the batch of `step`, and in its gradients.
pub(crate) fn gradients<B>(
    objective: &Objective<'_, B>,
    dit: &Dit<B>,
    batch: &Batch,
    samples: Range<usize>,
    step: u64,
) -> Computed<B::InnerBackend>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    // The network runs without recording; its output is where the loss's own gradient ends.
    let mut kept = None;
    let losses = objective.losses_of(batch, samples, step, |x, t, captions, mask| {
        let (plain, thin) = (dit.valid(), mask.map(|mask| mask.inner()));
        let inputs = (x.clone(), t.clone(), captions.clone());
        let mut flow = plain.enter(x.inner(), t.inner(), captions.inner(), thin.as_ref());
        let mut flows = Vec::with_capacity(plain.segments());
        for i in 0..plain.segments() {
            flows.push(flow.clone());
            flow = plain.segment(i, flow, thin.as_ref());
        }
        let output: Tensor<B, 3> = tracked(plain.leave(flow.clone()));
        kept = Some((inputs, mask.cloned(), flows, flow, output.clone()));
        output
    });
    let ((x, t, captions), mask, flows, last, output) = kept.expect("the loss runs the network");
    let loss = losses.sum() / batch.keys.len() as f64;
    let value = loss.clone().inner();
    let back = output.grad_remove(&mut loss.backward());
    let back = back.expect("the loss depends on the network's output");

    // From the last segment to the first: what flowed in is tracked, what flowed out meets its gradient.
    let last = tracked_flow(last);
    let output = dit.leave(last.clone()) * Tensor::from_inner(back);
    let (mut grads, mut back) = backward(dit, last, output.sum());
    for (i, flow) in flows.into_iter().enumerate().rev() {
        let flow = tracked_flow(flow);
        let through = back.along(dit.segment(i, flow.clone(), mask.as_ref()));
        let (more, before) = backward(dit, flow, through);
        grads = grads.plus(more);
        back = before;
    }
    let through = back.along(dit.enter(x, t, captions, mask.as_ref()));
    let more = Gradients::collect(dit, &mut through.backward());
    (value, grads.plus(more))
}

/// Gradients of what flows between two segments; none of what the segments behind do not use.
struct FlowGrads<B: DitBackend> {
    tokens: Option<Tensor<B, 3>>,
    captions: Option<Tensor<B, 3>>,
    vector: Option<Tensor<B, 2>>,
    mixer_captions: Option<Tensor<B, 3>>,
}

impl<B: DitBackend> FlowGrads<B> {
    /// A number whose gradient in the flow is this.
    fn along<AB>(self, flow: Flow<AB>) -> Tensor<AB, 1>
    where
        AB: AutodiffBackend<InnerBackend = B> + DitBackend,
    {
        fn term<AB: AutodiffBackend, const D: usize>(
            value: Tensor<AB, D>,
            grad: Option<Tensor<AB::InnerBackend, D>>,
        ) -> Option<Tensor<AB, 1>> {
            Some((value * Tensor::from_inner(grad?)).sum())
        }
        let mixer = flow.mixer_captions;
        let terms = [
            term(flow.tokens, self.tokens),
            term(flow.captions, self.captions),
            term(flow.vector, self.vector),
            mixer.and_then(|captions| term(captions, self.mixer_captions)),
        ];
        let sum = terms.into_iter().flatten().reduce(|a, b| a + b);
        sum.expect("the network's output depends on its tokens")
    }
}

/// Gradients of the parameters and of the flow that `through` was computed from.
fn backward<B>(
    dit: &Dit<B>,
    flow: Flow<B>,
    through: Tensor<B, 1>,
) -> (Gradients<B::InnerBackend>, FlowGrads<B::InnerBackend>)
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let mut found = through.backward();
    let grads = Gradients::collect(dit, &mut found);
    let back = FlowGrads {
        tokens: flow.tokens.grad_remove(&mut found),
        captions: flow.captions.grad_remove(&mut found),
        vector: flow.vector.grad_remove(&mut found),
        mixer_captions: flow
            .mixer_captions
            .and_then(|captions| captions.grad_remove(&mut found)),
    };
    (grads, back)
}

fn tracked<B: AutodiffBackend, const D: usize>(x: Tensor<B::InnerBackend, D>) -> Tensor<B, D> {
    Tensor::from_inner(x).require_grad()
}

fn tracked_flow<B>(flow: Flow<B::InnerBackend>) -> Flow<B>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    Flow {
        tokens: tracked(flow.tokens),
        captions: tracked(flow.captions),
        vector: tracked(flow.vector),
        mixer_captions: flow.mixer_captions.map(tracked),
    }
}
