//! A golden file: named tensors and the configuration that made them.

use burn::tensor::{DType, Int, Tensor, TensorData, backend::Backend};
use microdit::{
    DecoderConfig, Dit, DitBackend, DitConfig, MixerConfig, MoeConfig, WidthScale,
    weights::StateDict,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// One tensor, read into f64 (which holds every f32, f16 and the indices exactly).
#[derive(Clone, Debug)]
pub struct Array {
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Values.
    pub data: Vec<f64>,
}

/// A safetensors file with the `config` of its metadata.
#[derive(Debug)]
pub struct Golden {
    /// File name without extension.
    pub name: String,
    /// The configuration.
    pub config: Value,
    tensors: BTreeMap<String, Array>,
}

impl Golden {
    /// Reads a file; a golden file that cannot be read is a broken checkout, so this panics with the path.
    pub fn open(path: &Path) -> Self {
        let fail = |error: &dyn std::fmt::Display| -> ! { panic!("{}: {error}", path.display()) };
        let bytes = std::fs::read(path).unwrap_or_else(|error| fail(&error));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| fail(&error));
        let config = config_of(&bytes).unwrap_or_else(|error| fail(&error));
        let tensors = file
            .iter()
            .map(|(name, view)| {
                let data = decode(view.dtype(), view.data(), view.shape())
                    .unwrap_or_else(|| fail(&format!("{name} has type {:?}", view.dtype())));
                let shape = view.shape().to_vec();
                (name.to_owned(), Array { shape, data })
            })
            .collect();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            name,
            config,
            tensors,
        }
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> &Array {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{}: no tensor {name}", self.name))
    }

    /// How far values may be from the tensor `out.name`: 50 times its stored rounding floor, or 2e-5 of its largest value where there is none
    /// (goldens/README, "Comparing").
    pub fn limit(&self, name: &str) -> f64 {
        match self.config["f32_vs_f64_max_abs"][name].as_f64() {
            Some(floor) => 50.0 * floor,
            None => 2e-5 * self.get(&format!("out.{name}")).max_abs(),
        }
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Tensors whose name starts with `prefix`, by the rest of their name.
    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Array)> {
        self.tensors
            .iter()
            .filter_map(move |(name, array)| Some((name.strip_prefix(prefix)?, array)))
    }

    /// A number of the configuration.
    pub fn number(&self, key: &str) -> f64 {
        self.config[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{}: config has no number {key}", self.name))
    }

    /// The denoiser's configuration, with its decoder if the file has one.
    pub fn dit(&self) -> DitConfig {
        let decoder = &self.config["decoder"];
        let number = |key: &str| {
            let number = decoder[key].as_f64();
            number.unwrap_or_else(|| panic!("{}: decoder has no {key}", self.name))
        };
        let decoder = decoder.is_object().then(|| DecoderConfig {
            dim: number("dim") as usize,
            depth: number("depth") as usize,
            head_dim: number("head_dim") as usize,
            qkv_ratio: number("qkv_ratio"),
            mlp_ratio: number("mlp_ratio"),
        });
        dit_config(&self.config["dit"]).with_decoder(decoder)
    }

    /// The tensors under `prefix` as a state dict, without the two buffers.
    pub fn state_dict(&self, prefix: &str) -> StateDict {
        StateDict::from_tensors(
            self.with_prefix(prefix)
                .filter(|(name, _)| {
                    !["pos_embed", "mask_token", "decoder_pos_embed"].contains(name)
                })
                .map(|(name, array)| (name.to_owned(), array.to_data())),
        )
    }

    /// The denoiser with the file's weights.
    pub fn load<B: DitBackend>(&self, device: &B::Device) -> Dit<B> {
        let fail = |error: &dyn std::fmt::Display| -> ! { panic!("{}: {error}", self.name) };
        let dit = self.dit().init(0, device);
        let dit = dit.unwrap_or_else(|error| fail(&error));
        self.state_dict("weights.")
            .load_into(dit, device)
            .unwrap_or_else(|error| fail(&error))
    }
}

impl Array {
    /// As f32 for burn.
    pub fn to_data(&self) -> TensorData {
        TensorData::new(self.to_f32(), self.shape.clone())
    }

    /// The values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&value| value as f32).collect()
    }

    /// On the device, reshaped to `D` dimensions by `shape`.
    pub fn tensor<B: Backend, const D: usize>(
        &self,
        shape: [usize; D],
        device: &B::Device,
    ) -> Tensor<B, D> {
        Tensor::from_data(TensorData::new(self.to_f32(), shape), device)
    }

    /// On the device, in its own shape.
    pub fn float<B: Backend, const D: usize>(&self, device: &B::Device) -> Tensor<B, D> {
        Tensor::from_data(self.to_data(), device)
    }

    /// Captions `[batch, 1, words, channels]` without their unit dimension.
    pub fn captions<B: Backend>(&self, device: &B::Device) -> Tensor<B, 3> {
        let [batch, _, words, channels] = self.shape[..] else {
            panic!("captions of shape {:?}", self.shape)
        };
        self.tensor([batch, words, channels], device)
    }

    /// The part at `index` of the first dimension.
    pub fn row(&self, index: usize) -> Self {
        let count: usize = self.shape[1..].iter().product();
        Self {
            shape: self.shape[1..].to_vec(),
            data: self.data[index * count..(index + 1) * count].to_vec(),
        }
    }

    /// The rows `range` of the first dimension.
    pub fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let count: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        Self {
            shape,
            data: self.data[range.start * count..range.end * count].to_vec(),
        }
    }

    /// Largest absolute value.
    pub fn max_abs(&self) -> f64 {
        self.data
            .iter()
            .fold(0.0, |max, value| max.max(value.abs()))
    }
}

