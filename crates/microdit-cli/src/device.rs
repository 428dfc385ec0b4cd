//! Where the work runs.

use burn::tensor::backend::{Backend, Device as _, DeviceId};
use clap::{
    ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use microdit_train::plan::Gpu;
use std::fmt;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda,
    /// A GPU by Vulkan, Metal or DirectX.
    #[cfg(feature = "wgpu")]
    Wgpu,
}

/// Every kind there is, whether or not this program was built for it: its name, what it is, and what its builds are called.
const KINDS: [(&str, &str, &str); 3] = [
    ("cpu", "The processor", "the processor"),
    (
        "cuda",
        "An NVIDIA GPU, in builds with --features cuda",
        "CUDA",
    ),
    (
        "wgpu",
        "A GPU by Vulkan, Metal or DirectX, in builds with --features wgpu",
        "wgpu",
    ),
];

/// Reads the name of a kind; one that this program was not built for is answered with how to build it.
pub(crate) fn kind() -> impl TypedValueParser<Value = Device> {
    let values = KINDS.map(|(name, about, _)| PossibleValue::new(name).help(about));
    PossibleValuesParser::new(values).try_map(|name| parse_kind(&name))
}

fn parse_kind(name: &str) -> Result<Device, String> {
    Device::from_str(name, false).map_err(|_| {
        let known = KINDS.iter().find(|(kind, ..)| *kind == name);
        let called = known.map_or(name, |(_, _, called)| called);
        format!(
            "this build lacks {called}; make one that has it with: cargo build --release --features {name}"
        )
    })
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", PossibleValue::get_name))
    }
}

impl Device {
    /// NVIDIA's GPUs, where this machine has one and this program was built for them; else the processor.
    pub(crate) fn best() -> Self {
        #[cfg(feature = "cuda")]
        if has_nvidia_driver() {
            return Self::Cuda;
        }
        Self::Cpu
    }

    /// The GPU it is, if it is one whose peak rate is known.
    pub(crate) fn gpu(self) -> Option<Gpu> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Gpu::detect(),
            _ => None,
        }
    }

    /// The arguments that choose a device of this kind.
    pub(crate) fn arguments(self) -> Vec<String> {
        vec!["--device".to_owned(), self.to_string()]
    }
}

/// Most devices of a machine; on a CPU, each is a copy of the network.
const MAX_DEVICES: usize = 1024;

/// Indices of devices of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Devices(Vec<u16>);

impl Devices {
    /// The devices themselves; on a CPU, each is a replica of the network.
    pub(crate) fn of<B: Backend>(&self, kind: Device) -> miette::Result<Vec<B::Device>> {
        match kind {
            Device::Cpu => {}
            #[cfg(feature = "cuda")]
            Device::Cuda => self.require_gpus(B::device_count(0))?,
            // Whichever is best: numbers would tell discrete from integrated ones.
            #[cfg(feature = "wgpu")]
            Device::Wgpu if self.0 == [0] => return Ok(vec![Default::default()]),
            #[cfg(feature = "wgpu")]
            Device::Wgpu => {
                return Err(miette::miette!(
                    "--device wgpu trains on one GPU; leave --devices out"
                ));
            }
        }
        let device = |&index: &u16| B::Device::from_id(DeviceId::new(0, index));
        Ok(self.0.iter().map(device).collect())
    }

    /// The one for a process with this number on its machine, if several may be there.
    pub(crate) fn of_process<B: Backend>(kind: Device, local_rank: Option<usize>) -> Self {
        let count = B::device_count(0).clamp(1, MAX_DEVICES);
        let numbered = match kind {
            #[cfg(feature = "cuda")]
            Device::Cuda => true,
            _ => false,
        };
        let index = local_rank.filter(|_| numbered).unwrap_or(0) % count;
        Self(vec![index as u16])
    }

    /// The first of them, if they are NVIDIA's GPUs.
    pub(crate) fn first_gpu(&self, kind: Device) -> Option<usize> {
        match kind {
            #[cfg(feature = "cuda")]
            Device::Cuda => Some(self.0[0].into()),
            _ => None,
        }
    }

    /// Each of them alone.
    pub(crate) fn singles(&self) -> impl Iterator<Item = Self> {
        self.0.iter().map(|&index| Self(vec![index]))
    }

    /// The arguments that choose them.
    pub(crate) fn arguments(&self, kind: Device) -> Vec<String> {
        let indices: Vec<String> = self.0.iter().map(u16::to_string).collect();
        [
            kind.arguments(),
            vec!["--devices".into(), indices.join(",")],
        ]
        .concat()
    }

