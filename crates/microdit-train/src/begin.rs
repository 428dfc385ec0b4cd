//! What a stage begins with besides initial weights: files of weights that its recipe names, and the checksums by which a file is
//! known again.

use crate::{
    checkpoint::Checkpoint,
    clip_term,
    error::TrainError,
    recipe::{Recipe, Stage},
    run::RunDir,
    sampling::{adapted, unet_weights},
    sealed::{Files, Sum},
};
use burn::module::Module;
use microdit::{
    DitBackend,
    diffusion::DiffusionConfig,
    net::NetworkConfig,
    weights::{LdmNames, StateDict, WeightsFile},
};
use microdit_encoders::{
    hub::locate,
    pipeline_files::{PipelineFiles, Taken},
};
use std::path::{Path, PathBuf};

/// Files of a folder that hold a network alone: as `microdit export` and as diffusers write it.
const ALONE: [&str; 3] = [
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
];

/// Keys that name files of weights, and the one that hands them on.
const WEIGHTS: &str = "weights";
const TEACHERS: &str = "distill.teacher";
const HANDED: &str = "hand_over";

/// What a stage is given by the one before.
pub(crate) enum Given {
    /// It is the first.
    Nothing,
    /// All of a task of the same parts and sizes.
    All(StateDict),
    /// What a task of other parts can take: the network and, of a distillation, the teacher.
    Parts {
        /// By its own paths.
        network: StateDict,
        /// By its paths in the task.
        teacher: Option<StateDict>,
    },
}

impl Given {
    /// Parts of a task that has `network` and these `weights`.
    pub(crate) fn parts(network: StateDict, weights: StateDict) -> Self {
        let teacher = weights.only(|path| part_of(path) == TEACHER);
        Self::Parts {
            network,
            teacher: (!teacher.is_empty()).then_some(teacher),
        }
    }
}

impl Stage {
    /// The files of weights it begins with, and those of its losses, by their keys.
    pub(crate) fn named_weights(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let named = [
            (WEIGHTS, self.weights.as_deref()),
            (TEACHERS, self.teacher()),
        ];
        named
            .into_iter()
            .filter_map(|(key, path)| Some((key, path?)))
            .chain(self.clip_networks())
    }

    fn teacher(&self) -> Option<&Path> {
        self.distill.as_ref()?.teacher.as_deref()
    }

    /// The network's weights in the file called `name`, which is the value of `key`.
    fn read<B: DitBackend>(
        &self,
        key: &'static str,
        name: &Path,
        device: &B::Device,
    ) -> Result<StateDict, TrainError> {
        let read = || {
            if let Some(run) = run_at(&locate(name)?) {
                let weights = run.drawable()?;
                if let Some(checkpoint) = Checkpoint::beside(&weights)? {
                    let recipe = Recipe::load(&run.recipe(), &[])?;
                    let network = adapted::<B>(&recipe, &checkpoint, &weights, device)?;
                    if let Some(network) = network {
                        return Ok(StateDict::from_module(&network).into_reference());
                    }
                }
            }
            let file = self.open(name)?;
            let origin = file.origin().to_owned();
            Ok(StateDict::take(file, &origin)?.denoiser().into_reference())
        };
        read().map_err(|error| self.about(key, error))
    }

    pub(crate) fn about(&self, key: &'static str, error: TrainError) -> TrainError {
        TrainError::StageWeights {
            stage: self.name.clone(),
            key,
            error: Box::new(error),
        }
    }

    /// Opens the network of a file, of a folder, of a run, or of a published model.
    fn open(&self, name: &Path) -> Result<WeightsFile, TrainError> {
        let path = locate(name)?;
        let mut file = path.clone();
        if path.is_dir() {
            match (alone_in(&path), run_at(&path)) {
                (Some(alone), _) => file = alone,
                (None, Some(run)) => file = run.drawable()?,
                (None, None) => return self.of_pipeline(&path),
            }
        }
        let opened = WeightsFile::open(&file)?;
        match LdmNames::of(&opened) {
            Some(_) => self.of_pipeline(&file),
            None => Ok(opened),
        }
    }

    /// The network of a pipeline.
    fn of_pipeline(&self, path: &Path) -> Result<WeightsFile, TrainError> {
        let taken = Taken {
            prediction: match self.diffusion {
                DiffusionConfig::Vp(vp) => Some(vp.prediction),
                _ => None,
            },
            ..Taken::default()
        };
        let files = PipelineFiles::open(path, &taken)?;
        Ok(match &self.model {
            NetworkConfig::UNet(config) => unet_weights(files.unet, config),
            NetworkConfig::Dit(_) => files.unet.weights,
        })
    }

