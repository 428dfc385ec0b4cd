//! Reads ahead: decodes and crops in the background, so that a step does not wait for its data.

use crate::{
    sample::{DataError, Image, Position, Sample},
    shapes::Shapes,
    shards::{ShardStream, Shards},
};
use image::{RgbImage, imageops};
use std::{sync::mpsc, thread};

/// Batches decoded ahead of the one in use.
const AHEAD: usize = 2;

/// Samples in a row that may fail to decode before the data are taken for unusable.
const MAX_UNDECODABLE: usize = 1000;

/// Where samples come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Drawn on the fly.
    Shapes(Shapes),
    /// Read from tars.
    Shards(Shards),
}

/// How a [`Loader`] works.
#[derive(Clone, Copy, Debug)]
pub struct LoaderConfig {
    /// Seed of the order of the data.
    pub seed: u64,
    /// Samples in a batch.
    pub batch: usize,
    /// Side the images are cropped and resized to.
    pub image_size: u32,
    /// Threads that decode; the batches are the same for any number.
    pub threads: usize,
}

/// Samples ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Names of the samples.
    pub keys: Vec<String>,
    /// Captions.
    pub captions: Vec<String>,
    /// `[batch, 3, size, size]` in -1..1, row-major.
    pub pixels: Vec<f32>,
    /// Where the batch after this one begins.
    pub next: Position,
}

/// An endless supply of batches, which depends on source, seed and batch size alone.
#[derive(Debug)]
pub struct Loader {
    batches: mpsc::Receiver<Result<Batch, DataError>>,
}

