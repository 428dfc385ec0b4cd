//! The autoencoder: latent diffusion numbers the decoder's levels from the image inwards, diffusers in the order they are
//! computed in.

use super::modules::{ALIKE, Layers, Modules, Side, count};

/// A residual block.
const RESNET: Layers = &[
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
];

/// Attention, whose matrices latent diffusion stores as convolutions.
const ATTENTION: Layers = &[
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
];

/// Levels, and residual blocks of one, more than any network has: a file may claim any number.
const MOST: usize = 256;

/// The modules of an autoencoder with parameters of these names.
pub(super) fn modules(names: &[&str], side: Side) -> Modules {
    let of = |prefix: &str| count(names.iter().copied(), prefix).min(MOST);
    let (levels, resnets) = match side {
        Side::Ldm => (of("encoder.down"), of("decoder.up.0.block")),
        Side::Diffusers => (of("encoder.down_blocks"), of("decoder.up_blocks.0.resnets")),
    };
    let mut modules = Modules::default();
    for name in ["quant_conv", "post_quant_conv"] {
        modules.add(name, name, ALIKE);
    }
    for half in ["encoder", "decoder"] {
        for (ldm, diffusers) in [
            ("conv_in", "conv_in"),
            ("norm_out", "conv_norm_out"),
            ("conv_out", "conv_out"),
        ] {
            modules.add(
                format!("{half}.{ldm}"),
                format!("{half}.{diffusers}"),
                ALIKE,
            );
        }
        for (block, resnet) in [("block_1", 0), ("block_2", 1)] {
            let resnet = format!("{half}.mid_block.resnets.{resnet}");
            modules.add(format!("{half}.mid.{block}"), resnet, RESNET);
        }
        let attention = format!("{half}.mid_block.attentions.0");
        modules.add(format!("{half}.mid.attn_1"), attention, ATTENTION);
    }
    for level in 0..levels {
        let (down, up) = (
            format!("encoder.down.{level}"),
            format!("decoder.up.{level}"),
        );
        let (down_blocks, up_blocks) = (
            format!("encoder.down_blocks.{level}"),
            format!("decoder.up_blocks.{}", levels - 1 - level),
        );
        for j in 0..resnets {
            let resnet = format!("resnets.{j}");
            modules.add(
                format!("{down}.block.{j}"),
                format!("{down_blocks}.{resnet}"),
                RESNET,
            );
            modules.add(
                format!("{up}.block.{j}"),
                format!("{up_blocks}.{resnet}"),
                RESNET,
            );
        }
        let halving = format!("{down_blocks}.downsamplers.0");
        modules.add(format!("{down}.downsample"), halving, ALIKE);
        let doubling = format!("{up_blocks}.upsamplers.0");
        modules.add(format!("{up}.upsample"), doubling, ALIKE);
    }
    modules
}

/// Whether a parameter of diffusers' is a matrix that latent diffusion stores as a convolution of one pixel.
pub(super) fn is_pixel_matrix(diffusers: &str) -> bool {
    diffusers.contains(".attentions.")
        && diffusers.ends_with(".weight")
        && !diffusers.contains(".group_norm.")
}
