//! Images as rows of tokens, after one of their own: what vision transformers begin with.

use crate::{layers::Linear, weights::At};
use burn::{module::Module, tensor::Tensor};
use microdit::{DitBackend, weights::WeightsError};

/// A class token, and a convolution whose stride is its kernel: one product per patch.
#[derive(Module, Debug)]
pub(super) struct Patches<B: DitBackend> {
    /// `[1, 1, width]`.
    class: Tensor<B, 3>,
    projection: Linear<B>,
    #[module(skip)]
    size: [usize; 2],
}

impl<B: DitBackend> Patches<B> {
    /// Of `size` `[height, width]` in pixels, each of so many `channels`, to tokens of `width` channels after the token `class`.
    pub(super) fn load(
        at: &At<'_>,
        class: Tensor<B, 3>,
        [channels, width]: [usize; 2],
        size: [usize; 2],
        bias: bool,
        device: &B::Device,
    ) -> Result<Self, WeightsError> {
        let weight: Tensor<B, 4> =
            at.tensor("weight", [width, channels, size[0], size[1]], device)?;
        let bias = bias
            .then(|| at.tensor("bias", [width], device))
            .transpose()?;
        let weight = weight.reshape([width, channels * size[0] * size[1]]);
        Ok(Self {
            class,
            projection: Linear::new(weight, bias),
            size,
        })
    }

    /// Rows and columns of patches in an image of `height` x `width` pixels.
    pub(super) fn grid(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        [height / self.size[0], width / self.size[1]]
    }

    /// Images `[batch, channels, height, width]` to tokens `[batch, 1 + patches, width]`: the class token, and the patches row by row;
    /// pixels beyond the last whole patch are not seen.
    pub(super) fn forward(&self, images: Tensor<B, 4>) -> Tensor<B, 3> {
        let [batch, channels, height, width] = images.dims();
        let [rows, columns] = self.grid([height, width]);
        let [high, wide] = self.size;
        let patches = images
            .narrow(2, 0, rows * high)
            .narrow(3, 0, columns * wide)
            .reshape([batch, channels, rows, high, columns, wide])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, channels * high * wide]);
        prepend(self.class.clone(), self.projection.forward(patches))
    }
}

/// Puts `tokens` `[1, some, width]` before those of every image.
pub(super) fn prepend<B: DitBackend>(tokens: Tensor<B, 3>, to: Tensor<B, 3>) -> Tensor<B, 3> {
    let batch = to.dims()[0];
    Tensor::cat(vec![tokens.repeat_dim(0, batch), to], 1)
}
