//! Pictures to be judged or compared with: a list of files, a directory, or shards.

use super::error::EvaluateError;
use crate::prompts::geneval;
use image::RgbImage;
use microdit::checksum::{self, hexadecimal};
use microdit_data::{
    DataError, Folder, Image, LeftOut, Members, Sample, Shapes, Shard, ShardFile, Shards,
    image as decoding,
};
use microdit_encoders::read_labels;
use microdit_train::recipe::MAX_IMAGES;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// What the generated dataset is called.
pub const SHAPES: &str = "shapes";

/// Pictures in a fixed order, known by their content.
#[derive(Clone, Debug)]
pub struct PictureSet {
    source: Source,
    /// Pictures that are used at most, the first ones.
    limit: u64,
    sha256: String,
    /// How messages call it.
    name: String,
}

#[derive(Clone, Debug)]
enum Source {
    /// With what another file says they show.
    Files(Vec<(PathBuf, Option<String>)>),
    /// With the number of samples that have a picture.
    Shards(Shards, u64),
    Shapes(Shapes),
}

/// A picture as it is stored.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its path, or its key in a shard.
    pub name: String,
    /// What it is said to show: its caption in a shard, the prompt beside it in [GenEval's layout](crate::prompts::geneval), or that in
    /// the label of a PNG drawn here.
    pub caption: Option<String>,
    stored: Stored,
}

#[derive(Clone, Debug)]
enum Stored {
    Path(PathBuf),
    Image(Image),
}

impl Picture {
    /// Its pixels, upright, with white where it is transparent.
    ///
    /// # Errors
    /// What is wrong with it, as [`LeftOut::note`] takes it.
    pub fn pixels(&self) -> Result<RgbImage, String> {
        match &self.stored {
            Stored::Path(path) => {
                let file = std::fs::read(path)
                    .map_err(|error| format!("an image file that cannot be read: {error}"))?;
                decoding::decode(&file)
            }
            Stored::Image(Image::Encoded(file)) => decoding::decode(file),
            Stored::Image(Image::Decoded(image)) => Ok(image.clone()),
            Stored::Image(Image::Absent) => Err("a caption alone, not a picture".into()),
            Stored::Image(Image::Precomputed { .. }) => Err("a latent, not a picture".into()),
        }
    }
}

impl PictureSet {
    /// The first `limit` of these files, in this order.
    ///
    /// # Errors
    /// If there are none, or one cannot be read.
    pub fn of_files(name: &str, files: Vec<PathBuf>, limit: u64) -> Result<Self, EvaluateError> {
        let files = files.into_iter().map(|path| (path, None)).collect();
        Self::of_captioned(name, files, limit)
    }

    fn of_captioned(
        name: &str,
        files: Vec<(PathBuf, Option<String>)>,
        limit: u64,
    ) -> Result<Self, EvaluateError> {
        if files.is_empty() {
            return Err(EvaluateError::NoPictures { name: name.into() });
        }
        let used = files
            .len()
            .min(usize::try_from(limit).unwrap_or(usize::MAX));
        let sha256 = of_contents(&files[..used], |(path, _)| {
            checksum::of_file(path).map_err(DataError::io(path))
        })?;
        Ok(Self {
            source: Source::Files(files),
            limit,
            sha256,
            name: name.into(),
        })
    }

    /// The first `limit` pictures of what `spec` names: shards as [`Shards::open`] takes them, or a directory of pictures, with
    /// those below it, in the order of their paths. Of a directory in GenEval's layout these are the samples of its prompts, and no grid.
    ///
    /// # Errors
    /// If there are none, or a file cannot be read; a prompt of GenEval's layout without an object or a picture.
    pub fn open(spec: &str, limit: u64) -> Result<Self, EvaluateError> {
        let path = Path::new(spec);
        let shards = match Shards::open(spec, Members::Pictures) {
            Err(DataError::NoShards(_)) if geneval::is_laid_out(path) => {
                let prompts = geneval::pictures(path)?.into_iter();
                let files = prompts.flat_map(|(prompt, files)| {
                    let caption = move |file| (file, Some(prompt.text.clone()));
                    files.into_iter().map(caption)
                });
                return Self::of_captioned(spec, files.collect(), limit);
            }
            Err(DataError::NoShards(_)) if path.is_dir() => {
                return Self::of_files(spec, Folder::pictures(path)?, limit);
            }
            shards => shards?,
        };
        let files: Vec<&ShardFile> = shards.iter().map(Shard::file).collect();
        let sha256 = of_contents(&files, |file| file.checksum())?;
        let count = count(&shards)?;
        Ok(Self {
            source: Source::Shards(shards, count),
            limit,
            sha256,
            name: spec.into(),
        })
    }

    /// So many pictures of the generated dataset, of `size` pixels; none of them is trained on.
    ///
    /// # Errors
    /// If there are to be none.
    pub fn of_shapes(size: u32, limit: u64) -> Result<Self, EvaluateError> {
        let name = SHAPES.to_owned();
        if limit == 0 {
            return Err(EvaluateError::NoPictures { name });
        }
        Ok(Self {
            source: Source::Shapes(Shapes { size }),
            limit,
            sha256: format!("{SHAPES} {size}"),
            name,
        })
    }

