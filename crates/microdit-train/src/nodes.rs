//! Data parallelism between machines: every node computes its share of the batch, and node 0 sums the gradients.
//!
//! A star of TCP connections and nothing else: sums have one order, so that a run is the same bit for bit however its
//! messages were timed, and a node that dies is noticed by the others at their next read.

use crate::{error::TrainError, optim::Gradients, parallel::share, step::Computed};
use burn::tensor::{Tensor, TensorData};
use microdit::DitBackend;
use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    ops::Range,
    sync::{Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

/// First bytes of a connection: the protocol and its version.
const HELLO: &[u8; 8] = b"mdnodes1";

/// Time a new connection has to identify itself.
const GREETING: Duration = Duration::from_secs(5);

/// Pause between attempts to find another node.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where the nodes of a run find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodesConfig {
    /// Number of nodes.
    pub count: u32,
    /// Number of this node, from 0. Node 0 keeps the run directory and sums the gradients.
    pub rank: u32,
    /// Address node 0 listens on and the others connect to, as `host:port`.
    pub rendezvous: String,
    /// How long a node may keep the others waiting.
    pub timeout: Duration,
}

/// The nodes of a run that have found each other.
#[derive(Debug)]
pub struct Nodes {
    config: NodesConfig,
    /// On node 0 the others by rank, elsewhere node 0.
    streams: Mutex<Vec<TcpStream>>,
}

/// What the nodes agree on at a step.
pub(crate) struct Agreed<B: DitBackend> {
    pub(crate) computed: Computed<B>,
    /// Whether one of them was asked to stop.
    pub(crate) stop: bool,
}

/// What precedes the numbers of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    step: u64,
    count: u64,
    stop: bool,
}

impl Nodes {
    /// Waits until all nodes are there.
    ///
    /// # Errors
    /// An address that cannot be used, two nodes of one rank, or nodes that do not come within the timeout.
    pub fn join(config: NodesConfig) -> Result<Self, TrainError> {
        let deadline = Instant::now() + config.timeout;
        let streams = match config.rank {
            0 => gather(&config, deadline),
            _ => meet(&config, deadline).map(|stream| vec![stream]),
        };
        let rendezvous = &config.rendezvous;
        let streams = streams.map_err(|error| {
            TrainError::Nodes(format!("nodes rendezvous at {rendezvous}: {error}"))
        })?;
        Ok(Self {
            config,
            streams: Mutex::new(streams),
        })
    }

    /// Whether this node keeps the run directory.
    pub fn is_first(&self) -> bool {
        self.config.rank == 0
    }

    /// Number of nodes.
    pub fn count(&self) -> usize {
        self.config.count as usize
    }

    /// Samples of a batch of `size` that are this node's; some, if there are as many samples as nodes.
    pub(crate) fn share(&self, size: usize) -> Range<usize> {
        share(0..size, self.config.rank as usize, self.count())
    }

    /// Sums loss and gradients over the nodes. All of them call it at the same `step`.
    pub(crate) fn sum<B: DitBackend>(
        &self,
        computed: Computed<B>,
        step: u64,
        stop: bool,
    ) -> Result<Agreed<B>, TrainError> {
        let Computed {
            losses,
            terms,
            grads,
        } = computed;
        let (device, of_losses) = (losses.device(), losses.dims()[0]);
        let sizes: Vec<(String, usize)> = grads
            .iter()
            .map(|(name, grad)| (name.clone(), grad.dims()[0]))
            .collect();
        let all = grads.into_tensors().chain([losses]).collect();
        let mut numbers: Vec<f32> = Tensor::cat(all, 0).into_data().iter().collect();
        let header = Header {
            step,
            count: numbers.len() as u64,
            stop,
        };
        let stop = self
            .exchange(header, &mut numbers)
            .map_err(|(rank, error)| TrainError::NodeLost { rank, error, step })?;
        let count = numbers.len();
        let summed = Tensor::<B, 1>::from_data(TensorData::new(numbers, [count]), &device);
        let mut start = 0;
        let grads: Vec<_> = sizes
            .into_iter()
            .map(|(name, size)| {
                start += size;
                (name, summed.clone().narrow(0, start - size, size))
            })
            .collect();
        Ok(Agreed {
            computed: Computed {
                losses: summed.narrow(0, start, of_losses),
                terms,
                grads: Gradients::from_tensors(grads),
            },
            stop,
        })
    }

    /// Replaces `numbers` by their sum over the nodes; whether one of them wants to stop. An error names the node it
    /// happened with.
    fn exchange(&self, own: Header, numbers: &mut [f32]) -> Result<bool, (usize, io::Error)> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_first() {
            let stream = &mut streams[0];
            let mut answer = || {
                send(stream, own, numbers)?;
                receive(stream, own, |i, number| numbers[i] = number)
            };
            return answer().map_err(|error| (0, error));
        }
        let mut stop = own.stop;
        for (i, stream) in streams.iter_mut().enumerate() {
            let said = receive(stream, own, |i, number| numbers[i] += number);
            stop |= said.map_err(|error| (i + 1, error))?;
        }
        for (i, stream) in streams.iter_mut().enumerate() {
            send(stream, Header { stop, ..own }, numbers).map_err(|error| (i + 1, error))?;
        }
        Ok(stop)
    }
}

