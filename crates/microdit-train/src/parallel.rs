//! Data parallelism on one machine: every device computes the gradients of its share of the batch.
//!
//! Replicas on a CPU are summed in the order of the samples, so that a run is the same bit for bit however the work was
//! timed; NVIDIA's GPUs sum by NCCL. The first device takes the optimiser's step and hands its weights to the others, which spares
//! them the moments.

use crate::{objective::Objective, optim::Gradients, recipe::Stage, recompute};
use burn::{
    module::Module,
    tensor::{StreamId, Tensor, backend::AutodiffBackend},
};
use microdit::{Dit, DitBackend};
use microdit_data::Batch;
use rayon::prelude::*;
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// Mean loss of a batch, and its gradients.
pub(crate) type Computed<B> = (Tensor<B, 1>, Gradients<B>);

/// The part of `samples` in the mean loss of the batch of `step` and in its gradients, on the first of `devices`; none if
/// `stop` is set before they are known.
pub(crate) fn gradients<B>(
    dit: &Dit<B>,
    stage: &Stage,
    batch: &Batch,
    samples: Range<usize>,
    seed: u64,
    step: u64,
    devices: &[B::Device],
    stop: Option<&AtomicBool>,
) -> Option<Computed<B::InnerBackend>>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let shares: Vec<_> = devices
        .iter()
        .enumerate()
        .map(|(i, device)| {
            let samples = share(samples.clone(), i, devices.len());
            let dit = match i {
                0 => dit.clone(),
                _ => dit.clone().fork(device),
            };
            (Objective::new(stage, seed, device), dit, samples)
        })
        .filter(|(.., samples)| !samples.is_empty())
        .collect();
    // One queue of work per device, whichever thread fills it: on a GPU every queue keeps its own memory.
    let queue = StreamId::current();
    let computed: Option<Vec<_>> = shares
        .into_par_iter()
        .map(|(objective, dit, samples)| {
            queue.executes(|| of_share(&objective, &dit, stage, batch, samples, step, stop))
        })
        .collect();
    let (losses, grads): (Vec<_>, Vec<_>) = computed?.into_iter().unzip();
    let loss = B::InnerBackend::sum_over_devices(losses).expect("a device has a share");
    Some((loss, Gradients::sum_over_devices(grads)))
}

/// Part `index` of `count` parts of `samples` that differ by one sample at most.
pub(crate) fn share(samples: Range<usize>, index: usize, count: usize) -> Range<usize> {
    let at = |index: usize| samples.start + samples.len() * index / count;
    at(index)..at(index + 1)
}

/// The same on one device, micro-batch by micro-batch; `stop` is looked at between them.
fn of_share<B>(
    objective: &Objective<'_, B>,
    dit: &Dit<B>,
    stage: &Stage,
    batch: &Batch,
    samples: Range<usize>,
    step: u64,
    stop: Option<&AtomicBool>,
) -> Option<Computed<B::InnerBackend>>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let part = stage.micro_batch.unwrap_or(samples.len());
    let parts = samples.clone().step_by(part).map(|start| {
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return None;
        }
        let samples = start..(start + part).min(samples.end);
        if stage.recompute {
            return Some(recompute::gradients(objective, dit, batch, samples, step));
        }
        let losses = objective.losses(dit, batch, samples, step);
        let loss = losses.sum() / batch.keys.len() as f64;
        let value = loss.clone().inner();
        Some((value, Gradients::collect(dit, &mut loss.backward())))
    });
    sum(parts)
}

fn sum<B: DitBackend>(parts: impl Iterator<Item = Option<Computed<B>>>) -> Option<Computed<B>> {
    parts
        .reduce(|sum, more| {
            let ((loss, grads), (more_loss, more)) = (sum?, more?);
            Some((loss + more_loss, grads.plus(more)))
        })
        .expect("a batch holds a sample")
}
