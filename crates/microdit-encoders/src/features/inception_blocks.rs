//! The layers of Inception-V3 and how they are put together.

use crate::{layers::Conv2d, weights::At};
use burn::tensor::{
    Tensor, activation,
    module::{avg_pool2d, max_pool2d},
    ops::PaddedConvOptions,
};
use microdit::{DitBackend, weights::WeightsError};

/// Added to variances.
const EPS: f64 = 1e-3;

/// A step from an image's channels to others.
#[derive(Clone, Debug)]
pub(super) enum Layer<B: DitBackend> {
    /// A convolution, batch norm (folded into it) and ReLU.
    Conv(Box<Conv2d<B>>),
    /// Means of 3 x 3 pixels; beyond the border there are none, where torchvision's network has zeros.
    Mean,
    /// Maxima of 3 x 3 pixels, of every pixel or of every second.
    Max(Stride),
    /// One after the other.
    Chain(Vec<Layer<B>>),
    /// The channels of all of them, side by side.
    Branches(Vec<Layer<B>>),
}

/// The pixels that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stride {
    /// Every one; there is padding at the border.
    One,
    /// Every second that needs no padding.
    Two,
}

impl<B: DitBackend> Layer<B> {
    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::Conv(conv) => activation::relu(conv.forward(x)),
            Self::Mean => avg_pool2d(x, [3; 2], [1; 2], [1; 2], false, false),
            Self::Max(Stride::One) => max_pool2d(x, [3; 2], [1; 2], [1; 2], [1; 2], false),
            Self::Max(Stride::Two) => max_pool2d(x, [3; 2], [2; 2], [0; 2], [1; 2], false),
            Self::Chain(layers) => layers.iter().fold(x, |x, layer| layer.forward(x)),
            Self::Branches(branches) => {
                let outputs = branches.iter().map(|branch| branch.forward(x.clone()));
                Tensor::cat(outputs.collect(), 1)
            }
        }
    }
}

/// Reads layers by their names.
pub(super) struct Loader<'a, B: DitBackend> {
    pub(super) at: At<'a>,
    pub(super) device: &'a B::Device,
}

type Loaded<B> = Result<Layer<B>, WeightsError>;

impl<'a, B: DitBackend> Loader<'a, B> {
    /// All layers before the mean over pixels.
    pub(super) fn all(&self) -> Result<Vec<(&'static str, Layer<B>)>, WeightsError> {
        let unpadded = |name, channels| self.conv(name, channels, [3; 2], 1, [0; 2]);
        Ok(vec![
            ("Conv2d_1a_3x3", self.halve("Conv2d_1a_3x3", [3, 32])?),
            ("Conv2d_2a_3x3", unpadded("Conv2d_2a_3x3", [32, 32])?),
            ("Conv2d_2b_3x3", self.same("Conv2d_2b_3x3", [32, 64], 3)?),
            ("maxpool1", Layer::Max(Stride::Two)),
            ("Conv2d_3b_1x1", self.same("Conv2d_3b_1x1", [64, 80], 1)?),
            ("Conv2d_4a_3x3", unpadded("Conv2d_4a_3x3", [80, 192])?),
            ("maxpool2", Layer::Max(Stride::Two)),
            ("Mixed_5b", self.within("Mixed_5b").a(192, 32)?),
            ("Mixed_5c", self.within("Mixed_5c").a(256, 64)?),
            ("Mixed_5d", self.within("Mixed_5d").a(288, 64)?),
            ("Mixed_6a", self.within("Mixed_6a").b()?),
            ("Mixed_6b", self.within("Mixed_6b").c(128)?),
            ("Mixed_6c", self.within("Mixed_6c").c(160)?),
            ("Mixed_6d", self.within("Mixed_6d").c(160)?),
            ("Mixed_6e", self.within("Mixed_6e").c(192)?),
            ("Mixed_7a", self.within("Mixed_7a").d()?),
            ("Mixed_7b", self.within("Mixed_7b").e(1280, Layer::Mean)?),
            // Maxima here alone: so it is in TensorFlow's network.
            (
                "Mixed_7c",
                self.within("Mixed_7c").e(2048, Layer::Max(Stride::One))?,
            ),
        ])
    }

    fn within(&self, name: &str) -> Self {
        Self {
            at: self.at.at(name),
            device: self.device,
        }
    }

    /// Kernels of 1, 3 and 5 pixels.
    fn a(&self, input: usize, pooled: usize) -> Loaded<B> {
        Ok(Layer::Branches(vec![
            self.same("branch1x1", [input, 64], 1)?,
            Layer::Chain(vec![
                self.same("branch5x5_1", [input, 48], 1)?,
                self.same("branch5x5_2", [48, 64], 5)?,
            ]),
            Layer::Chain(vec![
                self.same("branch3x3dbl_1", [input, 64], 1)?,
                self.same("branch3x3dbl_2", [64, 96], 3)?,
                self.same("branch3x3dbl_3", [96, 96], 3)?,
            ]),
            self.pooled(Layer::Mean, [input, pooled])?,
        ]))
    }

