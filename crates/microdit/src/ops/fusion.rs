//! GPUs on which burn fuses operations itself: the composed ones.

use super::DitBackend;

impl DitBackend for burn_cuda::Cuda {}
