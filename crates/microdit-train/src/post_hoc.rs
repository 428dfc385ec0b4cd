//! Snapshots of the averages that a stage tracks, and averages of any length made of them when it is done (EDM2, arXiv
//! 2312.02696, section 3).
//!
//! A run keeps them under `snapshots/`, a directory for each stage, in it one for each step. Such a directory appears whole or not
//! at all and holds a record of the checksums, by which it is verified when it is read.

use crate::{
    checkpoint::{folders, part, place, save_result, save_task, step_of, sync, tidy},
    error::TrainError,
    recipe::{Recipe, Stage},
    run::RunDir,
    sealed::{Files, check_contents, seal, sums, unseal},
};
use burn::tensor::TensorData;
use microdit::{
    DitBackend, atomic_file,
    ema::Ema,
    net::Denoiser as _,
    post_hoc_ema::{Profile, SIGMA_RELS, TRACKED, coefficients},
    range::within,
    task::Task,
    weights::StateDict,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Name of the record in a snapshot's directory.
const RECORD: &str = "snapshot.json";

/// Snapshots that count for less are not read: beside the others, they are below the rounding of an f32.
const NEGLIGIBLE: f64 = 1e-9;

/// What `snapshot.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    /// Finished steps of the stage.
    stage_step: u64,
    /// Finished steps of the run.
    step: u64,
    /// Relative widths of the averages, in the order of their files.
    sigma_rels: Vec<f64>,
    files: Files,
}

fn file_of(average: usize) -> String {
    format!("average-{}.safetensors", average + 1)
}

impl RunDir {
    fn snapshots(&self) -> PathBuf {
        self.path().join("snapshots")
    }

    fn snapshots_of(&self, stage: usize) -> PathBuf {
        self.snapshots().join(format!("stage-{stage}"))
    }

    /// Cleans up what a process left that was killed while it wrote a snapshot.
    pub(crate) fn tidy_snapshots(&self) -> Result<(), TrainError> {
        let all = self.snapshots();
        if !all.is_dir() {
            return Ok(());
        }
        for stage in fs::read_dir(&all).map_err(TrainError::io(&all))? {
            tidy(&stage.map_err(TrainError::io(&all))?.path())?;
        }
        Ok(())
    }

    /// Writes the averages of stage number `stage` after `stage_step` of its steps and `step` of the run's.
    ///
    /// # Errors
    /// A value that is not finite, or a file that cannot be written.
    pub(crate) fn save_snapshot<B: DitBackend, T: Task<B>>(
        &self,
        stage: usize,
        [stage_step, step]: [u64; 2],
        averages: &[Ema<T>],
    ) -> Result<(), TrainError> {
        let folder = self.snapshots_of(stage);
        let part = part(&folder, stage_step)?;
        let written = || {
            let mut names = Vec::new();
            for (i, average) in averages.iter().filter_map(Ema::average).enumerate() {
                save_task(&part.join(file_of(i)), average, step)?;
                names.push(file_of(i));
            }
            let record = Snapshot {
                stage_step,
                step,
                sigma_rels: TRACKED.into(),
                files: sums(&part, &names)?,
            };
            let path = part.join(RECORD);
            atomic_file::write(&path, |path| fs::write(path, seal(&record)))
                .map_err(TrainError::io(&path))?;
            sync(&part)?;
            place(&folder, &part, stage_step)?;
            // The names of new directories have to be on the disk before what lies in them counts.
            [self.snapshots(), self.path().to_owned()]
                .iter()
                .try_for_each(|path| sync(path))
        };
        written().inspect_err(|_| {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&part);
        })
    }
}

/// Which average is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its relative width, in [`SIGMA_RELS`].
    pub sigma_rel: f64,
    /// Name or number of the stage; the last one that has snapshots if absent.
    pub stage: Option<String>,
    /// Steps of the stage at its end; those of the newest snapshot if absent.
    pub step: Option<u64>,
}

/// What was reconstructed.
#[derive(Clone, Debug)]
pub struct Reconstructed {
    /// Name of the stage.
    pub stage: String,
    /// Steps of the stage at its end.
    pub step: u64,
    /// Snapshots it is made of.
    pub snapshots: usize,
}

