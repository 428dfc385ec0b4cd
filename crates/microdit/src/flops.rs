//! Analytic parameters and FLOPs of a configuration: the source of utilisation figures and of every cost estimate.

use crate::config::{BlockConfig, DitConfig};

/// Channels of the sinusoids the time embedding starts from.
const TIME_CHANNELS: usize = 512;

/// Floating-point operations of matrix products (two per multiply-accumulate) for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// Forward pass.
    pub forward: f64,
    /// Backward pass: a product for the input's gradient and one for the weight's.
    pub backward: f64,
}

impl Flops {
    /// Forward and backward.
    pub fn total(&self) -> f64 {
        self.forward + self.backward
    }
}

/// Parameters of the network, without its two buffers.
///
/// ```
/// use microdit::{DitConfig, flops};
/// assert_eq!(flops::parameters(&DitConfig::tiny_2()), 200_692_752);
/// ```
pub fn parameters(config: &DitConfig) -> usize {
    let (dim, patch) = (config.dim, config.patch_dim());
    let mlp = |input| linear(input, dim, true) + dim + linear(dim, dim, true);
    let caption = config.caption_block();
    let caption_block = 2 * dim + self_attention(&caption) + dense(&caption);
    let blocks: usize = config
        .blocks()
        .iter()
        .chain(&config.mixer_blocks())
        .map(block)
        .sum();
    let maps = match mapped_dim(config) {
        Some(mixer) => {
            let bias = config.use_bias;
            2 * (dim + linear(dim, mixer, bias)) + mixer + linear(mixer, dim, bias)
        }
        None => 0,
    };
    let time = linear(TIME_CHANNELS, dim, true) + linear(dim, dim, true);
    let last = linear(dim, patch, true) + linear(dim, 2 * dim, true) + dim;
    linear(patch, dim, true)
        + time
        + mlp(config.caption_channels)
        + caption_block
        + mlp(dim)
        + maps
        + blocks
        + last
}

/// Parameters of all experts and their routers.
pub fn expert_parameters(config: &DitConfig) -> usize {
    let blocks = config.blocks();
    blocks
        .iter()
        .chain(&config.mixer_blocks())
        .map(experts)
        .sum()
}

/// FLOPs for one image: the mixer runs on `mixer_tokens`, the backbone on `backbone_tokens`, captions have
/// `caption_tokens`. With deferred masking the mixer sees every token, with naive masking only the kept ones.
///
/// ```
/// use microdit::{DitConfig, Masking, flops};
/// let config = DitConfig::xl_2();
/// let kept = Masking::Deferred { ratio: 0.75 }.kept(config.tokens());
/// let gflop = flops::per_image(&config, config.tokens(), kept, 77).total() / 1e9;
/// assert!((gflop / 283.0 - 1.0).abs() < 0.01); // paper: 283 GFLOP
/// ```
pub fn per_image(
    config: &DitConfig,
    mixer_tokens: usize,
    backbone_tokens: usize,
    caption_tokens: usize,
) -> Flops {
    let (dim, patch) = (config.dim, config.patch_dim());
    let caption = config.caption_block();
    let mlp = |input: usize| dim * (input + dim);
    let embeddings = patch * dim * config.tokens()
        + dim * (TIME_CHANNELS + dim)
        + mlp(config.caption_channels) * caption_tokens
        + (self_attention_products(&caption, caption_tokens)
            + dense_products(&caption) * caption_tokens)
        + mlp(dim);
    let maps = match mapped_dim(config) {
        Some(mixer) => dim * mixer * (mixer_tokens + caption_tokens + backbone_tokens),
        None => 0,
    };
    let run = |blocks: &[BlockConfig], tokens| -> usize {
        let products = |block| block_products(block, tokens, caption_tokens);
        blocks.iter().map(products).sum()
    };
    let blocks = run(&config.mixer_blocks(), mixer_tokens) + run(&config.blocks(), backbone_tokens);
    let last = dim * patch * backbone_tokens + 2 * dim * dim;
    let forward = 2.0 * (embeddings + maps + blocks + last) as f64;
    Flops {
        forward,
        backward: 2.0 * forward,
    }
}

/// The mixer's width, where it differs from the backbone's.
fn mapped_dim(config: &DitConfig) -> Option<usize> {
    let mixer = config.mixer.as_ref()?;
    (mixer.dim != config.dim).then_some(mixer.dim)
}

fn linear(input: usize, output: usize, bias: bool) -> usize {
    input * output + if bias { output } else { 0 }
}

fn self_attention(block: &BlockConfig) -> usize {
    let (dim, width, bias) = (block.dim, block.attention_dim, block.use_bias);
    linear(dim, 3 * width, bias) + linear(width, dim, bias)
}

fn dense(block: &BlockConfig) -> usize {
    let (dim, hidden, bias) = (block.dim, block.hidden_dim, block.use_bias);
    2 * linear(dim, hidden, bias) + linear(hidden, dim, bias)
}

fn experts(block: &BlockConfig) -> usize {
    let expert = 2 * block.dim * block.hidden_dim + block.dim;
    block.moe.as_ref().map_or(0, |moe| moe.experts * expert)
}

fn block(block: &BlockConfig) -> usize {
    let (dim, bias) = (block.dim, block.use_bias);
    let cross = linear(dim, dim, bias) + linear(dim, 2 * dim, bias) + linear(dim, dim, bias);
    let feed_forward = if block.moe.is_some() {
        experts(block)
    } else {
        dense(block)
    };
    3 * dim
        + self_attention(block)
        + cross
        + feed_forward
        + linear(block.condition_dim, 6 * dim, true)
}

/// Multiply-accumulates of a self-attention over `tokens`: projections, scores, values.
fn self_attention_products(block: &BlockConfig, tokens: usize) -> usize {
    4 * block.dim * block.attention_dim * tokens + 2 * tokens * tokens * block.attention_dim
}

/// Multiply-accumulates of a SwiGLU for one token.
fn dense_products(block: &BlockConfig) -> usize {
    3 * block.dim * block.hidden_dim
}

fn block_products(block: &BlockConfig, tokens: usize, words: usize) -> usize {
    let dim = block.dim;
    let cross = 2 * dim * dim * tokens + 2 * dim * dim * words + 2 * tokens * words * dim;
    let feed_forward = match &block.moe {
        Some(moe) => {
            let taken = moe.experts * moe.tokens_per_expert(tokens);
            2 * dim * block.hidden_dim * taken + moe.experts * dim * tokens
        }
        None => dense_products(block) * tokens,
    };
    self_attention_products(block, tokens) + cross + feed_forward + 6 * dim * block.condition_dim
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flops_of_xl_2_are_the_papers() {
        // GFLOP per image, forward and backward: 256 px and 512 px, 75 % of the tokens dropped and none.
        for (size, kept, gflop) in [
            (32, 0.25, 283.0),
            (32, 1.0, 717.0),
            (64, 0.25, 1072.0),
            (64, 1.0, 3015.0),
        ] {
            let config = DitConfig::xl_2().with_input_size(size);
            let tokens = config.tokens();
            let found =
                per_image(&config, tokens, (tokens as f64 * kept) as usize, 77).total() / 1e9;
            assert!(
                (found / gflop - 1.0).abs() < 0.01,
                "{size} {kept}: {found} GFLOP, expected {gflop}"
            );
        }
    }

    #[test]
    fn parameters_of_xl_2_are_the_references() {
        let config = DitConfig::xl_2();
        assert_eq!(parameters(&config), 1_165_442_320);
        assert_eq!(expert_parameters(&config), 604_104_704);
    }
}
