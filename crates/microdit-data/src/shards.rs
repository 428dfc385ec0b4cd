//! Lists of shards: WebDataset tars, whose members with one key make a sample, and MDS shards.

use crate::{
    mds::{self, MdsShard},
    sample::{DataError, Image, Position, Sample, Stored},
};
use microdit::rng::{Purpose, Stream};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use webdataset::{NodeSplit, WebDataset};

/// Extensions of images, in the order they are looked for.
const IMAGES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Samples that are shuffled among each other, undecoded.
const WINDOW: usize = 2000;

/// Warnings about single samples after which the rest are only counted.
const MAX_WARNINGS: u64 = 10;

/// Which parts of a shard make a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// In tars `KEY.jpg` (or .png, .webp) and `KEY.txt`, as img2dataset writes them; in MDS shards the columns `image` and `caption`.
    Pictures,
    /// Pre-computed for images of SIZE pixels: in tars `KEY.latent-SIZE.npy` and `KEY.caption.npy`; in MDS shards the columns
    /// `latents_SIZE` and `caption_latents`.
    Latents {
        /// Side of the images in pixels.
        size: u32,
    },
}

/// A list of shards.
#[derive(Clone, Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    members: Members,
}

/// A file of samples.
#[derive(Clone, Debug)]
pub enum Shard {
    /// WebDataset.
    Tar(PathBuf),
    /// MosaicML Streaming.
    Mds(MdsShard),
}

impl Shards {
    /// A tar, a pattern with braces such as `train-{000..009}.tar`, a directory of tars, or one of MDS shards with their
    /// `index.json`.
    ///
    /// # Errors
    /// If that names no existing shard.
    pub fn open(spec: &str, members: Members) -> Result<Self, DataError> {
        let missing = || DataError::NoShards(spec.to_owned());
        let path = Path::new(spec);
        if path.join(mds::INDEX).is_file() {
            let shards = MdsShard::list(path)?;
            return Self::new(shards.into_iter().map(Shard::Mds).collect(), members, spec);
        }
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
        Self::new(paths.into_iter().map(Shard::Tar).collect(), members, spec)
    }

    fn new(shards: Vec<Shard>, members: Members, spec: &str) -> Result<Self, DataError> {
        if let Some(absent) = shards.iter().find(|shard| !shard.path().is_file()) {
            return Err(DataError::NoShards(absent.path().display().to_string()));
        }
        if shards.is_empty() {
            return Err(DataError::NoShards(spec.to_owned()));
        }
        Ok(Self { shards, members })
    }

    /// The shards in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// The samples of one shard in their order. An incomplete sample is skipped and named in a warning.
    ///
    /// # Errors
    /// An unreadable shard, or one without a usable sample.
    pub fn read(&self, shard: &Shard) -> Result<Vec<Sample>, DataError> {
        let path = shard.path();
        let mut samples = Vec::new();
        let mut skipped = 0;
        shard.for_each(self.members, |key, sample| match sample {
            Ok(sample) => samples.push(sample),
            Err(lack) => {
                skipped += 1;
                if skipped <= MAX_WARNINGS {
                    tracing::warn!("{}: sample {key} has {lack}; it is skipped", path.display());
                }
            }
        })?;
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

impl Shard {
    /// Its file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Tar(path) => path,
            Self::Mds(shard) => shard.path(),
        }
    }

    /// Names of the members or columns of its first sample.
    ///
    /// # Errors
    /// An unreadable shard.
    pub fn names(&self) -> Result<BTreeSet<String>, DataError> {
        match self {
            Self::Tar(path) => {
                let first = tar(path)?.iter().next();
                let Some(first) = first else {
                    return Ok(BTreeSet::new());
                };
                let first = first.map_err(|error| unreadable(path, &error))?;
                let names = first.keys().filter(|name| !name.starts_with("__"));
                Ok(names.map(str::to_owned).collect())
            }
            Self::Mds(shard) => Ok(shard.columns().map(str::to_owned).collect()),
        }
    }