/// Writes the average of the weights of `run` that `wanted` describes to `out`, as final weights are written. `progress` is told
/// how many files are read, and of how many.
///
/// # Errors
/// A run without snapshots, snapshots that are damaged, a step beyond the last of them, and files that cannot be written.
pub fn reconstruct<B: DitBackend>(
    run: &Path,
    wanted: &Wanted,
    out: &Path,
    device: &B::Device,
    mut progress: impl FnMut(u64, u64),
) -> Result<Reconstructed, TrainError> {
    within("sigma_rel", wanted.sigma_rel, SIGMA_RELS)?;
    let (run, recipe) = RunDir::open(run)?;
    let (number, stage) = chosen(&run, &recipe, wanted.stage.as_deref())?;
    let folders = folders(&run.snapshots_of(number))?.into_iter();
    let snapshots = folders.map(|folder| Ok((Snapshot::read(&folder)?, folder)));
    let snapshots: Vec<(Snapshot, PathBuf)> = snapshots.collect::<Result<_, TrainError>>()?;
    let last = snapshots.last().map(|(last, _)| last);
    let last = last.ok_or_else(|| no_snapshots(&run, Some(stage)))?;
    let end = wanted.step.unwrap_or(last.stage_step);
    within("step", end, 1..=last.stage_step)?;
    let target = Profile::new(end as f64, wanted.sigma_rel);
    let parts = parts(&snapshots, &target).ok_or_else(|| {
        let folder = run.snapshots_of(number);
        damaged(&folder, "its snapshots are not different ones".into())
    })?;
    let mut sum = Sum::default();
    for (i, part) in parts.iter().enumerate() {
        sum.add(&part.read()?, part.share);
        progress(i as u64 + 1, parts.len() as u64);
    }
    let task = stage.drawing_task::<B>(recipe.run.seed, device)?;
    let task = sum.weights().load_into(task, device)?;
    let step = last.step - last.stage_step + end;
    let description = recipe.description(number, task.denoiser().config(), step);
    save_result(out, &task, &description)?;
    Ok(Reconstructed {
        stage: stage.name.clone(),
        step: end,
        snapshots: snapshots.len(),
    })
}

/// A file of a snapshot, and its share in the average.
struct Part<'a> {
    snapshot: &'a Snapshot,
    folder: &'a Path,
    file: String,
    share: f64,
}

/// What makes the average of profile `target`; none if two snapshots are of one profile.
fn parts<'a>(snapshots: &'a [(Snapshot, PathBuf)], target: &Profile) -> Option<Vec<Part<'a>>> {
    let (mut profiles, mut parts) = (Vec::new(), Vec::new());
    for (snapshot, folder) in snapshots {
        for (i, &sigma_rel) in snapshot.sigma_rels.iter().enumerate() {
            profiles.push(Profile::new(snapshot.stage_step as f64, sigma_rel));
            parts.push(Part {
                snapshot,
                folder,
                file: file_of(i),
                share: 0.0,
            });
        }
    }
    for (part, share) in parts.iter_mut().zip(coefficients(&profiles, target)?) {
        part.share = share;
    }
    parts.retain(|part| part.share.abs() > NEGLIGIBLE);
    Some(parts)
}

impl Part<'_> {
    /// The weights, if they are as they were written.
    fn read(&self) -> Result<StateDict, TrainError> {
        // Its record has it, or it would not have been read.
        let own = Files::from([(self.file.clone(), self.snapshot.files[&self.file])]);
        check_contents(self.folder, &own).map_err(|damage| damaged(self.folder, damage))?;
        Ok(StateDict::read(&self.folder.join(&self.file))?)
    }
}

/// The stage that is wanted, with its number.
fn chosen<'a>(
    run: &RunDir,
    recipe: &'a Recipe,
    wanted: Option<&str>,
) -> Result<(usize, &'a Stage), TrainError> {
    let mut stages = recipe.stages.iter().enumerate();
    let found = match wanted {
        Some(wanted) => {
            let named = stages.find(|(_, stage)| stage.name == wanted);
            let number = || wanted.parse().ok();
            let numbered = || number().and_then(|i: usize| Some((i, recipe.stages.get(i)?)));
            named.or_else(numbered).ok_or_else(|| TrainError::NoStage {
                wanted: wanted.to_owned(),
                stages: recipe
                    .stages
                    .iter()
                    .map(|stage| stage.name.clone())
                    .collect(),
            })?
        }
        None => {
            let has = |(i, _): &(usize, &Stage)| {
                folders(&run.snapshots_of(*i)).is_ok_and(|found| !found.is_empty())
            };
            let last = stages.rev().find(has);
            last.ok_or_else(|| no_snapshots(run, None))?
        }
    };
    Ok(found)
}

fn no_snapshots(run: &RunDir, stage: Option<&Stage>) -> TrainError {
    TrainError::NoSnapshots {
        directory: run.path().to_owned(),
        stage: stage.map(|stage| stage.name.clone()),
    }
}

