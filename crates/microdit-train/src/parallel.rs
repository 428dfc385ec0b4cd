//! Data parallelism on one machine: every device computes the gradients of its share of the batch.
//!
//! Replicas on a CPU, which are the same cores, compute one after the other and are summed in the order of the samples, so
//! that a run is the same bit for bit however the work was timed; NVIDIA's GPUs sum by NCCL. The first device takes the
//! optimizer's step and hands its weights to the others, which therefore need no moments.

use crate::{
    batch::StageBatch,
    clip_term::Embeddings,
    collective::Outbox,
    optim::Gradients,
    recipe::Stage,
    step::{self, Computed},
};
use burn::tensor::StreamId;
use microdit::{
    TrainBackend,
    ops::Collectives as _,
    task::{Draws, TrainTask},
};
use microdit_data::Batch;
use rayon::prelude::*;
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// What a step computes.
#[derive(Clone)]
pub(crate) struct Job<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) batch: &'a Batch,
    /// What stands in place of a dropped caption, where that is not zeros.
    pub(crate) dropped: Option<&'a [f32]>,
    /// What captions are compared with images as, where a loss does so.
    pub(crate) embeddings: Option<&'a Embeddings>,
    /// Those of the batch that belong to this rank.
    pub(crate) samples: Range<usize>,
    pub(crate) draws: Draws,
    /// Whether activations are recomputed rather than kept.
    pub(crate) activation_checkpointing: bool,
    /// Checked between micro-batches: once it is set, the result is no longer needed.
    pub(crate) stop: Option<&'a AtomicBool>,
}

/// The part of the job's samples in the mean loss of its batch and in its gradients, on the first of `devices`; none if it
/// was stopped before they were known. Of one device, the gradients leave by `outbox` if there is one.
pub(crate) fn gradients<B: TrainBackend, T: TrainTask<B>>(
    task: &T,
    job: &Job<'_>,
    devices: &[B::Device],
    outbox: Option<&mut Outbox<B::InnerBackend>>,
) -> Option<Computed<B::InnerBackend>> {
    if let [device] = devices {
        return of_share(task, job, device, outbox);
    }
    let shares: Vec<_> = devices
        .iter()
        .enumerate()
        .map(|(i, device)| {
            let samples = share(job.samples.clone(), i, devices.len());
            let task = match i {
                0 => task.clone(),
                _ => task.clone().fork(device),
            };
            let job = Job {
                samples,
                ..job.clone()
            };
            (task, job, device)
        })
        .filter(|(_, job, _)| !job.samples.is_empty())
        .collect();
    // One queue of work per device, whichever thread fills it: on a GPU every queue keeps its own memory.
    let queue = StreamId::current();
    let compute = |(task, job, device): (T, Job<'_>, &B::Device)| {
        queue.executes(|| of_share::<B, T>(&task, &job, device, None))
    };
    let computed: Option<Vec<_>> = match B::InnerBackend::BESIDE {
        true => shares.into_par_iter().map(compute).collect(),
        false => shares.into_iter().map(compute).collect(),
    };
    let mut computed = computed?;
    let terms = std::mem::take(&mut computed[0].terms);
    let (losses, grads) = computed
        .into_iter()
        .map(|part| (part.losses, part.grads))
        .unzip();
    Some(Computed {
        losses: B::InnerBackend::sum_over_devices(losses).expect("a device has a share"),
        terms,
        grads: Gradients::sum_over_devices(grads),
    })
}

/// Part `index` of `count` parts of `samples` that differ by one sample at most.
pub(crate) fn share(samples: Range<usize>, index: usize, count: usize) -> Range<usize> {
    let at = |index: usize| samples.start + samples.len() * index / count;
    at(index)..at(index + 1)
}

/// The same on one device, micro-batch by micro-batch.
fn of_share<B: TrainBackend, T: TrainTask<B>>(
    task: &T,
    job: &Job<'_>,
    device: &B::Device,
    mut outbox: Option<&mut Outbox<B::InnerBackend>>,
) -> Option<Computed<B::InnerBackend>> {
    let Job {
        stage,
        samples,
        draws,
        activation_checkpointing,
        stop,
        ..
    } = job;
    let batch = StageBatch::new(stage, job.batch, device)
        .with_dropped(job.dropped)
        .with_embeddings(job.embeddings);
    let part = stage.micro_batch.unwrap_or(samples.len());
    let mut sum: Option<Computed<B::InnerBackend>> = None;
    for start in samples.clone().step_by(part) {
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return None;
        }
        let is_last = start + part >= samples.end;
        let samples = start..(start + part).min(samples.end);
        let more = match outbox.as_deref_mut() {
            Some(outbox) if is_last => {
                let before = sum.as_mut().map(|sum| sum.grads.take_all());
                outbox.begin(&job.batch.keys, before.unwrap_or_else(Gradients::none));
                let recomputes = *activation_checkpointing;
                let computed = step::in_parts(task, &batch, samples, draws, recomputes, |more| {
                    outbox.take(more)
                });
                let grads = outbox.rest();
                Computed { grads, ..computed }
            }
            _ => step::gradients(task, &batch, samples, draws, *activation_checkpointing),
        };
        sum = Some(match sum {
            Some(sum) => sum.plus(more),
            None => more,
        });
    }
    sum
}
