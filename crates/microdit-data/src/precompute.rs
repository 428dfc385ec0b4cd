//! Captioned images to latents and caption states, once and for all: what a long training run reads.

use crate::{
    image::{center_crop, decode, pixels, resize_shorter_side},
    parallel,
    sample::{DataError, Image, Sample},
    shards::{Members, Shard, Shards},
    writer::{
        DatasetIndex, ShardReport, ShardWriter, npy_of_halves, read_json, safe_key, write_json,
    },
};
use burn::tensor::{Tensor, TensorData};
use microdit::{
    DitBackend,
    rng::{Purpose, Stream},
};
use microdit_encoders::{text::TextEncoder, vae::Vae};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

/// What the shards are made with, written beside them.
const SETTINGS: &str = "precompute.json";

/// How latents are made.
#[derive(Clone, Debug)]
pub struct PrecomputeConfig {
    /// Sides of the square images, in pixels; a sample gets a latent for each.
    pub sizes: Vec<u32>,
    /// Images encoded at once.
    pub batch: usize,
    /// Seed of the draws from the VAE's posterior.
    pub seed: u64,
    /// Names of the VAE and of the text encoder, by which latents of others are told apart.
    pub encoders: [String; 2],
    /// This process among `world`, which share the shards.
    pub rank: usize,
    /// Processes at work.
    pub world: usize,
}

/// What the latents were made of: two runs that share a directory must agree in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    sizes: Vec<u32>,
    seed: u64,
    /// Names of the VAE and of the text encoder.
    encoders: [String; 2],
    /// Of a latent: channels, and pixels of the image to one of its own.
    latent_channels: usize,
    shrinks_by: usize,
    /// Of a caption.
    tokens: usize,
    caption_channels: usize,
    /// Names of the shards read, in order.
    sources: Vec<String>,
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precomputed {
    /// Samples written by this call.
    pub samples: u64,
    /// Shards of this process that are there.
    pub shards: usize,
    /// Shards it is responsible for.
    pub of: usize,
    /// Whether it was told to stop before the last.
    pub stopped: bool,
}

/// Joins what all processes wrote into one index, which it also writes.
///
/// # Errors
/// Missing shards, by their names.
pub fn index(out: &Path) -> Result<DatasetIndex, DataError> {
    let settings: Settings = read_json(&out.join(SETTINGS))?;
    let (there, missing): (Vec<usize>, Vec<usize>) =
        (0..settings.sources.len()).partition(|&i| sidecar(out, i).is_file());
    if !missing.is_empty() {
        return Err(DataError::Unfinished {
            folder: out.to_owned(),
            missing: missing
                .into_iter()
                .map(|i| settings.sources[i].clone())
                .collect(),
            of: settings.sources.len(),
        });
    }
    let reports: Result<Vec<ShardReport>, _> = there
        .into_iter()
        .map(|i| read_json(&sidecar(out, i)))
        .collect();
    let contents = serde_json::to_value(&settings).expect("keys are texts");
    let index = DatasetIndex::new(reports?, contents);
    index.write(out)?;
    Ok(index)
}

impl Settings {
    fn new<B: DitBackend>(shards: &Shards, precompute: &Precompute<'_, B>) -> Self {
        let Precompute {
            vae, text, config, ..
        } = precompute;
        let name = |shard: &Shard| {
            let name = shard.path().file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        Self {
            sizes: config.sizes.clone(),
            seed: config.seed,
            encoders: config.encoders.clone(),
            latent_channels: vae.latent_channels(),
            shrinks_by: vae.shrinks_by(),
            tokens: text.tokens(),
            caption_channels: text.channels(),
            sources: shards.iter().map(name).collect(),
        }
    }

    /// Leaves the settings in `out`, where they must not differ from those that are there.
    fn agree_with(&self, out: &Path, rank: usize) -> Result<(), DataError> {
        let path = out.join(SETTINGS);
        if !path.is_file() {
            // Processes that begin at the same time write the same, and must not write into each other's file.
            let own = out.join(format!("precompute-{rank}.json"));
            write_json(&own, self)?;
            std::fs::rename(&own, &path).map_err(DataError::io(&path))?;
        }
        let before: Self = read_json(&path)?;
        if before == *self {
            return Ok(());
        }
        Err(DataError::OtherSettings { path })
    }
}

fn tar_path(out: &Path, i: usize) -> PathBuf {
    out.join(format!("{i:06}.tar"))
}

/// The report on a shard, written after it: where it is, the shard is whole.
fn sidecar(out: &Path, i: usize) -> PathBuf {
    out.join(format!("{i:06}.json"))
}

/// A sample on its way: its place among those of its shard, and its images at every size.
struct Prepared {
    place: u64,
    key: String,
    caption: String,
    images: Vec<Vec<f32>>,
}

/// Networks and settings of a precomputation.
#[derive(Debug)]
pub struct Precompute<'a, B: DitBackend> {
    /// Images to latents.
    pub vae: &'a Vae<B>,
    /// Captions to states.
    pub text: &'a TextEncoder<B>,
    /// How.
    pub config: &'a PrecomputeConfig,
    /// Where.
    pub device: &'a B::Device,
}