/// Node 0: the other nodes, by rank.
fn gather(config: &NodesConfig, deadline: Instant) -> io::Result<Vec<TcpStream>> {
    let listener = TcpListener::bind(&config.rendezvous)?;
    // Accepting has no timeout of its own.
    listener.set_nonblocking(true)?;
    let mut nodes: Vec<Option<TcpStream>> = (1..config.count).map(|_| None).collect();
    while let Some(missing) = nodes.iter().position(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                // A connection that says nothing, or has another protocol, is not a node.
                stream.set_read_timeout(Some(GREETING))?;
                let Ok((rank, count)) = greeting(&stream) else {
                    continue;
                };
                prepare(&stream, config)?;
                let place = (rank as usize).checked_sub(1);
                let place = place.and_then(|place| nodes.get_mut(place));
                match place {
                    Some(place @ None) if count == config.count => *place = Some(stream),
                    _ => {
                        let message = format!(
                            "a node connected as rank {rank} of {count}, which is taken or not one of {}",
                            config.count
                        );
                        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    let message = format!("node {} did not connect in time", missing + 1);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
                }
                sleep(PATIENCE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(nodes.into_iter().flatten().collect())
}

/// Another node: node 0.
fn meet(config: &NodesConfig, deadline: Instant) -> io::Result<TcpStream> {
    loop {
        let attempt = config
            .rendezvous
            .to_socket_addrs()
            .and_then(|mut addresses| {
                let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
                TcpStream::connect_timeout(&address, config.timeout)
            });
        match attempt {
            Ok(mut stream) => {
                prepare(&stream, config)?;
                stream.write_all(HELLO)?;
                stream.write_all(&config.rank.to_le_bytes())?;
                stream.write_all(&config.count.to_le_bytes())?;
                return Ok(stream);
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(PATIENCE),
        }
    }
}

fn prepare(stream: &TcpStream, config: &NodesConfig) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(config.timeout))?;
    stream.set_write_timeout(Some(config.timeout))
}

/// Rank and number of nodes, as a connecting node gives them.
fn greeting(mut stream: &TcpStream) -> io::Result<(u32, u32)> {
    let hello: [u8; 8] = array(&mut stream)?;
    if hello != *HELLO {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let rank = u32::from_le_bytes(array(&mut stream)?);
    Ok((rank, u32::from_le_bytes(array(&mut stream)?)))
}

fn send(stream: &mut TcpStream, header: Header, numbers: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(17 + 4 * numbers.len());
    bytes.extend(header.step.to_le_bytes());
    bytes.extend(header.count.to_le_bytes());
    bytes.push(header.stop.into());
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    stream.write_all(&bytes)
}

/// Passes the numbers of a message on, which must be of the step and count of `own`; whether its sender wants to stop.
fn receive(
    stream: &mut TcpStream,
    own: Header,
    mut take: impl FnMut(usize, f32),
) -> io::Result<bool> {
    let header = Header {
        step: u64::from_le_bytes(array(stream)?),
        count: u64::from_le_bytes(array(stream)?),
        stop: array::<1>(stream)? != [0],
    };
    if (header.step, header.count) != (own.step, own.count) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "it is at step {} with {} numbers, this one at step {} with {}: another recipe, or another checkpoint",
                header.step, header.count, own.step, own.count
            ),
        ));
    }
    let mut bytes = vec![0; 1 << 20];
    let mut place = 0;
    while place < own.count as usize {
        let part = &mut bytes[..(4 * (own.count as usize - place)).min(1 << 20)];
        stream.read_exact(part)?;
        for number in part.as_chunks::<4>().0 {
            take(place, f32::from_le_bytes(*number));
            place += 1;
        }
    }
    Ok(header.stop)
}

fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn config(count: u32, rank: u32, rendezvous: &str) -> NodesConfig {
        NodesConfig {
            count,
            rank,
            rendezvous: rendezvous.into(),
            timeout: Duration::from_secs(10),
        }
    }

    /// An address nobody listens on.
    fn free() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }

    #[test]
    fn three_nodes_agree_on_sums() {
        let rendezvous = free();
        let results: Vec<Vec<f32>> = thread::scope(|scope| {
            let node = |rank: u32| {
                let config = config(3, rank, &rendezvous);
                move || {
                    let nodes = Nodes::join(config).unwrap();
                    let mut numbers: Vec<f32> = (0..600_000).map(|i| (i + rank) as f32).collect();
                    let count = numbers.len() as u64;
                    for step in 0..3 {
                        let stop = (step, rank) == (2, 1);
                        let header = Header { step, count, stop };
                        let agreed = nodes.exchange(header, &mut numbers).unwrap();
                        assert_eq!(agreed, step == 2);
                    }
                    numbers
                }
            };
            let threads: Vec<_> = (0..3).map(|rank| scope.spawn(node(rank))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        // i + (i + 1) + (i + 2), then three times that, twice.
        let expected: Vec<f32> = (0..600_000).map(|i| (9 * (3 * i + 3)) as f32).collect();
        assert!(results.iter().all(|numbers| *numbers == expected));
    }

    #[test]
    fn nodes_at_different_steps_are_an_error() {
        let rendezvous = free();
        let other = config(2, 1, &rendezvous);
        let other = thread::spawn(move || {
            let nodes = Nodes::join(other).unwrap();
            let header = Header {
                step: 4,
                count: 1,
                stop: false,
            };
            nodes.exchange(header, &mut [1.0]).unwrap_err()
        });
        let nodes = Nodes::join(config(2, 0, &rendezvous)).unwrap();
        let header = Header {
            step: 5,
            count: 1,
            stop: false,
        };
        let (rank, error) = nodes.exchange(header, &mut [1.0]).unwrap_err();
        assert!(
            rank == 1 && error.to_string().contains("it is at step 4"),
            "{error}"
        );
        drop(nodes);
        assert_eq!(other.join().unwrap().0, 0);
    }

    #[test]
    fn a_node_that_does_not_come_is_named() {
        let mut alone = config(3, 0, &free());
        alone.timeout = Duration::from_millis(100);
        let error = Nodes::join(alone).unwrap_err().to_string();
        assert!(error.contains("node 1 did not connect in time"), "{error}");
    }
}
