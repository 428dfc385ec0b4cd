//! What a stage begins with besides initial weights: files of weights that its recipe names, and the checksums by which a file is
//! known again.

use crate::{
    error::TrainError,
    recipe::{Recipe, Stage},
    run::RunDir,
    sampling::unet_weights,
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

/// Keys that name files of weights.
const WEIGHTS: &str = "weights";
const TEACHERS: &str = "distill.teacher";

impl Stage {
    /// The files of weights it begins with, by their keys.
    pub(crate) fn named_weights(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let named = [
            (WEIGHTS, self.weights.as_deref()),
            (TEACHERS, self.teacher()),
        ];
        named
            .into_iter()
            .filter_map(|(key, path)| Some((key, path?)))
    }

    fn teacher(&self) -> Option<&Path> {
        self.distill.as_ref()?.teacher.as_deref()
    }

    /// The network's weights in the file called `name`, which is the value of `key`.
    fn read(&self, key: &'static str, name: &Path) -> Result<StateDict, TrainError> {
        let read = || {
            let file = self.open(name)?;
            let origin = file.origin().to_owned();
            Ok(StateDict::take(file, &origin)?.denoiser().into_reference())
        };
        read().map_err(|error| self.about(key, error))
    }

    fn about(&self, key: &'static str, error: TrainError) -> TrainError {
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
            let alone = ALONE.iter().map(|name| path.join(name));
            match alone.into_iter().find(|file| file.is_file()) {
                Some(alone) => file = alone,
                None if path.join("recipe.ron").is_file() => {
                    file = RunDir::follow(&path).drawable()?;
                }
                None => return self.of_pipeline(&path),
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

    /// `task` with the weights it begins with: those of its files; where they name none, those of the network that was `handed` on.
    pub(crate) fn begun<B: DitBackend, M: Module<B>>(
        &self,
        mut task: M,
        handed: Option<StateDict>,
        device: &B::Device,
    ) -> Result<M, TrainError> {
        let read = |key, name: Option<&Path>| {
            let read = name.map(|name| Ok::<_, TrainError>((key, self.read(key, name)?)));
            read.transpose()
        };
        let own = read(WEIGHTS, self.weights.as_deref())?;
        let teacher = read(TEACHERS, self.teacher())?;
        let handed = handed.map(|weights| ("hand_over", weights.into_reference()));
        let student = own.or(handed).or_else(|| teacher.clone());
        let teacher = teacher.or_else(|| student.clone());
        if let Some((key, weights)) = student {
            let loaded = weights.load_part_into(task, device, in_network);
            task = loaded.map_err(|error| self.about(key, error.into()))?;
        }
        if let (Some(_), Some((key, weights))) = (&self.distill, teacher) {
            let weights = weights.named_for(&task, TEACHER);
            let loaded = weights.load_part_into(task, device, |path| part_of(path) == TEACHER);
            task = loaded.map_err(|error| self.about(key, error.into()))?;
        }
        Ok(task)
    }

    /// Checksums of the files of weights it begins with, by their keys.
    pub(crate) fn origins(&self) -> Result<Files, TrainError> {
        self.named_weights()
            .map(|(key, name)| {
                let sum = self.sum(name);
                let sum = sum.map_err(|error| self.about(key, error))?;
                Ok((key.to_owned(), sum))
            })
            .collect()
    }

    fn sum(&self, name: &Path) -> Result<Sum, TrainError> {
        let files: Vec<PathBuf> = self.open(name)?.files().map(Path::to_owned).collect();
        Sum::of_all(files.iter().map(PathBuf::as_path))
    }

    /// Checks that files of weights that are still there are those the stage began with.
    pub(crate) fn check_origins(&self, origins: &Files) -> Result<(), TrainError> {
        for (key, name) in self.named_weights() {
            let Some(expected) = origins.get(key) else {
                continue;
            };
            // What is gone is no longer needed: checkpoints hold all of it.
            if locate(name).is_err() {
                continue;
            }
            let found = self.sum(name).map_err(|error| self.about(key, error))?;
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
