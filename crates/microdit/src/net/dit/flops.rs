//! Analytic parameters and FLOPs of a configuration: the source of utilization figures and of every cost estimate.

use super::DitConfig;
use crate::{
    net::{Flops, Tokens, limits::saturated},
    nn::{BlockConfig, Dense, Router},
};

/// Channels of the sinusoids the time embedding starts from.
const TIME_CHANNELS: usize = 512;

/// Parameters of the network, without its two buffers; `usize::MAX` where that is too small to count them.
pub(super) fn parameters(config: &DitConfig) -> usize {
    let (dim, patch) = (config.dim, config.patch_dim());
    let wide = |dim: usize| dim as u128;
    let mlp = |input| linear(input, dim, true) + wide(dim) + linear(dim, dim, true);
    let caption = config.caption_block();
    let caption_block = 2 * wide(dim) + self_attention(&caption) + dense(&caption);
    let blocks: u128 = config
        .blocks()
        .iter()
        .chain(&config.mixer_blocks())
        .chain(&config.decoder_blocks())
        .map(block)
        .sum();
    let maps = match mapped_dim(config) {
        Some(mixer) => {
            let bias = config.use_bias;
            2 * (wide(dim) + linear(dim, mixer, bias)) + wide(mixer) + linear(mixer, dim, bias)
        }
        None => 0,
    };
    let time = linear(TIME_CHANNELS, dim, true) + linear(dim, dim, true);
    let to_patches = |from| linear(from, patch, true) + linear(dim, 2 * from, true) + wide(from);
    let last = to_patches(config.last_dim());
    let decoder = match &config.decoder {
        Some(decoder) => {
            let input = linear(dim, decoder.dim, true) + linear(dim, 2 * dim, true) + wide(dim);
            let captions = match decoder.dim == dim {
                true => 0,
                false => wide(dim) + linear(dim, decoder.dim, config.use_bias),
            };
            input + wide(decoder.dim) + captions
        }
        None => 0,
    };
    saturated(
        linear(patch, dim, true)
            + time
            + mlp(config.caption_channels)
            + caption_block
            + mlp(dim)
            + maps
            + blocks
            + decoder
            + last,
    )
}

/// Parameters of all experts and their routers.
pub(super) fn expert_parameters(config: &DitConfig) -> usize {
    let blocks = config.blocks();
    let blocks = blocks
        .iter()
        .chain(&config.mixer_blocks())
        .map(experts)
        .sum();
    saturated(blocks)
}

