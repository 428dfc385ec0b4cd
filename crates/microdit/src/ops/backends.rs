//! The backends microdit runs on.

use super::DitBackend;
use burn_autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};

impl DitBackend for burn_flex::Flex {}

#[cfg(feature = "cuda")]
impl<F, I> DitBackend for burn_cuda::Cuda<F, I> where
    burn_cuda::Cuda<F, I>: burn::tensor::backend::Backend
{
}

impl<B: DitBackend, C: CheckpointStrategy> DitBackend for Autodiff<B, C> {}
