//! The data a stage names, and what identifies them: a place in one list of shards means nothing in another.

use crate::{
    error::TrainError,
    recipe::{DataConfig, Recipe, Stage},
    sampling::read_prompts,
    sealed,
};
use microdit_data::{
    Columns, DataError, DatasetIndex, Loader, LoaderConfig, Members, Position, Prompts, Shapes,
    Shard, ShardFile, Shards, Source, Variation, files::read_json,
};
use microdit_encoders::hub::locate;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Write as _},
    path::Path,
};

/// Number of the last of the pieces of a shard that are read to identify it, and bytes of each.
const PIECES: u64 = 7;
const PIECE: u64 = 4096;

/// What identifies a stage's data, wherever they lie: names, sizes and probes of the shards in their order, and where an index
/// has them their checksums, with the weights they are mixed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataIdentity {
    /// Number of shards.
    shards: u64,
    /// Bytes in them.
    bytes: u64,
    /// Checksum of all that identifies them.
    crc32c: u32,
}

impl fmt::Display for DataIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shards,
            bytes,
            crc32c,
        } = self;
        write!(f, "{shards} shards of {bytes} bytes, {crc32c:08x}")
    }
}

/// What the stages of a recipe read, looked at before anything is begun.
pub(crate) struct Inputs(Vec<Result<DataIdentity, TrainError>>);

impl Inputs {
    /// Looks at the data of every stage; shards of a later stage may still be missing.
    ///
    /// # Errors
    /// Stages that do not say where their data lie; held-out shards or encoders that are not there.
    pub(crate) fn look_at(recipe: &Recipe) -> Result<Self, TrainError> {
        recipe.require_shards()?;
        let run = &recipe.run;
        for encoder in [&run.encoders.vae, &run.encoders.text]
            .into_iter()
            .flatten()
        {
            locate(encoder)?;
        }
        if let Some(shards) = run
            .evaluation
            .iter()
            .find_map(|config| config.shards.as_ref())
            && let Some(stage) = recipe.stages.first()
        {
            open(stage, &[(shards.as_str(), 1.0)], Vec::new(), false)?;
            same_padding(stage, shards)?;
        }
        let mut found = Vec::<Result<DataIdentity, TrainError>>::new();
        for stage in &recipe.stages {
            for (shards, _) in stage.data.lists() {
                same_padding(stage, shards)?;
            }
            // Most stages read what the one before them reads.
            let same = |other: &Stage| other.reads_what(stage);
            let mut known = found.iter().zip(&recipe.stages);
            let known = known
                .find_map(|(found, other)| found.as_ref().ok().filter(|_| same(other)).copied());
            found.push(known.map_or_else(|| DataIdentity::of(stage), Ok));
        }
        Ok(Self(found))
    }

    /// What the data of stage `index` are, if they are there.
    pub(crate) fn of_stage(&self, index: usize) -> Option<&DataIdentity> {
        self.0.get(index)?.as_ref().ok()
    }

    /// Checks that the data of stage `next` are there, and warns about those of later stages that are not.
    pub(crate) fn require(
        self,
        next: usize,
        recipe: &Recipe,
    ) -> Result<Vec<Option<DataIdentity>>, TrainError> {
        let mut found = Vec::new();
        for (i, identity) in self.0.into_iter().enumerate() {
            match identity {
                Ok(identity) => found.push(Some(identity)),
                Err(error) if i == next => return Err(error),
                Err(error) => {
                    if i > next {
                        tracing::warn!(
                            "stage {} will need its data: {error}",
                            recipe.stages[i].name
                        );
                    }
                    found.push(None);
                }
            }
        }
        Ok(found)
    }
}

impl Stage {
    /// Whether it reads the same samples in the same order as `other`.
    pub(crate) fn reads_what(&self, other: &Self) -> bool {
        let of = |stage: &Self| (stage.data.kind(), stage.prompts().map(Path::to_owned));
        of(self) == of(other) && self.data.lists() == other.data.lists()
    }
}

impl DataIdentity {
    /// Looks at the data of `stage`.
    pub(crate) fn of(stage: &Stage) -> Result<Self, TrainError> {
        Self::of_stage(stage, true)
    }

    /// Likewise; checksums of an index are `indexed` with the rest, or left out: a copy of the same shards may have no index.
    pub(crate) fn of_stage(stage: &Stage, indexed: bool) -> Result<Self, TrainError> {
        if let Some(path) = stage.prompts() {
            let (bytes, crc32c) = sealed::Sum::of(path)?.parts();
            return Ok(Self {
                shards: 0,
                bytes,
                crc32c,
            });
        }
        Self::of_lists(stage, &stage.data.lists(), indexed)
    }

