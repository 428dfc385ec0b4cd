//! Where the work runs.

use burn::tensor::backend::{Backend, Device as _, DeviceId};
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

/// Indices of devices of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Devices(Vec<u16>);

impl Devices {
    /// The devices themselves; on a CPU, each is a replica of the network.
    pub(crate) fn of<B: Backend>(&self) -> Vec<B::Device> {
        let device = |&index: &u16| B::Device::from_id(DeviceId::new(0, index));
        self.0.iter().map(device).collect()
    }
}

/// Reads a list such as 0-3,6.
pub(crate) fn parse_devices(text: &str) -> Result<Devices, String> {
    let number = |text: &str| {
        let number = text.trim().parse::<u16>();
        number.map_err(|_| format!("`{text}` is no number of a device; write 0-7 or 0,2"))
    };
    let mut devices: Vec<u16> = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => devices.extend(number(first)?..=number(last)?),
            None => devices.push(number(part)?),
        }
    }
    let twice = (1..devices.len()).any(|i| devices[..i].contains(&devices[i]));
    if devices.is_empty() || twice {
        return Err("every device stands once in the list, and there is at least one".into());
    }
    Ok(Devices(devices))
}

/// Says so if there is no NVIDIA driver: without one, the first operation would panic inside the backend.
#[cfg(feature = "cuda")]
pub(crate) fn require_nvidia() -> miette::Result<()> {
    // The driver of Linux itself, and of Linux under Windows.
    let signs = ["/proc/driver/nvidia/version", "/dev/dxg"];
    let found = signs.iter().any(|path| std::path::Path::new(path).exists());
    if found || !cfg!(target_os = "linux") {
        return Ok(());
    }
    Err(miette::miette!(
        "no NVIDIA driver is loaded on this machine; run with --device cpu"
    ))
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
                $crate::device::require_nvidia()?;
                type $backend = burn_cuda::Cuda;
                $body
            }
        }
    };
}
pub(crate) use on_device;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_devices() {
        assert_eq!(parse_devices("0"), Ok(Devices(vec![0])));
        assert_eq!(parse_devices("0-2,5"), Ok(Devices(vec![0, 1, 2, 5])));
        for bad in ["", "a", "1,1", "3-1", "-1", "0-99999"] {
            assert!(parse_devices(bad).is_err(), "{bad}");
        }
    }
}
