//! Files of adapters, as peft, diffusers and kohya's trainers write them.

mod alphas;
mod names;
mod write;

pub use write::write_lora;

use super::{StateDict, WeightsError, WeightsFile, io_error, reference_name};
use crate::{
    nn::{
        lora::{Adapter, Layer, Lora, layers},
        params::Roles,
    },
    ops::DitBackend,
};
use alphas::Alphas;
use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorData},
};
use names::{Named, Part, Target};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fs, path::Path};

/// Key of the metadata under which diffusers keeps what an adapter was configured with, in JSON.
pub(super) const METADATA: &str = "lora_adapter_metadata";

/// What peft keeps beside its files.
const CONFIG: &str = "adapter_config.json";

/// Most bytes of it.
const MAX_CONFIG: u64 = 1 << 20;

/// Adapters that cannot be read, or that a network cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// There is nothing for a network in it.
    #[error(
        "it holds no adapters of a network; their tensors end in lora_A.weight, lora.down.weight or lora_down.weight"
    )]
    Nothing,
    /// Tensors are not those of plain adapters.
    #[error("{} tensors are not those of plain adapters (LoRA), which alone are read:{}", .0.len(), list(.0))]
    Foreign(Vec<String>),
    /// The configuration asks for more than plain adapters.
    #[error("{key} of its configuration: {message}")]
    Configuration {
        /// The key.
        key: String,
        /// What is wrong with its value.
        message: String,
    },
    /// The network has no such layers.
    #[error("it adapts {} layers that the network does not have; is it made for another one?{}", .0.len(), list(.0))]
    NoLayer(Vec<String>),
    /// Half of an adapter is missing.
    #[error("of the adapters of {} layers a part is missing, down (lora_A) or up (lora_B):{}", .0.len(), list(.0))]
    Incomplete(Vec<String>),
    /// A tensor is there twice, under two names.
    #[error("{one} and {other} are the same part of one adapter")]
    Twice {
        /// A name.
        one: String,
        /// Another one.
        other: String,
    },
    /// A tensor does not fit its layer.
    #[error("{tensor} has shape {found:?}; a layer of weight {layer:?} takes {expected}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// Shape of the layer's weight.
        layer: Vec<usize>,
        /// The shape it should have, in words.
        expected: String,
    },
    /// An alpha that is no use.
    #[error("{tensor} is {value}; an alpha is a finite number")]
    Alpha {
        /// The tensor, or the key of the configuration.
        tensor: String,
        /// Its value, or how many it has.
        value: String,
    },
}

/// Names shown in an error.
const SHOWN: usize = 8;

fn list(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN);
    let mut text: String = shown.map(|name| format!("\n  {name}")).collect();
    if names.len() > SHOWN {
        text += &format!("\n  and {} more", names.len() - SHOWN);
    }
    text
}

/// A file of adapters, in memory.
///
/// Read are the names that peft and diffusers give (`LAYER.lora_A.weight`, `LAYER.lora.down.weight`, those of attention
/// processors, with or without `unet.`, `transformer.` or `base_model.model.` before them) and kohya's (`lora_unet_LAYER.lora_down.weight`).
/// What an adapter is scaled by comes from its `.alpha`, else from the metadata `lora_adapter_metadata` or the `adapter_config.json` beside the
/// file; where there is neither, it is 1. Variants that are more than `W + scale up down` (DoRA, LoHa, LoKr, biases) are errors.
///
/// ```
/// use burn::tensor::DType;
/// use burn_flex::Flex;
/// use microdit::{
///     DitConfig,
///     nn::lora::LoraConfig,
///     weights::{LoraFile, write_lora},
/// };
///
/// let device = Default::default();
/// let config = DitConfig::tiny_2().with_dim(32).with_depth(2).with_head_dim(16).with_multiple_of(16)
///     .with_mixer(None).with_moe(None);
/// let network = config.init::<Flex>(0, &device)?;
/// let lora = LoraConfig { layers: vec!["qkv".into()], ..LoraConfig::default() }.init(&network, 0, &device)?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("lora.safetensors");
/// write_lora(&lora, "transformer", &path, DType::F32)?;
/// let read = LoraFile::open(&path)?.load(&network, &device)?;
/// // Those of two blocks, and of the one that captions go through.
/// assert_eq!(read.adapters.len(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct LoraFile {
    origin: String,
    tensors: BTreeMap<(Target, Part), (String, TensorData)>,
    configuration: Map<String, Value>,
    left_out: Vec<String>,
}

