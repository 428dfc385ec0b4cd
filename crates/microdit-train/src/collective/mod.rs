//! Ranks of a run: processes that work in step, each on its share of every batch.
//!
//! A [`Collective`] is the engine that connects them. All ranks call the same operations in the same order; each call waits
//! for the others as long as its [`Patience`] lasts, so that a rank that died or hangs stops the others instead of holding
//! them for ever.

mod agreement;
mod exchange;
mod launch;
mod meeting;
mod meter;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
mod outbox;
#[cfg(any(feature = "mpi", feature = "nccl"))]
mod owner;
mod patience;
mod step;
mod sums;
#[cfg(test)]
mod tests;
mod threads;

pub use agreement::{gather_texts, share_text, together};
pub use launch::{Launch, LaunchError};
pub use meeting::{Meeting, UniqueId};
pub use meter::Traffic;
#[cfg(any(feature = "mpi", feature = "nccl"))]
pub use owner::Connection;
pub use patience::{Patience, Wait};
pub use threads::Threads;

pub(crate) use agreement::{Facts, agree};
pub(crate) use exchange::{Exchange, Pieces};
pub(crate) use meter::Meter;
pub(crate) use outbox::Outbox;
pub(crate) use step::{Agreed, Summed, Summing, Trained, sum, sum_in_parts};

use half::bf16;
use std::fmt;

/// What all ranks do together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Every rank gets the sum, number by number.
    AllReduce,
    /// The sum is cut into parts of these lengths, by rank, and every rank gets its own.
    ReduceScatter(Vec<usize>),
    /// The same of numbers that are rounded to bf16 on their way; the sum is not.
    ReduceScatterBf16(Vec<usize>),
    /// Every rank gives a part, of these lengths by rank, and gets all of them in order.
    AllGather(Vec<usize>),
    /// Every rank gets the numbers of this one.
    Broadcast(usize),
    /// Nobody goes on before all have come here.
    Barrier,
}

impl Operation {
    /// Bytes that rank `rank` of `world_size` has to send to others, who are sent `numbers` by it: the least that any engine can do with, but
    /// for a broadcast, which it may pass along in any way.
    pub(crate) fn sent(&self, rank: usize, world_size: usize, numbers: usize) -> u64 {
        let others = world_size - 1;
        let (count, size) = match self {
            Self::AllReduce => (2 * numbers * others / world_size, size_of::<f32>()),
            Self::ReduceScatter(parts) => (numbers - parts[rank], size_of::<f32>()),
            Self::ReduceScatterBf16(parts) => (numbers - parts[rank], size_of::<bf16>()),
            Self::AllGather(_) => (numbers * others, size_of::<f32>()),
            Self::Broadcast(root) if *root == rank => (numbers * others, size_of::<f32>()),
            Self::Broadcast(_) | Self::Barrier => (0, 0),
        };
        (count * size) as u64
    }
}

/// The engine that connects the ranks of a run. Numbers are f32 on the host.
///
/// After an error the ranks are no longer in step: nothing but ending the process is left to do.
pub trait Collective: fmt::Debug + Send + Sync {
    /// Number of this rank, from 0. Rank 0 keeps the run directory.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world_size(&self) -> usize;

    /// Takes part in `operation` with `numbers`, and returns what this rank gets of it. The operation, and where
    /// it does not say otherwise the number of `numbers`, are the same on all ranks. While others are waited for,
    /// [`Wait::check`] of a wait begun by `patience` is called some fifty times a second.
    ///
    /// # Errors
    /// Ranks that did not come within the patience, or whatever the engine says.
    fn collect(
        &self,
        operation: &Operation,
        numbers: Vec<f32>,
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost>;

    /// Ends the work together, for good; without it, the engine takes the end of the process for a failure.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    fn leave(&self, patience: &Patience<'_>) -> Result<(), Lost> {
        self.barrier(patience)
    }

    /// The sum of the ranks' `numbers`, the same bit for bit on all of them.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    fn all_reduce(&self, numbers: Vec<f32>, patience: &Patience<'_>) -> Result<Vec<f32>, Lost> {
        self.collect(&Operation::AllReduce, numbers, patience)
    }

    /// This rank's part of the sum of the ranks' `numbers`, which is cut into parts of these lengths by rank.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    fn reduce_scatter(
        &self,
        numbers: Vec<f32>,
        parts: &[usize],
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        self.collect(&Operation::ReduceScatter(parts.into()), numbers, patience)
    }

    /// The ranks' `numbers`, which have these lengths by rank, one after the other.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    fn all_gather(
        &self,
        numbers: Vec<f32>,
        parts: &[usize],
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        self.collect(&Operation::AllGather(parts.into()), numbers, patience)
    }

    /// The `numbers` of rank `root`; those of others only say how many there are.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    fn broadcast(
        &self,
        numbers: Vec<f32>,
        root: usize,
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        self.collect(&Operation::Broadcast(root), numbers, patience)
    }

    /// Waits until all ranks have come here.
    ///
    /// # Errors
    /// As [`collect`](Self::collect).
    fn barrier(&self, patience: &Patience<'_>) -> Result<(), Lost> {
        let nothing = self.collect(&Operation::Barrier, Vec::new(), patience);
        nothing.map(drop)
    }
}

/// The sum of several ranks' numbers, number by number, in the order of the ranks.
fn in_order<T: Copy>(parts: &[&[T]], number: impl Fn(T) -> f32) -> Vec<f32> {
    let count = parts.first().map_or(0, |first| first.len());
    let mut sum = vec![0.0; count];
    for (rank, part) in parts.iter().enumerate() {
        for (sum, &own) in sum.iter_mut().zip(*part) {
            *sum = match rank {
                // Zero plus minus zero is another zero.
                0 => number(own),
                _ => *sum + number(own),
            };
        }
    }
    sum
}

/// The ranks are no longer in step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// They did not come in time.
    #[error("no answer for {0} seconds")]
    Silent(u64),
    /// This process was asked to stop while it waited, and they did not come either way.
    #[error("no answer after this rank was asked to stop")]
    Stopping,
    /// The engine says so.
    #[error("{0}")]
    Engine(String),
}

/// One process on its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn collect(
        &self,
        _operation: &Operation,
        numbers: Vec<f32>,
        _patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        Ok(numbers)
    }
}