    /// From 35 pixels a side to 17.
    fn b(&self) -> Loaded<B> {
        Ok(Layer::Branches(vec![
            self.halve("branch3x3", [288, 384])?,
            Layer::Chain(vec![
                self.same("branch3x3dbl_1", [288, 64], 1)?,
                self.same("branch3x3dbl_2", [64, 96], 3)?,
                self.halve("branch3x3dbl_3", [96, 96])?,
            ]),
            Layer::Max(Stride::Two),
        ]))
    }

    /// Kernels of 7 pixels along one axis after the other, between `mid` channels.
    fn c(&self, mid: usize) -> Loaded<B> {
        Ok(Layer::Branches(vec![
            self.same("branch1x1", [768, 192], 1)?,
            Layer::Chain(vec![
                self.same("branch7x7_1", [768, mid], 1)?,
                self.across("branch7x7_2", [mid, mid], 7)?,
                self.down("branch7x7_3", [mid, 192], 7)?,
            ]),
            Layer::Chain(vec![
                self.same("branch7x7dbl_1", [768, mid], 1)?,
                self.down("branch7x7dbl_2", [mid, mid], 7)?,
                self.across("branch7x7dbl_3", [mid, mid], 7)?,
                self.down("branch7x7dbl_4", [mid, mid], 7)?,
                self.across("branch7x7dbl_5", [mid, 192], 7)?,
            ]),
            self.pooled(Layer::Mean, [768, 192])?,
        ]))
    }

    /// From 17 pixels a side to 8.
    fn d(&self) -> Loaded<B> {
        Ok(Layer::Branches(vec![
            Layer::Chain(vec![
                self.same("branch3x3_1", [768, 192], 1)?,
                self.halve("branch3x3_2", [192, 320])?,
            ]),
            Layer::Chain(vec![
                self.same("branch7x7x3_1", [768, 192], 1)?,
                self.across("branch7x7x3_2", [192, 192], 7)?,
                self.down("branch7x7x3_3", [192, 192], 7)?,
                self.halve("branch7x7x3_4", [192, 192])?,
            ]),
            Layer::Max(Stride::Two),
        ]))
    }

    /// Kernels of 3 pixels along both axes side by side.
    fn e(&self, input: usize, pool: Layer<B>) -> Loaded<B> {
        Ok(Layer::Branches(vec![
            self.same("branch1x1", [input, 320], 1)?,
            Layer::Chain(vec![
                self.same("branch3x3_1", [input, 384], 1)?,
                Layer::Branches(vec![
                    self.across("branch3x3_2a", [384, 384], 3)?,
                    self.down("branch3x3_2b", [384, 384], 3)?,
                ]),
            ]),
            Layer::Chain(vec![
                self.same("branch3x3dbl_1", [input, 448], 1)?,
                self.same("branch3x3dbl_2", [448, 384], 3)?,
                Layer::Branches(vec![
                    self.across("branch3x3dbl_3a", [384, 384], 3)?,
                    self.down("branch3x3dbl_3b", [384, 384], 3)?,
                ]),
            ]),
            self.pooled(pool, [input, 192])?,
        ]))
    }

    fn pooled(&self, pool: Layer<B>, channels: [usize; 2]) -> Loaded<B> {
        let conv = self.same("branch_pool", channels, 1)?;
        Ok(Layer::Chain(vec![pool, conv]))
    }

    /// A square kernel that keeps the size.
    fn same(&self, name: &str, channels: [usize; 2], side: usize) -> Loaded<B> {
        self.conv(name, channels, [side; 2], 1, [side / 2; 2])
    }

    /// A kernel along the width that keeps the size.
    fn across(&self, name: &str, channels: [usize; 2], length: usize) -> Loaded<B> {
        self.conv(name, channels, [1, length], 1, [0, length / 2])
    }

    /// A kernel along the height that keeps the size.
    fn down(&self, name: &str, channels: [usize; 2], length: usize) -> Loaded<B> {
        self.conv(name, channels, [length, 1], 1, [length / 2, 0])
    }

    /// Every second pixel of 3 x 3.
    fn halve(&self, name: &str, channels: [usize; 2]) -> Loaded<B> {
        self.conv(name, channels, [3; 2], 2, [0; 2])
    }

    fn conv(
        &self,
        name: &str,
        [input, output]: [usize; 2],
        [height, width]: [usize; 2],
        stride: usize,
        pad: [usize; 2],
    ) -> Loaded<B> {
        let at = self.at.at(name);
        let (conv, norm) = (at.at("conv"), at.at("bn"));
        let shape = [output, input, height, width];
        let weight: Tensor<B, 4> = conv.tensor("weight", shape, self.device)?;
        let of_norm = |name: &str| norm.tensor::<B, 1>(name, [output], self.device);
        let variance = of_norm("running_var")?.add_scalar(EPS);
        let factor = of_norm("weight")? / variance.sqrt();
        let bias = of_norm("bias")? - of_norm("running_mean")? * factor.clone();
        let weight = weight * factor.reshape([output, 1, 1, 1]);
        let options = PaddedConvOptions::asymmetric([stride; 2], pad, pad, [1; 2], 1);
        Ok(Layer::Conv(Box::new(Conv2d::new(
            weight,
            Some(bias),
            options,
        ))))
    }
}
