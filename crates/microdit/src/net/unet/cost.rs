//! Parameters, FLOPs and memory of a U-Net, counted by its layers.

use super::{
    UNetConfig,
    steps::{Layer, ResnetConfig, Step, TransformerConfig},
};
use crate::{
    net::{Flops, Tokens, limits::saturated},
    nn::Precision,
};

/// Bytes of a number of the residual stream and of what norms take.
const WIDE: u128 = 4;

/// Bytes of a number in the inputs and outputs of products.
fn narrow(precision: Precision) -> u128 {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// Entries of a square kernel of 3.
const KERNEL: u128 = 9;

/// What a layer is given of one image.
#[derive(Clone, Copy)]
struct Given {
    /// Pixels of its input.
    input: u128,
    /// Pixels of its output.
    output: u128,
    /// Caption tokens.
    words: u128,
}

impl ResnetConfig {
    fn sizes(&self) -> [u128; 3] {
        [self.input, self.output, self.time_channels].map(|size| size as u128)
    }

    /// Weights of its convolutions.
    fn kernels(&self) -> u128 {
        let [input, output, _] = self.sizes();
        let shortcut = match input == output {
            true => 0,
            false => input * output,
        };
        KERNEL * output * (input + output) + shortcut
    }

    fn parameters(&self) -> u128 {
        let [input, output, time] = self.sizes();
        let shortcut = match input == output {
            true => 0,
            false => output,
        };
        // Two norms, and biases of two convolutions and the time's projection.
        self.kernels() + time * output + 2 * (input + output) + 3 * output + shortcut
    }

    fn products(&self, pixels: u128) -> u128 {
        let [_, output, time] = self.sizes();
        self.kernels() * pixels + time * output
    }

    /// Inputs of both norms, of both convolutions, and, where it is a copy, of the shortcut.
    fn activations(&self, pixels: u128) -> u128 {
        let [input, output, _] = self.sizes();
        let narrow = narrow(self.precision);
        let copied = match self.precision {
            Precision::Bf16 if input != output => narrow * input,
            _ => 0,
        };
        ((WIDE + narrow) * (input + output) + copied) * pixels
    }
}

impl TransformerConfig {
    fn sizes(&self) -> [u128; 3] {
        [self.channels, self.caption_channels, self.depth].map(|size| size as u128)
    }

    fn parameters(&self) -> u128 {
        let [dim, words, depth] = self.sizes();
        let attention = |context| 2 * dim * dim + 2 * context * dim + dim;
        let feed_forward = 12 * dim * dim + 9 * dim;
        let block = attention(dim) + attention(words) + feed_forward + 6 * dim;
        2 * dim + 2 * (dim * dim + dim) + depth * block
    }

    fn products(&self, given: Given) -> u128 {
        let [dim, context, depth] = self.sizes();
        let Given {
            output: pixels,
            words,
            ..
        } = given;
        let of_self = 4 * dim * dim * pixels + 2 * pixels * pixels * dim;
        let of_captions =
            2 * dim * dim * pixels + 2 * context * dim * words + 2 * pixels * words * dim;
        let feed_forward = 12 * dim * dim * pixels;
        2 * dim * dim * pixels + depth * (of_self + of_captions + feed_forward)
    }

    /// Inputs of the norms and projections at both ends, and of every block: inputs of three norms; what the self-attention's
    /// projections take, twice if it is a copy; both attentions' queries, keys, values and outputs, and inputs of their other
    /// projections; and the feed-forward's input and both sides of its gate.
    fn activations(&self, given: Given) -> u128 {
        let [dim, context, depth] = self.sizes();
        let narrow = narrow(self.precision);
        let (copies, copied) = match self.precision {
            Precision::F32 => (1, 0),
            Precision::Bf16 => (2, narrow * given.words * context),
        };
        let of_pixel = 3 * WIDE + narrow * (copies + 4 + 3 + 1 + 8 + 4);
        let of_words = 2 * narrow * given.words * dim + copied;
        let ends = (WIDE + 2 * narrow) * dim * given.output;
        ends + depth * (of_pixel * dim * given.output + of_words)
    }
}

impl Layer {
    fn parameters(&self) -> u128 {
        match self {
            Self::Resnet(config) => config.parameters(),
            Self::Attention(config) => config.parameters(),
            Self::Downsample(channels) | Self::Upsample(channels) => {
                let channels = *channels as u128;
                KERNEL * channels * channels + channels
            }
        }
    }

    /// Multiply-accumulates.
    fn products(&self, given: Given) -> u128 {
        match self {
            Self::Resnet(config) => config.products(given.output),
            Self::Attention(config) => config.products(given),
            Self::Downsample(channels) | Self::Upsample(channels) => {
                let channels = *channels as u128;
                KERNEL * channels * channels * given.output
            }
        }
    }

    /// Bytes that are kept for the backward pass.
    fn activations(&self, given: Given, precision: Precision) -> u128 {
        let narrow = narrow(precision);
        match self {
            Self::Resnet(config) => config.activations(given.output),
            Self::Attention(config) => config.activations(given),
            Self::Downsample(channels) => narrow * *channels as u128 * given.input,
            Self::Upsample(channels) => narrow * *channels as u128 * given.output,
        }
    }

    /// Channels of its output.
    fn channels(&self) -> usize {
        match self {
            Self::Resnet(config) => config.output,
            Self::Attention(config) => config.channels,
            Self::Downsample(channels) | Self::Upsample(channels) => *channels,
        }
    }
}

impl UNetConfig {
    /// Pixels of a level.
    fn pixels(&self, level: usize) -> u128 {
        let side = (0..level).fold(self.input_size as u128, |side, _| side.div_ceil(2));
        side * side
    }

    fn given(&self, step: &Step, tokens: &Tokens) -> Given {
        let input = match step.layer {
            Layer::Downsample(_) => step.level - 1,
            Layer::Upsample(_) => step.level + 1,
            _ => step.level,
        };
        Given {
            input: self.pixels(input),
            output: self.pixels(step.level),
            words: tokens.caption as u128,
        }
    }

    /// Channels of the finest level on both ways, and those of its ends.
    fn ends(&self) -> [u128; 4] {
        let last = self.up.last().map_or(0, |level| level.channels);
        [
            self.in_channels,
            self.first_channels(),
            last,
            self.out_channels,
        ]
        .map(|size| size as u128)
    }
}

/// Parameters of the network; `usize::MAX` where that is too small to count them.
pub(super) fn parameters(config: &UNetConfig) -> usize {
    let ([input, first, last, output], time) = (config.ends(), config.time_channels() as u128);
    let ends = KERNEL * (input * first + last * output) + first + output + 2 * last;
    let embedding = (first + 1) * time + (time + 1) * time;
    let steps = config.steps();
    let layers = steps.iter().filter(|step| !step.again);
    let layers: u128 = layers.map(|step| step.layer.parameters()).sum();
    saturated(ends + embedding + layers)
}

/// FLOPs for one image: every parameter is needed by every image, so that the backward pass has two products for each of the
/// forward pass.
pub(super) fn flops(config: &UNetConfig, tokens: &Tokens) -> Flops {
    let ([input, first, last, output], time) = (config.ends(), config.time_channels() as u128);
    let ends = KERNEL * (input * first + last * output) * config.pixels(0);
    let embedding = first * time + time * time;
    let steps = config.steps();
    let layers = steps
        .iter()
        .map(|step| step.layer.products(config.given(step, tokens)));
    let forward = 2.0 * (ends + embedding + layers.sum::<u128>()) as f64;
    Flops {
        forward,
        backward: 2.0 * forward,
    }
}

/// Bytes the forward pass of one image leaves for the backward pass; `usize::MAX` where that is too small to count them.
pub(super) fn activations(config: &UNetConfig, tokens: &Tokens) -> usize {
    let [input, _, last, _] = config.ends();
    let narrow = narrow(config.precision);
    let ends = (narrow * input + (WIDE + narrow) * last) * config.pixels(0);
    let steps = config.steps();
    let layers = steps.iter().map(|step| {
        let given = config.given(step, tokens);
        step.layer.activations(given, config.precision)
    });
    saturated(ends + layers.sum::<u128>())
}

/// The same if only what flows between the layers is kept and the rest is recomputed, one layer at a time.
pub(super) fn recomputed(config: &UNetConfig, tokens: &Tokens) -> usize {
    let steps = config.steps();
    let flows = steps
        .iter()
        .map(|step| WIDE * step.layer.channels() as u128 * config.pixels(step.level));
    let kept = steps.iter().map(|step| {
        let given = config.given(step, tokens);
        step.layer.activations(given, config.precision)
    });
    let first = WIDE * config.first_channels() as u128 * config.pixels(0);
    saturated(first + flows.sum::<u128>() + kept.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        UNet,
        net::{DenoiserConfig as _, unet::tests::config},
        weights::StateDict,
    };
    use burn_flex::Flex;

    fn tokens(config: &UNetConfig, caption: usize) -> Tokens {
        Tokens {
            mixer: config.tokens(),
            backbone: config.tokens(),
            caption,
        }
    }

    #[test]
    fn the_parameters_that_are_counted_are_those_there_are() {
        let mut linear = config();
        linear.linear_projection = true;
        linear.mid = None;
        for config in [config(), linear, config().inpainting()] {
            let unet: UNet<Flex> = config.init(0, &Default::default()).unwrap();
            let state = StateDict::from_module(&unet);
            let there = state.iter().map(|(_, data)| data.num_elements());
            assert_eq!(parameters(&config), there.sum::<usize>(), "{config:?}");
        }
    }

    #[test]
    fn published_networks_have_their_published_parameters() {
        for (config, count) in [
            (UNetConfig::sd_1(), 859_520_964),
            (UNetConfig::sd_1().inpainting(), 859_535_364),
            (UNetConfig::sd_2(), 865_910_724),
            (UNetConfig::decidiffusion(), 814_746_884),
        ] {
            assert_eq!(parameters(&config), count);
        }
    }

    /// Of every block of two networks, in order.
    #[test]
    fn published_blocks_have_their_published_parameters() {
        let blocks = |config: UNetConfig| {
            let mut blocks = vec![0];
            for step in config.steps().iter().filter(|step| !step.again) {
                *blocks.last_mut().unwrap() += step.layer.parameters();
                if step.ends {
                    blocks.push(0);
                }
            }
            blocks.pop();
            blocks
        };
        assert_eq!(
            blocks(UNetConfig::sd_2()),
            [
                10_852_160,
                37_473_920,
                141_303_040,
                62_277_120,
                97_693_440,
                162_241_280,
                260_296_960,
                72_396_160,
                19_302_080
            ]
        );
        assert_eq!(
            blocks(UNetConfig::decidiffusion()),
            [
                5_432_000,
                27_630_080,
                143_614_720,
                239_961_600,
                313_448_960,
                71_413_120,
                11_171_840
            ]
        );
    }

    /// One residual block and one transformer of one block, between the two convolutions at the ends, multiplied out by hand.
    #[test]
    fn flops_are_those_of_a_count_by_hand() {
        let level = |resnets, attentions: &[usize]| crate::LevelConfig {
            channels: 6,
            resnets,
            attentions: attentions.to_vec(),
            heads: 2,
        };
        let config = UNetConfig {
            input_size: 5,
            in_channels: 2,
            out_channels: 2,
            caption_channels: 7,
            down: vec![level(1, &[1])],
            mid: None,
            up: vec![level(2, &[])],
            norm_groups: 2,
            ..UNetConfig::sd_1()
        };
        config.validate().unwrap();
        let pixels = 25;
        let ends = pixels * 9 * (2 * 6 + 6 * 2);
        let time = 6 * 24 + 24 * 24;
        let down = pixels * 9 * (6 * 6 + 6 * 6) + 24 * 6;
        let joined = pixels * (9 * (12 * 6 + 6 * 6) + 12 * 6) + 24 * 6;
        let projections = 2 * pixels * 6 * 6;
        let among_pixels = pixels * 4 * 6 * 6 + 2 * pixels * pixels * 6;
        let to_words = pixels * 2 * 6 * 6 + 3 * 2 * 7 * 6 + 2 * pixels * 3 * 6;
        let feed_forward = pixels * (6 * 48 + 24 * 6);
        let attention = projections + among_pixels + to_words + feed_forward;
        let products = ends + time + down + attention + 2 * joined;
        let flops = flops(&config, &tokens(&config, 3));
        assert_eq!(flops.forward, 2.0 * f64::from(products));
        assert_eq!(flops.total(), 6.0 * f64::from(products));
    }

    /// As the literature has it: 0.8 TFLOP for a prediction at 512 px, of which multiply-accumulates are half.
    #[test]
    fn flops_of_stable_diffusion_are_known() {
        let config = UNetConfig::sd_1();
        let forward = flops(&config, &tokens(&config, 77)).forward;
        assert!((forward / 0.8e12 - 1.0).abs() < 0.03, "{forward:e}");
    }

    #[test]
    fn computing_again_saves_memory() {
        for config in [UNetConfig::sd_1(), config()] {
            let tokens = tokens(&config, 77);
            let [kept, again] = [activations, recomputed].map(|of| of(&config, &tokens));
            assert!(again < kept / 2, "{again} of {kept}");
        }
    }
}
