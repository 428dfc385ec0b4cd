//! The `config.json` of diffusers' `UNet2DConditionModel`, and of DeciDiffusion's variant of it, as a [`UNetConfig`].

use super::{LevelConfig, MidConfig, UNetConfig};
use crate::{
    net::DenoiserConfig,
    nn::Precision,
    range::{OutOfRange, require},
};
use serde_json::{Map, Value};

/// Keys that change the network and have one supported value; several where they mean the same here.
const NEUTRAL: &[(&str, &[&str])] = &[
    ("act_fn", &["\"silu\"", "\"swish\""]),
    ("addition_embed_type", &["null"]),
    ("addition_time_embed_dim", &["null"]),
    ("attention_type", &["\"default\""]),
    ("center_input_sample", &["false"]),
    ("class_embed_type", &["null"]),
    ("class_embeddings_concat", &["false"]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("cross_attention_norm", &["null"]),
    ("downsample_padding", &["1"]),
    ("dropout", &["0", "0.0"]),
    ("dual_cross_attention", &["false"]),
    ("encoder_hid_dim", &["null"]),
    ("encoder_hid_dim_type", &["null"]),
    ("mid_block_only_cross_attention", &["null", "false"]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("num_attention_heads", &["null"]),
    ("num_class_embeds", &["null"]),
    ("only_cross_attention", &["false"]),
    ("projection_class_embeddings_input_dim", &["null"]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("resnet_skip_time_act", &["false"]),
    ("resnet_time_scale_shift", &["\"default\""]),
    ("time_cond_proj_dim", &["null"]),
    ("time_embedding_act_fn", &["null"]),
    ("time_embedding_type", &["\"positional\""]),
    ("timestep_post_act", &["null"]),
];

/// Keys that change nothing here: scores are always computed in f32 under the softmax, and the other one belongs to an
/// embedding that is refused.
const IGNORED: [&str; 2] = ["upcast_attention", "addition_embed_type_num_heads"];

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

/// DeciDiffusion's: lists of residual blocks and transformers for every block.
fn flexible(mut keys: Keys) -> Result<UNetConfig, OutOfRange> {
    // The file holds the keys, or a map of them.
    if let Some(inner) = keys.take("configurations") {
        let Value::Object(inner) = inner else {
            return Err(unsupported("configurations", &inner));
        };
        keys.0.extend(inner);
    }
    let channels = keys.list("down_blocks_out_channels", 3, &[320, 640, 1280])?;
    let count = channels.len();
    let entries = keys.list("down_blocks_in_channels", count, &[320])?;
    let previous = keys.list("prev_output_channels", count, &[1280])?;
    let of_levels = |keys: &mut Keys, key: &str| keys.list(key, count, &[1]);
    let down_resnets = of_levels(&mut keys, "down_blocks_num_resnets")?;
    let down_attentions = of_levels(&mut keys, "down_blocks_num_attentions")?;
    let up_resnets = of_levels(&mut keys, "up_blocks_num_resnets")?;
    let up_attentions = of_levels(&mut keys, "up_blocks_num_attentions")?;
    let heads = keys.number("num_attention_heads", 8)?;
    let level = |channels: usize, resnets: usize, attentions: usize| LevelConfig {
        channels,
        resnets,
        attentions: vec![1; attentions.min(1 << 16)],
        heads,
    };
    let halved = keys.flag("add_upsample_mid_block", true)?;
    let config = UNetConfig {
        input_size: keys.input_size()?,
        in_channels: 4,
        out_channels: 4,
        caption_channels: keys.number("cross_attention_dim", 768)?,
        down: (0..count)
            .map(|i| level(channels[i], down_resnets[i], down_attentions[i]))
            .collect(),
        mid: Some(MidConfig {
            // The first one is not counted.
            resnets: keys.number("mid_num_resnets", 1)?.saturating_add(1),
            attentions: vec![1; keys.number("mid_num_attentions", 1)?.min(1 << 16)],
            heads,
            halved,
            first_twice: true,
        }),
        up: (0..count)
            .map(|j| level(channels[count - 1 - j], up_resnets[j], up_attentions[j]))
            .collect(),
        norm_eps: keys.float("resnet_eps", 1e-5)?,
        skip_before_attention: true,
        ..UNetConfig::sd_1()
    };
    // What must follow from the lists.
    let [first, widest] = [channels[0], channels[count - 1]];
    let derived: [(&str, Value, Value); 6] = [
        (
            "down_blocks_in_channels",
            entries.into(),
            [&[first], &channels[..count - 1]].concat().into(),
        ),
        (
            "prev_output_channels",
            previous.into(),
            std::iter::once(widest)
                .chain(channels[1..].iter().rev().copied())
                .collect(),
        ),
        (
            "temb_dim",
            keys.or("temb_dim", 1280),
            config.time_channels().into(),
        ),
        (
            "resnet_act_fn",
            keys.or("resnet_act_fn", "silu"),
            "silu".into(),
        ),
        (
            "mix_block_in_forward",
            keys.or("mix_block_in_forward", true),
            true.into(),
        ),
        (
            "add_downsample",
            keys.or("add_downsample", vec![true; count]),
            (0..count).map(|i| halved || i + 1 < count).collect(),
        ),
    ];
    for (key, found, expected) in derived {
        require(found == expected, key, || {
            format!("is {found}, which is not supported: only {expected} is")
        })?;
    }
    let grows = keys.or(
        "add_upsample",
        (0..count).map(|i| i + 1 < count).collect::<Vec<_>>(),
    );
    let expected: Value = (0..count).map(|i| i + 1 < count).collect();
    require(grows == expected, "add_upsample", || {
        format!("is {grows}, which is not supported: only {expected} is")
    })?;
    keys.finish()?;
    Ok(config)
}

/// Blocks of the transformers of a level.
#[derive(Clone)]
enum Depth {
    /// Of each alike.
    All(usize),
    /// One by one.
    Each(Vec<usize>),
}

impl Depth {
    /// Of `count` transformers.
    fn of(&self, count: usize, key: &str) -> Result<Vec<usize>, OutOfRange> {
        match self {
            Self::All(depth) => Ok(vec![*depth; count.min(1 << 16)]),
            Self::Each(depths) => {
                require(depths.len() == count, key, || {
                    format!("has {} entries for {count} transformers", depths.len())
                })?;
                Ok(depths.clone())
            }
        }
    }
}

/// What is left to read of a configuration.
struct Keys(Map<String, Value>);

impl Keys {
    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    fn or(&mut self, key: &str, default: impl Into<Value>) -> Value {
        self.take(key).unwrap_or_else(|| default.into())
    }

    fn number(&mut self, key: &str, default: usize) -> Result<usize, OutOfRange> {
        number(key, &self.or(key, default))
    }

    fn float(&mut self, key: &str, default: f64) -> Result<f64, OutOfRange> {
        let value = self.or(key, default);
        value.as_f64().ok_or_else(|| unsupported(key, &value))
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool, OutOfRange> {
        let value = self.or(key, default);
        value.as_bool().ok_or_else(|| unsupported(key, &value))
    }

    /// A number for every level, or one for all.
    fn list(
        &mut self,
        key: &str,
        count: usize,
        default: &[usize],
    ) -> Result<Vec<usize>, OutOfRange> {
        match self.take(key) {
            None if default.len() == 1 => Ok(vec![default[0]; count]),
            None => Ok(default.to_vec()),
            Some(Value::Array(list)) => {
                let levels = key.ends_with("out_channels");
                let fits = !list.is_empty() && list.len() <= 64 && (levels || list.len() == count);
                require(fits, key, || {
                    format!("has {} entries for {count} levels", list.len())
                })?;
                list.iter().map(|value| number(key, value)).collect()
            }
            Some(value) => Ok(vec![number(key, &value)?; count]),
        }
    }

    /// Whether the block of every level has transformers, by its type.
    fn strings(
        &mut self,
        key: &str,
        default: &[bool],
        way: &str,
        count: usize,
    ) -> Result<Vec<bool>, OutOfRange> {
        let found = match self.take(key) {
            None => default.to_vec(),
            Some(Value::Array(list)) => {
                let attends = |value: &Value| match value.as_str() {
                    Some(name) if name == format!("CrossAttn{way}Block2D") => Ok(true),
                    Some(name) if name == format!("{way}Block2D") => Ok(false),
                    _ => Err(unsupported(key, value)),
                };
                list.iter().map(attends).collect::<Result<_, _>>()?
            }
            Some(value) => return Err(unsupported(key, &value)),
        };
        require(found.len() == count, key, || {
            format!("has {} entries for {count} levels", found.len())
        })?;
        Ok(found)
    }

    /// Blocks of transformers by level; none if absent.
    fn depths(&mut self, key: &str, count: usize) -> Result<Option<Vec<Depth>>, OutOfRange> {
        let one = |value: &Value| match value {
            Value::Array(list) => {
                let each = list.iter().map(|value| number(key, value));
                Ok(Depth::Each(each.collect::<Result<_, _>>()?))
            }
            value => Ok(Depth::All(number(key, value)?)),
        };
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) => {
                require(list.len() == count, key, || {
                    format!("has {} entries for {count} levels", list.len())
                })?;
                list.iter().map(one).collect::<Result<_, _>>().map(Some)
            }
            Some(value) => Ok(Some(vec![one(&value)?; count])),
        }
    }

    /// Side of the latent; that of 512 px where none is named.
    fn input_size(&mut self) -> Result<usize, OutOfRange> {
        match self.or("sample_size", Value::Null) {
            Value::Null => Ok(64),
            Value::Array(sides) => match &sides[..] {
                [height, width] if height == width => number("sample_size", height),
                _ => Err(unsupported("sample_size", &sides.into())),
            },
            value => number("sample_size", &value),
        }
    }

    /// Checks that what is left has no effect.
    fn finish(self) -> Result<(), OutOfRange> {
        for (key, value) in self.0 {
            if key.starts_with('_') || IGNORED.contains(&&key[..]) {
                continue;
            }
            let known = NEUTRAL.iter().find(|(known, _)| *known == key);
            let text = value.to_string();
            match known {
                Some((_, neutral)) if neutral.contains(&&text[..]) => {}
                Some((_, neutral)) => {
                    let rule = format!("is {text}, which is not supported: only {} is", neutral[0]);
                    return Err(OutOfRange::new(key, rule));
                }
                None => {
                    let rule = format!("is {text}, and no key of a U-Net that is supported");
                    return Err(OutOfRange::new(key, rule));
                }
            }
        }
        Ok(())
    }
}

fn number(key: &str, value: &Value) -> Result<usize, OutOfRange> {
    let number = value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| unsupported(key, value))
}

fn unsupported(key: &str, value: &Value) -> OutOfRange {
    OutOfRange::new(key, format!("is {value}, which is not supported"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: Value) -> Result<UNetConfig, OutOfRange> {
        UNetConfig::from_diffusers(json.as_object().expect("a map"))
    }

    #[test]
    fn published_configurations_are_the_presets() {
        // Keys and values of stable-diffusion-2-1-base and of DeciDiffusion 1.0.
        let sd_2 = json!({
            "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.8.0", "act_fn": "silu",
            "attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280],
            "center_input_sample": false, "cross_attention_dim": 1024,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "downsample_padding": 1, "dual_cross_attention": false, "flip_sin_to_cos": true, "freq_shift": 0,
            "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
            "norm_num_groups": 32, "num_class_embeds": null, "only_cross_attention": false, "out_channels": 4,
            "sample_size": 64,
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "use_linear_projection": true, "upcast_attention": true
        });
        assert_eq!(read(sd_2).unwrap(), UNetConfig::sd_2());
        let lists = json!({
            "add_downsample": [true, true, true], "add_upsample": [true, true, false],
            "add_upsample_mid_block": true, "cross_attention_dim": 768,
            "down_blocks_in_channels": [320, 320, 640], "down_blocks_num_attentions": [0, 1, 3],
            "down_blocks_num_resnets": [2, 2, 1], "down_blocks_out_channels": [320, 640, 1280],
            "mid_num_attentions": 2, "mid_num_resnets": 4, "mix_block_in_forward": true,
            "num_attention_heads": 8, "prev_output_channels": [1280, 1280, 640], "resnet_act_fn": "silu",
            "resnet_eps": 1e-05, "sample_size": 64, "temb_dim": 1280,
            "up_blocks_num_attentions": [6, 3, 0], "up_blocks_num_resnets": [2, 3, 3]
        });
        let class = "FlexibleUNet2DConditionModel";
        let nested = json!({"_class_name": class, "configurations": lists.clone()});
        assert_eq!(read(nested).unwrap(), UNetConfig::decidiffusion());
        let mut flat = lists;
        flat["_class_name"] = class.into();
        assert_eq!(read(flat.clone()).unwrap(), UNetConfig::decidiffusion());
        flat["prev_output_channels"] = json!([1280, 1280, 1280]);
        let error = read(flat).unwrap_err();
        assert_eq!(
            error.to_string(),
            "prev_output_channels: is [1280,1280,1280], which is not supported: only [1280,1280,640] is"
        );
    }

    #[test]
    fn lists_say_what_each_level_has() {
        let config = read(json!({
            "block_out_channels": [32, 64], "norm_num_groups": 8, "layers_per_block": [1, 2],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "mid_block_type": null, "transformer_layers_per_block": [1, 3], "attention_head_dim": [2, 4],
            "cross_attention_dim": [24, 24], "in_channels": 9
        }))
        .unwrap();
        let shape = |levels: &[LevelConfig]| -> Vec<(usize, usize, Vec<usize>)> {
            let shape =
                |level: &LevelConfig| (level.channels, level.resnets, level.attentions.clone());
            levels.iter().map(shape).collect()
        };
        assert_eq!(shape(&config.down), [(32, 1, vec![]), (64, 2, vec![3, 3])]);
        assert_eq!(shape(&config.up), [(64, 3, vec![3, 3, 3]), (32, 2, vec![])]);
        assert!(config.mid.is_none());
        assert_eq!([config.in_channels, config.caption_channels], [9, 24]);
    }

    #[test]
    fn what_is_not_supported_is_named_with_its_value() {
        for (key, value, message) in [
            (
                "act_fn",
                json!("gelu"),
                "act_fn: is \"gelu\", which is not supported: only \"silu\" is",
            ),
            (
                "resnet_time_scale_shift",
                json!("scale_shift"),
                "resnet_time_scale_shift: is \"scale_shift\", which is not supported: only \"default\" is",
            ),
            (
                "addition_embed_type",
                json!("text_time"),
                "addition_embed_type: is \"text_time\", which is not supported: only null is",
            ),
            (
                "mid_block_type",
                json!("UNetMidBlock2DSimpleCrossAttn"),
                "mid_block_type: is \"UNetMidBlock2DSimpleCrossAttn\", which is not supported",
            ),
            (
                "time_embedding_dim",
                json!(7),
                "time_embedding_dim: is 7, which is not supported: only null is",
            ),
            (
                "layers_per_block",
                json!([2, 2]),
                "layers_per_block: has 2 entries for 4 levels",
            ),
            (
                "cross_attention_dim",
                json!([1, 2, 3, 4]),
                "cross_attention_dim: is [1, 2, 3, 4], different for every level, which is not supported",
            ),
            (
                "norm_num_groups",
                json!(null),
                "norm_num_groups: is null, which is not supported",
            ),
            (
                "window_size",
                json!(4),
                "window_size: is 4, and no key of a U-Net that is supported",
            ),
            (
                "_class_name",
                json!("UNet2DModel"),
                "_class_name: is \"UNet2DModel\"; expected \"UNet2DConditionModel\"",
            ),
            (
                "attention_head_dim",
                json!(7),
                "down.0.heads: 7 heads do not divide 320 channels",
            ),
        ] {
            let mut config = Map::new();
            config.insert(key.to_owned(), value);
            let error = UNetConfig::from_diffusers(&config).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
