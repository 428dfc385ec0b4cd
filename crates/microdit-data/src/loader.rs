//! Reads ahead: decodes and crops in the background, so that a step does not wait for its data.

use crate::{
    image::{self, center_crop, pixels, resize_shorter_side},
    npy,
    sample::{DataError, Image, Position, Sample, Stored},
    shapes::Shapes,
    shards::{ShardStream, Shards},
};
use ::image::RgbImage;
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
    /// Channels, height and width of what a sample becomes. Images are cropped and resized to it; pre-computed latents
    /// must have it.
    pub shape: [usize; 3],
    /// Words and channels pre-computed captions must have.
    pub caption: [usize; 2],
    /// Threads that decode; the batches are the same for any number.
    pub threads: usize,
}

/// Samples ready for the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Names of the samples.
    pub keys: Vec<String>,
    /// Captions.
    pub captions: Captions,
    /// Pixels in -1..1, or latents: `[batch, channels, height, width]`, row-major.
    pub images: Vec<f32>,
    /// Where the batch after this one begins.
    pub next: Position,
}

/// The captions of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Captions {
    /// To be encoded.
    Texts(Vec<String>),
    /// Encoded beforehand: `[batch, words, channels]`, row-major.
    Vectors(Vec<f32>),
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

/// A sample ready for the network.
struct Decoded {
    key: String,
    image: Vec<f32>,
    caption: Caption,
}

enum Caption {
    Text(String),
    Vectors(Vec<f32>),
}

fn next_batch(samples: &mut Samples, config: &LoaderConfig) -> Result<Batch, DataError> {
    let mut decoded: Vec<Decoded> = Vec::new();
    let mut failed = 0;
    while decoded.len() < config.batch {
        let raw: Vec<Sample> = (decoded.len()..config.batch)
            .map(|_| samples.next())
            .collect::<Result<_, _>>()?;
        let results = decode_all(&raw, config);
        for (sample, result) in raw.iter().zip(results) {
            match result {
                Ok(sample) => decoded.push(sample),
                Err(error) => {
                    tracing::warn!(
                        "sample {} cannot be decoded ({error}); it is skipped",
                        sample.key
                    );
                    failed += 1;
                }
            }
        }
        if failed > MAX_UNDECODABLE {
            return Err(DataError::NothingDecodes(failed));
        }
    }
    Ok(collate(decoded, samples.position()))
}

fn collate(decoded: Vec<Decoded>, next: Position) -> Batch {
    let (mut keys, mut images) = (Vec::new(), Vec::new());
    // A source has captions of one kind only.
    let (mut texts, mut vectors) = (Vec::new(), Vec::new());
    for sample in decoded {
        keys.push(sample.key);
        images.extend(sample.image);
        match sample.caption {
            Caption::Text(text) => texts.push(text),
            Caption::Vectors(values) => vectors.extend(values),
        }
    }
    Batch {
        keys,
        captions: match texts.is_empty() {
            true => Captions::Vectors(vectors),
            false => Captions::Texts(texts),
        },
        images,
        next,
    }
}

/// Decodes in parallel, keeping the order.
fn decode_all(samples: &[Sample], config: &LoaderConfig) -> Vec<Result<Decoded, String>> {
    let share = samples.len().div_ceil(config.threads.max(1)).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = samples
            .chunks(share)
            .map(|part| {
                let decode = |sample| decode(sample, config);
                let worker = scope.spawn(move || part.iter().map(decode).collect::<Vec<_>>());
                (part.len(), worker)
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|(count, worker)| {
                // A panic in a decoder counts as broken images, not as the end of the run.
                let panicked = || Err("its decoder panicked".to_owned());
                let results = worker.join();
                results.unwrap_or_else(|_| (0..count).map(|_| panicked()).collect())
            })
            .collect()
    })
}

fn decode(sample: &Sample, config: &LoaderConfig) -> Result<Decoded, String> {
    let text = || Caption::Text(sample.caption.clone());
    let (image, caption) = match &sample.image {
        Image::Decoded(image) => (square(image, config.shape), text()),
        Image::Encoded(file) => (square(&image::decode(file)?, config.shape), text()),
        Image::Precomputed { latent, caption } => {
            let latent = array("latent", latent, &config.shape)?;
            let caption = array("caption", caption, &config.caption)?;
            (latent, Caption::Vectors(caption))
        }
    };
    Ok(Decoded {
        key: sample.key.clone(),
        image,
        caption,
    })
}