    /// Looks at lists of shards with their weights, of the kind that `stage` reads; data that are generated have none.
    pub(crate) fn of_lists(
        stage: &Stage,
        lists: &[(&str, f64)],
        indexed: bool,
    ) -> Result<Self, TrainError> {
        let mut text = format!("{}\n", stage.data.kind());
        let (mut count, mut bytes) = (0, 0);
        let Source::Mix(lists) = open(stage, lists, Vec::new(), false)? else {
            let crc32c = crc32c::crc32c(text.as_bytes());
            return Ok(Self {
                shards: 0,
                bytes: 0,
                crc32c,
            });
        };
        for (shards, weight) in lists {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{weight}");
            let files: Vec<&ShardFile> = shards.iter().map(Shard::file).collect();
            // Disks far away answer many at a time.
            let probes: Vec<_> = files.par_iter().map(|file| probe(file)).collect();
            for (file, probe) in files.into_iter().zip(probes) {
                let (size, probe) = probe?;
                let name = file.name();
                let sum = file.indexed_sha256().filter(|_| indexed);
                let sum = sum.unwrap_or_default();
                let _ = writeln!(text, "{name}\t{size}\t{probe:08x}\t{sum}");
                count += 1;
                bytes += size;
            }
        }
        Ok(Self {
            shards: count,
            bytes,
            crc32c: crc32c::crc32c(text.as_bytes()),
        })
    }
}

/// Checks that a directory of latents, where its index says how captions were encoded, has the padding that the stage expects.
fn same_padding(stage: &Stage, shards: &str) -> Result<(), TrainError> {
    let folder = Path::new(shards);
    let DataConfig::Latents { trimmed, .. } = stage.data else {
        return Ok(());
    };
    let file = folder.join(DatasetIndex::FILE);
    if !file.is_file() {
        return Ok(());
    }
    let index: DatasetIndex = read_json(&file)?;
    let of_captions = index.contents.get("caption_channels").is_some();
    let found = index.contents.get("trimmed");
    let found = found.and_then(|found| found.as_bool()).unwrap_or(false);
    if !of_captions || found == trimmed {
        return Ok(());
    }
    Err(TrainError::Padding {
        stage: stage.name.clone(),
        folder: folder.to_owned(),
        trimmed: found,
    })
}

/// Size of a shard, and the checksum of pieces of it: tars of other contents often have the same size, and reading all of
/// them would take hours.
fn probe(file: &ShardFile) -> Result<(u64, u32), DataError> {
    let size = file.bytes()?;
    let begin = |i| size.saturating_sub(PIECE) / PIECES * i;
    let ranges: Vec<_> = (0..=PIECES).map(|i| begin(i)..begin(i) + PIECE).collect();
    let pieces = file.pieces(&ranges)?;
    let append = |crc32c, piece: &Vec<u8>| crc32c::crc32c_append(crc32c, piece);
    Ok((size, pieces.iter().fold(0, append)))
}

/// The source of `stage` over `lists` of shards by their weights, unless its data are generated, with the named captions where there
/// are several, and latents both ways if `flipped`.
fn open(
    stage: &Stage,
    lists: &[(&str, f64)],
    captions: Vec<String>,
    flipped: bool,
) -> Result<Source, DataError> {
    let size = stage.data.image_size();
    let members = match stage.data {
        DataConfig::Shapes { .. } => return Ok(Source::Shapes(Shapes { size })),
        DataConfig::WebDataset { .. } if captions.is_empty() => Members::Pictures,
        DataConfig::WebDataset { .. } => Members::Named(Columns::of_captions(&captions).into()),
        DataConfig::Latents { .. } => Members::Latents {
            size,
            captions,
            flipped,
        },
    };
    let open =
        |&(shards, weight): &(&str, f64)| Ok((Shards::open(shards, members.clone())?, weight));
    lists
        .iter()
        .map(open)
        .collect::<Result<_, _>>()
        .map(Source::Mix)
}

/// The loader of the training samples of `stage`, beginning at `start`.
pub(crate) fn loader(stage: &Stage, seed: u64, start: &Position) -> Result<Loader, TrainError> {
    let data = &stage.data;
    let variation = data.variation();
    let source = match stage.prompts() {
        Some(path) => Source::Prompts(Prompts::new(read_prompts(path)?)?),
        None => open(stage, &data.lists(), data.caption_names(), variation.flip)?,
    };
    let config = LoaderConfig {
        buckets: stage.buckets()?,
        ..config(stage, seed, stage.batch, variation)
    };
    Ok(Loader::new(source, config, start))
}

/// A loader of `count` samples for `stage` from `shards`, unless its data are generated, beginning at `start`: as they are, with the
/// caption of that name, or the first, where they have several.
pub(crate) fn held_out(
    stage: &Stage,
    shards: Option<&str>,
    caption: Option<&str>,
    seed: u64,
    count: usize,
    start: &Position,
) -> Result<Loader, TrainError> {
    let lists: Vec<(&str, f64)> = shards.map(|shards| (shards, 1.0)).into_iter().collect();
    let mut captions = stage.data.caption_names();
    if let Some(caption) = caption {
        captions.retain(|name| name != caption);
        captions.insert(0, caption.to_owned());
    }
    let source = open(stage, &lists, captions, false)?;
    let mut config = config(stage, seed, count, Variation::default());
    // Pictures are cropped to squares; latents are what they are, and those of one size are taken.
    if let DataConfig::Latents { .. } = stage.data {
        config.buckets = stage.buckets()?;
    }
    Ok(Loader::new(source, config, start))
}

fn config(stage: &Stage, seed: u64, batch: usize, variation: Variation) -> LoaderConfig {
    LoaderConfig {
        seed,
        batch,
        shape: stage.model.latent(),
        buckets: None,
        shrinks_by: stage.shrinks_by(),
        caption: [stage.data.tokens(), stage.model.caption_channels()],
        trimmed: stage.data.trimmed(),
        threads: stage.data.threads(),
        max_damage: stage.data.max_damage(),
        variation,
    }
}
