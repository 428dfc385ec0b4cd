//! What adapters are scaled by, as their file says.

use super::{LoraError, reference_layer};
use crate::nn::lora::Layer;
use burn::tensor::TensorData;
use serde_json::{Map, Value};

/// Components whose configuration a file may hold beside others', and a file of peft's own.
const COMPONENTS: [&str; 3] = ["unet.", "transformer.", ""];

/// What a configuration says.
#[derive(Debug, Default)]
pub(super) struct Alphas {
    /// None: as large as the rank.
    alpha: Option<f64>,
    /// Others, by ends of the paths of layers.
    exceptions: Vec<(String, f64)>,
    rslora: bool,
}

impl Alphas {
    pub(super) fn read(configuration: &Map<String, Value>) -> Result<Self, LoraError> {
        let value = |key: &str| {
            let keys = COMPONENTS
                .iter()
                .map(|component| format!("{component}{key}"));
            let mut keys = keys.into_iter();
            keys.find_map(|key| {
                let value = configuration.get(&key).filter(|value| !value.is_null());
                value.map(|value| (key, value))
            })
        };
        let flag = |key| match value(key) {
            None => Ok(false),
            Some((key, value)) => value
                .as_bool()
                .ok_or_else(|| wrong(&key, "expected true or false")),
        };
        for more in ["use_dora", "lora_bias", "fan_in_fan_out"] {
            if flag(more)? {
                return Err(wrong(more, "is set, which is more than a plain adapter"));
            }
        }
        let exceptions = match value("alpha_pattern") {
            None => Vec::new(),
            Some((key, Value::Object(patterns))) => patterns
                .iter()
                .map(|(layer, alpha)| Ok((layer.clone(), number(&key, alpha)?)))
                .collect::<Result<_, LoraError>>()?,
            Some((key, _)) => return Err(wrong(&key, "expected alphas by layers")),
        };
        let alpha = value("lora_alpha").map(|(key, value)| number(&key, value));
        Ok(Self {
            alpha: alpha.transpose()?,
            exceptions,
            rslora: flag("use_rslora")?,
        })
    }

    /// Alpha of a layer's adapter of `rank`, and whether the root of the rank divides it; `named` is a tensor that holds it.
    pub(super) fn of(
        &self,
        layer: &Layer,
        rank: usize,
        named: Option<(&str, &TensorData)>,
    ) -> Result<(f64, bool), LoraError> {
        if let Some((name, data)) = named {
            let values: Vec<f64> = data.iter::<f64>().collect();
            let [alpha] = values[..] else {
                return Err(LoraError::Alpha {
                    tensor: name.to_owned(),
                    value: format!("{} values", values.len()),
                });
            };
            return Ok((alpha, false));
        }
        let path = reference_layer(&layer.path);
        let is_of = |end: &str| match path.strip_suffix(end) {
            Some(before) => before.is_empty() || before.ends_with('.'),
            None => false,
        };
        // The whole path says more than its end.
        let exceptions = self.exceptions.iter();
        let exception = exceptions.clone().find(|(end, _)| *end == path);
        let exception = exception.or_else(|| exceptions.clone().find(|(end, _)| is_of(end)));
        let alpha = exception.map(|(_, alpha)| *alpha).or(self.alpha);
        match alpha {
            Some(alpha) => Ok((alpha, self.rslora)),
            None => Ok((rank as f64, false)),
        }
    }
}

fn number(key: &str, value: &Value) -> Result<f64, LoraError> {
    let number = value.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| LoraError::Alpha {
        tensor: key.to_owned(),
        value: value.to_string(),
    })
}

fn wrong(key: &str, message: &str) -> LoraError {
    LoraError::Configuration {
        key: key.to_owned(),
        message: message.to_owned(),
    }
}
