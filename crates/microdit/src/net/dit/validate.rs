//! Which [`DitConfig`]s can be built: ranges, rules between sizes, and a limit on all of them together.

use super::{DecoderConfig, DitConfig, MixerConfig, flops};
use crate::{
    net::{
        ConfigError,
        limits::{MAX_PARAMETERS, MAX_SIDE, MAX_WIDTH},
    },
    nn::{MoeConfig, Router},
    range::{OutOfRange, above, require, within},
};

/// Most blocks.
const MAX_DEPTH: usize = 1 << 14;

impl DitConfig {
    /// Checks that a network of these sizes exists, and has at most 10^11 parameters.
    ///
    /// # Errors
    /// The first field that breaks a rule, with the rule and the values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_ranges()?;
        require(
            self.input_size.is_multiple_of(self.patch_size),
            "input_size",
            || {
                format!(
                    "{} is not a multiple of patch_size {}: the patches must form a square grid",
                    self.input_size, self.patch_size
                )
            },
        )?;
        require_positions("dim", self.dim)?;
        require_heads("head_dim", self.dim, self.head_dim)?;
        self.qkv_width.validate("qkv_width", self.depth)?;
        self.ffn_width.validate("ffn_width", self.depth)?;
        if let Some(mixer) = &self.mixer {
            mixer.validate(self.head_dim)?;
        }
        if let Some(decoder) = &self.decoder {
            decoder.validate()?;
        }
        require(
            self.router == Router::Modulated || self.moe.is_some(),
            "router",
            || "Decoupled is a router of experts, and there are none: set moe".into(),
        )?;
        if let Some(moe) = &self.moe {
            moe.validate()?;
            self.validate_capacity(self.tokens())?;
        }
        for (blocks, [qkv, ffn]) in [
            (self.blocks(), ["qkv_width", "ffn_width"]),
            (self.mixer_blocks(), ["mixer.qkv_ratio", "mixer.mlp_ratio"]),
            (
                self.decoder_blocks(),
                ["decoder.qkv_ratio", "decoder.mlp_ratio"],
            ),
        ] {
            for block in blocks {
                require(block.attention_dim > 0, qkv, || {
                    "gives an attention of width 0".into()
                })?;
                require(block.hidden_dim > 0, ffn, || {
                    "gives a feed-forward of width 0".into()
                })?;
            }
        }
        let widths = self.dim.max(self.last_dim());
        let positions = self.tokens().saturating_mul(widths);
        let count = flops::parameters(self).saturating_add(positions);
        require(count <= MAX_PARAMETERS, "dim", || {
            format!("{count} parameters and positions are more than {MAX_PARAMETERS}")
        })?;
        Ok(())
    }

    fn validate_ranges(&self) -> Result<(), OutOfRange> {
        within("input_size", self.input_size, 1..=MAX_SIDE)?;
        within("patch_size", self.patch_size, 1..=MAX_SIDE)?;
        within("in_channels", self.in_channels, 1..=MAX_SIDE)?;
        within("dim", self.dim, 1..=MAX_WIDTH)?;
        within("depth", self.depth, 1..=MAX_DEPTH)?;
        within("head_dim", self.head_dim, 1..=MAX_WIDTH)?;
        within("multiple_of", self.multiple_of, 1..=MAX_WIDTH)?;
        within("caption_channels", self.caption_channels, 1..=MAX_WIDTH)?;
        within("pos_interp_scale", self.pos_interp_scale, 1e-3..=1e3)?;
        // Less is nothing beside 1 in f32, and a constant token would be divided by it.
        within("norm_eps", self.norm_eps, 1e-12..=1.0)
    }

    /// Checks that every expert gets between one token and all of them when `tokens` are present, as after masking.
    ///
    /// # Errors
    /// `moe.capacity`, with the numbers.
    pub fn validate_capacity(&self, tokens: usize) -> Result<(), ConfigError> {
        let Some(moe) = &self.moe else { return Ok(()) };
        let taken = moe.tokens_per_expert(tokens);
        require((1..=tokens).contains(&taken), "moe.capacity", || {
            format!(
                "capacity {} over {} experts lets each take {taken} of {tokens} tokens of input_size {} and patch_size {}; it must be 1 to {tokens}",
                moe.capacity, moe.experts, self.input_size, self.patch_size
            )
        })?;
        Ok(())
    }
}

impl MixerConfig {
    fn validate(&self, head_dim: usize) -> Result<(), OutOfRange> {
        within("mixer.dim", self.dim, 1..=MAX_WIDTH)?;
        within("mixer.depth", self.depth, 1..=MAX_DEPTH)?;
        require_heads("mixer.dim", self.dim, head_dim)?;
        within("mixer.qkv_ratio", self.qkv_ratio, above(0.0, 1e3))?;
        within("mixer.mlp_ratio", self.mlp_ratio, above(0.0, 1e3))
    }
}

impl DecoderConfig {
    fn validate(&self) -> Result<(), OutOfRange> {
        within("decoder.dim", self.dim, 1..=MAX_WIDTH)?;
        within("decoder.depth", self.depth, 1..=MAX_DEPTH)?;
        within("decoder.head_dim", self.head_dim, 1..=MAX_WIDTH)?;
        require_positions("decoder.dim", self.dim)?;
        require_heads("decoder.head_dim", self.dim, self.head_dim)?;
        within("decoder.qkv_ratio", self.qkv_ratio, above(0.0, 1e3))?;
        within("decoder.mlp_ratio", self.mlp_ratio, above(0.0, 1e3))
    }
}

