//! NVIDIA GPUs: the composed operations.

use super::DitBackend;

impl DitBackend for burn_cuda::Cuda {}
