//! Where the work runs.

use clap::ValueEnum;
use microdit_train::plan::Gpu;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda,
}

impl Device {
    /// The GPU it is, if it is one whose peak rate is known.
    pub(crate) fn gpu(self) -> Option<Gpu> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda => Gpu::detect(),
        }
    }
}

/// Runs an expression with the type `$backend` bound to the device's backend.
macro_rules! on_device {
    ($device:expr, $backend:ident => $body:expr) => {
        match $device {
            $crate::device::Device::Cpu => {
                type $backend = burn_flex::Flex;
                $body
            }
            #[cfg(feature = "cuda")]
            $crate::device::Device::Cuda => {
                type $backend = burn_cuda::Cuda;
                $body
            }
        }
    };
}
pub(crate) use on_device;
