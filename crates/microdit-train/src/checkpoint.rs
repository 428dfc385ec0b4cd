//! The state of a run on disk: a directory that appears whole, and is verified before it is used.

use crate::{
    error::TrainError,
    optim::{Moments, Optimiser},
    recipe::{CheckpointConfig, Stage},
};
use burn::{
    module::AutodiffModule,
    tensor::{DType, Tensor, TensorData, backend::AutodiffBackend},
};
use microdit::{
    Dit, DitBackend,
    ema::Ema,
    weights::{StateDict, WeightsError},
};
use microdit_data::Position;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// Version of the layout.
const FORMAT: u32 = 1;

/// Names of the files.
const STATE: &str = "state.json";
const MODEL: &str = "model.safetensors";
const OPTIMISER: &str = "optimiser.safetensors";

/// Start of the name of a directory that is being written.
const PART: &str = ".part-";

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Index of the stage.
    pub stage: usize,
    /// Finished steps of the stage.
    pub stage_step: u64,
    /// Finished steps of the run.
    pub step: u64,
    /// Images seen by the run.
    pub images: u64,
    /// Where the next batch begins.
    pub position: Position,
    /// Steps the optimiser has taken.
    pub optimiser_steps: u64,
    /// Time spent, in seconds.
    pub seconds: f64,
}

/// Everything a run goes on from.
pub struct State<B: AutodiffBackend>
where
    B: DitBackend,
    B::InnerBackend: DitBackend,
{
    /// How far it is.
    pub progress: Progress,
    /// The network.
    pub dit: Dit<B>,
    /// The optimiser with its moments.
    pub optimiser: Optimiser<B::InnerBackend>,
    /// Averages of the weights.
    pub emas: Vec<Ema<Dit<B::InnerBackend>>>,
}

/// What `state.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    progress: Progress,
    files: BTreeMap<String, Sum>,
}

/// Size and checksum of a file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sum {
    bytes: u64,
    crc32c: u32,
}

/// A checkpoint that was verified.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    progress: Progress,
    files: Vec<String>,
}

impl<B> State<B>
where
    B: AutodiffBackend + DitBackend,
    B::InnerBackend: DitBackend,
{
    /// Writes the state into `checkpoints`, and removes what `config` does not keep. The new directory appears under its
    /// name only when every file in it is on the disk.
    ///
    /// # Errors
    /// Whatever keeps a file from being written; older checkpoints are untouched then.
    pub fn save(
        &self,
        checkpoints: &Path,
        config: &CheckpointConfig,
    ) -> Result<PathBuf, TrainError> {
        let step = self.progress.step;
        let part = checkpoints.join(format!("{PART}{step}"));
        let folder = checkpoints.join(format!("step-{step:010}"));
        let written = self.write(&part).and_then(|()| {
            if folder.exists() {
                // The same step, saved again after a resume.
                fs::remove_dir_all(&folder).map_err(TrainError::io(&folder))?;
            }
            fs::rename(&part, &folder).map_err(TrainError::io(&folder))?;
            sync(checkpoints)
        });
        if let Err(error) = written {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        prune(checkpoints, config)?;
        Ok(folder)
    }

    fn write(&self, part: &Path) -> Result<(), TrainError> {
        fs::create_dir_all(part).map_err(TrainError::io(part))?;
        save_network(&part.join(MODEL), &self.dit.valid())?;
        for (i, ema) in self.emas.iter().enumerate() {
            if let Some(average) = ema.average() {
                save_network(&part.join(ema_file(i)), average)?;
            }
        }
        let moments = self.optimiser.moments().iter().flat_map(|(name, moments)| {
            let named = |kind: &str, tensor: &Tensor<_, 1>| {
                (format!("{kind}.{name}"), tensor.clone().into_data())
            };
            [
                named("exp_avg", &moments.first),
                named("exp_avg_sq", &moments.second),
            ]
        });
        let moments = StateDict::from_tensors(moments);
        // A stage that has not taken a step has none.
        if !moments.is_empty() {
            moments.write_safetensors(&part.join(OPTIMISER), DType::F32, HashMap::new())?;
        }
        let mut files = BTreeMap::new();
        for name in file_names(part)? {
            files.insert(name.clone(), sum(&part.join(name))?);
        }
        let manifest = Manifest {
            format: FORMAT,
            progress: self.progress.clone(),
            files,
        };
        let text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data");
        let path = part.join(STATE);
        microdit::write_whole(&path, |path| fs::write(path, text))
            .map_err(TrainError::io(&path))?;
        sync(part)
    }
}

impl Checkpoint {
    /// The newest checkpoint that is whole; a damaged one is named in a warning and passed over.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn newest(checkpoints: &Path) -> Result<Option<Self>, TrainError> {
        for folder in folders(checkpoints)?.into_iter().rev() {
            match Self::verify(&folder) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(damage) => tracing::warn!(
                    "{} is damaged ({damage}); the checkpoint before it is used",
                    folder.display()
                ),
            }
        }
        Ok(None)
    }

    fn verify(folder: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(folder.join(STATE)).map_err(|error| format!("{STATE}: {error}"))?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| format!("{STATE}: {error}"))?;
        if manifest.format != FORMAT {
            return Err(format!("format {}, expected {FORMAT}", manifest.format));
        }
        for (name, expected) in &manifest.files {
            let found = sum(&folder.join(name)).map_err(|error| error.to_string())?;
            if found != *expected {
                return Err(format!(
                    "{name}: expected {} bytes of checksum {:08x}, found {} of {:08x}",
                    expected.bytes, expected.crc32c, found.bytes, found.crc32c
                ));
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            progress: manifest.progress,
            files: manifest.files.into_keys().collect(),
        })
    }

    /// How far the run was.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The weights to sample from: the first average, or the network as trained if there is none.
    pub fn weights(&self) -> PathBuf {
        let average = ema_file(0);
        let has_average = self.files.contains(&average);
        self.folder.join(if has_average { &average } else { MODEL })
    }

    /// Reads the state of a run that was in `stage`.
    ///
    /// # Errors
    /// Files that cannot be read, or do not fit the stage's network.
    pub fn load<B>(
        &self,
        stage: &Stage,
        seed: u64,
        device: &B::Device,
    ) -> Result<State<B>, TrainError>
    where
        B: AutodiffBackend + DitBackend,
        B::InnerBackend: DitBackend,
    {
        let network = stage.model.init::<B>(seed, device)?;
        let dit = StateDict::read(&self.folder.join(MODEL))?.load_into(network, device)?;
        let mut emas = Vec::new();
        for (i, config) in stage.ema.iter().enumerate() {
            let average = if self.files.contains(&ema_file(i)) {
                let file = StateDict::read(&self.folder.join(ema_file(i)))?;
                Some(file.load_into(dit.valid(), device)?)
            } else {
                None
            };
            emas.push(Ema::resume(*config, average));
        }
        let moments = match self.files.iter().any(|name| name == OPTIMISER) {
            true => read_moments(&self.folder.join(OPTIMISER), device)?,
            false => BTreeMap::new(),
        };
        let steps = self.progress.optimiser_steps;
        Ok(State {
            progress: self.progress.clone(),
            dit,
            optimiser: Optimiser::resume(stage.optimiser.clone(), steps, moments),
            emas,
        })
    }
}

