//! The `config.json` of diffusers' `UNet2DConditionModel`, and of DeciDiffusion's variant of it, as a [`UNetConfig`].

mod flexible;
mod keys;
#[cfg(test)]
mod tests;

use super::{LevelConfig, MidConfig, UNetConfig};
use crate::{
    net::DenoiserConfig,
    nn::Precision,
    range::{OutOfRange, require},
};
use flexible::flexible;
use keys::{Depth, Keys, unsupported};
use serde_json::{Map, Value};

impl UNetConfig {
    /// Reads the configuration of a `UNet2DConditionModel`, or of DeciDiffusion's `FlexibleUNet2DConditionModel`. Keys that are
    /// absent have diffusers' defaults. `attention_head_dim` holds the number of heads, as it does in every published file.
    ///
    /// ```
    /// let text = r#"{"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768}"#;
    /// let json = serde_json::from_str(text).unwrap();
    /// assert_eq!(microdit::UNetConfig::from_diffusers(&json)?, microdit::UNetConfig::sd_1());
    /// # Ok::<(), microdit::range::OutOfRange>(())
    /// ```
    ///
    /// # Errors
    /// The first key that is not supported, with its value, and sizes that cannot be built.
    pub fn from_diffusers(json: &Map<String, Value>) -> Result<Self, OutOfRange> {
        let class = json.get("_class_name").and_then(Value::as_str);
        let config = match class.unwrap_or("UNet2DConditionModel") {
            "UNet2DConditionModel" => conditional(Keys(json.clone()))?,
            "FlexibleUNet2DConditionModel" => flexible(Keys(json.clone()))?,
            other => {
                let rule = format!("is {other:?}; expected \"UNet2DConditionModel\"");
                return Err(OutOfRange::new("_class_name", rule));
            }
        };
        config.validate()?;
        Ok(config)
    }
}

fn conditional(mut keys: Keys) -> Result<UNetConfig, OutOfRange> {
    let channels = keys.list("block_out_channels", 4, &[320, 640, 1280, 1280])?;
    let count = channels.len();
    let down_types = keys.strings(
        "down_block_types",
        &[true, true, true, false],
        "Down",
        count,
    )?;
    let up_types = keys.strings("up_block_types", &[false, true, true, true], "Up", count)?;
    let resnets = keys.list("layers_per_block", count, &[2])?;
    let heads = keys.list("attention_head_dim", count, &[8])?;
    let captions = keys.list("cross_attention_dim", count, &[1280])?;
    let depths = keys.depths("transformer_layers_per_block", count)?;
    let up_depths = keys.depths("reverse_transformer_layers_per_block", count)?;
    let alike = captions.iter().all(|one| *one == captions[0]);
    require(alike, "cross_attention_dim", || {
        format!("is {captions:?}, different for every level, which is not supported")
    })?;
    let nested = depths
        .iter()
        .flatten()
        .any(|depth| matches!(depth, Depth::Each(_)));
    require(
        !nested || up_depths.is_some(),
        "transformer_layers_per_block",
        || {
            "has lists within a list, for which reverse_transformer_layers_per_block is missing"
                .into()
        },
    )?;
    let depths = depths.unwrap_or_else(|| vec![Depth::All(1); count]);
    let up_depths = up_depths.unwrap_or_else(|| depths.iter().rev().cloned().collect());
    let level = |i: usize, resnets: usize, attends: bool, depth: &Depth, key| {
        Ok::<_, OutOfRange>(LevelConfig {
            channels: channels[i],
            resnets,
            attentions: match attends {
                true => depth.of(resnets, key)?,
                false => Vec::new(),
            },
            heads: heads[i],
        })
    };
    let last = count - 1;
    let mid = match keys.take("mid_block_type") {
        None => Some(true),
        Some(Value::Null) => None,
        Some(Value::String(name)) if name == "UNetMidBlock2DCrossAttn" => Some(true),
        Some(Value::String(name)) if name == "UNetMidBlock2D" => Some(false),
        Some(other) => return Err(unsupported("mid_block_type", &other)),
    };
    let mid = match mid {
        Some(true) => Some(MidConfig {
            resnets: 2,
            attentions: match &depths[last] {
                Depth::Each(depths) => depths.iter().take(1).copied().collect(),
                Depth::All(depth) => vec![*depth],
            },
            heads: heads[last],
            halved: false,
            first_twice: false,
        }),
        Some(false) => Some(MidConfig {
            resnets: 1,
            attentions: Vec::new(),
            heads: 1,
            halved: false,
            first_twice: false,
        }),
        None => None,
    };
    let key = "transformer_layers_per_block";
    let up_key = "reverse_transformer_layers_per_block";
    let config = UNetConfig {
        input_size: keys.input_size()?,
        in_channels: keys.number("in_channels", 4)?,
        out_channels: keys.number("out_channels", 4)?,
        caption_channels: captions[0],
        down: (0..count)
            .map(|i| level(i, resnets[i], down_types[i], &depths[i], key))
            .collect::<Result<_, _>>()?,
        mid,
        up: (0..count)
            .map(|j| {
                let i = last - j;
                level(i, resnets[i] + 1, up_types[j], &up_depths[j], up_key)
            })
            .collect::<Result<_, _>>()?,
        norm_groups: keys.number("norm_num_groups", 32)?,
        norm_eps: keys.float("norm_eps", 1e-5)?,
        linear_projection: keys.flag("use_linear_projection", false)?,
        skip_before_attention: false,
        cosines_first: keys.flag("flip_sin_to_cos", true)?,
        frequency_shift: keys.float("freq_shift", 0.0)?,
        precision: Precision::F32,
    };
    if let Some(value) = keys.take("time_embedding_dim") {
        let same = value.is_null() || value == config.time_channels();
        require(same, "time_embedding_dim", || {
            format!("is {value}, which is not supported: only null is")
        })?;
    }
    keys.finish()?;
    Ok(config)
}
