//! The U-Net: latent diffusion numbers its blocks in the order they are computed in, diffusers by levels.

use super::modules::{ALIKE, Layers, Modules, Side, count};

/// A residual block.
const RESNET: Layers = &[
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Levels and blocks, more than any network has: a file may claim any number.
const MOST: usize = 256;

/// What the numbers of blocks follow from.
struct Structure {
    /// Residual blocks of a level on the way down; on the way up there is one more.
    resnets: usize,
    /// Of each level from the outermost: whether its residual blocks are followed by attention.
    attention: Vec<bool>,
}

impl Structure {
    fn of_ldm(names: &[&str]) -> Self {
        let any = |prefix: String| names.iter().any(|name| name.starts_with(&prefix));
        let blocks = count(names.iter().copied(), "input_blocks").min(MOST);
        let halves = |i: &usize| any(format!("input_blocks.{i}.0.op."));
        let halvings: Vec<usize> = (1..blocks).filter(halves).collect();
        // A level is its residual blocks and the halving after them.
        let length = halvings.first().copied().unwrap_or(blocks).max(1);
        let level = |b: usize| any(format!("input_blocks.{}.1.", 1 + b * length));
        Self {
            resnets: length - 1,
            attention: (0..=halvings.len()).map(level).collect(),
        }
    }

    fn of_diffusers(names: &[&str]) -> Self {
        let any = |prefix: String| names.iter().any(|name| name.starts_with(&prefix));
        let levels = count(names.iter().copied(), "down_blocks").min(MOST);
        let resnets = count(names.iter().copied(), "down_blocks.0.resnets");
        let level = |b: usize| any(format!("down_blocks.{b}.attentions."));
        Self {
            resnets: resnets.min(MOST),
            attention: (0..levels).map(level).collect(),
        }
    }

    fn modules(&self) -> Modules {
        let mut modules = Modules::default();
        for (ldm, diffusers) in [
            ("time_embed.0", "time_embedding.linear_1"),
            ("time_embed.2", "time_embedding.linear_2"),
            ("input_blocks.0.0", "conv_in"),
            ("middle_block.1", "mid_block.attentions.0"),
            ("out.0", "conv_norm_out"),
            ("out.2", "conv_out"),
        ] {
            modules.add(ldm, diffusers, ALIKE);
        }
        modules.add("middle_block.0", "mid_block.resnets.0", RESNET);
        modules.add("middle_block.2", "mid_block.resnets.1", RESNET);
        let (length, levels) = (self.resnets + 1, self.attention.len());
        for (b, &attention) in self.attention.iter().enumerate() {
            for j in 0..self.resnets {
                let (block, level) = (
                    format!("input_blocks.{}", 1 + b * length + j),
                    format!("down_blocks.{b}"),
                );
                modules.add(format!("{block}.0"), format!("{level}.resnets.{j}"), RESNET);
                if attention {
                    modules.add(
                        format!("{block}.1"),
                        format!("{level}.attentions.{j}"),
                        ALIKE,
                    );
                }
            }
            modules.add(
                format!("input_blocks.{}.0.op", (b + 1) * length),
                format!("down_blocks.{b}.downsamplers.0.conv"),
                ALIKE,
            );
        }
        for (b, &attention) in self.attention.iter().rev().enumerate() {
            for j in 0..length {
                let (block, level) = (
                    format!("output_blocks.{}", b * length + j),
                    format!("up_blocks.{b}"),
                );
                modules.add(format!("{block}.0"), format!("{level}.resnets.{j}"), RESNET);
                if attention {
                    modules.add(
                        format!("{block}.1"),
                        format!("{level}.attentions.{j}"),
                        ALIKE,
                    );
                }
            }
            if b + 1 < levels {
                let place = if attention { 2 } else { 1 };
                modules.add(
                    format!("output_blocks.{}.{place}.conv", b * length + length - 1),
                    format!("up_blocks.{b}.upsamplers.0.conv"),
                    ALIKE,
                );
            }
        }
        modules
    }
}

/// The modules of a U-Net with parameters of these names.
pub(super) fn modules(names: &[&str], side: Side) -> Modules {
    match side {
        Side::Ldm => Structure::of_ldm(names),
        Side::Diffusers => Structure::of_diffusers(names),
    }
    .modules()
}
