//! The network: three stages of convolutions, and a linear map of what is left of the picture on average.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, activation::relu, ops::ConvOptions},
};
use microdit::{
    DitBackend, Linear,
    nn::{
        init::{Init, STD},
        params::{Role, Roles},
    },
};

/// Parts of the channels that are normalized by themselves (group normalization, arXiv 1803.08494): nothing depends on the other
/// pictures of a batch.
pub(super) const GROUPS: usize = 8;

/// Added to the variance.
const EPS: f64 = 1e-5;

/// Side of a convolution's kernel.
const KERNEL: usize = 3;

/// Pictures `[batch, 3, height, width]` of -1..1, their sides multiples of 8, to features and logits.
#[derive(Module, Debug)]
pub(super) struct ConvNet<B: DitBackend> {
    stages: Vec<Stage<B>>,
    head: Linear<B>,
}

/// `x = relu(norm(conv(x)))` with half the side, then `x + relu(norm(conv(x)))`.
#[derive(Module, Debug)]
pub(super) struct Stage<B: DitBackend> {
    reduce: Block<B>,
    refine: Block<B>,
}

/// A convolution of 3 x 3 pixels, its norm, and ReLU.
///
/// The norm has no scale: ReLU would pass it on, and the next convolution multiplies anyway.
#[derive(Module, Debug)]
pub(super) struct Block<B: DitBackend> {
    /// `[output, input * 9]`, so that Muon takes it for the matrix it is.
    weight: Param<Tensor<B, 2>>,
    /// `[output]`.
    bias: Param<Tensor<B, 1>>,
    stride: usize,
}

impl<B: DitBackend> ConvNet<B> {
    /// A fresh network for so many classes.
    pub(super) fn new(widths: [usize; 3], classes: usize, seed: u64, device: &B::Device) -> Self {
        let init = Init::new(seed, device);
        let inputs = [3, widths[0], widths[1]];
        let stages = inputs.into_iter().zip(widths).enumerate();
        let stages = stages.map(|(i, (input, output))| {
            let init = init.at("stages").at(i);
            Stage {
                reduce: Block::new(input, output, 2, &init.at("reduce")),
                refine: Block::new(output, output, 1, &init.at("refine")),
            }
        });
        Self {
            stages: stages.collect(),
            head: init.at("head").linear(widths[2], classes, true, STD),
        }
    }

    /// `[batch, channels of the last stage]`.
    pub(super) fn features(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let x = self.stages.iter().fold(x, |x, stage| stage.forward(x));
        x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
    }

    /// `[batch, classes]`.
    pub(super) fn logits(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        self.classes(self.features(x))
    }

    /// Features to `[batch, classes]`.
    pub(super) fn classes(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        self.head.forward(features)
    }
}

impl<B: DitBackend> Stage<B> {
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = self.reduce.forward(x);
        x.clone() + self.refine.forward(x)
    }
}

impl<B: DitBackend> Block<B> {
    /// Weights of variance `2 / inputs` (arXiv 1502.01852).
    fn new(input: usize, output: usize, stride: usize, init: &Init<'_, B>) -> Self {
        let inputs = input * KERNEL * KERNEL;
        let std = (2.0 / inputs as f64).sqrt();
        Self {
            weight: init.at("weight").truncated_normal([output, inputs], std),
            bias: init.constant([output], 0.0),
            stride,
        }
    }

    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [output, inputs] = self.weight.dims();
        let input = inputs / (KERNEL * KERNEL);
        let weight = self.weight.val().reshape([output, input, KERNEL, KERNEL]);
        let options = ConvOptions::new([self.stride; 2], [KERNEL / 2; 2], [1; 2], 1);
        let x = B::convolution(x, weight, None, &options.into());
        let shape = x.dims();
        let rows = shape[0] * GROUPS;
        let size = shape.iter().product::<usize>() / rows;
        let ones = Tensor::ones([size], &x.device());
        let x = B::norm(x.reshape([rows, size]), ones, EPS).reshape(shape);
        relu(x + self.bias.val().reshape([1, output, 1, 1]))
    }
}

impl<B: DitBackend> Roles for ConvNet<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match path {
            // Votes for classes, which Muon would make orthogonal.
            ["head", "weight"] => Role::Embedding,
            _ => Role::plain(path, rank),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;
    use burn_flex::Flex;

    #[test]
    fn a_picture_is_seen_by_itself_at_any_side() {
        let device = Default::default();
        let network = ConvNet::<Flex>::new([8, 16, 24], 5, 3, &device);
        for (height, width) in [(8, 8), (32, 24), (64, 64)] {
            let x =
                Tensor::<Flex, 4>::random([3, 3, height, width], Distribution::Default, &device);
            let all = network.logits(x.clone());
            assert_eq!(network.features(x.clone()).dims(), [3, 24]);
            let alone = network.logits(x.narrow(0, 1, 1));
            let difference = (all.narrow(0, 1, 1) - alone).abs().max().into_scalar();
            assert!(difference < 1e-5, "{difference} at {height} x {width}");
        }
    }
}
