//! From latents to CLIP's embeddings of images: what a student's images are compared with captions by.

mod random;
mod sizes;

pub use random::write_random;
pub use sizes::ClipEmbedderSizes;

use crate::{PixelCodec, features::ClipImage, vae::AutoencoderTiny};
use burn::{module::Module, tensor::Tensor};
use microdit::{DitBackend, task::ImageEmbedder};

/// CLIP's image tower, and before it the decoder that makes images of latents. Frozen, but differentiable in the latents; images are resized
/// as the tower wants them, neither rounded nor clipped on the way.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::task::ImageEmbedder as _;
/// use microdit_encoders::{
///     ClipEmbedder, PixelCodec, Weights,
///     features::ClipImageConfig,
/// };
///
/// let json = serde_json::json!({
///     "model_cfg": {"embed_dim": 6, "vision_cfg":
///         {"width": 8, "head_width": 4, "layers": 1, "image_size": 16, "patch_size": 8}},
/// });
/// let device = Default::default();
/// let config = ClipImageConfig::from_open_clip(&json)?;
/// let tower = config.load::<Flex>(&Weights::random(0).at(""), &device)?;
/// let embedder = ClipEmbedder::of_pixels(PixelCodec { scale: 0.5 }, tower);
/// assert_eq!(embedder.embed(Tensor::zeros([2, 3, 24, 20], &device)).dims(), [2, 6]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Module, Debug)]
pub struct ClipEmbedder<B: DitBackend> {
    /// None where latents are pixels.
    decoder: Option<AutoencoderTiny<B>>,
    /// What pixels are multiplied by.
    scale: f32,
    tower: ClipImage<B>,
}

impl<B: DitBackend> ClipEmbedder<B> {
    /// Of latents that `decoder` makes images of.
    pub fn of_latents(decoder: AutoencoderTiny<B>, tower: ClipImage<B>) -> Self {
        Self {
            decoder: Some(decoder),
            scale: 1.0,
            tower,
        }
    }

    /// Of latents that are pixels.
    pub fn of_pixels(codec: PixelCodec, tower: ClipImage<B>) -> Self {
        Self {
            decoder: None,
            scale: codec.scale,
            tower,
        }
    }
}

impl<B: DitBackend> ImageEmbedder<B> for ClipEmbedder<B> {
    fn embed(&self, latents: Tensor<B, 4>) -> Tensor<B, 2> {
        let images = match &self.decoder {
            Some(decoder) => decoder.decode(latents),
            None => latents / self.scale,
        };
        // From -1..1.
        let prepared = self.tower.prepare((images + 1.0) / 2.0);
        self.tower.features(prepared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vae::Vae;
    use burn::{module::AutodiffModule as _, tensor::TensorData};
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;
    use microdit::rng::{Purpose, Stream};
    use std::path::Path;

    type Tracked = Autodiff<Flex>;

    fn latents<B: DitBackend>(channels: usize, side: usize) -> Tensor<B, 4> {
        let mut random = Stream::new(0, Purpose::Noise, 0, 0);
        let values = random.normal(2 * channels * side * side);
        let shape = [2, channels, side, side];
        Tensor::from_data(TensorData::new(values, shape), &Default::default())
    }

    /// Both ways from latents to embeddings.
    fn embedders(folder: &Path) -> [(ClipEmbedder<Tracked>, usize, usize); 2] {
        let device = Default::default();
        let [clip, decoder] = write_random::<Flex>(folder, 4, 3).unwrap();
        let tower = ClipImage::<Tracked>::open(&clip, &device).unwrap();
        let decoder = AutoencoderTiny::<Tracked>::open(&decoder, &device).unwrap();
        let codec = PixelCodec { scale: 0.5 };
        [
            (ClipEmbedder::of_latents(decoder, tower.clone()), 4, 10),
            (ClipEmbedder::of_pixels(codec, tower), 3, 20),
        ]
    }

    /// Of images with a caption that none of them shows well enough to be left alone.
    fn loss<B: DitBackend>(embedder: &ClipEmbedder<B>, latents: Tensor<B, 4>) -> Tensor<B, 1> {
        let embedded = embedder.embed(latents);
        let towards = Tensor::<B, 2>::ones(embedded.dims(), &embedded.device());
        microdit::task::clamped_clip_loss(embedded, towards, 1.0).sum()
    }

    /// Through resizing from 20 pixels to 16, the tower, and the decoder where there is one.
    #[test]
    fn its_gradient_is_that_of_finite_differences() {
        let folder = tempfile::tempdir().unwrap();
        for (embedder, channels, side) in embedders(folder.path()) {
            let x = latents::<Tracked>(channels, side).require_grad();
            let grads = loss(&embedder, x.clone()).backward();
            let grad = x.grad(&grads).unwrap();
            // Along the gradient itself and along directions that have nothing to do with it.
            let inner = embedder.valid();
            let (x, norm) = (
                x.inner(),
                grad.clone().powi_scalar(2).sum().sqrt().into_scalar(),
            );
            assert!(norm > 1e-4, "{norm}");
            let other = latents::<Flex>(channels, side) * 0.3 + 0.1;
            for direction in [grad.clone() / norm, other / (side as f32)] {
                let at = |step: f64| {
                    let loss = loss(&inner, x.clone() + direction.clone() * step);
                    f64::from(loss.into_scalar())
                };
                let step = 1e-2;
                let found = (at(step) - at(-step)) / (2.0 * step);
                let expected = f64::from((grad.clone() * direction).sum().into_scalar());
                let limit = 0.01 * f64::from(norm);
                assert!(
                    (found - expected).abs() < limit,
                    "{found}, {expected}, {norm}"
                );
            }
        }
    }

    /// By hand: decoded, from -1..1 to 0..1, prepared, and through the tower.
    #[test]
    fn latents_become_images_before_they_are_embedded() {
        let folder = tempfile::tempdir().unwrap();
        let device = Default::default();
        let [(of_latents, ..), (of_pixels, ..)] = embedders(folder.path());
        let tower = ClipImage::<Flex>::open(&folder.path().join("clip"), &device).unwrap();
        let vae = Vae::<Flex>::open(&folder.path().join("decoder"), &device).unwrap();
        let by_hand = |images: Tensor<Flex, 4>| tower.features(tower.prepare(images * 0.5 + 0.5));
        let x = latents::<Flex>(4, 8);
        let found = of_latents.valid().embed(x.clone());
        assert_eq!(found.dims(), [2, 6]);
        let error = |found: Tensor<Flex, 2>, expected: Tensor<Flex, 2>| {
            (found - expected).abs().max().into_scalar()
        };
        assert!(error(found, by_hand(vae.decode(x))) < 1e-5);
        let x = latents::<Flex>(3, 16);
        // Pixels were multiplied by the codec's scale.
        assert!(error(of_pixels.valid().embed(x.clone()), by_hand(x * 2.0)) < 1e-5);
    }

    /// Nothing of it is a parameter: nothing to train, to average or to save.
    #[test]
    fn it_has_no_parameters_on_any_backend() {
        let folder = tempfile::tempdir().unwrap();
        for (embedder, ..) in embedders(folder.path()) {
            assert_eq!(embedder.num_params(), 0);
            let state = microdit::weights::StateDict::from_module(&embedder.valid());
            assert!(state.is_empty());
        }
    }
}
