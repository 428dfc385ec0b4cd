//! MPI, whichever implementation a cluster has.
//!
//! One thread owns it, because communicators may not change threads. Operations are started without blocking and asked
//! for their end, so that one that is given up leaves the thread. Return codes are checked here: the crate `mpi` ignores them.

use super::{
    Connection, Lost, Operation, Patience, in_order,
    owner::{Engine, gone},
};
use ::mpi::{Threading, environment::Universe, ffi};
use half::bf16;
use std::{
    ffi::{c_char, c_int},
    mem,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Numbers of one operation of MPI, whose counts are 32-bit and whose buffers double what is in memory.
const PIECE: usize = 1 << 26;

/// For how long an operation is asked for its end without a pause.
const EAGER: Duration = Duration::from_millis(50);

/// The pause after that: a rank that waits leaves the processor to others.
const PAUSE: Duration = Duration::from_micros(50);

/// Starts MPI, which may be done once in a process: the ranks are those that `mpirun`, `srun` or their like started.
///
/// # Errors
/// MPI was started before, or fails, or other ranks do not come.
pub fn join(patience: &Patience<'_>) -> Result<Connection, Lost> {
    Connection::start(patience, Mpi::start)
}

/// MPI, while it runs.
struct Mpi {
    /// Ends it when it is dropped.
    _universe: Universe,
    rank: usize,
    world_size: usize,
}

/// Memory that MPI reads and writes until an operation is done.
struct Buffers {
    send: Vec<f32>,
    receive: Vec<f32>,
    counts: Vec<c_int>,
    places: Vec<c_int>,
}

impl Mpi {
    fn start() -> Result<Self, Lost> {
        let started = ::mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) = started.ok_or_else(|| Lost::Engine("MPI runs already".into()))?;
        let (mut rank, mut world_size) = (0, 0);
        // SAFETY: MPI is running, on this thread, and the places for the results are there.
        unsafe {
            let world = ffi::RSMPI_COMM_WORLD;
            check(ffi::MPI_Comm_set_errhandler(
                world,
                ffi::RSMPI_ERRORS_RETURN,
            ))?;
            check(ffi::MPI_Comm_rank(world, &mut rank))?;
            check(ffi::MPI_Comm_size(world, &mut world_size))?;
        }
        Ok(Self {
            _universe: universe,
            rank: rank as usize,
            world_size: world_size as usize,
        })
    }

    fn buffers(&self, operation: &Operation, numbers: Vec<f32>) -> Buffers {
        let own = numbers.len();
        let (send, receive, parts) = match operation {
            Operation::AllReduce => (numbers, vec![0.0; own], &[][..]),
            Operation::AllGather(parts) => {
                let all = parts.iter().sum();
                (numbers, vec![0.0; all], &parts[..])
            }
            _ => (Vec::new(), numbers, &[][..]),
        };
        let [counts, places] = counts(parts);
        Buffers {
            send,
            receive,
            counts,
            places,
        }
    }

    /// What every rank has for this one of `send`, which is cut into `parts` by rank, one after the other.
    fn exchange<T: Copy + Default>(
        &self,
        send: Vec<T>,
        parts: &[usize],
        kind: ffi::MPI_Datatype,
        given_up: &AtomicBool,
    ) -> Result<Vec<T>, Lost> {
        let own = parts[self.rank];
        let mut receive = vec![T::default(); own * self.world_size];
        if send.len().max(receive.len()) > c_int::MAX as usize {
            return Err(Lost::Engine("more numbers than MPI counts".into()));
        }
        let [out, from] = counts(parts);
        let [inward, to] = counts(&vec![own; self.world_size]);
        // SAFETY: the thread owns MPI, which is running; the buffers have the lengths that are said, and where the end of the
        // operation is not awaited, they are never freed.
        let done = unsafe {
            await_end(given_up, |request| {
                ffi::MPI_Ialltoallv(
                    send.as_ptr().cast(),
                    out.as_ptr(),
                    from.as_ptr(),
                    kind,
                    receive.as_mut_ptr().cast(),
                    inward.as_ptr(),
                    to.as_ptr(),
                    kind,
                    ffi::RSMPI_COMM_WORLD,
                    request,
                )
            })
        };
        match done {
            Ok(()) => Ok(receive),
            Err(error) => {
                // MPI may still read and write there.
                mem::forget((send, receive, out, from, inward, to));
                Err(error)
            }
        }
    }

    /// This rank's part of the sum, in the order of the ranks: MPI's own sums have no order.
    fn reduce_scatter<T: Copy + Default>(
        &self,
        send: Vec<T>,
        parts: &[usize],
        (kind, number): (ffi::MPI_Datatype, impl Fn(T) -> f32),
        given_up: &AtomicBool,
    ) -> Result<Vec<f32>, Lost> {
        let received = self.exchange(send, parts, kind, given_up)?;
        let of_ranks: Vec<&[T]> = received.chunks(parts[self.rank].max(1)).collect();
        Ok(in_order(&of_ranks, number))
    }

    fn run(
        &self,
        operation: &Operation,
        buffers: &mut Buffers,
        given_up: &AtomicBool,
    ) -> Result<(), Lost> {
        let Buffers {
            send,
            receive,
            counts,
            places,
        } = buffers;
        if !counts.is_empty() && send.len().max(receive.len()) > c_int::MAX as usize {
            return Err(Lost::Engine("more numbers than MPI counts".into()));
        }
        // SAFETY: the thread owns MPI, which is running; the buffers have the lengths that are said, and outlive the
        // operations: where the end of one is not awaited, they are never freed.
        unsafe {
            match operation {
                Operation::AllReduce => {
                    let mut pieces = send.chunks(PIECE).zip(receive.chunks_mut(PIECE));
                    pieces.try_for_each(|(send, receive)| {
                        await_end(given_up, |request| {
                            ffi::MPI_Iallreduce(
                                send.as_ptr().cast(),
                                receive.as_mut_ptr().cast(),
                                send.len() as c_int,
                                ffi::RSMPI_FLOAT,
                                ffi::RSMPI_SUM,
                                ffi::RSMPI_COMM_WORLD,
                                request,
                            )
                        })
                    })
                }
                Operation::AllGather(_) => await_end(given_up, |request| {
                    ffi::MPI_Iallgatherv(
                        send.as_ptr().cast(),
                        send.len() as c_int,
                        ffi::RSMPI_FLOAT,
                        receive.as_mut_ptr().cast(),
                        counts.as_ptr(),
                        places.as_ptr(),
                        ffi::RSMPI_FLOAT,
                        ffi::RSMPI_COMM_WORLD,
                        request,
                    )
                }),
                Operation::Broadcast(root) => {
                    let mut pieces = receive.chunks_mut(PIECE);
                    pieces.try_for_each(|piece| {
                        await_end(given_up, |request| {
                            ffi::MPI_Ibcast(
                                piece.as_mut_ptr().cast(),
                                piece.len() as c_int,
                                ffi::RSMPI_FLOAT,
                                *root as c_int,
                                ffi::RSMPI_COMM_WORLD,
                                request,
                            )
                        })
                    })
                }
                _ => await_end(given_up, |request| {
                    ffi::MPI_Ibarrier(ffi::RSMPI_COMM_WORLD, request)
                }),
            }
        }
    }
}

