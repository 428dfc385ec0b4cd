//! Layer-wise scaling: how the attention and feed-forward widths grow with depth
//! (MicroDiT section 3; the idea is from OpenELM, arXiv 2404.14619).

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

    /// What makes this scale impossible for `depth` blocks, if anything.
    pub(crate) fn problem(&self, depth: usize) -> Option<String> {
        match self {
            Self::Steps(list) if list.is_empty() || !depth.is_multiple_of(list.len()) => {
                Some(format!(
                    "{} steps cannot be spread evenly over {depth} blocks",
                    list.len()
                ))
            }
            Self::PerLayer(list) if list.len() != depth => Some(format!(
                "{} multipliers given for {depth} blocks",
                list.len()
            )),
            _ => self
                .multipliers(depth)
                .into_iter()
                .find(|value| !(value.is_finite() && *value > 0.0))
                .map(|value| format!("multiplier {value} is not a positive number")),
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
        assert!(scale.problem(5).is_some());
        assert!(scale.problem(6).is_none());
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
        assert!(WidthScale::PerLayer(vec![1.0; 3]).problem(4).is_some());
        assert!(WidthScale::PerLayer(vec![1.0, 0.0]).problem(2).is_some());
    }
}
