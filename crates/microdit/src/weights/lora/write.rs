//! Adapters for other programs.

use super::{METADATA, reference_layer};
use crate::{
    nn::lora::{Adapter, Lora},
    ops::DitBackend,
    weights::{WeightsError, safetensors},
};
use burn::{
    module::Param,
    tensor::{DType, Tensor, TensorData},
};
use serde_json::{Map, Number, Value};
use std::{collections::BTreeMap, path::Path};

/// Writes adapters as diffusers' `save_lora_weights` does, whole or not at all: tensors called `COMPONENT.LAYER.lora_A.weight` and
/// `lora_B`, ranks and alphas in the metadata `lora_adapter_metadata`. The `component` is what diffusers calls the network in its
/// pipelines: `unet`, or `transformer`.
///
/// # Errors
/// If the file cannot be written, and values that are not finite or beyond the range of `dtype`.
pub fn write_lora<B: DitBackend>(
    lora: &Lora<B>,
    component: &str,
    path: &Path,
    dtype: DType,
) -> Result<(), WeightsError> {
    let mut tensors = BTreeMap::new();
    for adapter in &lora.adapters {
        let layer = format!("{component}.{}", reference_layer(&adapter.layer().path));
        let [down, up] = parts(adapter);
        tensors.insert(format!("{layer}.lora_A.weight"), down);
        tensors.insert(format!("{layer}.lora_B.weight"), up);
    }
    let origin = path.display().to_string();
    for (name, data) in &tensors {
        WeightsError::unless_finite(&origin, name, data)?;
    }
    let configuration = configuration(lora, component);
    let text = serde_json::to_string_pretty(&configuration).expect("plain data");
    let tensors = tensors.iter().map(|(name, data)| (name.as_str(), data));
    let metadata = BTreeMap::from([(METADATA.to_owned(), text)]);
    safetensors::write(path, dtype, tensors.collect(), metadata)
}

/// The tensors in the shapes of layers: those of a convolution's adapter are convolutions.
fn parts<B: DitBackend>(adapter: &Adapter<B>) -> [TensorData; 2] {
    let rank = adapter.rank();
    let [outputs, kernel @ ..] = &adapter.layer().shape[..] else {
        unreachable!("a weight has two or four dimensions")
    };
    let ones = vec![1; kernel.len() - 1];
    let down = [&[rank], kernel].concat();
    let up = [&[*outputs, rank], &ones[..]].concat();
    let data = |param: &Param<Tensor<B, 2>>, shape: Vec<usize>| {
        let values: Vec<f32> = param.val().into_data().iter().collect();
        TensorData::new(values, shape)
    };
    [data(&adapter.down, down), data(&adapter.up, up)]
}

/// What peft needs to know: the commonest rank and alpha, the layers that have others, and all layers by name.
fn configuration<B: DitBackend>(lora: &Lora<B>, component: &str) -> Map<String, Value> {
    // One convention for all: alpha as it would be without rslora.
    let rslora = !lora.adapters.is_empty() && lora.adapters.iter().all(Adapter::is_rslora);
    let alpha = |adapter: &Adapter<B>| match rslora {
        true => adapter.alpha(),
        false => adapter.scale() * adapter.rank() as f64,
    };
    let of = |adapter: &Adapter<B>| (adapter.rank(), alpha(adapter).to_bits());
    let mut counts = BTreeMap::<(usize, u64), usize>::new();
    for adapter in &lora.adapters {
        *counts.entry(of(adapter)).or_default() += 1;
    }
    let commonest = counts.iter().max_by_key(|(_, count)| **count);
    let (rank, bits) = commonest.map_or((1, 1f64.to_bits()), |(of, _)| *of);
    let (mut ranks, mut alphas, mut targets) = (Map::new(), Map::new(), Vec::new());
    for adapter in &lora.adapters {
        let layer = reference_layer(&adapter.layer().path);
        if adapter.rank() != rank {
            ranks.insert(layer.clone(), adapter.rank().into());
        }
        if alpha(adapter).to_bits() != bits {
            alphas.insert(layer.clone(), number(alpha(adapter)));
        }
        targets.push(layer);
    }
    targets.sort();
    let mut all = Map::from_iter([
        ("lora_alpha".to_owned(), number(f64::from_bits(bits))),
        ("r".to_owned(), rank.into()),
        ("target_modules".to_owned(), targets.into()),
        ("use_rslora".to_owned(), rslora.into()),
    ]);
    for (key, exceptions) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
        if !exceptions.is_empty() {
            all.insert(key.to_owned(), exceptions.into());
        }
    }
    let named = all.into_iter();
    let mut named: Vec<_> = named
        .map(|(key, value)| (format!("{component}.{key}"), value))
        .collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named.into_iter().collect()
}

/// Whole numbers without a point, as Python writes them.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => (value as i64).into(),
        false => Number::from_f64(value).map_or(Value::Null, Value::Number),
    }
}
