//! The tensors of a checkpoint: written and read only where every value is finite and every shape is known.

use crate::{
    error::TrainError,
    optim::{Kept, Slots},
};
use burn::tensor::{DType, Tensor};
use microdit::{
    DitBackend,
    net::Denoiser as _,
    task::Task,
    weights::{Description, StateDict, WeightsError, WeightsFile, reference_name},
};
use rayon::prelude::*;
use std::{collections::BTreeMap, path::Path};

/// Values a thread checks at a time.
const CHUNK: usize = 1 << 16;

/// Writes what of a task's networks steps move, after `step`.
pub(crate) fn save_task<B: DitBackend>(
    path: &Path,
    task: &impl Task<B>,
    step: u64,
) -> Result<(), TrainError> {
    let weights = StateDict::from_module(task).only(|path| !is_frozen(task, path));
    save_tensors(path, &weights, step)
}

/// Writes tensors after `step`.
pub(super) fn save_tensors(path: &Path, tensors: &StateDict, step: u64) -> Result<(), TrainError> {
    check_finite(&name_of(path), tensors, step)?;
    Ok(tensors.write_safetensors(path, DType::F32, None)?)
}

/// Writes what no step moves; whether there is anything.
pub(super) fn save_frozen<B: DitBackend>(
    path: &Path,
    task: &impl Task<B>,
    step: u64,
) -> Result<bool, TrainError> {
    let weights = StateDict::from_module(task).only(|path| is_frozen(task, path));
    if weights.is_empty() {
        return Ok(false);
    }
    save_tensors(path, &weights, step)?;
    Ok(true)
}

/// Whether no step moves the parameter at `path`.
pub(crate) fn is_frozen<B: DitBackend>(task: &impl Task<B>, path: &str) -> bool {
    task.is_frozen(&path.split('.').collect::<Vec<_>>())
}

/// Writes the result of a run as other programs read it: described, and with what the reference's strict loading expects
/// beside the parameters.
pub(crate) fn save_result<B: DitBackend>(
    path: &Path,
    task: &impl Task<B>,
    description: &Description,
) -> Result<(), TrainError> {
    let weights = result(task);
    check_finite(&name_of(path), &weights, description.step)?;
    let weights = weights
        .into_reference()
        .with_buffers(task.denoiser().buffers());
    Ok(weights.write_safetensors(path, DType::F32, Some(description))?)
}

/// What a run is for, of its task.
fn result<B: DitBackend>(task: &impl Task<B>) -> StateDict {
    if task.adapters().is_some() {
        return StateDict::from_module(&task.network());
    }
    let all = StateDict::from_module(task);
    let of_result = |path: &str| task.is_result(&path.split('.').collect::<Vec<_>>());
    all.only(of_result)
}

/// Whether `result` holds every tensor of `checkpoint` that belongs into it bit for bit, under the names of the reference. What adapters
/// are added to is in no checkpoint.
pub(super) fn is_result_of<B: DitBackend>(
    task: &impl Task<B>,
    checkpoint: &Path,
    result: &Path,
) -> Result<bool, TrainError> {
    if task.adapters().is_some() {
        return Ok(true);
    }
    let (mut saved, mut written) = (WeightsFile::open(checkpoint)?, WeightsFile::open(result)?);
    let paths = saved.names().map(str::to_owned);
    let of_result = |path: &String| task.is_result(&path.split('.').collect::<Vec<_>>());
    let paths: Vec<String> = paths.filter(of_result).collect();
    for path in paths {
        if saved.read(&path)? != written.read(&reference_name(&path))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the optimizer's state after `step`, each slot as `SLOT.PARAMETER`; before its first step a stage has none.
pub(super) fn save_slots<B: DitBackend>(
    path: &Path,
    slots: &BTreeMap<String, Slots<B>>,
    step: u64,
) -> Result<(), TrainError> {
    let tensors = slots.iter().flat_map(|(parameter, slots)| {
        let slots = slots.iter();
        slots.map(move |(slot, tensor)| {
            let data = tensor.clone().into_data();
            (format!("{slot}.{parameter}"), data)
        })
    });
    let tensors = StateDict::from_tensors(tensors);
    if tensors.is_empty() {
        return Ok(());
    }
    save_tensors(path, &tensors, step)
}

/// Reads a file of tensors whose values are all finite.
pub(super) fn read_finite(path: &Path) -> Result<StateDict, TrainError> {
    let file = StateDict::read(path)?;
    match not_finite(&file) {
        None => Ok(file),
        Some((tensor, count, of)) => {
            let message = format!("{count} of {of} values of {tensor} are not finite");
            Err(format_error(path, message))
        }
    }
}

/// Reads the slots of parameters of which `kept` is kept: all of a parameter's, or none.
pub(super) fn read_slots<B: DitBackend>(
    path: &Path,
    kept: &BTreeMap<String, Kept>,
    device: &B::Device,
) -> Result<BTreeMap<String, Slots<B>>, TrainError> {
    let file = read_finite(path)?;
    let fail = |message| Err(format_error(path, message));
    let mut read = BTreeMap::<String, Slots<B>>::new();
    for (name, data) in file.iter() {
        let (slot, parameter) = name.split_once('.').unwrap_or((name, ""));
        let Some(Kept { slots, size }) = kept.get(parameter) else {
            return fail(format!(
                "{name} is of a parameter the network does not have"
            ));
        };
        let Some(slot) = slots.iter().find(|kept| **kept == slot) else {
            let slots = slots.join(" and ");
            return fail(format!(
                "{name}: expected {slots} of this parameter; another method kept this state"
            ));
        };
        let found = data.num_elements();
        if found != *size {
            return fail(format!("{name} has {found} values, expected {size}"));
        }
        let tensor = Tensor::from_data(data.clone(), device);
        read.entry(parameter.to_owned())
            .or_default()
            .insert(*slot, tensor);
    }
    for (parameter, slots) in &read {
        let expected = kept.get(parameter).map_or(&[][..], |kept| kept.slots);
        if let Some(missing) = expected.iter().find(|slot| !slots.contains_key(*slot)) {
            let found: Vec<_> = slots.keys().copied().collect();
            let found = found.join(" and ");
            return fail(format!("{parameter} has {found} and no {missing}"));
        }
    }
    Ok(read)
}

/// Checks that all values are finite.
pub(super) fn check_finite(what: &str, tensors: &StateDict, step: u64) -> Result<(), TrainError> {
    match not_finite(tensors) {
        None => Ok(()),
        Some((tensor, count, of)) => Err(TrainError::NotFinite {
            what: what.to_owned(),
            tensor,
            count,
            of,
            step,
        }),
    }
}

/// The first tensor with values that are not finite, how many, and of how many.
fn not_finite(tensors: &StateDict) -> Option<(String, usize, usize)> {
    tensors.iter().find_map(|(name, data)| {
        let count = match data.as_slice::<f32>() {
            Ok(values) => values.par_chunks(CHUNK).map(count_not_finite).sum(),
            Err(_) => count_not_finite(&data.iter::<f32>().collect::<Vec<_>>()),
        };
        (count > 0).then(|| (name.clone(), count, data.num_elements()))
    })
}

/// In 32-bit lanes, as wide as the values: this must cost little beside writing them.
fn count_not_finite(values: &[f32]) -> usize {
    let count: u32 = values
        .iter()
        .map(|value| u32::from(!value.is_finite()))
        .sum();
    count as usize
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn format_error(path: &Path, message: String) -> TrainError {
    let path = path.to_owned();
    WeightsError::Format { path, message }.into()
}
