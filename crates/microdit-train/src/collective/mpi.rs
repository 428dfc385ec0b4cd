//! MPI, whichever implementation a cluster has.
//!
//! One thread owns it, because communicators may not change threads. Operations are started without blocking and asked
//! for their end, so that one that is given up leaves the thread. Return codes are checked here: the crate `mpi` ignores them.

use super::{
    Connection, Lost, Operation, Patience,
    owner::{Engine, gone},
};
use ::mpi::{Threading, environment::Universe, ffi};
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
            Operation::ReduceScatter(parts) => (numbers, vec![0.0; parts[self.rank]], &parts[..]),
            Operation::AllGather(parts) => {
                let all = parts.iter().sum();
                (numbers, vec![0.0; all], &parts[..])
            }
            Operation::Broadcast(_) | Operation::Barrier => (Vec::new(), numbers, &[][..]),
        };
        let mut place = 0;
        let mut places = Vec::new();
        for part in parts {
            places.push(place as c_int);
            place += part;
        }
        Buffers {
            send,
            receive,
            counts: parts.iter().map(|part| *part as c_int).collect(),
            places,
        }
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
                Operation::ReduceScatter(_) => await_end(given_up, |request| {
                    ffi::MPI_Ireduce_scatter(
                        send.as_ptr().cast(),
                        receive.as_mut_ptr().cast(),
                        counts.as_ptr(),
                        ffi::RSMPI_FLOAT,
                        ffi::RSMPI_SUM,
                        ffi::RSMPI_COMM_WORLD,
                        request,
                    )
                }),
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
                Operation::Barrier => await_end(given_up, |request| {
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