/// The values of a pre-computed array, which must have the given shape.
fn array(what: &str, stored: &Stored, shape: &[usize]) -> Result<Vec<f32>, String> {
    let array = match stored {
        Stored::Npy(file) => npy::read(file),
        Stored::Halves(bytes) => npy::read_halves(bytes, shape),
    };
    let array = array.map_err(|error| format!("its {what}: {error}"))?;
    if array.shape == shape {
        return Ok(array.values);
    }
    let found = array.shape;
    Err(format!(
        "its {what} has shape {found:?}, expected {shape:?}"
    ))
}

/// The middle of the image at the size of the latents' pixels.
fn square(image: &RgbImage, [_, height, width]: [usize; 3]) -> Vec<f32> {
    let size = height.min(width) as u32;
    pixels(&center_crop(&resize_shorter_side(image, size), size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::Members;
    use std::path::Path;

    fn golden(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens")
            .join(name);
        path.to_string_lossy().into_owned()
    }

    fn pictures(spec: &str) -> Result<Shards, DataError> {
        Shards::open(spec, Members::Pictures)
    }

    fn config(threads: usize) -> LoaderConfig {
        LoaderConfig {
            seed: 1,
            batch: 6,
            shape: [3, 16, 16],
            caption: [3, 2],
            threads,
        }
    }

    #[test]
    fn batches_do_not_depend_on_the_threads() {
        let load = |threads| {
            let source = Source::Shards(pictures(&golden("wds_clean.tar")).unwrap());
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
            let source = Source::Shards(pictures(&folder.path().to_string_lossy()).unwrap());
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
            let path = golden(name);
            let shards = pictures(&path).unwrap();
            let samples = shards.read(shards.iter().next().unwrap()).unwrap();
            let decoded = decode_all(&samples, &config(2)).into_iter().flatten();
            decoded
                .map(|sample| match sample.caption {
                    Caption::Text(caption) => (sample.key, caption),
                    Caption::Vectors(_) => panic!("captions are texts"),
                })
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
    fn latents_of_the_size_asked_for_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents.tar");
        let floats = |count: usize, value: f32| -> Vec<u8> {
            (0..count).flat_map(|_| value.to_le_bytes()).collect()
        };
        let latent =
            |side, value| npy::write("<f4", &[4, side, side], &floats(4 * side * side, value));
        let caption = npy::write("<f4", &[3, 2], &floats(6, 7.0));
        let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
        let mut member = |name: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, name, data).unwrap();
        };
        for key in 0..6 {
            member(&format!("{key}.latent-16.npy"), &latent(2, key as f32));
            member(&format!("{key}.latent-32.npy"), &latent(4, -1.0));
            member(&format!("{key}.caption.npy"), &caption);
        }
        // One of another shape, and one without a latent of this size.
        member("wrong.latent-16.npy", &latent(3, 9.0));
        member("wrong.caption.npy", &caption);
        member("lacking.latent-32.npy", &latent(4, 9.0));
        member("lacking.caption.npy", &caption);
        tar.finish().unwrap();
        let shards = Shards::open(&path.to_string_lossy(), Members::Latents { size: 16 }).unwrap();
        let config = LoaderConfig {
            shape: [4, 2, 2],
            ..config(2)
        };
        let mut loader = Loader::new(Source::Shards(shards), config, Position::default());
        let batch = loader.next_batch().unwrap();
        for (key, image) in batch.keys.iter().zip(batch.images.chunks_exact(16)) {
            assert_eq!(image, [key.parse::<f32>().unwrap(); 16], "sample {key}");
        }
        assert_eq!(batch.captions, Captions::Vectors(vec![7.0; 6 * 6]));
    }

    #[test]
    fn a_folder_without_shards_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            pictures(&folder.path().to_string_lossy()),
            Err(DataError::NoShards(_))
        ));
        assert!(matches!(
            pictures("no/such.tar"),
            Err(DataError::NoShards(_))
        ));
        let path = folder.path().join("empty.tar");
        std::fs::write(&path, [0; 1024]).unwrap();
        let empty = pictures(&path.to_string_lossy()).unwrap();
        assert!(matches!(
            empty.read(empty.iter().next().unwrap()),
            Err(DataError::EmptyShard { .. })
        ));
    }
}
