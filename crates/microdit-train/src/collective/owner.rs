//! An engine on a thread of its own, where its calls may block: what waits for it hears signals and timeouts.

use super::{Collective, Lost, Operation, Patience, Wait};
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
};

/// What lives on the thread.
pub(super) trait Engine: Sized {
    /// Rank and world size.
    fn place(&self) -> [usize; 2];

    /// Takes part in an operation; what this rank gets of it. It may end early once it is `given_up`: after an error it is
    /// called no more, and never dropped.
    fn perform(
        &mut self,
        operation: &Operation,
        numbers: Vec<f32>,
        given_up: &AtomicBool,
    ) -> Result<Vec<f32>, Lost>;
}

/// The ranks of a run, as an engine on another thread connects them. Unless they [leave](Collective::leave) together,
/// the engine is never shut down, for which it would wait for ranks that are lost.
#[derive(Debug)]
pub struct Connection {
    rank: usize,
    world_size: usize,
    requests: Sender<Request>,
}

/// What the engine is asked to do.
#[derive(Debug)]
struct Request {
    /// The operation; none to leave for good.
    operation: Option<Operation>,
    numbers: Vec<f32>,
    answer: Sender<Result<Vec<f32>, Lost>>,
    /// Set once nobody waits for the answer.
    given_up: Arc<AtomicBool>,
}

impl Connection {
    /// The engine that `start` returns, which may wait for the other ranks.
    pub(super) fn start<E: Engine>(
        patience: &Patience<'_>,
        start: impl FnOnce() -> Result<E, Lost> + Send + 'static,
    ) -> Result<Self, Lost> {
        let (requests, inbox) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let owner = thread::Builder::new().name("collective".into());
        let started = owner.spawn(move || match start() {
            Ok(engine) => {
                let _ = tell.send(Ok(engine.place()));
                serve(engine, &inbox);
            }
            Err(error) => drop(tell.send(Err(error))),
        });
        started.map_err(|error| Lost::Engine(error.to_string()))?;
        let [rank, world_size] = answer(&told, patience)?;
        Ok(Self {
            rank,
            world_size,
            requests,
        })
    }

    fn ask(
        &self,
        operation: Option<Operation>,
        numbers: Vec<f32>,
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        let (tell, told) = mpsc::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let request = Request {
            operation,
            numbers,
            answer: tell,
            given_up: given_up.clone(),
        };
        self.requests.send(request).map_err(|_| gone())?;
        answer(&told, patience).inspect_err(|_| given_up.store(true, Ordering::Relaxed))
    }
}

/// What the engine's thread sends, if it does while the patience lasts.
fn answer<T>(told: &Receiver<Result<T, Lost>>, patience: &Patience<'_>) -> Result<T, Lost> {
    let mut wait = patience.begin();
    loop {
        match told.recv_timeout(Wait::TICK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            Err(RecvTimeoutError::Timeout) => wait.check()?,
        }
    }
}

pub(super) fn gone() -> Lost {
    Lost::Engine("the connection is closed".into())
}

/// Has the engine do what is asked, until the ranks leave together or something fails.
fn serve<E: Engine>(mut engine: E, inbox: &Receiver<Request>) {
    for request in inbox {
        let operation = request.operation.as_ref().unwrap_or(&Operation::Barrier);
        let done = engine.perform(operation, request.numbers, &request.given_up);
        match (&done, request.operation) {
            (Ok(_), Some(_)) => drop(request.answer.send(done)),
            (Ok(_), None) => {
                drop(engine);
                drop(request.answer.send(done));
                return;
            }
            (Err(_), _) => {
                drop(request.answer.send(done));
                break;
            }
        }
    }
    mem::forget(engine);
}

impl Collective for Connection {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn collect(
        &self,
        operation: &Operation,
        numbers: Vec<f32>,
        patience: &Patience<'_>,
    ) -> Result<Vec<f32>, Lost> {
        self.ask(Some(operation.clone()), numbers, patience)
    }

    fn leave(&self, patience: &Patience<'_>) -> Result<(), Lost> {
        self.ask(None, Vec::new(), patience).map(drop)
    }
}
