//! Ranks that are threads of one process, which sum in the order of the ranks: what other engines are compared with.

use super::{Collective, Lost, Operation, Patience, Wait, in_order};
use half::bf16;
use std::{
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// One of several ranks in a process. A rank that is dropped is lost to the others.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
}

/// What lies between the ranks.
#[derive(Debug)]
struct Table {
    /// What each brought to the operation.
    brought: Vec<Option<(Operation, Vec<f32>)>>,
    /// What each has to take away from it.
    results: Vec<Option<Result<Vec<f32>, Lost>>>,
    /// Who is gone.
    gone: Option<usize>,
}

impl Threads {
    /// As many ranks, by their numbers.
    pub fn new(world_size: usize) -> Vec<Self> {
        let shared = Arc::new(Shared {
            table: Mutex::new(Table {
                brought: vec![None; world_size],
                results: vec![None; world_size],
                gone: None,
            }),
            changed: Condvar::new(),
        });
        let rank = |rank| Self {
            rank,
            shared: shared.clone(),
        };
        (0..world_size).map(rank).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        let table = self.shared.table.lock();
        table.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.table().gone.get_or_insert(self.rank);
        self.shared.changed.notify_all();
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.table().brought.len()
    }

    fn collect(
        &self,
        operation: &Operation,
        numbers: Vec<f32>,
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        let mut wait = patience.begin();
        let mut table = self.table();
        table.brought[self.rank] = Some((operation.clone(), numbers));
        if table.brought.iter().all(Option::is_some) {
            table.perform();
            self.shared.changed.notify_all();
        }
        loop {
            if let Some(result) = table.results[self.rank].take() {
                return result;
            }
            if let Some(gone) = table.gone {
                return Err(Lost::Engine(format!("rank {gone} is gone")));
            }
            wait.check()?;
            let waited = self.shared.changed.wait_timeout(table, Wait::TICK);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Table {
    /// Does what all ranks have come for.
    fn perform(&mut self) {
        let brought = self.brought.iter_mut().filter_map(Option::take);
        let (operations, numbers): (Vec<_>, Vec<_>) = brought.unzip();
        let operation = &operations[0];
        if let Some(other) = operations.iter().find(|other| *other != operation) {
            let error = Lost::Engine(format!(
                "one rank is at {operation:?}, another at {other:?}"
            ));
            self.results.fill(Some(Err(error)));
            return;
        }
        let results = of(operation, numbers).into_iter();
        self.results = results.map(|result| Some(Ok(result))).collect();
    }
}

/// What every rank gets of an operation.
fn of(operation: &Operation, numbers: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let count = numbers.len();
    match operation {
        Operation::AllReduce => vec![sum(&numbers, |number| number); count],
        Operation::ReduceScatter(parts) => cut(sum(&numbers, |number| number), parts),
        Operation::ReduceScatterBf16(parts) => {
            let rounded = |number| bf16::from_f32(number).to_f32();
            cut(sum(&numbers, rounded), parts)
        }
        Operation::AllGather(_) => vec![numbers.concat(); count],
        Operation::Broadcast(root) => vec![numbers[*root].clone(); count],
        Operation::Barrier => numbers,
    }
}

fn sum(numbers: &[Vec<f32>], number: impl Fn(f32) -> f32) -> Vec<f32> {
    let parts: Vec<&[f32]> = numbers.iter().map(Vec::as_slice).collect();
    in_order(&parts, number)
}

/// Parts of these lengths.
fn cut(mut rest: Vec<f32>, parts: &[usize]) -> Vec<Vec<f32>> {
    let part = |&length: &usize| {
        let after = rest.split_off(length);
        mem::replace(&mut rest, after)
    };
    parts.iter().map(part).collect()
}
