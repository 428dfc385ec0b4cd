//! WebDataset tars, whose members with one key make a sample.

use crate::sample::{DataError, Image, Position, Sample};
use microdit::rng::{Purpose, Stream};
use std::path::{Path, PathBuf};
use webdataset::{NodeSplit, WebDataset};

/// Extensions of images, in the order they are looked for.
const IMAGES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Samples that are shuffled among each other, undecoded.
const WINDOW: usize = 2000;

/// Warnings about single samples after which the rest are only counted.
const MAX_WARNINGS: u64 = 10;

/// Which members of a shard make a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// `KEY.jpg` (or .png, .webp) and `KEY.txt`.
    Pictures,
    /// `KEY.latent-SIZE.npy` and `KEY.caption.npy`, pre-computed for images of SIZE pixels.
    Latents {
        /// Side of the images in pixels.
        size: u32,
    },
}

/// A list of shards.
#[derive(Clone, Debug)]
pub struct Shards {
    paths: Vec<PathBuf>,
    members: Members,
}

impl Shards {
    /// A tar, a directory of tars, or a pattern with braces such as `train-{000..009}.tar`.
    ///
    /// # Errors
    /// If that names no existing shard.
    pub fn open(spec: &str, members: Members) -> Result<Self, DataError> {
        let missing = || DataError::NoShards(spec.to_owned());
        let path = Path::new(spec);
        let paths: Vec<PathBuf> = if path.is_dir() {
            let entries = path.read_dir().map_err(|_| missing())?;
            let mut tars: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
                .collect();
            tars.sort();
            tars
        } else {
            let expanded = webdataset::braceexpand(spec).map_err(|_| missing())?;
            expanded.into_iter().map(PathBuf::from).collect()
        };
        if let Some(absent) = paths.iter().find(|path| !path.is_file()) {
            return Err(DataError::NoShards(absent.display().to_string()));
        }
        if paths.is_empty() {
            return Err(missing());
        }
        Ok(Self { paths, members })
    }

    /// The samples of one shard in their order. An incomplete sample is skipped and named in a warning.
    ///
    /// # Errors
    /// An unreadable shard, or one without a usable sample.
    pub fn read(&self, path: &Path) -> Result<Vec<Sample>, DataError> {
        let unreadable = |error: &dyn std::fmt::Display| DataError::Unreadable {
            shard: path.to_owned(),
            message: error.to_string(),
        };
        let dataset = WebDataset::builder_verbatim([path.to_string_lossy()])
            .node_split(NodeSplit::None)
            .worker_split(false)
            .empty_check(false)
            .build()
            .map_err(|error| unreadable(&error))?;
        let mut samples = Vec::new();
        let mut skipped = 0;
        for entry in dataset.iter() {
            let entry = entry.map_err(|error| unreadable(&error))?;
            let bytes = |names: &[&str]| Some(entry.get_first(names)?.as_bytes()?.to_vec());
            let key = entry.key().unwrap_or_default();
            match self.members.sample(key, bytes) {
                Ok(sample) => samples.push(sample),
                Err(lack) => {
                    skipped += 1;
                    if skipped <= MAX_WARNINGS {
                        tracing::warn!(
                            "{}: sample {key} has {lack}; it is skipped",
                            path.display()
                        );
                    }
                }
            }
        }
        if skipped > 0 {
            tracing::warn!(
                "{}: {skipped} of {} samples are incomplete",
                path.display(),
                samples.len() + skipped as usize
            );
        }
        if samples.is_empty() {
            return Err(DataError::EmptyShard {
                shard: path.to_owned(),
                expected: self.members.describe(),
            });
        }
        Ok(samples)
    }
}

impl Members {
    /// A sample of the members `bytes` finds, or what it lacks.
    fn sample(
        self,
        key: &str,
        bytes: impl Fn(&[&str]) -> Option<Vec<u8>>,
    ) -> Result<Sample, String> {
        let text = bytes(&["txt"]).map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        let (caption, image) = match self {
            Self::Pictures => {
                let image = bytes(&IMAGES).ok_or("no image")?;
                let caption = text.ok_or("no caption")?;
                if caption.is_empty() {
                    return Err("an empty caption".into());
                }
                (caption, Image::Encoded(image))
            }
            Self::Latents { size } => {
                let array = |name: &str| bytes(&[name]).ok_or_else(|| format!("no {name}"));
                let latent = array(&format!("latent-{size}.npy"))?;
                let caption = array("caption.npy")?;
                (
                    text.unwrap_or_default(),
                    Image::Precomputed { latent, caption },
                )
            }
        };
        Ok(Sample {
            key: key.to_owned(),
            caption,
            image,
        })
    }

    fn describe(self) -> String {
        match self {
            Self::Pictures => "KEY.jpg (or .png, .webp) and KEY.txt".into(),
            Self::Latents { size } => format!("KEY.latent-{size}.npy and KEY.caption.npy"),
        }
    }
}

/// An endless supply of samples. Every pass has its own order of shards; shards are read in windows of at least
/// `WINDOW` samples, and each window has its own order of samples. So a position is found again by reading one window.
pub(crate) struct ShardStream {
    shards: Shards,
    seed: u64,
    /// Of the next sample.
    position: Position,
    /// What is left of the window, the next sample last.
    window: Vec<Sample>,
    /// Shards of this pass up to the end of the window.
    end: usize,
}

impl ShardStream {
    /// The samples from `position` on, which must come from the same shards and seed.
    pub(crate) fn new(shards: Shards, seed: u64, position: Position) -> Self {
        Self {
            shards,
            seed,
            position,
            window: Vec::new(),
            end: position.shard,
        }
    }

    /// Where the next sample comes from.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// The next sample.
    ///
    /// # Errors
    /// An unreadable shard.
    pub(crate) fn next(&mut self) -> Result<Sample, DataError> {
        loop {
            if let Some(sample) = self.window.pop() {
                self.position.sample += 1;
                return Ok(sample);
            }
            self.advance();
            self.read_window()?;
        }
    }

    /// Moves on to the next window if this one is used up.
    fn advance(&mut self) {
        if self.end > self.position.shard {
            self.position.shard = self.end;
            self.position.sample = 0;
        }
        // Shards may have been taken away since the position was saved.
        if self.position.shard >= self.shards.paths.len() {
            self.position = Position {
                epoch: self.position.epoch + 1,
                ..Position::default()
            };
        }
        self.end = self.position.shard;
    }

    fn read_window(&mut self) -> Result<(), DataError> {
        let Position {
            epoch,
            shard,
            sample,
        } = self.position;
        let mut paths = self.shards.paths.clone();
        Stream::new(self.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut paths);
        for path in &paths[shard..] {
            self.window.extend(self.shards.read(path)?);
            self.end += 1;
            if self.window.len() >= WINDOW {
                break;
            }
        }
        let mut random = Stream::new(self.seed, Purpose::Shuffle, epoch, 1 + shard as u64);
        random.shuffle(&mut self.window);
        let left = self.window.len().saturating_sub(sample as usize);
        self.window.truncate(left);
        Ok(())
    }
}
