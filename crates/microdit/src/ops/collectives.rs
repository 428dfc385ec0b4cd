//! What the devices of one process add up together.

use burn::tensor::{Tensor, backend::Backend};

/// Collectives of a backend; every method has a body composed from burn tensors.
pub trait Collectives: Backend {
    /// Whether the devices of one process compute beside each other. Those of a CPU are the same cores; and a worker that waits while one
    /// computes gradients, which is done under burn's lock of its graph, must find no share of another to begin, which asks for that lock.
    const BESIDE: bool = true;

    /// Sum, on the first one's device, of tensors of one shape, one on each device; none if there are none.
    fn sum_over_devices(parts: Vec<Tensor<Self, 1>>) -> Option<Tensor<Self, 1>> {
        sum_over_devices(parts)
    }
}

/// In the order of the devices, so that the sum is the same bit for bit however the work was timed.
pub fn sum_over_devices<B: Backend>(parts: Vec<Tensor<B, 1>>) -> Option<Tensor<B, 1>> {
    parts.into_iter().reduce(|sum, part| {
        let device = sum.device();
        sum + part.to_device(&device)
    })
}
