//! Benchmarks: `cargo bench --profile dev --workspace --bench ops` (`run`, `loader`), with the build of the tests;
//! `compare.py` against PyTorch.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use microdit::rng::{Purpose, Stream};
use std::{fs, io::stdin, iter};

/// That of the command.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: microdit_train::allocator::PagePool = microdit_train::allocator::PagePool::new();

/// Standard normal numbers, different in every `stream`.
pub fn normal<B: Backend, const D: usize>(stream: u64, shape: [usize; D]) -> Tensor<B, D> {
    let values = Stream::new(0, Purpose::Noise, 0, stream).normal(shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

/// Steps as they are due: one that allocates and is not reported, with index 0, then `steps`, or else one for every line on the
/// standard input.
pub fn turns(steps: Option<usize>) -> impl Iterator<Item = usize> {
    let due = move |_: &usize| {
        steps.is_some()
            || stdin()
                .read_line(&mut String::new())
                .is_ok_and(|read| read > 0)
    };
    iter::once(0).chain((1..=steps.unwrap_or(usize::MAX)).take_while(due))
}

/// Time the process has had on all processors, which does not count what other machines on the same hardware took.
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold spaces: fields 14 and 15, in hundredths of a second.
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap_or(0.0));
    ticks.sum::<f64>() / 100.0
}

/// Most memory the process has held in MiB, where the system tells.
pub fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}
