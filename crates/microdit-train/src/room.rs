//! Whether a run fits into this machine's memory: an allocation that fails ends the process, with nothing saved.

use crate::{
    error::TrainError,
    plan,
    recipe::{CodecConfig, Recipe, Stage},
};

/// Batches in memory at once: the one in use, those decoded ahead, and one being decoded.
const BATCHES: f64 = 4.0;

/// Bytes of a GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// Checks that this machine has the memory that a run of `recipe` needs, where both are known: for batches and pictures, and for
/// the network too if it is trained on the processor.
///
/// # Errors
/// The stage that needs more, with both numbers.
pub fn require_room(recipe: &Recipe, on_processor: bool) -> Result<(), TrainError> {
    let Some(there) = memory() else { return Ok(()) };
    for stage in &recipe.stages {
        let network = match on_processor {
            true => GIB * plan::memory_of(stage, 1, None).total,
            false => 0.0,
        };
        let needed = network + of_samples(recipe, stage);
        if needed > there {
            return Err(TrainError::NoRoom {
                stage: stage.name.clone(),
                needed: needed / GIB,
                there: there / GIB,
            });
        }
    }
    Ok(())
}

/// Bytes of a stage's batches, of its held-out samples and of the pictures at its end.
fn of_samples(recipe: &Recipe, stage: &Stage) -> f64 {
    let sample = stage.sample_bytes() as f64;
    let held_out = recipe.run.evaluation.as_ref();
    let samples = BATCHES * stage.batch as f64 + held_out.map_or(0.0, |held| held.samples as f64);
    let side = f64::from(stage.data.image_size());
    let sampling = &recipe.run.sampling;
    let pictures = match stage.data.codec() {
        // One by one, and all of them on a sheet.
        Some(CodecConfig::Pixels { .. }) => 2.0 * 3.0 * side * side * sampling.pictures() as f64,
        None => 0.0,
    };
    sample * samples + pictures
}

/// Bytes this process may have: what the machine, its control group and the limit of the process leave; none where that is not
/// known.
#[cfg(target_os = "linux")]
pub fn memory() -> Option<f64> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let total: f64 = ["MemTotal:", "SwapTotal:"]
        .iter()
        .filter_map(|key| number_after(&read("/proc/meminfo"), key))
        .sum();
    let machine = (total > 0.0).then_some(1024.0 * total);
    let group = number_after(&read("/sys/fs/cgroup/memory.max"), "");
    let process = number_after(&read("/proc/self/limits"), "Max address space");
    [machine, group, process]
        .into_iter()
        .flatten()
        .reduce(f64::min)
}

/// Bytes this process may have: not known on this system.
#[cfg(not(target_os = "linux"))]
pub fn memory() -> Option<f64> {
    None
}

/// The number after `key`, if a line begins with both.
#[cfg(target_os = "linux")]
fn number_after(text: &str, key: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_linux_writes_them() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax address space  4096000000  unlimited  bytes\n";
        let number = |text, key| number_after(text, key);
        assert_eq!(number(limits, "Max address space"), Some(4_096_000_000.0));
        assert_eq!(
            number("MemTotal:  24 kB\nSwapTotal: 0 kB", "MemTotal:"),
            Some(24.0)
        );
        assert_eq!(number("max\n", ""), None);
        assert!(memory().is_some_and(|bytes| bytes > 1e6));
    }
}
