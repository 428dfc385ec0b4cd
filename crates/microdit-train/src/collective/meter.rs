//! What a rank sends to others, and how long that takes.

use super::{Collective, Lost, Operation, Patience};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Counts the bytes that go through a collective.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    ranks: &'a dyn Collective,
    sent: AtomicU64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(ranks: &'a dyn Collective) -> Self {
        Self {
            ranks,
            sent: AtomicU64::new(0),
        }
    }

    /// Bytes this rank has sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Collective for Meter<'_> {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn world_size(&self) -> usize {
        self.ranks.world_size()
    }

    fn collect(
        &self,
        operation: &Operation,
        numbers: Vec<f32>,
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        let sent = operation.sent(self.rank(), self.world_size(), numbers.len());
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.ranks.collect(operation, numbers, patience)
    }

    fn leave(&self, patience: &Patience<'_>) -> Result<(), Lost> {
        self.ranks.leave(patience)
    }
}

/// What a rank exchanged with others over some steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Steps that all ranks took together.
    pub steps: u64,
    /// Bytes that this rank sent in them.
    pub sent: u64,
    /// Bytes of its gradients that it handed on while it computed others.
    pub early: u64,
    /// Until all others were as far.
    pub waited: Duration,
    /// In the exchange of gradients and weights, once the own gradients were computed.
    pub took: Duration,
}

impl Traffic {
    /// The sum of two.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            sent: self.sent + other.sent,
            early: self.early + other.early,
            waited: self.waited + other.waited,
            took: self.took + other.took,
        }
    }
}

impl fmt::Display for Traffic {
    /// The mean of a step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.max(1) as f64;
        let ms = |time: Duration| 1e3 * time.as_secs_f64() / steps;
        write!(
            f,
            "in a step, this rank sent {:.3} MB to others in {:.2} ms, and waited {:.2} ms for them",
            self.sent as f64 / steps / 1e6,
            ms(self.took),
            ms(self.waited)
        )?;
        if self.early > 0 {
            let early = self.early as f64 / steps / 1e6;
            write!(
                f,
                "; {early:.3} MB of gradients left while it computed others"
            )?;
        }
        Ok(())
    }
}
