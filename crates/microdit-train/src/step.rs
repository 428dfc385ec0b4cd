//! A training step, top to bottom: a batch is prepared, the network predicts, the losses are taken, and their gradients.

use crate::{activation_checkpointing as checkpointing, optim::Gradients};
use burn::tensor::Tensor;
use microdit::{
    DitBackend, TrainBackend,
    net::Denoiser,
    task::{Draws, Losses, Samples, TrainTask},
};
use std::ops::Range;

/// What a step computes: losses over its samples, and their gradients.
#[derive(Clone, Debug)]
pub struct Computed<B: DitBackend> {
    /// The loss that is trained on, followed by its terms where there are several: `[1 + terms]`.
    pub losses: Tensor<B, 1>,
    /// Names of the terms, where there are several.
    pub terms: Vec<&'static str>,
    /// Gradients of the loss.
    pub grads: Gradients<B>,
}

impl<B: DitBackend> Computed<B> {
    /// The sum of two parts of a batch.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            losses: self.losses + other.losses,
            terms: self.terms,
            grads: self.grads.plus(other.grads),
        }
    }

    /// The loss that is trained on, `[1]`.
    pub fn loss(&self) -> Tensor<B, 1> {
        self.losses.clone().narrow(0, 0, 1)
    }
}

/// The part of `samples` in the mean loss of the batch, and in its gradients by what the step updates. With `activation_checkpointing`, the network keeps only what
/// flows between its segments and computes the rest again.
pub fn gradients<B: TrainBackend, T: TrainTask<B>>(
    task: &T,
    batch: &impl Samples<B>,
    samples: Range<usize>,
    draws: &Draws,
    activation_checkpointing: bool,
) -> Computed<B::InnerBackend> {
    let mut grads = Gradients::none();
    let computed = in_parts(
        task,
        batch,
        samples,
        draws,
        activation_checkpointing,
        |more| {
            grads.add(more);
        },
    );
    Computed { grads, ..computed }
}

/// The same; the gradients, of which the result has none, are given to `each` in parts as the backward pass finds them, which are to be added
/// up.
pub(crate) fn in_parts<B: TrainBackend, T: TrainTask<B>>(
    task: &T,
    batch: &impl Samples<B>,
    samples: Range<usize>,
    draws: &Draws,
    activation_checkpointing: bool,
    mut each: impl FnMut(Gradients<B::InnerBackend>),
) -> Computed<B::InnerBackend> {
    let prepared = task.prepare(batch, samples, draws);
    parts_of_prepared(
        task,
        &prepared,
        batch.count(),
        activation_checkpointing,
        |mut more| {
            more.retain(|path| task.updates(path, draws.step));
            each(more);
        },
    )
}

/// The same of samples that are prepared already, out of `count`, with the gradients by all parameters.
pub fn of_prepared<B: TrainBackend, T: TrainTask<B>>(
    task: &T,
    prepared: &T::Prepared,
    count: usize,
    activation_checkpointing: bool,
) -> Computed<B::InnerBackend> {
    let mut grads = Gradients::none();
    let computed = parts_of_prepared(task, prepared, count, activation_checkpointing, |more| {
        grads.add(more);
    });
    Computed { grads, ..computed }
}

fn parts_of_prepared<B: TrainBackend, T: TrainTask<B>>(
    task: &T,
    prepared: &T::Prepared,
    count: usize,
    activation_checkpointing: bool,
    mut each: impl FnMut(Gradients<B::InnerBackend>),
) -> Computed<B::InnerBackend> {
    let inputs = task.inputs(prepared);
    let network = task.predictor(prepared);
    if !activation_checkpointing {
        let output = network.predict(inputs);
        let losses = task.losses(prepared, &output);
        let (mean, computed) = reduced::<B>(&losses, count);
        each(Gradients::collect(task, &mut mean.backward()));
        return computed;
    }
    let kept = checkpointing::predict(&network, inputs);
    let losses = task.losses(prepared, &kept.output);
    let (mean, computed) = reduced::<B>(&losses, count);
    let mut found = mean.backward();
    kept.backward(task, &network, &mut found, &mut each);
    each(Gradients::collect(task, &mut found));
    computed
}

/// The sum of the samples' losses over `count`, recorded, and what is logged of it; without gradients.
fn reduced<B: TrainBackend>(
    losses: &Losses<B>,
    count: usize,
) -> (Tensor<B, 1>, Computed<B::InnerBackend>) {
    let mean = losses.total().sum() / count as f64;
    let mut computed = Computed {
        losses: mean.clone().inner(),
        terms: Vec::new(),
        grads: Gradients::none(),
    };
    if let terms @ [_, _, ..] = &losses.0[..] {
        let each = terms.iter().map(|term| term.values.clone().inner().sum());
        let each = each.map(|sum| sum / count as f64);
        computed.losses = Tensor::cat([computed.losses].into_iter().chain(each).collect(), 0);
        computed.terms = terms.iter().map(|term| term.name).collect();
    }
    (mean, computed)
}
