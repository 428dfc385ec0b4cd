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

/// What a step computes.
#[derive(Clone)]
pub(crate) struct Job<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) batch: &'a Batch,
    /// Those of the batch that are this node's.
    pub(crate) samples: Range<usize>,
    pub(crate) seed: u64,
    pub(crate) step: u64,
    /// Looked at between micro-batches: what is computed is of no use once it is set.
    pub(crate) stop: Option<&'a AtomicBool>,
}

/// The part of the job's samples in the mean loss of its batch and in its gradients, on the first of `devices`; none if it
/// was stopped before they were known.
pub(crate) fn gradients<B>(
    dit: &Dit<B>,
    job: &Job<'_>,
    devices: &[B::Device],
) -> Option<Computed<B::InnerBackend>>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let shares: Vec<_> = devices
        .iter()
        .enumerate()
        .map(|(i, device)| {
            let samples = share(job.samples.clone(), i, devices.len());
            let dit = match i {
                0 => dit.clone(),
                _ => dit.clone().fork(device),
            };
            let objective = Objective::new(job.stage, job.seed, device);
            (
                objective,
                dit,
                Job {
                    samples,
                    ..job.clone()
                },
            )
        })
        .filter(|(.., job)| !job.samples.is_empty())
        .collect();
    // One queue of work per device, whichever thread fills it: on a GPU every queue keeps its own memory.
    let queue = StreamId::current();
    let computed: Option<Vec<_>> = shares
        .into_par_iter()
        .map(|(objective, dit, job)| queue.executes(|| of_share(&objective, &dit, &job)))
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

/// The same on one device, micro-batch by micro-batch.
fn of_share<B>(
    objective: &Objective<'_, B>,
    dit: &Dit<B>,
    job: &Job<'_>,
) -> Option<Computed<B::InnerBackend>>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    let Job {
        stage,
        batch,
        samples,
        step,
        stop,
        ..
    } = job;
    let part = stage.micro_batch.unwrap_or(samples.len());
    let parts = samples.clone().step_by(part).map(|start| {
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return None;
        }
        let samples = start..(start + part).min(samples.end);
        if stage.recompute {
            return Some(recompute::gradients(objective, dit, batch, samples, *step));
        }
        let losses = objective.losses(dit, batch, samples, *step);
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