impl LoraFile {
    /// Reads a file: safetensors, or PyTorch's.
    ///
    /// # Errors
    /// An unreadable, damaged or foreign file, and one without plain adapters.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = WeightsFile::open(path)?;
        let own = match file.text(METADATA) {
            Some(text) => Some((METADATA, text.to_owned())),
            None => beside(path)?.map(|text| (CONFIG, text)),
        };
        let configuration = own.map(|(key, text)| {
            serde_json::from_str(&text).map_err(|error| LoraError::Configuration {
                key: key.into(),
                message: error.to_string(),
            })
        });
        let configuration = configuration.transpose();
        let configuration = configuration.map_err(|error| fail(path.display(), error))?;
        let state = StateDict::take(file, path)?;
        Self::of_state(&state, configuration.unwrap_or_default())
            .map_err(|error| fail(path.display(), error))
            .map(|file| Self {
                origin: path.display().to_string(),
                ..file
            })
    }

    /// Adapters of which the tensors are in memory; `configuration` is what the metadata say about them.
    ///
    /// # Errors
    /// Tensors of anything but plain adapters.
    pub fn of_state(
        state: &StateDict,
        configuration: Map<String, Value>,
    ) -> Result<Self, LoraError> {
        let (mut tensors, mut foreign, mut left_out) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (name, data) in state.iter() {
            match Named::read(name) {
                Some(Named::OfNetwork(target, part)) => {
                    let tensor = (name.clone(), data.clone());
                    if let Some((other, _)) = tensors.insert((target, part), tensor) {
                        let one = name.clone();
                        return Err(LoraError::Twice { one, other });
                    }
                }
                Some(Named::OfTextEncoder) => left_out.push(name.clone()),
                None => foreign.push(name.clone()),
            }
        }
        if !foreign.is_empty() {
            return Err(LoraError::Foreign(foreign));
        }
        if tensors.is_empty() {
            return Err(LoraError::Nothing);
        }
        Ok(Self {
            origin: "the adapters".into(),
            tensors,
            configuration,
            left_out,
        })
    }

    /// Names of tensors that are of no network but of its text encoder, and are left out.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The adapters, for `network`.
    ///
    /// # Errors
    /// [`WeightsError::Lora`] with the layers that `network` does not have, and with adapters that are incomplete or do not fit
    /// their layers; [`WeightsError::Value`] with the first value that is not finite.
    pub fn load<B: DitBackend, M: Module<B> + Roles>(
        self,
        network: &M,
        device: &B::Device,
    ) -> Result<Lora<B>, WeightsError> {
        for (name, data) in self.tensors.values() {
            WeightsError::unless_finite(&self.origin, name, data)?;
        }
        let origin = self.origin.clone();
        self.of_layers(layers(network), device)
            .map_err(|error| fail(origin, error))
    }

    fn of_layers<B: DitBackend>(
        mut self,
        layers: Vec<Layer>,
        device: &B::Device,
    ) -> Result<Lora<B>, LoraError> {
        let alphas = Alphas::read(&self.configuration)?;
        let (mut adapters, mut incomplete) = (Vec::new(), Vec::new());
        for layer in layers {
            let target = self.target_of(&layer);
            let Some(target) = target else { continue };
            let mut take = |part| self.tensors.remove(&(target.clone(), part));
            let [down, up, alpha] = [Part::Down, Part::Up, Part::Alpha].map(&mut take);
            let (Some((down_name, down)), Some((up_name, up))) = (down, up) else {
                incomplete.push(layer.path);
                continue;
            };
            let rank = down.shape.first().copied().unwrap_or_default();
            let inputs: usize = layer.shape[1..].iter().product();
            let outputs = layer.shape[0];
            fits(
                &layer,
                &down_name,
                &down,
                [rank, inputs],
                "rank first, then the layer's inputs",
            )?;
            fits(
                &layer,
                &up_name,
                &up,
                [outputs, rank],
                &format!("[{outputs}, {rank}]"),
            )?;
            let named = alpha.as_ref().map(|(name, data)| (name.as_str(), data));
            let (alpha, rslora) = alphas.of(&layer, rank, named)?;
            let param = |data: TensorData, shape: [usize; 2]| {
                let values: Vec<f32> = data.iter::<f32>().collect();
                Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
            };
            let (down, up) = (param(down, [rank, inputs]), param(up, [outputs, rank]));
            adapters.push(Adapter::new(layer, down, up, alpha, rslora));
        }
        if !incomplete.is_empty() {
            return Err(LoraError::Incomplete(incomplete));
        }
        let mut left: Vec<String> = self.tensors.into_values().map(|(name, _)| name).collect();
        left.sort();
        match left.is_empty() {
            true => Ok(Lora { adapters }),
            false => Err(LoraError::NoLayer(left)),
        }
    }

    /// What this file calls a layer, if it adapts it.
    fn target_of(&self, layer: &Layer) -> Option<Target> {
        let own = layer.path.as_str();
        let theirs = reference_layer(own);
        let targets = Target::of(&theirs).into_iter().chain(Target::of(own));
        let has = |target: &Target| {
            let parts = [Part::Down, Part::Up, Part::Alpha];
            parts
                .iter()
                .any(|part| self.tensors.contains_key(&(target.clone(), *part)))
        };
        targets.into_iter().find(has)
    }
}

/// The reference's name of the layer at a path.
fn reference_layer(path: &str) -> String {
    let weight = reference_name(&format!("{path}.weight"));
    weight.strip_suffix(".weight").unwrap_or(path).to_owned()
}

/// Checks a part of an adapter: kernels of a convolution may be spelled out or not.
fn fits(
    layer: &Layer,
    tensor: &str,
    data: &TensorData,
    expected: [usize; 2],
    words: &str,
) -> Result<(), LoraError> {
    let found = data.shape.as_slice();
    let flat = match found {
        [first, rest @ ..] if found.len() >= 2 => [*first, rest.iter().product()],
        _ => [0, 0],
    };
    match flat == expected && expected[0] > 0 {
        true => Ok(()),
        false => Err(LoraError::Shape {
            tensor: tensor.to_owned(),
            found: found.to_vec(),
            layer: layer.shape.clone(),
            expected: words.to_owned(),
        }),
    }
}

fn fail(origin: impl ToString, error: LoraError) -> WeightsError {
    WeightsError::Lora {
        origin: origin.to_string(),
        error: Box::new(error),
    }
}

/// What peft keeps beside the file at `path`, if it does.
fn beside(path: &Path) -> Result<Option<String>, WeightsError> {
    let config = path.with_file_name(CONFIG);
    match fs::metadata(&config) {
        Ok(found) if found.is_file() && found.len() <= MAX_CONFIG => fs::read_to_string(&config)
            .map(Some)
            .map_err(io_error(&config)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
