//! What a drawing may be told besides its prompts: the pictures' size, an image to begin with and what of it is redrawn, a
//! network to guide with.

use super::{Pipeline, label};
use crate::{error::TrainError, recipe::SamplingConfig};
use burn::tensor::{Bool, Tensor, TensorData};
use image::{RgbImage, imageops};
use microdit::{
    DitBackend,
    diffusion::{InitImage, trajectory::Trajectory},
    net::Denoiser,
    range::{OutOfRange, require, within},
    rng::{Purpose, Stream},
};
use microdit_data::image::{Limits, cover, pixels, read};
use std::{fs, ops::RangeInclusive, path::Path};

/// How much of an image to begin with may be redrawn.
pub const STRENGTHS: RangeInclusive<f64> = 0.0..=1.0;

/// An image that pictures begin with, and how much of it is redrawn.
#[derive(Clone, Debug)]
pub(super) struct Init<B: DitBackend> {
    /// `[1, 3, height, width]` in -1..1.
    pixels: Tensor<B, 4>,
    /// `[1, channels, height, width]`.
    latents: Tensor<B, 4>,
    strength: f64,
    mask: Option<Mask<B>>,
    /// What labels call it.
    name: String,
}

/// The part of an image that is redrawn.
#[derive(Clone, Debug)]
struct Mask<B: DitBackend> {
    /// `[1, 1, height, width]` of the pictures.
    pixels: Tensor<B, 4, Bool>,
    /// `[1, 1, height, width]` of the latents.
    redrawn: Tensor<B, 4, Bool>,
    /// What labels call it.
    name: String,
}

impl<B: DitBackend> Init<B> {
    /// What labels say: image, strength and mask.
    pub(super) fn names(&self) -> [String; 3] {
        let mask = self.mask.as_ref().map(|mask| mask.name.clone());
        let strength = self.strength.to_string();
        [self.name.clone(), strength, mask.unwrap_or_default()]
    }

    /// The image with its mask, noised with this noise.
    pub(super) fn image(&self, noise: Tensor<B, 4>) -> InitImage<B> {
        let image = InitImage::new(self.latents.clone(), noise);
        match &self.mask {
            Some(mask) => image.with_mask(mask.redrawn.clone()),
            None => image,
        }
    }
}

impl<B: DitBackend, D: Denoiser<B>> Pipeline<B, D> {
    /// The same for pictures of this width and height in pixels.
    ///
    /// # Errors
    /// Sides that are not multiples of what a patch covers, or leave an expert without tokens; an image to begin with, which
    /// was resized to the size before.
    pub fn with_size(mut self, [width, height]: [u32; 2]) -> Result<Self, TrainError> {
        let patch = self.denoiser.patch_size();
        let shrinks_by = self.codec.1.shrinks_by();
        let unit = patch * shrinks_by;
        for (key, side) in [("width", width), ("height", height)] {
            let side = side as usize;
            within(key, side, unit..=1 << 16)?;
            require(side.is_multiple_of(unit), key, || {
                format!("{side} is not a multiple of {unit} pixels, the side of a patch")
            })?;
        }
        require(self.init.is_none(), "width", || {
            "must be chosen before the image to begin with".into()
        })?;
        let latent = [height, width].map(|side| side as usize / shrinks_by);
        let tokens = latent.iter().map(|side| side / patch).product();
        self.model.validate_tokens(tokens, tokens)?;
        self.latent = latent;
        Ok(self)
    }

    /// The same with pictures that begin with the image at `path` (image-to-image), resized to cover them and cut off at two
    /// sides where its shape is another. `strength`, as [`STRENGTHS`], is the share of the steps that is left
    /// to draw: 0 leaves the image as it is, 1 only its outlines.
    ///
    /// # Errors
    /// A file that is not an image, and a strength out of range.
    pub fn with_init(mut self, path: &Path, strength: f64) -> Result<Self, TrainError> {
        within("strength", strength, STRENGTHS)?;
        let image = open(path, [255; 3], "init", self.size())?;
        let shape = [1, 3, image.height() as usize, image.width() as usize];
        let pixels = Tensor::from_data(TensorData::new(pixels(&image), shape), &self.device);
        self.init = Some(Init {
            latents: self.encode(pixels.clone()),
            pixels,
            strength,
            mask: None,
            name: label::of_file(path)?,
        });
        Ok(self)
    }

