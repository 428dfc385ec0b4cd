//! Which rank a process is, as the program that started it says in the environment.

/// A process among those that were started together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its number, from 0.
    pub rank: usize,
    /// Number of the processes.
    pub world_size: usize,
    /// Its number among those on this machine, if that is known.
    pub local_rank: Option<usize>,
}

/// What says it, in the order in which it is believed: a program that was started by another one comes first.
const LAUNCHERS: [[&str; 3]; 5] = [
    // OpenMPI's mpirun.
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ],
    // mpiexec of MPICH and Intel, and srun for them.
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
    // torchrun.
    ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
    // Slurm's srun. A batch script has the first of these as well, but is one process.
    ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
    // A Kubernetes Job whose completions are indexed, which does not say how many they are.
    ["JOB_COMPLETION_INDEX", "WORLD_SIZE", "LOCAL_RANK"],
];

/// Ranks that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A variable of the environment holds something else.
    #[error("{name} is `{value}` in the environment, which is not a whole number")]
    NotANumber {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// A rank that is not one of the world.
    #[error("rank {rank} is not below the world size, {world_size}")]
    Outside {
        /// The rank.
        rank: usize,
        /// How many there are.
        world_size: usize,
    },
    /// One of the two is given, and nothing says the other.
    #[error("nothing says the {missing}, which --{given} needs")]
    Half {
        /// The flag that is given.
        given: &'static str,
        /// What is missing.
        missing: &'static str,
    },
}

impl Launch {
    /// What `variable` says of the environment's variables, unless `rank` or `world_size` are given; none if nothing says anything.
    ///
    /// # Errors
    /// What is said makes no sense.
    pub fn find(
        rank: Option<usize>,
        world_size: Option<usize>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, LaunchError> {
        let said = |name| variable(name).filter(|value| !value.is_empty());
        let number = |name: &'static str| {
            let parse = |value: String| match value.trim().parse() {
                Ok(number) => Ok(number),
                Err(_) => Err(LaunchError::NotANumber { name, value }),
            };
            said(name).map(parse).transpose()
        };
        for [own, of, local] in LAUNCHERS {
            let whole = (rank.is_some() || said(own).is_some())
                && (world_size.is_some() || said(of).is_some());
            if !whole {
                continue;
            }
            let rank = rank.map_or_else(|| number(own), |rank| Ok(Some(rank)))?;
            let world_size = world_size.map_or_else(|| number(of), |size| Ok(Some(size)))?;
            let (Some(rank), Some(world_size)) = (rank, world_size) else {
                continue;
            };
            if rank >= world_size {
                return Err(LaunchError::Outside { rank, world_size });
            }
            return Ok(Some(Self {
                rank,
                world_size,
                local_rank: number(local)?,
            }));
        }
        match (rank, world_size) {
            (Some(_), None) => Err(LaunchError::Half {
                given: "rank",
                missing: "world size",
            }),
            (None, Some(2..)) => Err(LaunchError::Half {
                given: "world-size",
                missing: "rank",
            }),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in an environment of `NAME=VALUE`s.
    fn find(
        rank: Option<usize>,
        world_size: Option<usize>,
        environment: &str,
    ) -> Result<Option<Launch>, LaunchError> {
        let pairs = environment.split_whitespace();
        let pairs: Vec<_> = pairs.filter_map(|pair| pair.split_once('=')).collect();
        Launch::find(rank, world_size, |name| {
            let pair = pairs.iter().find(|(found, _)| *found == name);
            pair.map(|(_, value)| (*value).to_owned())
        })
    }

    fn some(rank: usize, world_size: usize, local_rank: Option<usize>) -> Option<Launch> {
        Some(Launch {
            rank,
            world_size,
            local_rank,
        })
    }

    #[test]
    fn every_launcher_is_understood() {
        for (environment, expected) in [
            ("", None),
            (
                "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1",
                some(3, 8, Some(1)),
            ),
            ("PMI_RANK=0 PMI_SIZE=2", some(0, 2, None)),
            (
                "RANK=5 WORLD_SIZE=16 LOCAL_RANK=5 MASTER_ADDR=a SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2",
                some(5, 16, Some(5)),
            ),
            (
                "SLURM_PROCID=9 SLURM_STEP_NUM_TASKS=32 SLURM_LOCALID=1 SLURM_NTASKS=64",
                some(9, 32, Some(1)),
            ),
            ("JOB_COMPLETION_INDEX=2 WORLD_SIZE=4", some(2, 4, None)),
            // A batch script, a job that is not parallel, half of a launcher.
            ("SLURM_PROCID=0 SLURM_NTASKS=8", None),
            ("JOB_COMPLETION_INDEX=2", None),
            ("WORLD_SIZE=4", None),
            ("RANK= WORLD_SIZE=", None),
            ("RANK=colonel", None),
        ] {
            assert_eq!(find(None, None, environment), Ok(expected), "{environment}");
        }
    }

    #[test]
    fn flags_come_before_the_environment() {
        let slurm = "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=x";
        assert_eq!(find(Some(3), Some(4), ""), Ok(some(3, 4, None)));
        let kubernetes = "JOB_COMPLETION_INDEX=2 SLURM_PROCID=";
        assert_eq!(find(None, Some(4), kubernetes), Ok(some(2, 4, None)));
        assert_eq!(find(None, Some(1), ""), Ok(None));
        for (rank, world_size, environment, message) in [
            (Some(1), None, "", "nothing says the world size"),
            (None, Some(2), "", "nothing says the rank"),
            (Some(4), Some(4), "", "rank 4 is not below"),
            (None, None, "PMI_RANK=2 PMI_SIZE=2", "rank 2 is not below"),
            (None, None, "PMI_RANK=-1 PMI_SIZE=2", "PMI_RANK is `-1`"),
            (None, None, slurm, "SLURM_LOCALID is `x`"),
        ] {
            let error = find(rank, world_size, environment).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
