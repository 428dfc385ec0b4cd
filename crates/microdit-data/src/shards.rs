//! WebDataset tars: members `KEY.jpg` (or .png, .webp) and `KEY.txt` make a sample.

use crate::sample::{DataError, Image, Sample};
use microdit::rng::{Purpose, Stream};
use std::path::{Path, PathBuf};
use webdataset::{NodeSplit, WebDataset};

/// Extensions of images, in the order they are looked for.
const IMAGES: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Samples that wait, undecoded, to be drawn in random order.
const SHUFFLE_BUFFER: usize = 2000;

/// Warnings about single samples after which the rest are only counted.
const MAX_WARNINGS: u64 = 10;

/// A list of shards.
#[derive(Clone, Debug)]
pub struct Shards {
    paths: Vec<PathBuf>,
}

impl Shards {
    /// A tar, a directory of tars, or a pattern with braces such as `train-{000..009}.tar`.
    ///
    /// # Errors
    /// If that names no existing shard.
    pub fn open(spec: &str) -> Result<Self, DataError> {
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
        Ok(Self { paths })
    }

    /// The samples of one shard in their order. A sample without image or caption is skipped and named in a warning.
    ///
    /// # Errors
    /// An unreadable shard, or one without a usable sample.
    pub fn read(path: &Path) -> Result<Vec<Sample>, DataError> {
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
            let key = entry.key().unwrap_or_default().to_owned();
            let bytes = |names: &[&str]| {
                entry
                    .get_first(names)?
                    .as_bytes()
                    .map(|bytes| bytes.to_vec())
            };
            let caption =
                bytes(&["txt"]).map(|text| String::from_utf8_lossy(&text).trim().to_owned());
            match (bytes(&IMAGES), caption) {
                (Some(image), Some(caption)) if !caption.is_empty() => samples.push(Sample {
                    key,
                    caption,
                    image: Image::Encoded(image),
                }),
                (image, caption) => {
                    skipped += 1;
                    let lack = match (image, caption) {
                        (None, _) => "no image",
                        (_, None) => "no caption",
                        _ => "an empty caption",
                    };
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
            return Err(DataError::EmptyShard(path.to_owned()));
        }
        Ok(samples)
    }

    /// An endless stream: every pass has its own order of shards, and samples are drawn from a buffer that several
    /// shards flow through. It depends on `seed` alone.
    pub(crate) fn stream(
        self,
        seed: u64,
    ) -> impl Iterator<Item = Result<Sample, DataError>> + Send {
        (0..).flat_map(move |epoch| Pass::new(self.paths.clone(), seed, epoch))
    }
}

/// One pass over all shards.
struct Pass {
    shards: std::vec::IntoIter<PathBuf>,
    buffer: Vec<Sample>,
    random: Stream,
}

impl Pass {
    fn new(mut paths: Vec<PathBuf>, seed: u64, epoch: u64) -> Self {
        let mut random = Stream::new(seed, Purpose::Shuffle, epoch, 0);
        random.shuffle(&mut paths);
        Self {
            shards: paths.into_iter(),
            buffer: Vec::new(),
            random,
        }
    }
}

impl Iterator for Pass {
    type Item = Result<Sample, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.buffer.len() < SHUFFLE_BUFFER {
            match self.shards.next().map(|path| Shards::read(&path)) {
                Some(Ok(samples)) => self.buffer.extend(samples),
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let place = self.random.below(self.buffer.len());
        Some(Ok(self.buffer.swap_remove(place)))
    }
}