/// FLOPs for one image.
pub(super) fn per_image(config: &DitConfig, tokens: &Tokens) -> Flops {
    let [mixer_tokens, backbone_tokens, caption_tokens] =
        [tokens.mixer, tokens.backbone, tokens.caption].map(|tokens| tokens as u128);
    let (dim, patch) = (config.dim as u128, config.patch_dim() as u128);
    let caption = config.caption_block();
    let mlp = |input: u128| dim * (input + dim);
    let embeddings = patch * dim * config.tokens() as u128
        + dim * (TIME_CHANNELS as u128 + dim)
        + mlp(config.caption_channels as u128) * caption_tokens
        + (self_attention_products(&caption, caption_tokens)
            + dense_products(&caption) * caption_tokens)
        + mlp(dim);
    let maps = match mapped_dim(config) {
        Some(mixer) => dim * mixer as u128 * (mixer_tokens + caption_tokens + backbone_tokens),
        None => 0,
    };
    let run = |blocks: &[BlockConfig], tokens| -> u128 {
        let products = |block| block_products(block, tokens, caption_tokens);
        blocks.iter().map(products).sum()
    };
    let blocks = run(&config.mixer_blocks(), mixer_tokens) + run(&config.blocks(), backbone_tokens);
    let all_tokens = config.tokens() as u128;
    let (decoder, last_tokens) = match &config.decoder {
        Some(decoder) => {
            let captions = match decoder.dim == config.dim {
                true => 0,
                false => caption_tokens,
            };
            let maps = dim * decoder.dim as u128 * (backbone_tokens + captions) + 2 * dim * dim;
            let blocks = run(&config.decoder_blocks(), all_tokens);
            (maps + blocks, all_tokens)
        }
        None => (0, backbone_tokens),
    };
    let last_dim = config.last_dim() as u128;
    let last = last_dim * patch * last_tokens + 2 * dim * last_dim;
    let forward = 2.0 * (embeddings + maps + blocks + decoder + last) as f64;
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

fn linear(input: usize, output: usize, bias: bool) -> u128 {
    let (input, output) = (input as u128, output as u128);
    input * output + if bias { output } else { 0 }
}

fn self_attention(block: &BlockConfig) -> u128 {
    let (dim, width, bias) = (block.dim, block.attention_dim, block.use_bias);
    linear(dim, 3 * width, bias) + linear(width, dim, bias)
}

fn dense(block: &BlockConfig) -> u128 {
    let (dim, hidden, bias) = (block.dim, block.hidden_dim, block.use_bias);
    let first = match block.dense {
        Dense::SwiGlu => 2,
        Dense::Gelu => 1,
    };
    first * linear(dim, hidden, bias) + linear(hidden, dim, bias)
}

fn experts(block: &BlockConfig) -> u128 {
    let (dim, hidden) = (block.dim as u128, block.hidden_dim as u128);
    let time = match block.router {
        Router::Modulated => 0,
        Router::Decoupled => block.condition_dim as u128,
    };
    let expert = 2 * dim * hidden + dim + time;
    let count = block.moe.as_ref().map_or(0, |moe| moe.experts);
    count as u128 * expert
}

fn block(block: &BlockConfig) -> u128 {
    let (dim, bias) = (block.dim, block.use_bias);
    let cross = linear(dim, dim, bias) + linear(dim, 2 * dim, bias) + linear(dim, dim, bias);
    let feed_forward = if block.moe.is_some() {
        experts(block)
    } else {
        dense(block)
    };
    3 * dim as u128
        + self_attention(block)
        + cross
        + feed_forward
        + linear(block.condition_dim, 6 * dim, true)
}

/// Multiply-accumulates of a self-attention over `tokens`: projections, scores, values.
fn self_attention_products(block: &BlockConfig, tokens: u128) -> u128 {
    let (dim, width) = (block.dim as u128, block.attention_dim as u128);
    4 * dim * width * tokens + 2 * tokens * tokens * width
}

/// Multiply-accumulates of a dense feed-forward for one token.
fn dense_products(block: &BlockConfig) -> u128 {
    let matrices = match block.dense {
        Dense::SwiGlu => 3,
        Dense::Gelu => 2,
    };
    matrices * block.dim as u128 * block.hidden_dim as u128
}

fn block_products(block: &BlockConfig, tokens: u128, words: u128) -> u128 {
    let (dim, hidden) = (block.dim as u128, block.hidden_dim as u128);
    let cross = 2 * dim * dim * tokens + 2 * dim * dim * words + 2 * tokens * words * dim;
    let feed_forward = match &block.moe {
        Some(moe) => {
            let experts = moe.experts as u128;
            let taken = experts * moe.tokens_per_expert(saturated(tokens)) as u128;
            let time = match block.router {
                Router::Modulated => 0,
                Router::Decoupled => experts * block.condition_dim as u128,
            };
            2 * dim * hidden * taken + experts * dim * tokens + time
        }
        None => dense_products(block) * tokens,
    };
    self_attention_products(block, tokens)
        + cross
        + feed_forward
        + 6 * dim * block.condition_dim as u128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DecoderConfig, Dit, WidthScale, net::dit::tests::config, weights::StateDict};
    use burn_flex::Flex;

    fn decoder(dim: usize, depth: usize) -> Option<DecoderConfig> {
        Some(DecoderConfig {
            dim,
            depth,
            head_dim: 16,
            qkv_ratio: 1.0,
            mlp_ratio: 4.0,
        })
    }

    #[test]
    fn the_parameters_that_are_counted_are_those_there_are() {
        let biased = config().with_use_bias(true);
        for config in [
            config(),
            config().with_feed_forward(Dense::Gelu),
            config().with_router(Router::Decoupled),
            config().with_decoder(decoder(16, 2)),
            biased.clone().with_decoder(decoder(24, 1)),
            biased.with_decoder(decoder(32, 1)),
        ] {
            let dit: Dit<Flex> = config.init(0, &Default::default()).unwrap();
            let state = StateDict::from_module(&dit);
            let there = state.iter().map(|(_, data)| data.num_elements());
            assert_eq!(parameters(&config), there.sum::<usize>(), "{config:?}");
        }
    }

    /// A block more in the decoder costs what a block more in a backbone of its width costs when every token is kept.
    #[test]
    fn a_decoder_computes_all_tokens() {
        let plain = config()
            .with_moe(None)
            .with_qkv_width(WidthScale::Constant(1.0))
            .with_ffn_width(WidthScale::Constant(4.0));
        let all = plain.tokens();
        let cost = |depth, decoder, backbone| {
            let tokens = Tokens {
                mixer: all,
                backbone,
                caption: 5,
            };
            let config = plain.clone().with_depth(depth).with_decoder(decoder);
            per_image(&config, &tokens).total()
        };
        let of_backbone = cost(3, None, all) - cost(2, None, all);
        for kept in [all, all / 4] {
            let [one, two] = [1, 2].map(|depth| cost(2, decoder(plain.dim, depth), kept));
            assert_eq!(two - one, of_backbone);
        }
    }

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
            let all = config.tokens();
            let tokens = Tokens {
                mixer: all,
                backbone: (all as f64 * kept) as usize,
                caption: 77,
            };
            let found = per_image(&config, &tokens).total() / 1e9;
            assert!(
                (found / gflop - 1.0).abs() < 0.01,
                "{size} {kept}: {found} GFLOP, expected {gflop}"
            );
        }
    }

    #[test]
    fn gelu_in_place_of_swiglu_costs_the_same() {
        let config = DitConfig::xl_2();
        let gelu = config.clone().with_feed_forward(Dense::Gelu);
        assert_eq!(parameters(&gelu), parameters(&config));
        let tokens = Tokens {
            mixer: 256,
            backbone: 64,
            caption: 77,
        };
        assert_eq!(per_image(&gelu, &tokens), per_image(&config, &tokens));
    }

    #[test]
    fn parameters_of_xl_2_are_the_references() {
        let config = DitConfig::xl_2();
        assert_eq!(parameters(&config), 1_165_442_320);
        assert_eq!(expert_parameters(&config), 604_104_704);
    }
}
