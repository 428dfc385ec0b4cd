//! GPUs on which burn fuses operations itself: the composed ones.

use super::{Collectives, DitBackend, OptimizerOps};

impl DitBackend for burn_cuda::Cuda {}
impl OptimizerOps for burn_cuda::Cuda {}
impl Collectives for burn_cuda::Cuda {}
