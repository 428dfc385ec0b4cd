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
        let image = Tensor::from_data(TensorData::new(pixels(&image), shape), &self.device);
        let [rows, columns] = self.latent;
        let channels = self.codec.1.channels();
        let noise = Stream::new(0, Purpose::Posterior, 0, 0).normal(channels * rows * columns);
        let noise = TensorData::new(noise, [1, channels, rows, columns]);
        let noise = Tensor::from_data(noise, &self.device);
        self.init = Some(Init {
            latents: self.codec.1.encode(image, noise),
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
        for (x, y, level) in mask.enumerate_pixels() {
            redrawn[(y / side) as usize * columns + (x / side) as usize] |= level.0[0] > 127;
        }
        require(redrawn.contains(&true), "mask", || {
            format!("{} marks nothing: what is white is redrawn", path.display())
        })?;
        let redrawn = TensorData::new(redrawn, [1, 1, rows, columns]);
        init.mask = Some(Mask {
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