/// Values of a float tensor.
pub fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Values of an integer tensor.
pub fn indices<B: Backend, const D: usize>(tensor: Tensor<B, D, Int>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Reads the configuration keys of the reference's denoiser.
pub fn dit_config(json: &Value) -> DitConfig {
    let number = |key: &str| {
        json[key]
            .as_f64()
            .unwrap_or_else(|| panic!("dit config has no {key}"))
    };
    let size = |key: &str| number(key) as usize;
    let flag = |key: &str| {
        json[key]
            .as_bool()
            .unwrap_or_else(|| panic!("dit config has no {key}"))
    };
    let depth = size("depth");
    let scale = |key: &str| {
        let list: Vec<f64> = json[key]
            .as_array()
            .unwrap_or_else(|| panic!("dit config has no {key}"))
            .iter()
            .map(|value| value.as_f64().expect("a multiplier is a number"))
            .collect();
        if list.len() == depth {
            WidthScale::PerLayer(list)
        } else {
            WidthScale::Steps(list)
        }
    };
    DitConfig {
        input_size: size("input_size"),
        patch_size: size("patch_size"),
        in_channels: size("in_channels"),
        dim: size("dim"),
        depth,
        head_dim: size("head_dim"),
        multiple_of: size("multiple_of"),
        caption_channels: size("caption_channels"),
        pos_interp_scale: number("pos_interp_scale"),
        norm_eps: number("norm_eps"),
        qkv_width: scale("qkv_multipliers"),
        ffn_width: scale("ffn_multipliers"),
        mixer: flag("use_patch_mixer").then(|| MixerConfig {
            dim: size("patch_mixer_dim"),
            depth: size("patch_mixer_depth"),
            qkv_ratio: number("patch_mixer_qkv_ratio"),
            mlp_ratio: number("patch_mixer_mlp_ratio"),
        }),
        moe: Some(MoeConfig {
            experts: size("num_experts"),
            capacity: number("expert_capacity"),
            every: size("experts_every_n"),
        }),
        decoder: None,
        feed_forward: microdit::Dense::SwiGlu,
        router: microdit::Router::Modulated,
        use_bias: flag("use_bias"),
        depth_init: flag("depth_init"),
        precision: microdit::Precision::F32,
    }
}

/// The configuration in a file's metadata, whatever its tensors are.
pub fn config_of(bytes: &[u8]) -> Result<Value, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let text = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get("config"));
    text.map_or(Ok(Value::Null), |text| {
        serde_json::from_str(&standard_json(text)).map_err(|error| error.to_string())
    })
}

/// Python writes numbers that JSON does not have; no check needs one, so that they become null.
fn standard_json(text: &str) -> String {
    let mut standard = String::with_capacity(text.len());
    // Every second part lies inside a string: no key or value of a golden file holds a quotation mark.
    for (i, part) in text.split('"').enumerate() {
        if i > 0 {
            standard.push('"');
        }
        match i % 2 {
            0 => {
                let part = part.replace("-Infinity", "null");
                standard += &part.replace("Infinity", "null").replace("NaN", "null");
            }
            _ => standard += part,
        }
    }
    standard
}

/// Values of any of the types golden files are stored in.
fn decode(dtype: Dtype, bytes: &[u8], shape: &[usize]) -> Option<Vec<f64>> {
    let dtype = match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::U8 => DType::U8,
        _ => return None,
    };
    let data = TensorData::from_bytes_vec(bytes.to_vec(), shape.to_vec(), dtype);
    Some(data.iter::<f64>().collect())
}
