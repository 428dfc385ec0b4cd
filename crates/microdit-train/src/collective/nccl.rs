//! NCCL between processes, each with a GPU of its own: numbers go through the GPU's memory.
//!
//! The ranks find each other by an id that rank 0 makes, and that they share by an address, by MPI, or by a directory.

use super::{
    Connection, Launch, Lost, Meeting, Operation, Patience, UniqueId, in_order, owner::Engine,
};
use cudarc::{
    driver::{CudaContext, CudaSlice, CudaStream, CudaViewMut},
    nccl::{Comm, Id, ReduceOp, group_end, group_start, result, sys},
};
use half::bf16;
use std::{
    ffi::c_char,
    fmt,
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

/// The variable that may say where the ranks meet.
pub const MEETING: &str = "NCCL_COMM_ID";

/// Whether the library is there.
pub fn is_present() -> bool {
    // SAFETY: opens the library if it is there, and calls nothing in it.
    unsafe { sys::is_culib_present() }
}

/// Version of the library, such as 22304 for 2.23.4.
///
/// # Errors
/// It is not there, or says so itself.
pub fn version() -> Result<i32, Lost> {
    require()?;
    result::get_nccl_version().map_err(told)
}

fn require() -> Result<(), Lost> {
    match is_present() {
        true => Ok(()),
        false => Err(Lost::Engine(
            "the library of NCCL (libnccl.so) is not found".into(),
        )),
    }
}

/// What the ranks of `launch` know each other by, of `meeting`.
///
/// # Errors
/// A library that is not there, an address that is not said, or ranks that do not come.
pub fn identity(
    launch: Launch,
    meeting: &Meeting<'_>,
    patience: &Patience<'_>,
) -> Result<UniqueId, Lost> {
    require()?;
    if matches!(meeting, Meeting::Address) && std::env::var_os(MEETING).is_none() {
        return Err(Lost::Engine(format!("{MEETING} is not set")));
    }
    let make = || {
        let id = Id::new().map_err(told)?;
        Ok(id.internal().map(|byte| byte as u8))
    };
    meeting.share(launch, make, patience)
}

/// Meets the other ranks of `launch`, with the GPU of this number.
///
/// # Errors
/// As [`identity`], or a GPU that cannot be used.
pub fn join(
    launch: Launch,
    gpu: usize,
    meeting: &Meeting<'_>,
    patience: &Patience<'_>,
) -> Result<Connection, Lost> {
    tracing::info!("NCCL {}", version()?);
    let id = identity(launch, meeting, patience)?;
    let connection = Connection::start(patience, move || Nccl::start(launch, gpu, id))?;
    if launch.rank == 0 {
        // All ranks have come, by the id.
        meeting.end();
    }
    Ok(connection)
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
    fn start(launch: Launch, gpu: usize, id: UniqueId) -> Result<Self, Lost> {
        let context = CudaContext::new(gpu).map_err(told)?;
        let stream = context.new_stream().map_err(told)?;
        let id = Id::uninit(id.map(|byte| byte as c_char));
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
}
