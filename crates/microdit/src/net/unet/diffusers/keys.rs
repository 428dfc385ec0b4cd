//! The keys of a configuration, each read once: what is left at the end must change nothing.

use crate::range::{OutOfRange, require};
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

/// Blocks of the transformers of a level.
#[derive(Clone)]
pub(super) enum Depth {
    /// Of each alike.
    All(usize),
    /// One by one.
    Each(Vec<usize>),
}

impl Depth {
    /// Of `count` transformers.
    pub(super) fn of(&self, count: usize, key: &str) -> Result<Vec<usize>, OutOfRange> {
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
pub(super) struct Keys(pub(super) Map<String, Value>);

impl Keys {
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    pub(super) fn or(&mut self, key: &str, default: impl Into<Value>) -> Value {
        self.take(key).unwrap_or_else(|| default.into())
    }

    pub(super) fn number(&mut self, key: &str, default: usize) -> Result<usize, OutOfRange> {
        number(key, &self.or(key, default))
    }

    pub(super) fn float(&mut self, key: &str, default: f64) -> Result<f64, OutOfRange> {
        let value = self.or(key, default);
        value.as_f64().ok_or_else(|| unsupported(key, &value))
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> Result<bool, OutOfRange> {
        let value = self.or(key, default);
        value.as_bool().ok_or_else(|| unsupported(key, &value))
    }

    /// A number for every level, or one for all.
    pub(super) fn list(
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
    pub(super) fn strings(
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
    pub(super) fn depths(
        &mut self,
        key: &str,
        count: usize,
    ) -> Result<Option<Vec<Depth>>, OutOfRange> {
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
    pub(super) fn input_size(&mut self) -> Result<usize, OutOfRange> {
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
    pub(super) fn finish(self) -> Result<(), OutOfRange> {
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

pub(super) fn unsupported(key: &str, value: &Value) -> OutOfRange {
    OutOfRange::new(key, format!("is {value}, which is not supported"))
}
