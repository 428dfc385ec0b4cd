//! `microdit doctor`: what this machine has, what would be used of it, and why.

use crate::{device::Device, say};
use clap::ValueEnum;
use microdit_encoders::hub::{self, PUBLISHED};
use microdit_train::room::memory;
use std::path::Path;

/// Print what this machine has for training, what would be used of it, and why.
#[derive(clap::Args)]
pub(crate) struct Doctor {}

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

impl Doctor {
    pub(crate) fn run(self) -> miette::Result<()> {
        let lines = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("device", device()),
            ("GPUs", gpus()),
            ("processor", processor()),
            ("threads", threads()),
            ("vectors", vectors()),
            ("memory", room()),
            ("disk", disk()),
            ("models", models()),
        ];
        for (name, value) in lines {
            say!("{name:<10} {value}");
        }
        Ok(())
    }
}

fn device() -> String {
    let best = Device::best().to_possible_value();
    let best = best.map_or_else(String::new, |value| value.get_name().to_owned());
    format!("{best}, unless --device says otherwise")
}

/// What this build could use besides the processor.
fn gpus() -> String {
    let kinds: [Option<String>; 2] = [cuda(), wgpu()];
    let kinds: Vec<String> = kinds.into_iter().flatten().collect();
    match kinds.is_empty() {
        true => "not used: this program was built without the features cuda and wgpu".to_owned(),
        false => kinds.join(", "),
    }
}

#[cfg(feature = "cuda")]
fn cuda() -> Option<String> {
    let driver = match crate::device::require_nvidia() {
        Ok(()) => "driver found",
        Err(_) => "no driver found",
    };
    // SAFETY: opens the library if it is there, and calls nothing in it.
    let nccl = match unsafe { cudarc::nccl::sys::is_culib_present() } {
        true => "NCCL found",
        false => "no NCCL (libnccl.so, in Debian's libnccl-dev) found, which several GPUs need",
    };
    Some(format!("cuda ({driver}; {nccl})"))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Option<String> {
    None
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Option<String> {
    let found = match crate::device::require_adapter() {
        Ok(()) => "GPU found",
        Err(_) => "no GPU found by Vulkan, Metal or DirectX",
    };
    Some(format!("wgpu ({found})"))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Option<String> {
    None
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn threads() -> String {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let used = microdit::worker_pool::threads();
    let why = match std::env::var("RAYON_NUM_THREADS") {
        Ok(set) => format!("RAYON_NUM_THREADS is {set}"),
        Err(_) => "all of them, unless RAYON_NUM_THREADS says otherwise".to_owned(),
    };
    format!("{used} of {available} cores ({why})")
}

/// The vector instructions that the operations choose from at run time.
fn vectors() -> String {
    #[cfg(target_arch = "x86_64")]
    let there = [
        ("AVX2", std::is_x86_feature_detected!("avx2")),
        ("FMA", std::is_x86_feature_detected!("fma")),
        ("AVX-512", std::is_x86_feature_detected!("avx512f")),
        ("AVX512-BF16", std::is_x86_feature_detected!("avx512bf16")),
        ("AMX-BF16", microdit::ops::has_amx()),
    ];
    #[cfg(target_arch = "aarch64")]
    let there = [("NEON", true)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let there: [(&str, bool); 0] = [];
    let found: Vec<&str> = there
        .iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| *name)
        .collect();
    match found.is_empty() {
        true => "none known; what the build's target has".to_owned(),
        false => found.join(", "),
    }
}

fn room() -> String {
    match memory() {
        Some(bytes) => format!("{:.1} GiB for this process", bytes / GIB),
        None => "not known on this system".to_owned(),
    }
}

fn disk() -> String {
    match fs4::available_space(Path::new(".")) {
        Ok(bytes) => format!("{:.1} GiB free in this directory", bytes as f64 / GIB),
        Err(error) => format!("not known: {error}"),
    }
}

/// The models that are in the cache.
fn models() -> String {
    let folder = match hub::folder() {
        Ok(folder) => folder,
        Err(error) => return error.to_string(),
    };
    let there = PUBLISHED
        .iter()
        .filter(|model| hub::locate(Path::new(model.name)).is_ok());
    let there: Vec<&str> = there.map(|model| model.name).collect();
    let there = match there.is_empty() {
        true => "none yet; microdit fetch --list names them".to_owned(),
        false => there.join(", "),
    };
    let offline = match hub::is_offline() {
        true => "; HF_HUB_OFFLINE forbids downloads",
        false => "",
    };
    format!("{} ({there}{offline})", folder.display())
}