    /// Hands every sample to `take` by its key, or what it lacks.
    ///
    /// # Errors
    /// An unreadable shard.
    pub fn for_each(
        &self,
        members: Members,
        mut take: impl FnMut(&str, Result<Sample, String>),
    ) -> Result<(), DataError> {
        match self {
            Self::Tar(path) => {
                for entry in tar(path)?.iter() {
                    let entry = entry.map_err(|error| unreadable(path, &error))?;
                    let key = entry.key().unwrap_or_default();
                    let part = |name: &str| Some(entry.get_first(&[name])?.as_bytes()?.to_vec());
                    take(key, members.of_tar(key, part));
                }
            }
            Self::Mds(shard) => {
                let name = shard
                    .path()
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy();
                for (i, entry) in shard.read()?.iter().enumerate() {
                    let key = format!("{name}:{i}");
                    let part = |column: &str| entry.get(column).map(<[u8]>::to_vec);
                    take(&key, members.of_mds(&key, part));
                }
            }
        }
        Ok(())
    }
}

impl Members {
    /// A sample of the members of a tar, or what it lacks.
    fn of_tar(self, key: &str, part: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Sample, String> {
        let text = part("txt");
        match self {
            Self::Pictures => {
                let image = IMAGES.iter().find_map(|name| part(name));
                picture(key, image, text)
            }
            Self::Latents { size } => {
                let name = format!("latent-{size}.npy");
                let arrays = [part(&name), part("caption.npy")];
                latents(
                    key,
                    arrays.map(|array| array.map(Stored::Npy)),
                    [&name, "caption.npy"],
                    text,
                )
            }
        }
    }

    /// A sample of the columns of an MDS shard, or what it lacks.
    fn of_mds(self, key: &str, part: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Sample, String> {
        let text = part("caption");
        match self {
            Self::Pictures => picture(key, part("image"), text),
            Self::Latents { size } => {
                let name = format!("latents_{size}");
                let arrays = [part(&name), part("caption_latents")];
                let arrays = arrays.map(|array| array.map(Stored::Halves));
                latents(key, arrays, [&name, "caption_latents"], text)
            }
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Pictures => {
                "KEY.jpg (or .png, .webp) and KEY.txt, or columns image and caption".into()
            }
            Self::Latents { size } => format!(
                "KEY.latent-{size}.npy and KEY.caption.npy, or columns latents_{size} and caption_latents"
            ),
        }
    }
}

fn tar(path: &Path) -> Result<WebDataset, DataError> {
    WebDataset::builder_verbatim([path.to_string_lossy()])
        .node_split(NodeSplit::None)
        .worker_split(false)
        .empty_check(false)
        .build()
        .map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> DataError {
    DataError::Unreadable {
        shard: path.to_owned(),
        message: error.to_string(),
    }
}

/// A file of pixels and its caption.
fn picture(key: &str, image: Option<Vec<u8>>, text: Option<Vec<u8>>) -> Result<Sample, String> {
    let image = Image::Encoded(image.ok_or("no image")?);
    let caption = trimmed(&text.ok_or("no caption")?);
    if caption.is_empty() {
        return Err("an empty caption".into());
    }
    let key = key.to_owned();
    Ok(Sample {
        key,
        caption,
        image,
    })
}

/// Latent and caption states, and the text they were made of, if it was kept.
fn latents(
    key: &str,
    arrays: [Option<Stored>; 2],
    names: [&str; 2],
    text: Option<Vec<u8>>,
) -> Result<Sample, String> {
    let [latent, caption] = arrays;
    let missing = |i: usize| move || format!("no {}", names[i]);
    let image = Image::Precomputed {
        latent: latent.ok_or_else(missing(0))?,
        caption: caption.ok_or_else(missing(1))?,
    };
    Ok(Sample {
        key: key.to_owned(),
        caption: trimmed(&text.unwrap_or_default()),
        image,
    })
}

fn trimmed(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().to_owned()
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
        if self.position.shard >= self.shards.shards.len() {
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
        let mut order: Vec<&Shard> = self.shards.iter().collect();
        Stream::new(self.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
        for next in &order[shard..] {
            self.window.extend(self.shards.read(next)?);
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
