//! What it costs to compare a student's images with their captions, by the sizes of the networks alone.

use crate::{
    features::ClipImageConfig,
    text::ClipTextConfig,
    vae::{self, AutoencoderTinyConfig},
};
use microdit::{net::Flops, weights::WeightsError};
use std::path::Path;

/// Sizes of the networks around a [`ClipEmbedder`](super::ClipEmbedder).
#[derive(Clone, Debug, PartialEq)]
pub struct ClipEmbedderSizes {
    /// Of the image tower.
    pub image: ClipImageConfig,
    /// Of the text tower.
    pub text: ClipTextConfig,
    /// Of what decodes latents; none where they are pixels.
    pub decoder: Option<AutoencoderTinyConfig>,
}

impl ClipEmbedderSizes {
    /// Those of SwiftBrush v2: OpenAI's ViT-B/32, and TAESD.
    pub fn swift_brush() -> Self {
        Self {
            image: ClipImageConfig::vit_b_32(),
            text: ClipTextConfig::vit_b_32(),
            decoder: Some(AutoencoderTinyConfig::default()),
        }
    }

    /// Those of a CLIP in a directory, as its towers are opened, and of an autoencoder at a path, as [`vae::Vae::open`] takes it.
    ///
    /// # Errors
    /// Missing or damaged configurations, and those of networks of other kinds.
    pub fn of(clip: &Path, decoder: Option<&Path>) -> Result<Self, WeightsError> {
        let tiny = |path| AutoencoderTinyConfig::of(&vae::files(path)?);
        Ok(Self {
            image: ClipImageConfig::of(clip)?,
            text: ClipTextConfig::of(clip)?,
            decoder: decoder.map(tiny).transpose()?,
        })
    }

    /// Values of all weights.
    pub fn parameters(&self) -> f64 {
        let decoder = self.decoder.as_ref().map_or(0.0, |vae| {
            let sides = [Convolutions::encoder(vae), Convolutions::decoder(vae)];
            sides.iter().map(Convolutions::parameters).sum()
        });
        let (image, text) = (&self.image, &self.text);
        let (tower, words) = (Tower::of_image(image), Tower::of_text(text));
        let scales = match image.layer_scale {
            true => 2.0 * tower.width * tower.layers,
            false => 0.0,
        };
        let norms = if image.pre_norm { 2.0 } else { 1.0 };
        // The class token, and a position for every token.
        let own = patch(image) + (1.0 + tower.tokens + 2.0 * norms) * tower.width + scales;
        let table = (text.vocabulary as f64 + words.tokens + 2.0) * words.width;
        decoder + tower.parameters() + own + words.parameters() + table
    }

    /// FLOPs of an image with latents of this height and width, and of its caption. Weights need no gradients, so that the way back costs
    /// what the way there costs (what the operations compute for frozen weights beside it is not counted), and captions are on none. Resizing is left out.
    pub fn flops(&self, latent: [usize; 2]) -> Flops {
        let decoder = self.decoder.as_ref();
        let decoder = decoder.map_or(0.0, |vae| Convolutions::decoder(vae).flops(latent));
        let tower = Tower::of_image(&self.image);
        let images = decoder + tower.flops() + 2.0 * patch(&self.image) * (tower.tokens - 1.0);
        Flops {
            forward: images + Tower::of_text(&self.text).flops(),
            backward: images,
        }
    }

    /// Values that an image with latents of this height and width leaves for the way back.
    pub fn activations(&self, latent: [usize; 2]) -> f64 {
        let decoder = self.decoder.as_ref();
        let decoder = decoder.map_or(0.0, |vae| Convolutions::decoder(vae).outputs(latent));
        decoder + Tower::of_image(&self.image).activations()
    }
}

/// Weights by which a patch becomes a token.
fn patch(image: &ClipImageConfig) -> f64 {
    let [high, wide] = image.patch_size;
    [image.channels, high, wide, image.width]
        .map(|size| size as f64)
        .iter()
        .product()
}

/// Blocks and projection of a tower. All in f64: a file may say any number.
struct Tower {
    tokens: f64,
    width: f64,
    hidden: f64,
    heads: f64,
    layers: f64,
    projection: f64,
}

impl Tower {
    fn of_image(config: &ClipImageConfig) -> Self {
        let side = |axis: usize| (config.image_size[axis] / config.patch_size[axis].max(1)) as f64;
        Self {
            tokens: 1.0 + side(0) * side(1),
            width: config.width as f64,
            hidden: config.hidden as f64,
            heads: config.heads as f64,
            layers: config.layers as f64,
            projection: config.projection.unwrap_or(0) as f64,
        }
    }

    fn of_text(config: &ClipTextConfig) -> Self {
        Self {
            tokens: config.tokens as f64,
            width: config.width as f64,
            hidden: config.hidden as f64,
            heads: config.heads as f64,
            layers: config.layers as f64,
            projection: config.projection.unwrap_or(0) as f64,
        }
    }

    /// Weights of the matrices in a block: attention's four, and two of the feed-forward layer.
    fn matrices(&self) -> f64 {
        4.0 * self.width * self.width + 2.0 * self.width * self.hidden
    }

