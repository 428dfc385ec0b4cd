//! Activation checkpointing between the segments of a network (arXiv 1604.06174): the forward pass keeps what flows from
//! segment to segment, and the backward pass recomputes one segment at a time, so that no more than one segment's
//! activations exist at once.

use crate::optim::Gradients;
use burn::{
    module::Module,
    tensor::{Tensor, backend::AutodiffBackend},
};
use microdit::{
    TrainBackend,
    net::{Carry, CarryVisitor, Denoiser, Inputs, Output, Selection, TrainDenoiser},
};

/// A prediction whose network is not recorded, and what is needed to compute its gradients.
pub(crate) struct Checkpointed<B: TrainBackend, D: TrainDenoiser<B>> {
    inputs: Inputs<B>,
    /// What flowed into each segment, and out of the last.
    carries: Vec<<D::Carry as Carry<B>>::Inner>,
    /// The prediction, at whose tensors the loss's own gradient ends.
    pub(crate) output: Output<B>,
}

/// Runs the network without recording.
pub(crate) fn predict<B: TrainBackend, D: TrainDenoiser<B>>(
    denoiser: &D,
    inputs: Inputs<B>,
) -> Checkpointed<B, D> {
    let (plain, plain_inputs) = (denoiser.valid(), inputs.clone().inner());
    let selection = plain_inputs.selection.clone();
    let mut carries = vec![plain.enter(plain_inputs)];
    for i in 0..plain.segments() {
        let carry = carries[i].clone();
        carries.push(plain.segment(i, carry, &selection));
    }
    let last = carries[plain.segments()].clone();
    let output = plain.leave(last, &selection);
    let output = Output {
        patches: Carry::record(output.patches),
        keep: output.keep.and(inputs.selection.keep.clone()),
        features: Carry::record(output.features),
    };
    Checkpointed {
        inputs,
        carries,
        output,
    }
}

impl<B: TrainBackend, D: TrainDenoiser<B>> Checkpointed<B, D> {
    /// Gradients of the parameters of `task`, whose network `denoiser` is, from those of the prediction, which are taken out
    /// of `grads`.
    pub(crate) fn backward(
        self,
        task: &impl Module<B>,
        denoiser: &D,
        grads: &mut B::Gradients,
    ) -> Gradients<B::InnerBackend> {
        let Self {
            inputs,
            mut carries,
            output,
        } = self;
        let selection: Selection<B> = inputs.selection.clone();
        let mut back = Back::of(&(output.patches, output.features), grads);
        let mut sum: Option<Gradients<B::InnerBackend>> = None;
        let mut add = |more: Gradients<B::InnerBackend>| {
            sum = Some(match sum.take() {
                Some(sum) => sum.plus(more),
                None => more,
            });
        };
        // From the last segment to the first: what flowed in is recorded, what flowed out meets its gradient.
        for i in (0..=denoiser.segments()).rev() {
            let carry = D::Carry::record(carries.pop().expect("a carry before each segment"));
            let through = match i == denoiser.segments() {
                true => {
                    let output = denoiser.leave(carry.clone(), &selection);
                    back.along(&(output.patches, output.features))
                }
                false => back.along(&denoiser.segment(i, carry.clone(), &selection)),
            };
            let mut found = through.backward();
            add(Gradients::collect(task, &mut found));
            back = Back::of(&carry, &mut found);
        }
        let mut found = back.along(&denoiser.enter(inputs)).backward();
        add(Gradients::collect(task, &mut found));
        sum.expect("a network has a first segment")
    }
}

/// Gradients of what flows between two segments, flattened; none for what later segments do not use.
struct Back<B: AutodiffBackend>(Vec<Option<Tensor<B::InnerBackend, 1>>>);

impl<B: AutodiffBackend> Back<B> {
    /// The gradients of a recorded carry, which are taken out of `grads`.
    fn of<C: Carry<B>>(carry: &C, grads: &mut B::Gradients) -> Self {
        struct Take<'a, B: AutodiffBackend>(&'a mut B::Gradients, Back<B>);
        impl<B: AutodiffBackend> CarryVisitor<B> for Take<'_, B> {
            fn tensor<const D: usize>(&mut self, tensor: &Tensor<B, D>) {
                let grad = tensor.grad_remove(self.0);
                self.1.0.push(grad.map(|grad| {
                    let count = grad.shape().num_elements();
                    grad.reshape([count])
                }));
            }
        }
        let mut take = Take(grads, Self(Vec::new()));
        carry.visit(&mut take);
        take.1
    }

    /// A number whose gradient in a carry of the same tensors is this.
    fn along<C: Carry<B>>(self, carry: &C) -> Tensor<B, 1> {
        struct Along<B: AutodiffBackend> {
            back: std::vec::IntoIter<Option<Tensor<B::InnerBackend, 1>>>,
            sum: Option<Tensor<B, 1>>,
        }
        impl<B: AutodiffBackend> CarryVisitor<B> for Along<B> {
            fn tensor<const D: usize>(&mut self, tensor: &Tensor<B, D>) {
                let Some(Some(grad)) = self.back.next() else {
                    return;
                };
                let grad = Tensor::<B, D>::from_inner(grad.reshape(tensor.shape()));
                let term = (tensor.clone() * grad).sum();
                self.sum = Some(match self.sum.take() {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
        }
        let mut along = Along {
            back: self.0.into_iter(),
            sum: None,
        };
        carry.visit(&mut along);
        along.sum.expect("the loss depends on the network's output")
    }
}
