//! The tensors of a checkpoint: written and read only where every value is finite and every shape is known.

use crate::{error::TrainError, optim::Moments};
use burn::tensor::{DType, Tensor, TensorData};
use microdit::{
    DitBackend,
    net::Denoiser as _,
    task::Task,
    weights::{StateDict, WeightsError},
};
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Values a thread looks at in one go.
const CHUNK: usize = 1 << 16;

/// Starts of the names of first and second moments.
const FIRST: &str = "exp_avg.";
const SECOND: &str = "exp_avg_sq.";

/// Writes a task's networks after `step`, with what the reference's strict loading expects beside the parameters.
pub(crate) fn save_task<B: DitBackend>(
    path: &Path,
    task: &impl Task<B>,
    step: u64,
) -> Result<(), TrainError> {
    let weights = StateDict::from_module(task);
    check_finite(&name_of(path), &weights, step)?;
    let weights = weights.with_buffers(task.denoiser().buffers());
    Ok(weights.write_safetensors(path, DType::F32, HashMap::new())?)
}

/// Writes the optimizer's moments after `step`; a stage that has not taken a step has none.
pub(super) fn save_moments<B: DitBackend>(
    path: &Path,
    moments: &BTreeMap<String, Moments<B>>,
    step: u64,
) -> Result<(), TrainError> {
    let moments = moments.iter().flat_map(|(name, moments)| {
        let named = |kind: &str, tensor: &Tensor<_, 1>| {
            (format!("{kind}{name}"), tensor.clone().into_data())
        };
        [named(FIRST, &moments.first), named(SECOND, &moments.second)]
    });
    let moments = StateDict::from_tensors(moments);
    if moments.is_empty() {
        return Ok(());
    }
    check_finite(&name_of(path), &moments, step)?;
    Ok(moments.write_safetensors(path, DType::F32, HashMap::new())?)
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

/// Reads the moments of parameters of these names and sizes.
pub(super) fn read_moments<B: DitBackend>(
    path: &Path,
    sizes: &BTreeMap<String, usize>,
    device: &B::Device,
) -> Result<BTreeMap<String, Moments<B>>, TrainError> {
    let file = read_finite(path)?;
    let mut moments = BTreeMap::new();
    for (name, first) in file.iter() {
        let Some(parameter) = name.strip_prefix(FIRST) else {
            let has_first = name
                .strip_prefix(SECOND)
                .is_some_and(|parameter| file.get(&format!("{FIRST}{parameter}")).is_some());
            if has_first {
                continue;
            }
            return Err(format_error(
                path,
                format!("{name} belongs to no first moment"),
            ));
        };
        let second = file.get(&format!("{SECOND}{parameter}"));
        let second = second.ok_or_else(|| {
            format_error(
                path,
                format!("{parameter} has a first moment and no second"),
            )
        })?;
        let Some(&size) = sizes.get(parameter) else {
            let message = format!("{name} is of a parameter the network does not have");
            return Err(format_error(path, message));
        };
        let tensor = |data: &TensorData| match data.num_elements() == size {
            true => Ok(Tensor::<B, 1>::from_data(data.clone(), device)),
            false => {
                let found = data.num_elements();
                let message =
                    format!("a moment of {parameter} has {found} values, expected {size}");
                Err(format_error(path, message))
            }
        };
        let moment = Moments {
            first: tensor(first)?,
            second: tensor(second)?,
        };
        moments.insert(parameter.to_owned(), moment);
    }
    Ok(moments)
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