impl Engine for Mpi {
    fn place(&self) -> [usize; 2] {
        [self.rank, self.world_size]
    }

    fn perform(
        &mut self,
        operation: &Operation,
        numbers: Vec<f32>,
        given_up: &AtomicBool,
    ) -> Result<Vec<f32>, Lost> {
        // SAFETY: constants of the library.
        let (wide, narrow) = unsafe { (ffi::RSMPI_FLOAT, ffi::RSMPI_UINT16_T) };
        match operation {
            Operation::ReduceScatter(parts) => {
                let kind = (wide, |number| number);
                return self.reduce_scatter(numbers, parts, kind, given_up);
            }
            // MPI has no such type, and only carries them.
            Operation::ReduceScatterBf16(parts) => {
                let numbers = numbers.into_iter();
                let bits = numbers.map(|number| bf16::from_f32(number).to_bits());
                let kind = (narrow, |bits| bf16::from_bits(bits).to_f32());
                return self.reduce_scatter(bits.collect(), parts, kind, given_up);
            }
            _ => {}
        }
        let mut buffers = self.buffers(operation, numbers);
        match self.run(operation, &mut buffers, given_up) {
            Ok(()) => Ok(buffers.receive),
            Err(error) => {
                // MPI may still write there.
                mem::forget(buffers);
                Err(error)
            }
        }
    }
}

/// Lengths of parts, and where each begins, as MPI takes them.
fn counts(parts: &[usize]) -> [Vec<c_int>; 2] {
    let mut place = 0;
    let mut places = Vec::new();
    for part in parts {
        places.push(place as c_int);
        place += part;
    }
    [parts.iter().map(|part| *part as c_int).collect(), places]
}

/// Starts an operation and waits for its end, unless it is given up.
fn await_end(
    given_up: &AtomicBool,
    start: impl FnOnce(*mut ffi::MPI_Request) -> c_int,
) -> Result<(), Lost> {
    // SAFETY: a constant of the library.
    let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
    check(start(&mut request))?;
    let since = Instant::now();
    loop {
        let mut done = 0;
        // SAFETY: the request was started on this thread; MPI writes to the places that are there.
        check(unsafe { ffi::MPI_Test(&mut request, &mut done, ffi::RSMPI_STATUS_IGNORE) })?;
        if done != 0 {
            return Ok(());
        }
        if given_up.load(Ordering::Relaxed) {
            return Err(gone());
        }
        match since.elapsed() < EAGER {
            true => thread::yield_now(),
            false => thread::sleep(PAUSE),
        }
    }
}

/// An error in the words of MPI, if the code is one.
fn check(code: c_int) -> Result<(), Lost> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0 as c_char; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length = 0;
    // SAFETY: the buffer is as long as MPI asks for.
    let told = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &mut length) };
    let bytes = text.iter().take(length.max(0) as usize);
    let bytes: Vec<u8> = bytes.map(|byte| *byte as u8).collect();
    Err(Lost::Engine(match told == ffi::MPI_SUCCESS as c_int {
        true => String::from_utf8_lossy(&bytes).into_owned(),
        false => format!("MPI error {code}"),
    }))
}