impl<B: DitBackend> Precompute<'_, B> {
    /// Encodes the pictures of `shards` into `out`, a shard of latents for every shard of pictures, from where an earlier call
    /// left off: what is there whole stays. Tars hold `KEY.latent-SIZE.npy` and `KEY.caption.npy`, 16-bit floats, and
    /// `KEY.txt`; the latents are posterior samples times the scaling factor, the captions all token states, padding included.
    /// Draws depend on seed, shard and place alone. `stop` ends the call after the batch at hand; `progress` is told after
    /// every batch.
    ///
    /// # Errors
    /// Unreadable shards, files that cannot be written, and a directory begun with other settings.
    pub fn run(
        &self,
        shards: &Shards,
        out: &Path,
        stop: &AtomicBool,
        mut progress: impl FnMut(Precomputed),
    ) -> Result<Precomputed, DataError> {
        let config = self.config;
        let multiple = self.vae.shrinks_by();
        let fits = |size: &u32| *size > 0 && (*size as usize).is_multiple_of(multiple);
        if let Some(&size) = config.sizes.iter().find(|size| !fits(size)) {
            return Err(DataError::Size { size, multiple });
        }
        std::fs::create_dir_all(out).map_err(DataError::io(out))?;
        let settings = Settings::new(shards, self);
        settings.agree_with(out, config.rank)?;
        let own: Vec<(usize, &Shard)> = shards
            .iter()
            .enumerate()
            .filter(|(i, _)| i % config.world == config.rank)
            .collect();
        let mut state = Precomputed {
            of: own.len(),
            ..Precomputed::default()
        };
        for (i, shard) in own {
            if !sidecar(out, i).is_file() {
                let done = self.shard(i, shard, out, stop, |samples| {
                    state.samples += samples;
                    progress(state);
                })?;
                if !done {
                    state.stopped = true;
                    return Ok(state);
                }
            }
            state.shards += 1;
            progress(state);
        }
        Ok(state)
    }

    /// Encodes one shard while the pictures of the next batch are decoded; whether it was finished.
    fn shard(
        &self,
        i: usize,
        shard: &Shard,
        out: &Path,
        stop: &AtomicBool,
        mut progress: impl FnMut(u64),
    ) -> Result<bool, DataError> {
        let mut samples = Vec::new();
        let mut rejected: BTreeMap<String, u64> = BTreeMap::new();
        shard.for_each(Members::Pictures, |_, sample| match sample {
            Ok(sample) => samples.push(sample),
            Err(lack) => *rejected.entry(lack).or_default() += 1,
        })?;
        let mut writer = ShardWriter::create(&tar_path(out, i))?;
        let sizes = &self.config.sizes;
        let batches: Vec<(usize, &[Sample])> =
            samples.chunks(self.config.batch).enumerate().collect();
        let finished = thread::scope(|scope| -> Result<bool, DataError> {
            let (sender, receiver) = mpsc::sync_channel(1);
            let size = self.config.batch;
            let threads = thread::available_parallelism().map_or(1, usize::from);
            scope.spawn(move || {
                for (number, batch) in batches {
                    let prepare =
                        |i, sample: &Sample| prepare((number * size + i) as u64, sample, sizes);
                    if sender.send(parallel::map(batch, threads, prepare)).is_err() {
                        return;
                    }
                }
            });
            for batch in receiver {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let mut sound = Vec::with_capacity(batch.len());
                for sample in batch {
                    match sample {
                        Some(Some(sample)) => sound.push(sample),
                        _ => {
                            *rejected
                                .entry("an image that cannot be decoded".into())
                                .or_default() += 1
                        }
                    }
                }
                self.write(i, &sound, &mut writer)?;
                progress(sound.len() as u64);
            }
            Ok(true)
        })?;
        if finished {
            let report = writer.finish(rejected)?;
            write_json(&sidecar(out, i), &report)?;
        } else {
            writer.abandon();
        }
        Ok(finished)
    }

    /// Encodes and writes samples of shard `i`.
    fn write(
        &self,
        i: usize,
        samples: &[Prepared],
        writer: &mut ShardWriter,
    ) -> Result<(), DataError> {
        if samples.is_empty() {
            return Ok(());
        }
        let captions: Vec<&str> = samples
            .iter()
            .map(|sample| sample.caption.as_str())
            .collect();
        let captions = Rows::of(self.text.encode(&captions, self.device));
        let latents: Vec<Rows> = (0..self.config.sizes.len())
            .map(|size| Rows::of(self.latents(i, size, samples)))
            .collect();
        for (j, sample) in samples.iter().enumerate() {
            let caption = captions.npy(j);
            let arrays: Vec<(String, Vec<u8>)> = latents
                .iter()
                .zip(&self.config.sizes)
                .map(|(rows, size)| (format!("latent-{size}.npy"), rows.npy(j)))
                .collect();
            let mut members = vec![
                ("txt", sample.caption.as_bytes()),
                ("caption.npy", caption.as_slice()),
            ];
            members.extend(
                arrays
                    .iter()
                    .map(|(name, array)| (name.as_str(), array.as_slice())),
            );
            writer.add(&sample.key, &members)?;
        }
        Ok(())
    }

    /// Latents of the images at the size of that number.
    fn latents(&self, i: usize, size: usize, samples: &[Prepared]) -> Tensor<B, 4> {
        let side = self.config.sizes[size] as usize;
        let latent = side / self.vae.shrinks_by();
        let shape = [samples.len(), self.vae.latent_channels(), latent, latent];
        let values: usize = shape[1..].iter().product();
        let draw = |sample: &Prepared| {
            // A shard has fewer than 2^32 samples.
            let place = ((i as u64) << 32) | sample.place;
            Stream::new(self.config.seed, Purpose::Posterior, side as u64, place).normal(values)
        };
        let noise: Vec<f32> = samples.iter().flat_map(draw).collect();
        let images: Vec<f32> = samples
            .iter()
            .flat_map(|sample| &sample.images[size])
            .copied()
            .collect();
        let images = TensorData::new(images, [samples.len(), 3, side, side]);
        let on_device = |data| Tensor::from_data(data, self.device);
        self.vae
            .encode(on_device(images), on_device(TensorData::new(noise, shape)))
    }
}

/// The pictures of a sample at every size, or nothing if it has none.
fn prepare(place: u64, sample: &Sample, sizes: &[u32]) -> Option<Prepared> {
    let Image::Encoded(file) = &sample.image else {
        return None;
    };
    let image = decode(file).ok()?;
    let square = |&size: &u32| pixels(&center_crop(&resize_shorter_side(&image, size), size));
    Some(Prepared {
        place,
        key: safe_key(&sample.key),
        caption: sample.caption.clone(),
        images: sizes.iter().map(square).collect(),
    })
}

/// A tensor on the host, row by row of its first dimension.
struct Rows {
    values: Vec<f32>,
    shape: Vec<usize>,
}

impl Rows {
    fn of<B: DitBackend, const D: usize>(tensor: Tensor<B, D>) -> Self {
        let shape = tensor.dims()[1..].to_vec();
        let values = tensor.into_data().iter::<f32>().collect();
        Self { values, shape }
    }

    fn npy(&self, row: usize) -> Vec<u8> {
        let size: usize = self.shape.iter().product();
        npy_of_halves(&self.values[row * size..(row + 1) * size], &self.shape)
    }
}
