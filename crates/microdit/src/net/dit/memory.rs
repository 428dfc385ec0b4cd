//! What training keeps in memory, in bytes: the source of every memory estimate.

use super::DitConfig;
use crate::{
    net::{Tokens, limits::saturated},
    nn::{BlockConfig, Dense, Precision, Router},
};

/// Bytes of a number of the residual stream, norms and gates.
const WIDE: u128 = 4;

/// Bytes of a number in the inputs and outputs of matrix products.
fn narrow(precision: Precision) -> u128 {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// Bytes the forward pass of one image leaves for the backward pass: what the operations of
/// [`DitBackend`](crate::DitBackend) store under automatic differentiation; `usize::MAX` where that is too small to count
/// them.
pub(super) fn activations(config: &DitConfig, tokens: &Tokens) -> usize {
    let [mixer_tokens, backbone_tokens, caption_tokens] =
        [tokens.mixer, tokens.backbone, tokens.caption].map(|tokens| tokens as u128);
    let run = |blocks: &[BlockConfig], tokens| -> u128 {
        let kept = |block| block_activations(block, tokens, caption_tokens);
        blocks.iter().map(kept).sum()
    };
    let caption = config.caption_block();
    let narrow = narrow(config.precision);
    let both = WIDE + narrow;
    // Norms and projections keep their input, the attention its queries, keys and values, the gate both its factors; and all blocks what they
    // attend to.
    let inner = config.caption_channels + 4 * caption.attention_dim + 2 * caption.hidden_dim;
    let captions =
        caption_tokens * (narrow * inner as u128 + (3 * both + 2 * WIDE) * caption.dim as u128);
    let dim = config.dim as u128;
    let maps = match &config.mixer {
        Some(mixer) if mixer.dim != config.dim => {
            let width = mixer.dim as u128;
            both * (dim * (mixer_tokens + caption_tokens) + width * backbone_tokens)
                + WIDE * width * caption_tokens
        }
        _ => 0,
    };
    let patches = config.patch_dim() as u128 * config.tokens() as u128;
    let all_tokens = config.tokens() as u128;
    let last_dim = config.last_dim() as u128;
    let (decoder, last_tokens) = match &config.decoder {
        Some(decoder) => {
            let captions = match decoder.dim == config.dim {
                true => 0,
                false => caption_tokens,
            };
            let maps =
                both * dim * (backbone_tokens + captions) + WIDE * decoder.dim as u128 * captions;
            (maps + run(&config.decoder_blocks(), all_tokens), all_tokens)
        }
        None => (0, backbone_tokens),
    };
    let ends = narrow * patches + both * last_dim * last_tokens;
    saturated(
        captions
            + maps
            + ends
            + decoder
            + run(&config.mixer_blocks(), mixer_tokens)
            + run(&config.blocks(), backbone_tokens),
    )
}

/// The same if only what flows between the blocks is kept and the rest is recomputed, one block at a time.
pub(super) fn recomputed(config: &DitConfig, tokens: &Tokens) -> usize {
    let parts = [
        (config.mixer_blocks(), tokens.mixer as u128),
        (config.blocks(), tokens.backbone as u128),
        (config.decoder_blocks(), config.tokens() as u128),
    ];
    let words = tokens.caption as u128;
    let blocks = || {
        parts
            .iter()
            .flat_map(|(blocks, tokens)| blocks.iter().map(move |block| (block, *tokens)))
    };
    let flows: u128 = blocks()
        .map(|(block, tokens)| WIDE * block.dim as u128 * tokens)
        .sum();
    let kept = blocks().map(|(block, tokens)| block_activations(block, tokens, words));
    saturated(flows + kept.max().unwrap_or(0))
}

/// Of one block: ten times the tokens (inputs of three norms in f32; inputs of four projections, the queries of the
/// cross-attention and both gates' updates as products take and give them), packed queries, keys and values and what they attend to, the
/// captions' keys and values, six vectors of modulation, and the hidden layer. Experts and their router keep one
/// copy of their tokens, in f32; a decoupled router keeps tokens of its own.
fn block_activations(block: &BlockConfig, tokens: u128, words: u128) -> u128 {
    let narrow = narrow(block.precision);
    let dim = block.dim as u128;
    let hidden = match &block.moe {
        Some(moe) => moe.experts as u128 * moe.tokens_per_expert(saturated(tokens)) as u128,
        // A SwiGLU keeps both its branches, a GELU its argument.
        None => match block.dense {
            Dense::SwiGlu => 2 * tokens,
            Dense::Gelu => tokens,
        },
    };
    let routed = match (&block.moe, block.router) {
        (None, _) => 0,
        (Some(_), Router::Decoupled) => WIDE,
        // Experts and router share what they take.
        (Some(_), _) => WIDE - narrow,
    };
    tokens * (3 * WIDE + 7 * narrow) * dim
        + narrow * (tokens * 4 * block.attention_dim as u128 + hidden * block.hidden_dim as u128)
        + (2 * narrow * words + 6 * WIDE) * dim
        + routed * tokens * dim
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecoderConfig;

    #[test]
    fn a_decoder_costs_what_all_tokens_cost_it() {
        let narrow = DecoderConfig {
            dim: 64,
            depth: 1,
            head_dim: 32,
            qkv_ratio: 1.0,
            mlp_ratio: 4.0,
        };
        let mut deep = narrow.clone();
        deep.depth = 3;
        let tokens = |backbone| Tokens {
            mixer: 256,
            backbone,
            caption: 77,
        };
        let [one, three] = [narrow, deep].map(|decoder| {
            let config = DitConfig::tiny_2().with_decoder(Some(decoder));
            [64, 256].map(|kept| activations(&config, &tokens(kept)))
        });
        // Two more blocks, over all tokens whatever is kept.
        assert_eq!(three[0] - one[0], three[1] - one[1]);
        assert!(three[0] > one[0]);
    }

    #[test]
    fn masking_and_computing_again_save_memory() {
        let config = DitConfig::tiny_2();
        let tokens = |backbone| Tokens {
            mixer: 256,
            backbone,
            caption: 77,
        };
        let [masked, whole] = [64, 256].map(|kept| activations(&config, &tokens(kept)));
        assert!(masked < whole / 2);
        assert!(recomputed(&config, &tokens(256)) < whole / 5);
    }
}