/// Writes a network with the buffers PyTorch's strict loading expects.
pub(crate) fn save_network<B: DitBackend>(path: &Path, dit: &Dit<B>) -> Result<(), WeightsError> {
    let patch = dit.final_layer.linear.weight.dims()[0];
    let buffers = [
        ("pos_embed".to_owned(), dit.positions().into_data()),
        (
            "mask_token".to_owned(),
            TensorData::new(vec![0f32; patch], [1, 1, patch]),
        ),
    ];
    StateDict::from_module(dit)
        .with_buffers(buffers)
        .write_safetensors(path, DType::F32, HashMap::new())
}

fn read_moments<B: DitBackend>(
    path: &Path,
    device: &B::Device,
) -> Result<BTreeMap<String, Moments<B>>, TrainError> {
    let file = StateDict::read(path)?;
    let tensor = |data: &TensorData| Tensor::<B, 1>::from_data(data.clone(), device);
    let firsts = file
        .iter()
        .filter_map(|(name, first)| Some((name.strip_prefix("exp_avg.")?, first)));
    firsts
        .map(|(name, first)| {
            let second = file.get(&format!("exp_avg_sq.{name}"));
            let second = second.ok_or_else(|| WeightsError::Format {
                path: path.to_owned(),
                message: format!("{name} has a first moment and no second"),
            })?;
            let moments = Moments {
                first: tensor(first),
                second: tensor(second),
            };
            Ok((name.to_owned(), moments))
        })
        .collect()
}

fn ema_file(index: usize) -> String {
    match index {
        0 => "ema.safetensors".to_owned(),
        i => format!("ema-{}.safetensors", i + 1),
    }
}

/// Removes all but the newest checkpoints and the milestones, and what a killed process left half-written.
fn prune(checkpoints: &Path, config: &CheckpointConfig) -> Result<(), TrainError> {
    let folders = folders(checkpoints)?;
    let old = folders.len().saturating_sub(config.keep);
    let dispensable = folders[..old].iter().filter(|folder| {
        let milestone = config.milestones.zip(step_of(folder));
        !milestone.is_some_and(|(every, step)| step.is_multiple_of(every))
    });
    for folder in dispensable {
        fs::remove_dir_all(folder).map_err(TrainError::io(folder))?;
    }
    for name in file_names(checkpoints)? {
        if name.starts_with(PART) {
            let path = checkpoints.join(name);
            fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
        }
    }
    Ok(())
}

/// Directories of checkpoints, oldest first.
fn folders(checkpoints: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !checkpoints.exists() {
        return Ok(Vec::new());
    }
    let names = file_names(checkpoints)?;
    let paths = names.into_iter().map(|name| checkpoints.join(name));
    let mut folders: Vec<PathBuf> = paths.filter(|path| step_of(path).is_some()).collect();
    folders.sort_by_key(|path| step_of(path));
    Ok(folders)
}

fn step_of(folder: &Path) -> Option<u64> {
    folder
        .file_name()?
        .to_str()?
        .strip_prefix("step-")?
        .parse()
        .ok()
}

fn file_names(folder: &Path) -> Result<Vec<String>, TrainError> {
    fs::read_dir(folder)
        .map_err(TrainError::io(folder))?
        .map(|entry| {
            let entry = entry.map_err(TrainError::io(folder))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

fn sum(path: &Path) -> Result<Sum, TrainError> {
    let mut file = File::open(path).map_err(TrainError::io(path))?;
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut crc32c) = (0, 0);
    loop {
        let count = file.read(&mut buffer).map_err(TrainError::io(path))?;
        if count == 0 {
            break;
        }
        crc32c = crc32c::crc32c_append(crc32c, &buffer[..count]);
        bytes += count as u64;
    }
    Ok(Sum { bytes, crc32c })
}

/// Flushes a directory's names to the disk; systems that do not open directories do that themselves.
fn sync(folder: &Path) -> Result<(), TrainError> {
    if cfg!(unix) {
        let opened = File::open(folder).and_then(|folder| folder.sync_all());
        opened.map_err(TrainError::io(folder))?;
    }
    Ok(())
}