    /// `task` with the weights it begins with: those of its files; where they name none, those that were `handed` on.
    pub(crate) fn begun<B: DitBackend, M: Module<B>>(
        &self,
        task: M,
        handed: Given,
        device: &B::Device,
    ) -> Result<M, TrainError> {
        let read = |key, name: Option<&Path>| {
            let read =
                name.map(|name| Ok::<_, TrainError>((key, self.read::<B>(key, name, device)?)));
            read.transpose()
        };
        let own = read(WEIGHTS, self.weights.as_deref())?;
        let named = read(TEACHERS, self.teacher())?;
        let given = |weights: Option<StateDict>| weights.map(|weights| (HANDED, weights));
        let (mut task, network, taught) = match handed {
            Given::Nothing => (task, None, None),
            Given::Parts { network, teacher } => (task, Some(network.into_reference()), teacher),
            Given::All(weights) => {
                let loaded = weights.load_into(task, device);
                let mut task = loaded.map_err(|error| self.about(HANDED, error.into()))?;
                // The others stay as they were handed on.
                if let Some(own) = own {
                    task = self.with_network(task, own, device)?;
                }
                return match named {
                    Some(teacher) => self.with_teacher(task, teacher, device),
                    None => Ok(task),
                };
            }
        };
        let student = own.or(given(network)).or_else(|| named.clone());
        let teacher = named.or(given(taught)).or_else(|| student.clone());
        if let Some(student) = student {
            task = self.with_network(task, student, device)?;
        }
        match teacher {
            Some(teacher) => self.with_teacher(task, teacher, device),
            None => Ok(task),
        }
    }

    /// `task` with the weights of its network, which are the value of a key.
    fn with_network<B: DitBackend, M: Module<B>>(
        &self,
        task: M,
        (key, weights): (&'static str, StateDict),
        device: &B::Device,
    ) -> Result<M, TrainError> {
        let loaded = weights.load_part_into(task, device, in_network);
        loaded.map_err(|error| self.about(key, error.into()))
    }

    /// The same for its teacher, if it has one.
    fn with_teacher<B: DitBackend, M: Module<B>>(
        &self,
        task: M,
        (key, weights): (&'static str, StateDict),
        device: &B::Device,
    ) -> Result<M, TrainError> {
        if self.distill.is_none() {
            return Ok(task);
        }
        let weights = weights.named_for(&task, TEACHER);
        let loaded = weights.load_part_into(task, device, |path| part_of(path) == TEACHER);
        loaded.map_err(|error| self.about(key, error.into()))
    }

    /// Checksums of the files of weights it begins with, by their keys.
    pub(crate) fn origins(&self) -> Result<Files, TrainError> {
        self.sums(self.named_weights())
    }

    /// The same of those that no checkpoint holds: they are read whenever the stage is resumed.
    pub(crate) fn origins_read_again(&self) -> Result<Files, TrainError> {
        self.sums(self.clip_networks())
    }

    fn sums<'b>(
        &self,
        named: impl Iterator<Item = (&'static str, &'b Path)>,
    ) -> Result<Files, TrainError> {
        named
            .map(|(key, name)| {
                let sum = self.sum(key, name);
                let sum = sum.map_err(|error| self.about(key, error))?;
                Ok((key.to_owned(), sum))
            })
            .collect()
    }

    fn sum(&self, key: &str, name: &Path) -> Result<Sum, TrainError> {
        let files: Vec<PathBuf> = match key {
            clip_term::MODEL | clip_term::DECODER => clip_term::weight_files(key, name)?,
            _ => self.open(name)?.files().map(Path::to_owned).collect(),
        };
        Sum::of_all(files.iter().map(PathBuf::as_path))
    }

    /// Checks that files of weights that are still there are those the stage began with.
    pub(crate) fn check_origins(&self, origins: &Files) -> Result<(), TrainError> {
        for (key, name) in self.named_weights() {
            let Some(expected) = origins.get(key) else {
                continue;
            };
            // What is gone is no longer needed, for checkpoints hold all of it, or is missed when the task is built.
            if locate(name).is_err() {
                continue;
            }
            let found = self
                .sum(key, name)
                .map_err(|error| self.about(key, error))?;
            if found != *expected {
                return Err(TrainError::OtherWeights {
                    stage: self.name.clone(),
                    key,
                    path: name.to_owned(),
                    expected: expected.to_string(),
                    found: found.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// Checks that the files of weights are there that the stages from number `first` on begin with.
pub(crate) fn require_weights(recipe: &Recipe, first: usize) -> Result<(), TrainError> {
    for stage in recipe.stages.iter().skip(first) {
        for (key, name) in stage.named_weights() {
            locate(name).map_err(|error| stage.about(key, error.into()))?;
        }
    }
    Ok(())
}

/// The file of a network alone in the folder at `path`.
fn alone_in(path: &Path) -> Option<PathBuf> {
    let mut alone = ALONE.iter().map(|name| path.join(name));
    alone.find(|file| file.is_file())
}

/// The run whose directory `path` is.
fn run_at(path: &Path) -> Option<RunDir> {
    let is_run = path.join("recipe.ron").is_file() && alone_in(path).is_none();
    is_run.then(|| RunDir::follow(path))
}

/// The part of a distillation that is not trained.
const TEACHER: &str = "teacher";

/// The first name of a path.
fn part_of(path: &str) -> &str {
    path.split('.').next().unwrap_or_default()
}

/// Whether a path in a task leads to the network that is trained.
pub(crate) fn in_network(path: &str) -> bool {
    path.split('.').any(|name| name == "denoiser")
}
