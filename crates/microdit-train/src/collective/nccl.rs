//! NCCL between processes, each with a GPU of its own, where no MPI is: numbers go through the GPU's memory.
//!
//! `NCCL_COMM_ID`, as `host:port`, says on all ranks where rank 0 waits for the others.

use super::{Connection, Launch, Lost, Operation, Patience, in_order, owner::Engine};
use cudarc::{
    driver::{CudaContext, CudaSlice, CudaStream, CudaViewMut},
    nccl::{Comm, Id, ReduceOp, group_end, group_start, sys},
};
use half::bf16;
use std::{
    fmt,
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

/// The variable that says where the ranks meet.
pub const MEETING: &str = "NCCL_COMM_ID";

/// Meets the other ranks of `launch`, with the GPU of this number.
///
/// # Errors
/// A library that is not there, a GPU that cannot be used, an address that is not said, or ranks that do not come.
pub fn join(launch: Launch, gpu: usize, patience: &Patience<'_>) -> Result<Connection, Lost> {
    Connection::start(patience, move || Nccl::start(launch, gpu))
}

struct Nccl {
    comm: Comm,
    stream: Arc<CudaStream>,
}

/// What NCCL or CUDA say, as the ranks' error.
fn told(error: impl fmt::Debug) -> Lost {
    Lost::Engine(format!("NCCL: {error:?}"))
}

impl Nccl {
    fn start(launch: Launch, gpu: usize) -> Result<Self, Lost> {
        // SAFETY: opens the library if it is there, and calls nothing in it.
        if !unsafe { sys::is_culib_present() } {
            let message = "the library of NCCL (libnccl.so) is not found";
            return Err(Lost::Engine(message.into()));
        }
        let id = identity()?;
        let context = CudaContext::new(gpu).map_err(told)?;
        let stream = context.new_stream().map_err(told)?;
        let comm = Comm::from_rank(stream.clone(), launch.rank, launch.world_size, id);
        Ok(Self {
            comm: comm.map_err(told)?,
            stream,
        })
    }
}

impl Nccl {
    /// Every rank sends the others their parts, and adds what it is sent: a sum in bf16 would be rounded once for each rank.
    fn reduce_scatter_bf16(&self, numbers: Vec<f32>, parts: &[usize]) -> Result<Vec<f32>, Lost> {
        let own = parts[self.comm.rank()];
        let rounded: Vec<bf16> = numbers.into_iter().map(bf16::from_f32).collect();
        if rounded.is_empty() {
            return Ok(Vec::new());
        }
        let there = self.stream.clone_htod(&rounded).map_err(told)?;
        // Not even nothing can be allocated.
        let length = (own * parts.len()).max(1);
        let mut received = self.stream.alloc_zeros::<bf16>(length).map_err(told)?;
        group_start().map_err(told)?;
        for peer in 0..parts.len() {
            if parts[peer] > 0 {
                let part = there.slice(place(parts, peer));
                self.comm.send(&part, peer as i32).map_err(told)?;
            }
            if own > 0 {
                let mut part = received.slice_mut(own * peer..own * (peer + 1));
                self.comm.recv(&mut part, peer as i32).map_err(told)?;
            }
        }
        group_end().map_err(told)?;
        let received = self.stream.clone_dtoh(&received).map_err(told)?;
        self.stream.synchronize().map_err(told)?;
        let of_ranks: Vec<&[bf16]> = received[..own * parts.len()].chunks(own.max(1)).collect();
        Ok(in_order(&of_ranks, bf16::to_f32))
    }
}

/// What the ranks of a run have in common: made by NCCL of [`MEETING`] alone.
fn identity() -> Result<Id, Lost> {
    if std::env::var_os(MEETING).is_none() {
        return Err(Lost::Engine(format!("{MEETING} is not set")));
    }
    Id::new().map_err(told)
}

impl Engine for Nccl {
    fn place(&self) -> [usize; 2] {
        [self.comm.rank(), self.comm.world_size()]
    }

    fn perform(
        &mut self,
        operation: &Operation,
        numbers: Vec<f32>,
        _given_up: &AtomicBool,
    ) -> Result<Vec<f32>, Lost> {
        if let Operation::ReduceScatterBf16(parts) = operation {
            return self.reduce_scatter_bf16(numbers, parts);
        }
        let (rank, count) = (self.comm.rank(), numbers.len());
        let (there, own) = match operation {
            Operation::AllReduce | Operation::Broadcast(_) => (numbers, 0..count),
            Operation::ReduceScatter(parts) => (numbers, place(parts, rank)),
            Operation::AllGather(parts) => {
                let mut all = vec![0.0; parts.iter().sum()];
                all[place(parts, rank)].copy_from_slice(&numbers);
                let all_of_it = 0..all.len();
                (all, all_of_it)
            }
            // There is none; a sum waits as well.
            _ => (vec![0.0], 0..0),
        };
        if there.is_empty() {
            return Ok(there);
        }
        let mut there = self.stream.clone_htod(&there).map_err(told)?;
        match operation {
            Operation::AllReduce | Operation::Barrier | Operation::ReduceScatterBf16(_) => {
                let sum = self.comm.all_reduce_in_place(&mut there, &ReduceOp::Sum);
                sum.map_err(told)?;
            }
            Operation::Broadcast(root) => {
                let sent = self.comm.broadcast_in_place(&mut there, *root as i32);
                sent.map_err(told)?;
            }
            // The parts have lengths of their own, for which NCCL has no operation.
            Operation::ReduceScatter(parts) => of_parts(parts, &mut there, |part, root| {
                let sum = self.comm.reduce_in_place(part, &ReduceOp::Sum, root);
                sum.map(drop).map_err(told)
            })?,
            Operation::AllGather(parts) => of_parts(parts, &mut there, |part, root| {
                let sent = self.comm.broadcast_in_place(part, root);
                sent.map(drop).map_err(told)
            })?,
        }
        let mut back = self.stream.clone_dtoh(&there).map_err(told)?;
        self.stream.synchronize().map_err(told)?;
        back.truncate(own.end);
        Ok(back.split_off(own.start))
    }
}

/// Where the part of a rank lies.
fn place(parts: &[usize], rank: usize) -> Range<usize> {
    let start = parts[..rank].iter().sum();
    start..start + parts[rank]
}

/// Calls `each` with every part that is not empty, and its rank.
fn of_parts(
    parts: &[usize],
    all: &mut CudaSlice<f32>,
    each: impl Fn(&mut CudaViewMut<'_, f32>, i32) -> Result<(), Lost>,
) -> Result<(), Lost> {
    let ranks = (0..parts.len()).filter(|&rank| parts[rank] > 0);
    let mut ranks = ranks.map(|rank| {
        let mut part = all.slice_mut(place(parts, rank));
        each(&mut part, rank as i32)
    });
    ranks.try_for_each(|done| done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_one_after_the_other() {
        let parts = [2, 0, 3];
        let places: Vec<_> = (0..3).map(|rank| place(&parts, rank)).collect();
        assert_eq!(places, [0..2, 2..2, 2..5]);
    }

    /// Where the library is installed, with or without a GPU: the same address gives the same identity, in any process.
    #[test]
    fn an_address_makes_one_identity() {
        // SAFETY: opens the library if it is there, and calls nothing in it.
        if !unsafe { sys::is_culib_present() } {
            eprintln!("skipped: this test needs libnccl.so");
            return;
        }
        if std::env::var_os(MEETING).is_some() {
            println!("{:?}", identity().unwrap().internal());
            return;
        }
        assert!(identity().is_err());
        let of = |address: &str| {
            let itself = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("collective::nccl::tests::an_address_makes_one_identity")
                .env(MEETING, address)
                .output();
            let said = String::from_utf8(itself.unwrap().stdout).unwrap();
            let identity = said.lines().find(|line| line.starts_with('['));
            identity.unwrap_or_else(|| panic!("{said}")).to_owned()
        };
        assert_eq!(of("127.0.0.1:3411"), of("127.0.0.1:3411"));
        assert_ne!(of("127.0.0.1:3411"), of("127.0.0.1:3412"));
    }
}
