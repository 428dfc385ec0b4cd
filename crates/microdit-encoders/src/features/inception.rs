//! Inception-V3 (arXiv 1512.00567) as the Fréchet inception distance knows it: TensorFlow's network of December 2015, in pytorch-fid's
//! names.

use super::{
    inception_blocks::{Layer, Loader},
    resample::{Interpolation, resample},
};
use crate::{layers::Linear, weights::At};
use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use microdit::{
    DitBackend,
    picture::{Filter, Resample},
    weights::WeightsError,
};
use rayon::prelude::*;
use std::fmt;

/// Height and width the network takes, in pixels.
const SIDE: usize = 299;

/// Values of a feature, and classes.
const FEATURES: usize = 2048;
const CLASSES: usize = 1008;

/// How pictures are brought to 299 x 299 pixels: distances of features that were made differently must not be compared
/// (arXiv 2104.11222).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resize {
    /// pytorch-fid's: linear interpolation, not antialiased where pictures become smaller; then levels of 0..255 to -1..1.
    #[default]
    PytorchFid,
    /// clean-fid's: Pillow's bicubic kernel in single precision, clipped to 0..255; then 128 is subtracted and divided by.
    CleanFid,
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PytorchFid => "pytorch-fid",
            Self::CleanFid => "clean-fid",
        })
    }
}

/// The network without its auxiliary head. Frozen, but differentiable in the images.
#[derive(Clone, Debug)]
pub struct Inception<B: DitBackend> {
    layers: Vec<(&'static str, Layer<B>)>,
    classes: Linear<B>,
    resize: Resize,
}

impl<B: DitBackend> Inception<B> {
    /// Values of a feature.
    pub const DIM: usize = FEATURES;

    /// The network with the weights at `at`.
    ///
    /// # Errors
    /// Missing and misshapen tensors, such as those of torchvision's network, which knows 1000 classes.
    pub fn load(at: &At<'_>, device: &B::Device) -> Result<Self, WeightsError> {
        let loader = Loader {
            at: at.clone(),
            device,
        };
        Ok(Self {
            layers: loader.all()?,
            classes: Linear::load(&at.at("fc"), [FEATURES, CLASSES], true, device)?,
            resize: Resize::default(),
        })
    }

    /// The same network, whose pictures are resized otherwise.
    #[must_use]
    pub fn with_resize(self, resize: Resize) -> Self {
        Self { resize, ..self }
    }

    /// How pictures are resized.
    pub fn resize(&self) -> Resize {
        self.resize
    }

    /// Pictures of any size to what the network takes, `[batch, 3, 299, 299]`.
    ///
    /// # Panics
    /// If a picture has no pixels, or there are none.
    pub fn prepare_pictures(&self, images: &[RgbImage], device: &B::Device) -> Tensor<B, 4> {
        match self.resize {
            Resize::PytorchFid => {
                let prepare = |image: &RgbImage| {
                    let levels = image.as_raw().iter();
                    let levels: Vec<f32> = levels.map(|&level| f32::from(level) / 255.0).collect();
                    let shape = [1, image.height() as usize, image.width() as usize, 3];
                    let image = Tensor::<B, 4>::from_data(TensorData::new(levels, shape), device);
                    self.prepare(image.permute([0, 3, 1, 2]))
                };
                Tensor::cat(images.iter().map(prepare).collect(), 0)
            }
            Resize::CleanFid => {
                let values: Vec<f32> = images.par_iter().flat_map_iter(clean).collect();
                let shape = [images.len(), 3, SIDE, SIDE];
                Tensor::from_data(TensorData::new(values, shape), device)
            }
        }
    }

    /// Images `[batch, 3, height, width]` in 0..1 to what the network takes, as pytorch-fid does it; differentiable.
    ///
    /// # Panics
    /// If the images have no pixels.
    pub fn prepare(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, _, height, width] = images.dims();
        let matrix =
            |from: usize| Interpolation::Bilinear.matrix(from, SIDE, from as f64 / SIDE as f64);
        let resized = match [height, width] == [SIDE; 2] {
            true => images,
            false => resample(images, &matrix(height), &matrix(width)),
        };
        resized * 2.0 - 1.0
    }

    /// Prepared images to their features: the means of the last channels, `[batch, 2048]`.
    pub fn features(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.traced(images, |_, _| ())
    }

    /// The same; `layer` sees what each layer makes, `[batch, channels, height, width]`, by its name.
    pub fn traced(
        &self,
        images: Tensor<B, 4>,
        mut layer: impl FnMut(&str, &Tensor<B, 4>),
    ) -> Tensor<B, 2> {
        let mut x = images;
        for (name, next) in &self.layers {
            x = next.forward(x);
            layer(name, &x);
        }
        x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
    }

    /// Features `[batch, 2048]` to unnormalized log-probabilities of the classes `[batch, 1008]`, for the inception score
    /// (arXiv 1606.03498).
    pub fn logits(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        self.classes
            .forward(features.unsqueeze_dim(1))
            .squeeze_dim(1)
    }
}

/// clean-fid's preparation: `[3, 299, 299]`.
fn clean(image: &RgbImage) -> Vec<f32> {
    let levels: Vec<f32> = image.as_raw().iter().copied().map(f32::from).collect();
    let from = [image.height() as usize, image.width() as usize];
    let resized = Resample::to([SIDE; 2], Filter::Bicubic).apply(&levels, from);
    let plane = |channel: usize| resized.iter().skip(channel).step_by(3);
    let normal = |level: &f32| (level.clamp(0.0, 255.0) - 128.0) / 128.0;
    (0..3).flat_map(plane).map(normal).collect()
}
