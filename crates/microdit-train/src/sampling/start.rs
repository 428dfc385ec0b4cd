//! What a drawing may be told besides its prompts: the pictures' size, an image to start from, a network to guide with.

use super::{Pipeline, label};
use crate::error::TrainError;
use burn::tensor::{Tensor, TensorData};
use microdit::{
    DitBackend,
    net::Denoiser,
    range::{OutOfRange, require, within},
    rng::{Purpose, Stream},
};
use microdit_data::image::{Limits, pixels, read, resize};
use std::{fs, path::Path};

/// An image that pictures start from, and how much of it is redrawn.
#[derive(Clone, Debug)]
pub(super) struct Start<B: DitBackend> {
    /// `[1, channels, height, width]`.
    pub(super) latents: Tensor<B, 4>,
    pub(super) strength: f64,
    /// What labels call it.
    pub(super) name: String,
}

impl<B: DitBackend, D: Denoiser<B>> Pipeline<B, D> {
    /// The same for pictures of this width and height in pixels.
    ///
    /// # Errors
    /// Sides that are not multiples of what a patch covers, or leave an expert without tokens; an image to start from, which
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
        require(self.start.is_none(), "width", || {
            "must be chosen before the image to start from".into()
        })?;
        let latent = [height, width].map(|side| side as usize / shrinks_by);
        let tokens = latent.iter().map(|side| side / patch).product();
        self.model.validate_tokens(tokens, tokens)?;
        self.latent = latent;
        Ok(self)
    }

    /// The same with pictures that start from the image at `path`, resized to theirs. `strength`, in 0..=1, is the share of the
    /// steps that is left to draw: 0 leaves the image as it is, 1 only its outlines.
    ///
    /// # Errors
    /// A file that is not an image, and a strength out of range.
    pub fn with_start(mut self, path: &Path, strength: f64) -> Result<Self, TrainError> {
        within("strength", strength, 0.0..=1.0)?;
        let file = fs::read(path).map_err(TrainError::io(path))?;
        let picture = read(&file, [255; 3], &Limits::default());
        let picture = picture.map_err(|reason| {
            let message = format!(
                "{} is not an image that can be read: {reason}",
                path.display()
            );
            OutOfRange::new("image", message)
        })?;
        let [width, height] = self.size();
        let values = pixels(&resize(&picture.image, width, height));
        let shape = [1, 3, height as usize, width as usize];
        let image = Tensor::from_data(TensorData::new(values, shape), &self.device);
        let [rows, columns] = self.latent;
        let channels = self.codec.1.channels();
        let noise = Stream::new(0, Purpose::Posterior, 0, 0).normal(channels * rows * columns);
        let noise = TensorData::new(noise, [1, channels, rows, columns]);
        let noise = Tensor::from_data(noise, &self.device);
        self.start = Some(Start {
            latents: self.codec.1.encode(image, noise),
            strength,
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
}
