//! What a stage asks of its data: bytes from a disk or a network, and processor cores that read and decode them.

use crate::recipe::{DataConfig, Stage};
use serde::Serialize;

/// Bytes of shards of latents that a core reads, parses and widens in a second, and pixels of JPEGs that it decodes: two cores of a
/// shared AMD EPYC, benches/results/2026-11-29-loader.md.
const BYTES_PER_CORE: f64 = 2.2e8;
const PIXELS_PER_CORE: f64 = 6.9e7;

/// Bytes of a pixel of a photograph as a JPEG of quality 95.
const BYTES_PER_PIXEL: f64 = 0.4;

/// Bytes of a block of a tar, of which a member takes a whole number, and one more for its name.
const BLOCK: usize = 512;

/// Bytes that an array's file begins with.
const NPY: usize = 128;

/// The data of a stage at the pace of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Feed {
    /// Samples all devices take in a second.
    pub samples_per_second: f64,
    /// 10^6 bytes in a second: for latents as `data precompute` writes them, for pictures as JPEGs of the size they are trained at.
    pub megabytes_per_second: f64,
    /// Cores that read and decode them. Larger pictures than those trained on take more, by their pixels.
    pub cores: f64,
}

impl Feed {
    /// What `stage` takes at so many samples a second; none if its data are generated.
    pub(super) fn of(stage: &Stage, samples_per_second: f64) -> Option<Self> {
        let (bytes, cores) = match &stage.data {
            DataConfig::Shapes { .. } => return None,
            DataConfig::WebDataset { image_size, .. } => {
                let pixels = f64::from(*image_size) * f64::from(*image_size);
                (pixels * BYTES_PER_PIXEL, pixels / PIXELS_PER_CORE)
            }
            DataConfig::Latents { .. } => {
                let bytes = latent_bytes(stage) as f64;
                (bytes, bytes / BYTES_PER_CORE)
            }
        };
        Some(Self {
            samples_per_second,
            megabytes_per_second: samples_per_second * bytes / 1e6,
            cores: samples_per_second * cores,
        })
    }
}

/// Bytes of a sample of latents in a tar: a text, caption states and a latent in 16-bit floats.
fn latent_bytes(stage: &Stage) -> usize {
    let array = |values: usize| member(NPY + 2 * values);
    let latent: usize = stage.model.latent().iter().product();
    let caption = stage.data.tokens() * stage.model.caption_channels();
    member(1) + array(caption) + array(latent)
}

fn member(bytes: usize) -> usize {
    BLOCK + bytes.next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;
    use std::path::Path;

    #[test]
    fn a_sample_of_latents_has_the_bytes_that_are_written() {
        use microdit_data::{ShardWriter, npy_of_halves};
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/microdit-xl2.ron");
        let stage = &Recipe::load(&path, &[]).unwrap().stages[0];
        let folder = tempfile::tempdir().unwrap();
        let length = |samples: usize| {
            let path = folder.path().join("0.tar");
            let mut writer = ShardWriter::create(&path).unwrap();
            let latent = npy_of_halves(&[0.5; 4 * 32 * 32], &[4, 32, 32]);
            let caption = npy_of_halves(&[0.5; 77 * 1024], &[1, 77, 1024]);
            for i in 0..samples {
                let members = [
                    ("txt", &b"a red fox"[..]),
                    ("caption.npy", &caption),
                    ("latent-256.npy", &latent),
                ];
                writer.add(&i.to_string(), &members).unwrap();
            }
            writer.finish(Default::default()).unwrap().bytes as usize
        };
        assert_eq!(length(5) - length(4), latent_bytes(stage));
        let feed = Feed::of(stage, 1000.0).unwrap();
        assert_eq!(feed.megabytes_per_second, latent_bytes(stage) as f64 / 1e3);
    }
}