    /// The same with only a part of the image redrawn (inpainting): where the picture at `path` is white, resized and cut like the
    /// image; black, gray below the middle, and transparent parts are kept. A pixel of the latents is redrawn if any of the pixels
    /// it stands for is; the others are held to the image in every step.
    ///
    /// # Errors
    /// A file that is not an image, or that marks nothing, and no image to begin with.
    pub fn with_mask(mut self, path: &Path) -> Result<Self, TrainError> {
        let size = self.size();
        let Some(init) = &mut self.init else {
            let message = "marks parts of an image to begin with, and there is none";
            return Err(OutOfRange::new("mask", message).into());
        };
        let mask = imageops::grayscale(&open(path, [0; 3], "mask", size)?);
        let [rows, columns] = self.latent;
        let side = self.codec.1.shrinks_by() as u32;
        let mut redrawn = vec![false; rows * columns];
        let marked: Vec<bool> = mask.pixels().map(|level| level.0[0] > 127).collect();
        for ((x, y, _), marked) in mask.enumerate_pixels().zip(&marked) {
            redrawn[(y / side) as usize * columns + (x / side) as usize] |= marked;
        }
        require(redrawn.contains(&true), "mask", || {
            format!("{} marks nothing: what is white is redrawn", path.display())
        })?;
        let redrawn = TensorData::new(redrawn, [1, 1, rows, columns]);
        let [width, height] = size.map(|side| side as usize);
        let marked = TensorData::new(marked, [1, 1, height, width]);
        init.mask = Some(Mask {
            pixels: Tensor::from_data(marked, &self.device),
            redrawn: Tensor::from_data(redrawn, &self.device),
            name: label::of_file(path)?,
        });
        Ok(self)
    }

    /// The same, guided away from another network in place of the one without a prompt (autoguidance, arXiv 2406.02507): a
    /// smaller one, or one that was trained for less. `name` is what labels call it.
    #[must_use]
    pub fn with_guide(mut self, guide: D, name: String) -> Self {
        self.guide = Some((name, guide));
        self
    }

    /// What a network for inpainting is given behind the latents (latent diffusion's convention): 1 where it draws, and the latents of
    /// the image, gray where it draws; without an image to begin with it draws everything. `[1, 1 + channels, height, width]`;
    /// none for other networks.
    pub(super) fn behind(&self) -> Option<Tensor<B, 4>> {
        if self.model.extra_channels() == 0 {
            return None;
        }
        let mask = self
            .init
            .as_ref()
            .and_then(|init| init.mask.as_ref().map(|mask| (init, mask)));
        let (drawn, image) = match mask {
            Some((init, mask)) => {
                let marked = mask.pixels.clone().expand(init.pixels.dims());
                (
                    mask.redrawn.clone().float(),
                    init.pixels.clone().mask_fill(marked, 0.0),
                )
            }
            None => {
                let [rows, columns] = self.latent;
                let [width, height] = self.size().map(|side| side as usize);
                (
                    Tensor::ones([1, 1, rows, columns], &self.device),
                    Tensor::zeros([1, 3, height, width], &self.device),
                )
            }
        };
        Some(Tensor::cat(vec![drawn, self.encode(image)], 1))
    }

    /// The latents of pixels `[1, 3, height, width]` in -1..1, always with the same noise.
    fn encode(&self, pixels: Tensor<B, 4>) -> Tensor<B, 4> {
        let [rows, columns] = self.latent;
        let channels = self.codec.1.channels();
        let noise = Stream::new(0, Purpose::Posterior, 0, 0).normal(channels * rows * columns);
        let noise = TensorData::new(noise, [1, channels, rows, columns]);
        self.codec
            .1
            .encode(pixels, Tensor::from_data(noise, &self.device))
    }

    /// The steps that pictures take.
    pub(super) fn trajectory(&self, settings: &SamplingConfig) -> Trajectory {
        let whole = settings.trajectory(&self.family);
        match &self.init {
            Some(init) => whole.with_strength(init.strength),
            None => whole,
        }
    }
}

/// The image at `path`, the value of `key`, on a background, and covering pictures of a size.
fn open(
    path: &Path,
    background: [u8; 3],
    key: &str,
    [width, height]: [u32; 2],
) -> Result<RgbImage, TrainError> {
    let file = fs::read(path).map_err(TrainError::io(path))?;
    let picture = read(&file, background, &Limits::default()).map_err(|reason| {
        let path = path.display();
        OutOfRange::new(
            key,
            format!("{path} is not an image that can be read: {reason}"),
        )
    })?;
    Ok(cover(&picture.image, width, height))
}