impl Loader {
    /// Starts loading at `start`. The threads end when the loader is dropped.
    pub fn new(source: Source, config: LoaderConfig, start: Position) -> Self {
        let (sender, batches) = mpsc::sync_channel(AHEAD);
        thread::spawn(move || {
            let mut samples = match source {
                Source::Shapes(shapes) => Samples::Shapes(shapes, config.seed, start),
                Source::Shards(shards) => {
                    Samples::Shards(ShardStream::new(shards, config.seed, start))
                }
            };
            loop {
                let batch = next_batch(&mut samples, &config);
                let failed = batch.is_err();
                // Nobody listens any more, or nothing can follow.
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self { batches }
    }

    /// The next batch.
    ///
    /// # Errors
    /// Unreadable data; nothing follows an error.
    pub fn next_batch(&mut self) -> Result<Batch, DataError> {
        self.batches.recv().map_err(|_| DataError::Stopped)?
    }
}

/// An endless supply of samples that knows where it is.
enum Samples {
    Shapes(Shapes, u64, Position),
    Shards(ShardStream),
}

impl Samples {
    fn next(&mut self) -> Result<Sample, DataError> {
        match self {
            Self::Shapes(shapes, seed, position) => {
                position.sample += 1;
                Ok(shapes.sample(*seed, position.sample - 1))
            }
            Self::Shards(stream) => stream.next(),
        }
    }

    fn position(&self) -> Position {
        match self {
            Self::Shapes(_, _, position) => *position,
            Self::Shards(stream) => stream.position(),
        }
    }
}

type Decoded = (String, String, Vec<f32>);

fn next_batch(samples: &mut Samples, config: &LoaderConfig) -> Result<Batch, DataError> {
    let mut batch = Batch {
        keys: Vec::new(),
        captions: Vec::new(),
        pixels: Vec::new(),
        next: samples.position(),
    };
    let mut failed = 0;
    while batch.keys.len() < config.batch {
        let wanted = config.batch - batch.keys.len();
        let raw: Vec<Sample> = (0..wanted)
            .map(|_| samples.next())
            .collect::<Result<_, _>>()?;
        let decoded = decode_all(raw, config);
        failed += decoded.iter().filter(|sample| sample.is_none()).count();
        if failed > MAX_UNDECODABLE {
            return Err(DataError::NothingDecodes(failed));
        }
        for (key, caption, pixels) in decoded.into_iter().flatten() {
            batch.keys.push(key);
            batch.captions.push(caption);
            batch.pixels.extend(pixels);
        }
    }
    batch.next = samples.position();
    Ok(batch)
}

/// Decodes in parallel, keeping the order; `None` where an image is broken.
fn decode_all(samples: Vec<Sample>, config: &LoaderConfig) -> Vec<Option<Decoded>> {
    let share = samples.len().div_ceil(config.threads.max(1)).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = samples
            .chunks(share)
            .map(|part| {
                scope.spawn(|| {
                    part.iter()
                        .map(|sample| decode(sample, config.image_size))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            // A panic in a decoder counts as broken images, not as the end of the run.
            .flat_map(|worker| worker.join().unwrap_or_default())
            .collect()
    })
}

fn decode(sample: &Sample, size: u32) -> Option<Decoded> {
    let image = match &sample.image {
        Image::Decoded(image) => image.clone(),
        Image::Encoded(bytes) => match image::load_from_memory(bytes) {
            Ok(image) => image.into_rgb8(),
            Err(error) => {
                tracing::warn!(
                    "sample {} cannot be decoded ({error}); it is skipped",
                    sample.key
                );
                return None;
            }
        },
    };
    let image = crop(image, size);
    let plane = (size * size) as usize;
    let mut pixels = vec![0.0; 3 * plane];
    for (i, pixel) in image.pixels().enumerate() {
        for (channel, level) in pixel.0.into_iter().enumerate() {
            pixels[channel * plane + i] = f32::from(level) / 127.5 - 1.0;
        }
    }
    Some((sample.key.clone(), sample.caption.clone(), pixels))
}

/// Shrinks or grows the shorter side to `size` and takes the centre.
fn crop(image: RgbImage, size: u32) -> RgbImage {
    if image.dimensions() == (size, size) {
        return image;
    }
    let (width, height) = image.dimensions();
    let scale = f64::from(size) / f64::from(width.min(height));
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(size);
    let (width, height) = (scaled(width), scaled(height));
    let resized = imageops::resize(&image, width, height, imageops::FilterType::CatmullRom);
    imageops::crop_imm(
        &resized,
        (width - size) / 2,
        (height - size) / 2,
        size,
        size,
    )
    .to_image()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn golden(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens")
            .join(name);
        path.to_string_lossy().into_owned()
    }

    fn config(threads: usize) -> LoaderConfig {
        LoaderConfig {
            seed: 1,
            batch: 6,
            image_size: 16,
            threads,
        }
    }

    #[test]
    fn batches_do_not_depend_on_the_threads() {
        let load = |threads| {
            let source = Source::Shards(Shards::open(&golden("wds_clean.tar")).unwrap());
            let mut loader = Loader::new(source, config(threads), Position::default());
            (0..5)
                .map(|_| loader.next_batch().unwrap())
                .collect::<Vec<_>>()
        };
        let one = load(1);
        assert_eq!(one, load(3));
        // 16 samples: the first two and a half batches are a permutation of all.
        let mut keys: Vec<&String> = one.iter().flat_map(|batch| &batch.keys).take(16).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 16);
    }

    #[test]
    fn a_position_is_found_again() {
        // Two shards with damaged samples among them, over several passes.
        let folder = tempfile::tempdir().unwrap();
        for name in ["wds_clean.tar", "wds_dirty.tar"] {
            std::fs::copy(golden(name), folder.path().join(name)).unwrap();
        }
        let load = |start, count| {
            let source = Source::Shards(Shards::open(&folder.path().to_string_lossy()).unwrap());
            let mut loader = Loader::new(source, config(2), start);
            let batch = |_| loader.next_batch().unwrap();
            (0..count).map(batch).collect::<Vec<_>>()
        };
        let whole = load(Position::default(), 20);
        assert!(whole[19].next.epoch > 1, "{:?}", whole[19].next);
        for stop in [1, 3, 4, 9] {
            assert_eq!(
                load(whole[stop - 1].next, 20 - stop),
                whole[stop..],
                "stop {stop}"
            );
        }
    }

    #[test]
    fn defective_samples_are_left_out() {
        let text = std::fs::read_to_string(golden("wds_expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
        let named = |entry: &serde_json::Value| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            (text("key"), text("caption"))
        };
        let read = |name| {
            let samples = Shards::read(Path::new(&golden(name))).unwrap();
            let decoded = decode_all(samples, &config(2)).into_iter().flatten();
            decoded
                .map(|(key, caption, _)| (key, caption))
                .collect::<Vec<_>>()
        };
        let clean: Vec<_> = expected["clean"]
            .as_array()
            .unwrap()
            .iter()
            .map(named)
            .collect();
        assert_eq!(read("wds_clean.tar"), clean);
        // Garbage, truncated and missing images, missing and empty captions are left out; all else stays.
        let dirty = expected["dirty"].as_array().unwrap();
        let sound = dirty.iter().filter(|entry| entry["why"] == "ok").map(named);
        assert_eq!(read("wds_dirty.tar"), sound.collect::<Vec<_>>());
    }

    #[test]
    fn a_folder_without_shards_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Shards::open(&folder.path().to_string_lossy()),
            Err(DataError::NoShards(_))
        ));
        assert!(matches!(
            Shards::open("no/such.tar"),
            Err(DataError::NoShards(_))
        ));
        let path = folder.path().join("empty.tar");
        std::fs::write(&path, [0; 1024]).unwrap();
        assert!(matches!(Shards::read(&path), Err(DataError::EmptyShard(_))));
    }
}