impl MoeConfig {
    fn validate(&self) -> Result<(), OutOfRange> {
        within("moe.experts", self.experts, 1..=1 << 16)?;
        within("moe.every", self.every, 1..)?;
        within("moe.capacity", self.capacity, above(0.0, 65_536.0))
    }
}

/// Half of a token's channels are positions along one axis, in pairs of sine and cosine.
fn require_positions(field: &str, dim: usize) -> Result<(), OutOfRange> {
    require(dim.is_multiple_of(4), field, || {
        format!("{dim} is not a multiple of 4, which the 2-D positions need")
    })
}

/// Heads of a width that is not scaled: `dim / head_dim`, which must divide `dim`.
fn require_heads(field: &str, dim: usize, head_dim: usize) -> Result<(), OutOfRange> {
    let heads = dim / head_dim;
    require(heads > 0 && dim.is_multiple_of(heads), field, || {
        format!("width {dim} cannot be split into heads of {head_dim}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::dit::width::WidthScale;

    fn wide(width: WidthScale) -> DitConfig {
        DitConfig::tiny_2().with_qkv_width(width)
    }

    fn experts(experts: usize, capacity: f64, every: usize) -> DitConfig {
        DitConfig::tiny_2().with_moe(Some(MoeConfig {
            experts,
            capacity,
            every,
        }))
    }

    fn mixer(dim: usize, depth: usize, qkv_ratio: f64, mlp_ratio: f64) -> DitConfig {
        DitConfig::tiny_2().with_mixer(Some(MixerConfig {
            dim,
            depth,
            qkv_ratio,
            mlp_ratio,
        }))
    }

    fn decoder(dim: usize, depth: usize, head_dim: usize, mlp_ratio: f64) -> DitConfig {
        DitConfig::tiny_2().with_decoder(Some(DecoderConfig {
            dim,
            depth,
            head_dim,
            qkv_ratio: 1.0,
            mlp_ratio,
        }))
    }

    #[test]
    fn presets_are_valid() {
        DitConfig::tiny_2().validate().unwrap();
        DitConfig::xl_2().validate().unwrap();
    }

    #[test]
    fn errors_name_the_field() {
        let tiny = DitConfig::tiny_2;
        let most = usize::MAX;
        let broken = [
            (tiny().with_input_size(33), "input_size"),
            (tiny().with_input_size(most), "input_size"),
            (tiny().with_patch_size(0), "patch_size"),
            (tiny().with_in_channels(most), "in_channels"),
            (tiny().with_dim(510), "dim"),
            (tiny().with_dim(1 << 40), "dim"),
            (tiny().with_head_dim(600), "head_dim"),
            (tiny().with_depth(0), "depth"),
            (tiny().with_depth(most), "depth"),
            (tiny().with_multiple_of(0), "multiple_of"),
            (tiny().with_caption_channels(most), "caption_channels"),
            (tiny().with_pos_interp_scale(1e-308), "pos_interp_scale"),
            (tiny().with_norm_eps(f64::NAN), "norm_eps"),
            (wide(WidthScale::Steps(vec![1.0; 3])), "qkv_width"),
            (wide(WidthScale::Constant(f64::INFINITY)), "qkv_width"),
            (wide(WidthScale::Constant(1e-9)), "qkv_width"),
            (
                wide(WidthScale::Linear { from: 0.0, to: 1.0 }),
                "qkv_width.from",
            ),
            (experts(1000, 1.0, 2), "moe.capacity"),
            (experts(8, f64::INFINITY, 2), "moe.capacity"),
            (experts(8, 2.0, 0), "moe.every"),
            (
                tiny().with_moe(None).with_router(Router::Decoupled),
                "router",
            ),
            (experts(most, 2.0, 2), "moe.experts"),
            (decoder(66, 1, 16, 4.0), "decoder.dim"),
            (decoder(64, 0, 16, 4.0), "decoder.depth"),
            (decoder(64, 1, 65, 4.0), "decoder.head_dim"),
            (decoder(64, 1, 16, 0.0), "decoder.mlp_ratio"),
            (mixer(0, 1, 1.0, 4.0), "mixer.dim"),
            (mixer(512, most, 1.0, 4.0), "mixer.depth"),
            (mixer(512, 1, 1e-9, 4.0), "mixer.qkv_ratio"),
            (mixer(512, 1, 1.0, f64::NAN), "mixer.mlp_ratio"),
        ];
        for (config, field) in broken {
            assert_eq!(config.validate().unwrap_err().field, field);
        }
    }

    /// Every size is in its range, and their product does not fit into 128 bits of bytes, let alone a machine.
    #[test]
    fn sizes_are_limited_together() {
        let config = DitConfig::tiny_2()
            .with_dim(MAX_WIDTH)
            .with_depth(MAX_DEPTH)
            .with_input_size(MAX_SIDE)
            .with_patch_size(1)
            .with_ffn_width(WidthScale::Constant(1e3));
        let error = config.validate().unwrap_err();
        assert!(error.rule.contains("more than 100000000000"), "{error}");
        let one_wide = DitConfig::xl_2().with_dim(1 << 18);
        assert_eq!(one_wide.validate().unwrap_err().field, "dim");
    }
}