impl Snapshot {
    /// The record in `folder`, if no bit of it has changed.
    fn read(folder: &Path) -> Result<Self, TrainError> {
        let text = fs::read(folder.join(RECORD)).map_err(|error| error.to_string());
        let snapshot = text.and_then(|text| unseal::<Self>(&text));
        let snapshot = snapshot.and_then(|snapshot| {
            let named = step_of(folder) == Some(snapshot.stage_step);
            let sound = named && (1..=snapshot.step).contains(&snapshot.stage_step);
            let widths = snapshot.sigma_rels.iter();
            let known = widths.clone().all(|width| SIGMA_RELS.contains(width));
            let mut files = (0..widths.len()).map(file_of);
            match sound && known && files.all(|file| snapshot.files.contains_key(&file)) {
                true => Ok(snapshot),
                false => Err("the record is not of this snapshot".into()),
            }
        });
        snapshot.map_err(|damage| damaged(folder, format!("{RECORD}: {damage}")))
    }
}

fn damaged(folder: &Path, damage: String) -> TrainError {
    TrainError::SnapshotDamaged {
        folder: folder.to_owned(),
        damage,
    }
}

/// A weighted sum of weights, in f64: coefficients of both signs cancel.
#[derive(Default)]
struct Sum(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Sum {
    fn add(&mut self, weights: &StateDict, share: f64) {
        for (name, data) in weights.iter() {
            let shape = data.shape.to_vec();
            let count = data.num_elements();
            let (_, sum) = self
                .0
                .entry(name.clone())
                .or_insert_with(|| (shape, vec![0.0; count]));
            for (sum, value) in sum.iter_mut().zip(data.iter::<f64>()) {
                *sum += share * value;
            }
        }
    }

    fn weights(self) -> StateDict {
        let tensors = self.0.into_iter().map(|(name, (shape, sum))| {
            let values: Vec<f32> = sum.into_iter().map(|value| value as f32).collect();
            (name, TensorData::new(values, shape))
        });
        StateDict::from_tensors(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::tests::tiny, trainer::train};
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;

    /// An average of a length that was also tracked during training is what is reconstructed, nearly; snapshots that are damaged are
    /// named, and steps that were not reached refused.
    #[test]
    fn an_average_of_another_length_is_found_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let mut recipe = tiny(&[
            "batch=2",
            "stages.masked.steps=3",
            "stages.unmasked.steps=60",
            "stages.unmasked.ema=[(decay: Power(0.07))]",
            "stages.unmasked.post_hoc_ema=(every: 5)",
        ]);
        recipe.run.checkpoints.every = 100;
        let devices = [Default::default()];
        train(
            &recipe,
            &path,
            &devices,
            &Stage::task::<Autodiff<Flex>>,
            |_| (),
        )
        .unwrap();
        let out = folder.path().join("average.safetensors");
        let make = |wanted: &Wanted| {
            reconstruct::<Flex>(&path, wanted, &out, &Default::default(), |_, _| ())
        };
        let wanted = |sigma_rel| Wanted {
            sigma_rel,
            stage: None,
            step: None,
        };
        let made = make(&wanted(0.07)).unwrap();
        assert_eq!(
            (made.stage.as_str(), made.step, made.snapshots),
            ("unmasked", 60, 12)
        );
        let read = |path: &Path| {
            let state = StateDict::read(path).unwrap();
            let values = state
                .iter()
                .flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>());
            values.collect::<Vec<f64>>()
        };
        let distance = |a: &[f64], b: &[f64]| -> f64 {
            let squares = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let (found, tracked) = (read(&out), read(&path.join("ema.safetensors")));
        let raw = read(&path.join("weights.safetensors"));
        let error = distance(&found, &tracked);
        let moved = distance(&raw, &tracked);
        assert!(error < 0.05 * moved, "{error} of {moved}");
        // What was tracked itself comes back as it is, but for one rounding.
        make(&wanted(TRACKED[1])).unwrap();
        let last = path.join("snapshots/stage-1/step-0000000060");
        let own = StateDict::read(&last.join(file_of(1)))
            .unwrap()
            .into_reference();
        let made = StateDict::read(&out).unwrap();
        for (name, data) in own.iter() {
            assert_eq!(Some(data), made.get(name), "{name}");
        }
        let late = Wanted {
            step: Some(61),
            ..wanted(0.1)
        };
        assert!(
            make(&late)
                .unwrap_err()
                .to_string()
                .contains("at most 60, not 61")
        );
        let other = Wanted {
            stage: Some("masked".into()),
            ..wanted(0.1)
        };
        let said = make(&other).unwrap_err().to_string();
        assert!(said.contains("no snapshots of stage masked"), "{said}");
        let mut bytes = fs::read(last.join(file_of(1))).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(last.join(file_of(1)), bytes).unwrap();
        let said = make(&wanted(0.1)).unwrap_err().to_string();
        assert!(
            said.contains("step-0000000060") && said.contains("average-2"),
            "{said}"
        );
    }
}
