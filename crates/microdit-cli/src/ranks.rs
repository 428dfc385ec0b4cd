//! The processes that this one works with.

use crate::{advice::OrAdvise, number::whole};
#[cfg(feature = "mpi")]
use microdit_train::collective::mpi;
use microdit_train::collective::{Alone, Collective, Launch, Patience};
#[cfg(feature = "cuda")]
use microdit_train::collective::{Meeting, nccl};
use std::path::Path;

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

/// What connects the ranks of a launch into `run`, if that is given: on NVIDIA GPUs NCCL, where its library is, and else MPI.
pub(crate) fn connect(
    launch: Launch,
    gpu: Option<usize>,
    run: Option<&Path>,
    patience: &Patience<'_>,
) -> miette::Result<Box<dyn Collective>> {
    if launch.world_size == 1 {
        return Ok(Box::new(Alone));
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = gpu.filter(|_| nccl::is_present()) {
        return by_nccl(launch, gpu, run, patience);
    }
    // Only NCCL asks for them.
    #[cfg(not(feature = "cuda"))]
    let _ = (gpu, run);
    by_mpi(launch, patience)
}

/// The ranks meet at the address in `NCCL_COMM_ID`, by the MPI that started them, or beside the run's directory.
#[cfg(feature = "cuda")]
fn by_nccl(
    launch: Launch,
    gpu: usize,
    run: Option<&Path>,
    patience: &Patience<'_>,
) -> miette::Result<Box<dyn Collective>> {
    /// What launchers of MPI set.
    const MPI: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"];
    let is_set = |name: &str| std::env::var_os(name).is_some();
    if is_set(nccl::MEETING) {
        let joined = nccl::join(launch, gpu, &Meeting::Address, patience);
        return Ok(Box::new(joined.or_advise()?));
    }
    if cfg!(feature = "mpi") && MPI.into_iter().any(is_set) {
        let ranks = by_mpi(launch, patience)?;
        let joined = nccl::join(launch, gpu, &Meeting::Ranks(&*ranks), patience);
        let joined = joined.or_advise()?;
        // From here on, NCCL connects them.
        ranks.leave(patience).or_advise()?;
        return Ok(Box::new(joined));
    }
    let Some(run) = run else {
        return Err(miette::miette!(
            help = "name the directory by --run, where all ranks see it; or set NCCL_COMM_ID to an address of rank 0, as host:port; or start \
                    them by mpirun, with a build that has --features mpi",
            "NCCL connects {} ranks, and nothing says where they meet",
            launch.world_size
        ));
    };
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    let beside = run.with_file_name(format!(".{name}.meeting"));
    let joined = nccl::join(launch, gpu, &Meeting::Directory(beside), patience);
    Ok(Box::new(joined.or_advise()?))
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
            "build it with --features mpi, and start it with mpirun -n {world_size} microdit train ...; NVIDIA GPUs need no MPI where \
             libnccl.so is"
        ),
        "this is rank {rank} of {world_size}, and this microdit was built without MPI, by which ranks work together"
    ))
}
