//! Layer-wise scaling: how the attention and feed-forward widths grow with depth
//! (MicroDiT section 3; the idea is from OpenELM, arXiv 2404.14619).

use crate::range::{OutOfRange, above, require, within};
use serde::{Deserialize, Serialize};

/// Width multipliers over the depth of the network.
///
/// ```
/// use microdit::WidthScale;
/// let widths = WidthScale::Linear { from: 0.5, to: 4.0 }.multipliers(8);
/// assert_eq!(widths.first(), Some(&0.5));
/// assert_eq!(widths.last(), Some(&4.0));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WidthScale {
    /// The same multiplier in every block.
    Constant(f64),
    /// From the first to the last block in equal steps.
    Linear {
        /// Multiplier of the first block.
        from: f64,
        /// Multiplier of the last block.
        to: f64,
    },
    /// A list spread over the depth: each entry covers an equal run of consecutive blocks.
    Steps(Vec<f64>),
    /// One multiplier for each block.
    PerLayer(Vec<f64>),
}

impl WidthScale {
    /// One multiplier for each of `depth` blocks.
    ///
    /// A `Steps` list whose length does not divide `depth` leaves the remainder to its last entry;
    /// [`DitConfig::validate`](crate::DitConfig::validate) rejects it before.
    pub fn multipliers(&self, depth: usize) -> Vec<f64> {
        match self {
            Self::Constant(value) => vec![*value; depth],
            Self::Linear { from, .. } if depth == 1 => vec![*from],
            Self::Linear { from, to } => {
                let step = (to - from) / (depth - 1) as f64;
                let mut values: Vec<f64> = (0..depth).map(|i| i as f64 * step + from).collect();
                values[depth - 1] = *to;
                values
            }
            Self::Steps(list) => {
                let run = (depth / list.len()).max(1);
                (0..depth)
                    .map(|i| list[(i / run).min(list.len() - 1)])
                    .collect()
            }
            Self::PerLayer(list) => list.clone(),
        }
    }

    /// Checks that this scale, which is the field `key`, fits `depth` blocks and that its multipliers are above 0 and at most
    /// 1000.
    pub(crate) fn validate(&self, key: &str, depth: usize) -> Result<(), OutOfRange> {
        let multiplier = |key: &str, value: f64| within(key, value, above(0.0, 1e3));
        match self {
            Self::Constant(value) => multiplier(key, *value),
            Self::Linear { from, to } => {
                multiplier("from", *from).map_err(|error| error.inside(key))?;
                multiplier("to", *to).map_err(|error| error.inside(key))
            }
            Self::Steps(list) => {
                let even = !list.is_empty() && depth.is_multiple_of(list.len());
                require(even, key, || {
                    let count = list.len();
                    format!("{count} steps cannot be spread evenly over {depth} blocks")
                })?;
                list.iter().try_for_each(|value| multiplier(key, *value))
            }
            Self::PerLayer(list) => {
                require(list.len() == depth, key, || {
                    format!("{} multipliers given for {depth} blocks", list.len())
                })?;
                list.iter().try_for_each(|value| multiplier(key, *value))
            }
        }
    }
}

/// `value` rounded up to a multiple of `multiple`.
pub(crate) fn round_up(value: usize, multiple: usize) -> usize {
    value.div_ceil(multiple) * multiple
}

/// Width of queries, keys and values together with the head count: `(width, heads)`.
///
/// A multiplier of exactly 1 keeps `dim`; any other is rounded up to a multiple of two heads.
pub(crate) fn attention_width(dim: usize, head_dim: usize, multiplier: f64) -> (usize, usize) {
    let width = if multiplier == 1.0 {
        dim
    } else {
        round_up((dim as f64 * multiplier) as usize, 2 * head_dim)
    };
    (width, width / head_dim)
}

/// Hidden width of a dense SwiGLU feed-forward: two thirds of `dim x multiplier`, rounded up.
pub(crate) fn swiglu_width(dim: usize, multiplier: f64, multiple_of: usize) -> usize {
    let hidden = (dim as f64 * multiplier) as usize;
    round_up((2.0 * hidden as f64 / 3.0) as usize, multiple_of)
}

/// Hidden width of a dense GELU feed-forward: half as much again as that of the SwiGLU in its place, since two matrices stand
/// for three. Parameters and FLOPs are then the same.
pub(crate) fn gelu_width(dim: usize, multiplier: f64, multiple_of: usize) -> usize {
    swiglu_width(dim, multiplier, multiple_of) * 3 / 2
}

/// Hidden width of one expert: `dim x multiplier`, rounded up.
pub(crate) fn expert_width(dim: usize, multiplier: f64, multiple_of: usize) -> usize {
    round_up((dim as f64 * multiplier) as usize, multiple_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_equal_runs() {
        let scale = WidthScale::Steps(vec![0.5, 1.0]);
        assert_eq!(scale.multipliers(4), [0.5, 0.5, 1.0, 1.0]);
        assert!(scale.validate("w", 5).is_err());
        assert!(scale.validate("w", 6).is_ok());
    }

    #[test]
    fn widths_of_xl_2_match_its_manifest() {
        // blocks.1 and blocks.7 of manifest_xl2: qkv 1920 and 2304, experts 768 and 1536 wide.
        let qkv = WidthScale::Linear { from: 0.5, to: 1.0 }.multipliers(28);
        let ffn = WidthScale::Linear { from: 0.5, to: 4.0 }.multipliers(28);
        assert_eq!(attention_width(1024, 64, qkv[1]), (640, 10));
        assert_eq!(attention_width(1024, 64, qkv[7]), (768, 12));
        assert_eq!(expert_width(1024, ffn[1], 256), 768);
        assert_eq!(expert_width(1024, ffn[7], 256), 1536);
        assert_eq!(swiglu_width(1024, ffn[27], 256), 2816);
    }

    #[test]
    fn per_layer_needs_one_entry_per_block() {
        let broken =
            |list: Vec<f64>, depth| WidthScale::PerLayer(list).validate("w", depth).is_err();
        assert!(broken(vec![1.0; 3], 4) && !broken(vec![1.0; 4], 4));
        assert!(broken(vec![1.0, 0.0], 2) && broken(vec![1.0, f64::NAN], 2));
    }
}
