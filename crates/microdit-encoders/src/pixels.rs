//! Pixel space in place of a VAE, for small images.

use image::RgbImage;

/// Latents are the pixels themselves, from -1..1, times a scale.
///
/// ```
/// use microdit_encoders::PixelCodec;
/// let codec = PixelCodec { scale: 0.5 };
/// assert_eq!(codec.encode(&[-1.0, 1.0]), [-0.5, 0.5]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelCodec {
    /// Multiplies the pixels; chosen so that the latents' standard deviation is near `sigma_data`.
    pub scale: f32,
}

impl PixelCodec {
    /// Pixels in -1..1 to latents.
    pub fn encode(&self, pixels: &[f32]) -> Vec<f32> {
        pixels.iter().map(|pixel| pixel * self.scale).collect()
    }

    /// Latents `[batch, 3, height, width]` to pictures; values beyond the range are clipped.
    pub fn decode(&self, latents: &[f32], width: u32, height: u32) -> Vec<RgbImage> {
        let plane = (width * height) as usize;
        let level = |value: f32| {
            ((value / self.scale + 1.0) * 127.5)
                .round()
                .clamp(0.0, 255.0) as u8
        };
        latents
            .chunks_exact(3 * plane)
            .map(|image| {
                RgbImage::from_fn(width, height, |x, y| {
                    let at = (y * width + x) as usize;
                    image::Rgb([0, 1, 2].map(|channel| level(image[channel * plane + at])))
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_inverts_encoding() {
        let codec = PixelCodec { scale: 0.5 };
        let levels = [0u8, 1, 127, 128, 254, 255];
        let pixels: Vec<f32> = levels.iter().map(|&l| f32::from(l) / 127.5 - 1.0).collect();
        let images = codec.decode(&codec.encode(&pixels), 2, 1);
        assert_eq!(images[0].as_raw(), &[0, 127, 254, 1, 128, 255]);
    }
}
