//! What can be wrong with numbers that are to be compared.

/// Numbers from which nothing follows.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// Two ways of training without a common seed.
    #[error(
        "no seed in common: {a} has the seeds {a_seeds:?}, {b} has {b_seeds:?}; run both with the same seeds"
    )]
    NoCommonSeed {
        /// The first.
        a: String,
        /// Its seeds.
        a_seeds: Vec<u64>,
        /// The second.
        b: String,
        /// Its seeds.
        b_seeds: Vec<u64>,
    },
    /// A run whose number is NaN or infinite.
    #[error(
        "{label}, seed {seed}: the value is {value}; leave a run that diverged out of the comparison"
    )]
    NotFinite {
        /// The way of training.
        label: String,
        /// The run's seed.
        seed: u64,
        /// Its value.
        value: f64,
    },
    /// A jackknife that leaves out nothing, or everything.
    #[error(
        "{groups} groups of {samples} samples: a jackknife leaves out at least 2 groups in turn, of at least one sample each"
    )]
    Groups {
        /// Groups that were asked for.
        groups: usize,
        /// Samples there are.
        samples: usize,
    },
}