    /// An error if there are fewer GPUs, or no library for their all-reduce: both would panic in the backend.
    #[cfg(feature = "cuda")]
    fn require_gpus(&self, present: usize) -> miette::Result<()> {
        let absent = self.0.iter().find(|&&index| usize::from(index) >= present);
        if let Some(index) = absent {
            return Err(miette::miette!(
                "--devices names GPU {index}, but this machine shows {present}, counted from 0"
            ));
        }
        // SAFETY: opens the library if it is there, and calls nothing in it.
        if self.0.len() > 1 && !unsafe { cudarc::nccl::sys::is_culib_present() } {
            return Err(miette::miette!(
                "several GPUs exchange their gradients by NCCL, whose library (libnccl.so, in Debian's libnccl-dev) is not found; \
                 install it or train with --devices {}",
                self.0[0]
            ));
        }
        Ok(())
    }
}

/// Reads a list such as 0-3,6.
pub(crate) fn parse_devices(text: &str) -> Result<Devices, String> {
    let number = |text: &str| {
        let number = text.trim().parse::<u16>();
        number.map_err(|_| format!("`{text}` is not the number of a device; write 0-7 or 0,2"))
    };
    let mut devices: Vec<u16> = Vec::new();
    for part in text.split(',') {
        if devices.len() > MAX_DEVICES {
            break;
        }
        match part.split_once('-') {
            Some((first, last)) => devices.extend(number(first)?..=number(last)?),
            None => devices.push(number(part)?),
        }
    }
    if devices.len() > MAX_DEVICES {
        return Err(format!("one machine has at most {MAX_DEVICES} devices"));
    }
    let twice = (1..devices.len()).any(|i| devices[..i].contains(&devices[i]));
    if devices.is_empty() || twice {
        return Err("expected at least one device, each of them only once".into());
    }
    Ok(Devices(devices))
}

/// An error if there is no NVIDIA driver: without one, the first operation would panic inside the backend.
#[cfg(feature = "cuda")]
pub(crate) fn require_nvidia() -> miette::Result<()> {
    if has_nvidia_driver() || !cfg!(target_os = "linux") {
        return Ok(());
    }
    Err(miette::miette!(
        "no NVIDIA driver is loaded on this machine; run with --device cpu"
    ))
}

/// Looks for the driver of Linux itself, and of Linux under Windows.
#[cfg(feature = "cuda")]
fn has_nvidia_driver() -> bool {
    let signs = ["/proc/driver/nvidia/version", "/dev/dxg"];
    signs.iter().any(|path| std::path::Path::new(path).exists())
}

/// An error if there is no GPU, likewise.
#[cfg(feature = "wgpu")]
pub(crate) fn require_adapter() -> miette::Result<()> {
    let adapters = wgpu::Instance::default().enumerate_adapters(wgpu::Backends::PRIMARY);
    if cubecl::future::block_on(adapters).is_empty() {
        return Err(miette::miette!(
            "no GPU is found by Vulkan, Metal or DirectX; run with --device cpu"
        ));
    }
    Ok(())
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
            #[cfg(feature = "wgpu")]
            $crate::device::Device::Wgpu => {
                $crate::device::require_adapter()?;
                type $backend = burn_wgpu::Wgpu;
                $body
            }
        }
    };
}
pub(crate) use on_device;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "cuda")]
    #[test]
    fn absent_gpus_are_named() {
        let error = Devices(vec![0, 3]).require_gpus(2).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("names GPU 3, but this machine shows 2")
        );
        assert!(Devices(vec![1]).require_gpus(2).is_ok());
    }

    #[test]
    fn a_kind_this_build_lacks_is_answered_with_how_to_build_it() {
        for (name, _, called) in KINDS {
            match parse_kind(name) {
                Ok(device) => assert_eq!(device.to_string(), name),
                Err(said) => {
                    assert!(said.contains(&format!("lacks {called}")), "{said}");
                    assert!(said.ends_with(&format!("--features {name}")), "{said}");
                }
            }
        }
        // Every kind of this build is among them.
        let known = |device: &Device| KINDS.iter().any(|(name, ..)| *name == device.to_string());
        assert!(Device::value_variants().iter().all(known));
        assert_eq!(parse_kind("cpu"), Ok(Device::Cpu));
    }

    #[test]
    fn lists_of_devices() {
        assert_eq!(parse_devices("0"), Ok(Devices(vec![0])));
        assert_eq!(parse_devices("0-2,5"), Ok(Devices(vec![0, 1, 2, 5])));
        let some = parse_devices("1,3").unwrap();
        let words = ["--device", "cpu", "--devices", "1,3"];
        assert_eq!(some.arguments(Device::Cpu), words);
        let singles: Vec<Devices> = some.singles().collect();
        assert_eq!(singles, [Devices(vec![1]), Devices(vec![3])]);
        for bad in [
            "",
            "a",
            "1,1",
            "3-1",
            "-1",
            "0-99999",
            "0-65535",
            "0-4294967295",
            "0-1024",
        ] {
            assert!(parse_devices(bad).is_err(), "{bad}");
        }
    }
}
