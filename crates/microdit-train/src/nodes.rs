//! Data parallelism between machines: every node computes its share of the batch, and gradients are summed over the
//! network by burn-collective.

use crate::{error::TrainError, optim::Gradients, parallel::share};
use burn::tensor::{Tensor, backend::Backend};
use burn_collective::{
    CollectiveConfig, PeerId, ReduceOperation, all_reduce, finish_collective, register,
    start_global_orchestrator,
};
use microdit::DitBackend;
use std::{ops::Range, sync::mpsc, thread, time::Duration};

/// Numbers sent at once: a message of the transport holds 64 MiB.
const CHUNK: usize = 1 << 22;

/// Where the nodes of a run find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodesConfig {
    /// Number of nodes.
    pub count: u32,
    /// Number of this node, from 0. Node 0 keeps the run directory and brings the others together.
    pub rank: u32,
    /// Where node 0 brings them together, as `host:port`.
    pub meeting: String,
    /// Where the other nodes find this one, as `host:port`.
    pub address: String,
    /// How long a node may keep the others waiting.
    pub timeout: Duration,
}

/// The nodes of a run that have found each other.
#[derive(Debug)]
pub struct Nodes {
    config: NodesConfig,
}

/// What the nodes agree on at a step.
pub(crate) struct Agreed<B: Backend> {
    pub(crate) loss: Tensor<B, 1>,
    pub(crate) grads: Gradients<B>,
    /// Whether one of them was asked to stop.
    pub(crate) stop: bool,
}

impl Nodes {
    /// Waits until all nodes are there. `B` is the backend gradients are computed on.
    ///
    /// # Errors
    /// An address without a port, or nodes that do not come within the timeout.
    pub fn join<B: Backend>(config: NodesConfig, device: &B::Device) -> Result<Self, TrainError> {
        let meeting_port = port(&config.meeting)?;
        let own_port = port(&config.address)?;
        if config.rank == 0 {
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(start_global_orchestrator(meeting_port));
                }
            });
        }
        let url = |address: &str| format!("ws://{address}").parse();
        let (meeting, own) = match (url(&config.meeting), url(&config.address)) {
            (Ok(meeting), Ok(own)) => (meeting, own),
            (Err(error), _) | (_, Err(error)) => return Err(TrainError::Nodes(error)),
        };
        let collective = CollectiveConfig::default()
            .with_num_devices(1)
            .with_num_nodes(config.count)
            .with_global_address(meeting)
            .with_node_address(own)
            .with_data_service_port(own_port);
        let nodes = Self { config };
        let (peer, device) = (nodes.peer(), device.clone());
        nodes.within("come together", move || {
            register::<B>(peer, device, collective)
        })?;
        Ok(nodes)
    }

    /// Whether this node keeps the run directory.
    pub fn is_first(&self) -> bool {
        self.config.rank == 0
    }

    /// Samples of a batch of `size` that are this node's; some, if there are as many samples as nodes.
    pub(crate) fn share(&self, size: usize) -> Range<usize> {
        share(
            0..size,
            self.config.rank as usize,
            self.config.count as usize,
        )
    }

    /// Sums loss and gradients over the nodes. All of them call it at the same `step`.
    pub(crate) fn sum<B: DitBackend>(
        &self,
        loss: Tensor<B, 1>,
        grads: Gradients<B>,
        step: u64,
        stop: bool,
    ) -> Result<Agreed<B>, TrainError> {
        let device = loss.device();
        // The step travels in halves that f32 holds exactly.
        let (high, low) = ((step >> 20) as f32, (step & 0xf_ffff) as f32);
        let own = Tensor::from_floats([f32::from(u8::from(stop)), high, low], &device);
        let shapes: Vec<(String, usize)> = grads
            .iter()
            .map(|(name, grad)| (name.clone(), grad.dims()[0]))
            .collect();
        let all = grads.into_tensors().chain([loss, own]).collect();
        let summed = self.sum_flat(Tensor::cat(all, 0))?;
        let mut start = 0;
        let mut next = |count: usize| {
            start += count;
            summed.clone().narrow(0, start - count, count)
        };
        let grads = Gradients::from_tensors(
            shapes
                .into_iter()
                .map(|(name, count)| (name, next(count)))
                .collect::<Vec<_>>(),
        );
        let loss = next(1);
        let said: Vec<f32> = next(3).into_data().iter().collect();
        let count = self.config.count as f32;
        if said[1..] != [high * count, low * count] {
            return Err(TrainError::Nodes(format!(
                "the nodes are not at the same step (this one is at {step}); start all of them with the same run directory and --resume"
            )));
        }
        Ok(Agreed {
            loss,
            grads,
            stop: said[0] > 0.0,
        })
    }

    fn sum_flat<B: Backend>(&self, flat: Tensor<B, 1>) -> Result<Tensor<B, 1>, TrainError> {
        let peer = self.peer();
        self.within("sum the gradients", move || {
            let parts = flat.split(CHUNK, 0).into_iter().map(|part| {
                let part = part.into_primitive().tensor();
                let sum = all_reduce::<B>(peer, part, ReduceOperation::Sum)?;
                Ok(Tensor::from_primitive(
                    burn::tensor::TensorPrimitive::Float(sum),
                ))
            });
            Ok(Tensor::cat(parts.collect::<Result<Vec<_>, _>>()?, 0))
        })
    }

    /// Takes leave of the other nodes.
    pub fn leave<B: Backend>(self) {
        let peer = self.peer();
        // The run is over: nothing depends on a polite goodbye.
        let _ = self.within("part", move || finish_collective::<B>(peer));
    }

    fn peer(&self) -> PeerId {
        PeerId(self.config.rank)
    }

    /// Runs `action` beside this thread, and gives up on it after the timeout: a node that died answers never.
    fn within<T: Send + 'static>(
        &self,
        what: &str,
        action: impl FnOnce() -> Result<T, burn_collective::CollectiveError> + Send + 'static,
    ) -> Result<T, TrainError> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(action()));
        match receiver.recv_timeout(self.config.timeout) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(TrainError::Nodes(format!(
                "the nodes cannot {what}: {error:?}"
            ))),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(TrainError::Nodes(format!(
                "the nodes did not {what} within {} s: one of them is gone, or cannot be reached",
                self.config.timeout.as_secs()
            ))),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(TrainError::Nodes(format!(
                "the connection to another node broke: they cannot {what}"
            ))),
        }
    }
}

fn port(address: &str) -> Result<u16, TrainError> {
    let port = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    port.ok_or_else(|| TrainError::Nodes(format!("`{address}` is no address; write host:port")))
}