    fn parameters(&self) -> f64 {
        // Biases, and two norms.
        let vectors = 9.0 * self.width + self.hidden;
        self.layers * (self.matrices() + vectors) + self.width * self.projection
    }

    /// Two per multiply-accumulate.
    fn flops(&self) -> f64 {
        let attention = 2.0 * self.tokens * self.width;
        let blocks = self.layers * self.tokens * (self.matrices() + attention);
        2.0 * (blocks + self.width * self.projection)
    }

    /// In a block: inputs and outputs of both norms, queries, keys and values, attention's output and the sum behind it, each once; scores
    /// before and after the softmax; the feed-forward layer before, within and after its nonlinearity.
    fn activations(&self) -> f64 {
        let token = 9.0 * self.width + 2.0 * self.heads * self.tokens + 3.0 * self.hidden;
        self.layers * self.tokens * token
    }
}

/// Some 3x3 convolutions of the same sizes.
struct Convolution {
    count: f64,
    channels: [f64; 2],
    bias: bool,
    /// How often the latents' sides are doubled before them.
    doubled: usize,
}

/// Those of one side of a tiny autoencoder.
struct Convolutions(Vec<Convolution>);

impl Convolutions {
    fn encoder(vae: &AutoencoderTinyConfig) -> Self {
        let (widths, blocks) = (&vae.encoder_block_out_channels, &vae.num_encoder_blocks);
        let mut found = Self(Vec::new());
        let mut channels = vae.in_channels;
        for (i, (&width, &blocks)) in widths.iter().zip(blocks).enumerate() {
            let doubled = widths.len() - 1 - i;
            found.push([channels, width], i == 0, doubled);
            found.blocks(width, blocks, doubled);
            channels = width;
        }
        found.push([channels, vae.latent_channels], true, 0);
        found
    }

    fn decoder(vae: &AutoencoderTinyConfig) -> Self {
        let (widths, blocks) = (&vae.decoder_block_out_channels, &vae.num_decoder_blocks);
        let mut found = Self(Vec::new());
        let first = widths.first().copied().unwrap_or(0);
        found.push([vae.latent_channels, first], true, 0);
        for (doubled, (&width, &blocks)) in widths.iter().zip(blocks).enumerate() {
            found.blocks(width, blocks, doubled);
            match doubled + 1 < widths.len() {
                true => found.push([width; 2], false, doubled + 1),
                false => found.push([width, vae.out_channels], true, doubled),
            }
        }
        found
    }

    fn push(&mut self, channels: [usize; 2], bias: bool, doubled: usize) {
        self.0.push(Convolution {
            count: 1.0,
            channels: channels.map(|count| count as f64),
            bias,
            doubled,
        });
    }

    /// Blocks of three.
    fn blocks(&mut self, width: usize, blocks: usize, doubled: usize) {
        self.0.push(Convolution {
            count: 3.0 * blocks as f64,
            channels: [width as f64; 2],
            bias: true,
            doubled,
        });
    }

    fn sum(&self, of: impl Fn(&Convolution, [f64; 2]) -> f64) -> f64 {
        let of = |conv: &Convolution| conv.count * of(conv, conv.channels);
        self.0.iter().map(of).sum()
    }

    fn parameters(&self) -> f64 {
        self.sum(|conv, [input, output]| 9.0 * input * output + f64::from(conv.bias) * output)
    }

    fn flops(&self, latent: [usize; 2]) -> f64 {
        self.sum(|conv, [input, output]| 2.0 * 9.0 * input * output * conv.pixels(latent))
    }

    /// Values of all outputs.
    fn outputs(&self, latent: [usize; 2]) -> f64 {
        self.sum(|conv, [_, output]| output * conv.pixels(latent))
    }
}

impl Convolution {
    fn pixels(&self, [height, width]: [usize; 2]) -> f64 {
        height as f64 * width as f64 * 4f64.powf(self.doubled as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 151,277,312 parameters of OpenAI's ViT-B/32 without its temperature, 2,445,063 of TAESD; FLOPs as open_clip's table has them.
    #[test]
    fn sizes_are_the_published_ones() {
        let sizes = ClipEmbedderSizes::swift_brush();
        assert_eq!(sizes.parameters(), 151_277_312.0 + 2_445_063.0);
        let pixels = ClipEmbedderSizes {
            decoder: None,
            ..sizes.clone()
        };
        assert_eq!(pixels.parameters(), 151_277_312.0);
        let Flops { forward, backward } = pixels.flops([224; 2]);
        for (found, gflop) in [(forward, 14.78), (backward, 8.82)] {
            assert!((found / 1e9 / gflop - 1.0).abs() < 2e-3, "{found}");
        }
        // By hand: ten convolutions to 64 channels at each of three sides, four at the last, and the image.
        let decoder = sizes.activations([64; 2]) - pixels.activations([64; 2]);
        let level = |side: f64, channels: usize| side * side * channels as f64;
        let levels = [64.0, 128.0, 256.0].map(|side| level(side, 10 * 64));
        let expected = levels.iter().sum::<f64>() + level(512.0, 4 * 64 + 3);
        assert_eq!(decoder, expected);
    }
}
