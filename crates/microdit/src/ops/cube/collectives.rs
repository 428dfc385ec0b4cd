//! Sums over devices.

use super::tensor;
use crate::ops::{Collectives, collectives};
use burn::tensor::{
    Tensor,
    backend::{
        DeviceOps,
        distributed::{CollectiveTensor, DistributedBackend, ReduceOperation},
    },
};
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};
use cubecl::server::ServerCommunication;

impl<R, F, I, T> Collectives for CubeBackend<R, F, I, T>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    T: BoolElement,
{
    /// Where the devices have a network of their own (CUDA: NCCL), by an all-reduce, in which every device sends and
    /// receives as much as any other.
    fn sum_over_devices(parts: Vec<Tensor<Self, 1>>) -> Option<Tensor<Self, 1>> {
        if !R::Server::SERVER_COMM_ENABLED || parts.len() < 2 {
            return collectives::sum_over_devices(parts);
        }
        let devices: Vec<_> = parts.iter().map(|part| part.device().id()).collect();
        let join = |part: Tensor<Self, 1>| {
            let part = part.into_primitive().tensor();
            Self::all_reduce(part, ReduceOperation::Sum, devices.clone())
        };
        // Every device has to join before the first waits for the others.
        let joined: Vec<_> = parts.into_iter().map(join).collect();
        let sums: Vec<_> = joined.into_iter().map(CollectiveTensor::resolve).collect();
        sums.into_iter().next().map(tensor)
    }
}
