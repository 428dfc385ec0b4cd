//! The processes that this one works with.

use crate::{advice::OrAdvise, number::whole};
#[cfg(feature = "mpi")]
use microdit_train::collective::mpi;
#[cfg(feature = "cuda")]
use microdit_train::collective::nccl;
use microdit_train::collective::{Alone, Collective, Launch, Patience};

/// Which process this is.
#[derive(clap::Args)]
pub(crate) struct RanksArgs {
    /// Rank of this process, from 0, where what starts it (mpirun, srun, torchrun, Kubernetes) does not say so
    #[arg(long, value_parser = whole(0..=999_999))]
    rank: Option<usize>,
    /// Number of processes, likewise
    #[arg(long, value_parser = whole(1..=1_000_000))]
    world_size: Option<usize>,
}

impl RanksArgs {
    /// What the flags say, or else the environment; one process if neither says anything.
    pub(crate) fn launch(&self) -> miette::Result<Launch> {
        let variable = |name: &str| {
            let value = std::env::var_os(name)?;
            Some(value.to_string_lossy().into_owned())
        };
        let found = Launch::find(self.rank, self.world_size, variable).or_advise()?;
        Ok(found.unwrap_or(Launch {
            rank: 0,
            world_size: 1,
            local_rank: None,
        }))
    }
}

/// What connects the ranks of a launch: on NVIDIA GPUs NCCL, where an address is said to meet at, and else MPI.
pub(crate) fn connect(
    launch: Launch,
    gpu: Option<usize>,
    patience: &Patience<'_>,
) -> miette::Result<Box<dyn Collective>> {
    if launch.world_size == 1 {
        return Ok(Box::new(Alone));
    }
    match gpu {
        #[cfg(feature = "cuda")]
        Some(gpu) if std::env::var_os(nccl::MEETING).is_some() => {
            Ok(Box::new(nccl::join(launch, gpu, patience).or_advise()?))
        }
        _ => by_mpi(launch, patience),
    }
}

#[cfg(feature = "mpi")]
fn by_mpi(launch: Launch, patience: &Patience<'_>) -> miette::Result<Box<dyn Collective>> {
    let joined = mpi::join(patience).or_advise()?;
    let Launch {
        rank, world_size, ..
    } = launch;
    if (joined.rank(), joined.world_size()) == (rank, world_size) {
        return Ok(Box::new(joined));
    }
    Err(miette::miette!(
        help = format!(
            "start it with mpirun -n {world_size} microdit train ..., or with srun --mpi=pmix"
        ),
        "this is rank {rank} of {world_size}, but rank {} of {} to MPI",
        joined.rank(),
        joined.world_size()
    ))
}

#[cfg(not(feature = "mpi"))]
fn by_mpi(launch: Launch, _patience: &Patience<'_>) -> miette::Result<Box<dyn Collective>> {
    let Launch {
        rank, world_size, ..
    } = launch;
    Err(miette::miette!(
        help = format!(
            "build it with --features mpi, and start it with mpirun -n {world_size} microdit train ...; NVIDIA GPUs meet \
             without MPI where NCCL_COMM_ID names an address of rank 0, as host:port"
        ),
        "this is rank {rank} of {world_size}, and this microdit was built without MPI, by which ranks work together"
    ))
}