    /// How messages call it: as it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the contents and, where these are not all, how many of the pictures are used, in hexadecimal. What they are called does
    /// not matter.
    pub fn identity(&self) -> String {
        let all = match &self.source {
            Source::Files(files) => files.len() as u64,
            Source::Shards(_, count) => *count,
            Source::Shapes(_) => u64::MAX,
        };
        // A limit that leaves none out is none.
        let limit = if self.limit < all {
            self.limit
        } else {
            u64::MAX
        };
        let mut digest = Sha256::new();
        digest.update(&self.sha256);
        digest.update(limit.to_le_bytes());
        hexadecimal(&digest.finalize())
    }

    /// How many pictures there are, whether they can be decoded or not.
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Files(files) => (files.len() as u64).min(self.limit),
            Source::Shards(_, count) => (*count).min(self.limit),
            Source::Shapes(_) => self.limit,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the pictures to `take` in their order, until it returns false, and returns the samples that lack one.
    ///
    /// # Errors
    /// Shards that cannot be read at all, and the errors of `take`.
    pub fn for_each(
        &self,
        mut take: impl FnMut(Picture) -> Result<bool, EvaluateError>,
    ) -> Result<LeftOut, EvaluateError> {
        let mut left_out = LeftOut::default();
        let mut taken = 0;
        let mut result = Ok(());
        let mut hand_on = |picture: Picture| {
            taken += 1;
            match take(picture) {
                Ok(more) => more && taken < self.limit,
                Err(error) => {
                    result = Err(error);
                    false
                }
            }
        };
        match &self.source {
            Source::Files(files) => {
                for (path, caption) in files {
                    if !hand_on(Picture::at(path, caption.as_deref())) {
                        break;
                    }
                }
            }
            Source::Shapes(shapes) => {
                for index in 0.. {
                    let sample = shapes.sample(0, MAX_IMAGES + index);
                    if !hand_on(Picture::of_sample(sample)) {
                        break;
                    }
                }
            }
            Source::Shards(shards, _) => {
                for shard in shards.in_turn() {
                    let mut more = true;
                    let read = shard.for_each(shards.members(), |key, sample| {
                        match sample {
                            Ok(sample) => {
                                more = hand_on(Picture::of_sample(sample));
                            }
                            Err(lack) => left_out.note(&shard.name(), key, &lack),
                        }
                        more
                    });
                    if let Err(error @ DataError::Remote(_)) = read {
                        return Err(error.into());
                    }
                    if let Err(error) = read {
                        left_out.note(&shard.name(), "its rest", &error.reason());
                    }
                    if !more {
                        break;
                    }
                }
            }
        }
        result?;
        if taken == 0 {
            return Err(EvaluateError::NoPictures {
                name: self.name.clone(),
            });
        }
        Ok(left_out)
    }
}

impl Picture {
    fn of_sample(sample: Sample) -> Self {
        Self {
            name: sample.key,
            caption: Some(sample.caption),
            stored: Stored::Image(sample.image),
        }
    }

    /// The picture in a file, which shows what `caption` says or, without one, its label.
    fn at(path: &Path, caption: Option<&str>) -> Self {
        let of_label = || {
            let mut labels = read_labels(path).unwrap_or_default().into_iter();
            labels.find(|(key, _)| key == "prompt")
        };
        Self {
            name: path.display().to_string(),
            caption: match caption {
                Some(caption) => Some(caption.to_owned()),
                None => of_label().map(|(_, prompt)| prompt),
            },
            stored: Stored::Path(path.to_owned()),
        }
    }
}

/// Samples of shards that have a picture; what cannot be read has none.
fn count(shards: &Shards) -> Result<u64, DataError> {
    let shards_in_order: Vec<&Shard> = shards.iter().collect();
    let of = |shard: &&Shard| {
        let mut count = 0;
        let read = shard.for_each(shards.members(), |_, sample| {
            count += u64::from(sample.is_ok());
            true
        });
        match read {
            Err(error @ DataError::Remote(_)) => Err(error),
            // What is wrong with it is said by whoever reads its pictures.
            _ => Ok(count),
        }
    };
    shards_in_order.par_iter().map(of).sum()
}

/// SHA-256 over those of the files, which `of` finds with their lengths.
fn of_contents<F: Sync>(
    files: &[F],
    of: impl Fn(&F) -> Result<(u64, String), DataError> + Sync,
) -> Result<String, EvaluateError> {
    let sums: Vec<String> = files
        .par_iter()
        .map(|file| Ok(of(file)?.1))
        .collect::<Result<_, DataError>>()?;
    let mut digest = Sha256::new();
    for sum in sums {
        digest.update(sum);
    }
    Ok(hexadecimal(&digest.finalize()))
}

#[cfg(test)]
mod tests;
