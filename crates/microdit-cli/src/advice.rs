//! The way out of an error: libraries say what is wrong, and know no command line.

use microdit::weights::{NoChoice, WeightsError};
use microdit_data::{DataError, RemoteError};
use microdit_encoders::{features::FeatureError, hub::HubError, pipeline_files::PipelineError};
use microdit_eval::{
    evaluate::EvaluateError, features::Family, report::ReportError, sweep::SweepError,
};
use microdit_train::{
    EncoderKind, TrainError, collective::LaunchError, precompute::PrecomputeError,
};
use miette::{Diagnostic, Report};
use std::{error::Error, fmt, io, path::Path};

/// A library's result as the command's.
pub(crate) trait OrAdvise<T> {
    /// The error with advice on what to type instead, where there is any.
    fn or_advise(self) -> miette::Result<T>;
}

impl<T, E: Error + Send + Sync + 'static> OrAdvise<T> for Result<T, E> {
    fn or_advise(self) -> miette::Result<T> {
        self.map_err(|error| {
            let advice = advice(&error);
            let error = Box::new(error);
            Report::new(Advised { error, advice })
        })
    }
}

#[derive(Debug)]
struct Advised {
    error: Box<dyn Error + Send + Sync>,
    advice: Option<String>,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl Diagnostic for Advised {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.advice.as_ref().map(|advice| Box::new(advice) as _)
    }
}

fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref() {
        return on_hub(error);
    }
    if let Some(TrainError::Hub(error)) = error.downcast_ref() {
        return on_hub(error);
    }
    if let Some(TrainError::StageWeights { error, .. }) = error.downcast_ref() {
        return advice(&**error);
    }
    if let Some(ReportError::Nothing(_)) = error.downcast_ref() {
        return Some("give directories that `microdit train` or `microdit sweep` wrote".into());
    }
    if let Some(LaunchError::Half { .. }) = error.downcast_ref() {
        return Some("give --rank and --world-size, or neither".into());
    }
    if let Some(FeatureError::Hub(error)) = error.downcast_ref() {
        return on_hub(error);
    }
    if let Some(EvaluateError::Network(FeatureError::Hub(error))) = error.downcast_ref() {
        return on_hub(error);
    }
    if let Some(EvaluateError::Train(TrainError::Hub(error))) = error.downcast_ref() {
        return on_hub(error);
    }
    let advice = error.downcast_ref().and_then(on_evaluation);
    let advice = advice.or_else(|| error.downcast_ref().and_then(on_training));
    let advice = advice.or_else(|| error.downcast_ref().and_then(on_precomputation));
    let advice = advice.or_else(|| error.downcast_ref().and_then(on_sweep));
    let advice = advice.or_else(|| error.downcast_ref().and_then(on_data));
    let advice = advice.or_else(|| error.downcast_ref().and_then(on_pipeline));
    let advice = advice.or_else(|| error.downcast_ref().and_then(on_weights));
    advice.map(str::to_owned)
}

fn on_hub(error: &HubError) -> Option<String> {
    Some(match error {
        HubError::NotFetched { name } => format!("get it with: microdit fetch {name}"),
        HubError::Download { refused: false, .. } | HubError::Damaged { .. } => {
            "run the command again".into()
        }
        HubError::NoToken => {
            "make one that may write at https://huggingface.co/settings/tokens, and give it as HF_TOKEN".into()
        }
        HubError::Upload {
            repository,
            status: Some(401 | 403),
            ..
        } => {
            let owner = repository.split('/').next().unwrap_or_default();
            format!("the token must be one that may write to {owner}; give it as HF_TOKEN")
        }
        HubError::Upload { status: None, .. } => {
            "run the command again; large files that have arrived are not sent twice".into()
        }
        _ => return None,
    })
}

/// How much damage `microdit data` and `microdit eval` allow.
pub(crate) const MAX_DAMAGE: &str = "--max-damage sets the share that is allowed";

fn on_evaluation(error: &EvaluateError) -> Option<&'static str> {
    Some(match error {
        EvaluateError::NoNetwork { family, .. } => match family {
            Family::Inception => {
                "give it with --inception FILE: pt_inception-2015-12-05-6726825d.pth, a release file of pytorch-fid"
            }
            Family::DinoV2 => {
                "give it with --dinov2 dinov2-base, after: microdit fetch dinov2-base"
            }
            Family::Clip => "give it with --clip clip-l14-336, after: microdit fetch clip-l14-336",
            Family::CleanClip => {
                "give it with --clean-clip clip-b32, after: microdit fetch clip-b32"
            }
            Family::Classifier => {
                "give the labelled shards it learns from with --classifier SHARDS"
            }
        },
        EvaluateError::NoReference { .. } => "give them with --reference",
        EvaluateError::NothingToMeasure => {
            "give networks with --inception, --clip or --dinov2, and what to compare with by --reference"
        }
        EvaluateError::NoCaptions { .. } => {
            "give prompts with --prompts FILE, or in a recipe as evaluation.feature_distance.prompts"
        }
        EvaluateError::Unlabelled { .. } => {
            "give labelled shards that the classifier is not trained on with --reference, or in a recipe as \
             evaluation.feature_distance.reference"
        }
        EvaluateError::NoTexts { .. } => "give a CLIP of both towers, such as clip-l14",
        EvaluateError::Data(error) => return on_data(error),
        EvaluateError::Train(error) => return on_training(error),
        _ => return None,
    })
}

fn on_data(error: &DataError) -> Option<&'static str> {
    Some(match error {
        DataError::TooDamaged { .. } => {
            "`microdit data inspect` says how. Mend or remove the shards, or raise data.max_damage"
        }
        DataError::ShardsLost { .. } => "`microdit data inspect` says what is wrong with them",
        DataError::TooMuchDamage { .. } => MAX_DAMAGE,
        DataError::Remote(error) => return on_remote(error),
        _ => return None,
    })
}

fn on_remote(error: &RemoteError) -> Option<&'static str> {
    Some(match error {
        RemoteError::NotBuilt { .. } => "build it with: cargo build --release --features remote",
        RemoteError::Missing { .. } => {
            "look at its name; quote a pattern with braces, so that no shell takes it apart"
        }
        RemoteError::Denied { .. } => {
            "credentials are taken from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_SKIP_SIGNATURE=true, for \
             a public bucket), GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, HF_TOKEN"
        }
        RemoteError::Unreachable { .. } => {
            "run the same command again, a training with --resume; MICRODIT_TIMEOUT and MICRODIT_RETRIES set how long and how often \
             it is tried. A bucket needs credentials (AWS_ACCESS_KEY_ID, ...), or AWS_SKIP_SIGNATURE=true if it is public, and \
             AWS_ENDPOINT if it is not Amazon's"
        }
        RemoteError::Differs { .. } => {
            "if it stays so, the object is not what its index or server says: upload both again"
        }
        RemoteError::NoRoom { .. } => "raise MICRODIT_CACHE_GIB, or write smaller shards",
        RemoteError::Cache { .. } => {
            "make room there, lower MICRODIT_CACHE_GIB, or name another directory with MICRODIT_CACHE"
        }
        RemoteError::Offline { .. } => "unset HF_HUB_OFFLINE, or give shards on this machine",
        RemoteError::NoHome => "name one with MICRODIT_CACHE",
        _ => return None,
    })
}

/// How one of several state dicts is chosen.
const CHOOSE: &str = "choose one with: microdit convert FILE --key KEY --out FILE";

fn on_weights(error: &WeightsError) -> Option<&'static str> {
    match error {
        WeightsError::Choice { error, .. } if error.reason == NoChoice::Several => Some(CHOOSE),
        _ => None,
    }
}

fn on_pipeline(error: &PipelineError) -> Option<&'static str> {
    Some(match error {
        PipelineError::Weights(error) => return on_weights(error),
        PipelineError::Prediction(_) => "say it with --prediction epsilon or --prediction v",
        PipelineError::Class { .. } | PipelineError::Missing { .. } => {
            "Stable Diffusion 1 and 2, SD-Turbo and DeciDiffusion are read, as diffusers writes them"
        }
        _ => return None,
    })
}

fn on_precomputation(error: &PrecomputeError) -> Option<&'static str> {
    Some(match error {
        PrecomputeError::Data(error) => return on_data(error),
        PrecomputeError::OtherSources { .. } => {
            "choose another directory, or say with --update that they were meant to be added, replaced or removed: then what \
             was made of the others stays"
        }
        PrecomputeError::Broken { .. } | PrecomputeError::Unfinished { .. } => {
            "run the same precompute command again"
        }
        _ => return None,
    })
}

fn on_sweep(error: &SweepError) -> Option<&'static str> {
    Some(match error {
        SweepError::Definition(error) => return on_training(error),
        SweepError::Point { error, .. } => return on_training(error),
        SweepError::Changed { .. } => {
            "put the definition back (more seeds and more values are welcome), or choose another folder with --out"
        }
        SweepError::OtherData { .. } => {
            "name the data they were trained on with --set data.shards=PATH, or choose another folder with --out"
        }
        SweepError::NoCalibration { .. } => {
            "copy it into the folder too, or choose another folder with --out"
        }
        SweepError::Busy(_) => "wait for it, or choose another folder with --out",
        SweepError::Damaged { .. } => {
            "restore it from a backup, or choose another folder with --out"
        }
        _ => return None,
    })
}

/// Whether it is a recipe, by its name, that is not there.
fn is_missing_recipe(path: &Path, error: &io::Error) -> bool {
    let is_recipe = path.extension().is_some_and(|extension| extension == "ron");
    is_recipe && error.kind() == io::ErrorKind::NotFound
}

fn on_training(error: &TrainError) -> Option<&'static str> {
    Some(match error {
        TrainError::Data(error) => return on_data(error),
        TrainError::Weights(error) => return on_weights(error),
        TrainError::NoShards { .. } => "name them with --set data.shards=PATH",
        TrainError::NoHeldOutShards => {
            "name them with --set evaluation.shards=PATH, or do without: --set evaluation=None"
        }
        TrainError::RunExists(_) => {
            "continue it with --resume, choose another directory with --run, or remove it"
        }
        TrainError::RunBusy(_) => "wait for it, or choose another directory with --run",
        TrainError::NoExport { .. } => "write one with: microdit export --run RUN --out FOLDER",
        TrainError::Io { path, error } if is_missing_recipe(path, error) => {
            "give the path of a recipe, or the name of one that comes with the program: microdit recipe list"
        }
        TrainError::NoRun { .. } => "give the directory that `microdit train` wrote",
        TrainError::NoSnapshots { .. } => {
            "a run keeps them where a stage of its recipe has post_hoc_ema: (every: STEPS)"
        }
        TrainError::SnapshotDamaged { .. } => "move it away, and the average is made of the others",
        TrainError::NoCheckpoint { .. } => {
            "put one back into it, or choose another directory with --run"
        }
        TrainError::NoOwnRecipe(_) => {
            "put it back, or continue with the one given and --allow-changes"
        }
        TrainError::OtherRecipe { .. } => {
            "give the recipe the run was begun with, choose another directory with --run, or continue anyway with --allow-changes"
        }
        TrainError::OtherData { .. } => {
            "put them back, or start these from their beginning with --allow-changes"
        }
        TrainError::OtherWeights { key, .. } if key.starts_with("distill.clip") => {
            "put it back, or continue with the one that is there and --allow-changes"
        }
        TrainError::OtherWeights { .. } => {
            "put it back, or continue with what the run holds of it and --allow-changes"
        }
        TrainError::Pipeline(error) => return on_pipeline(error),
        TrainError::NotFinite { .. } | TrainError::NonFiniteSteps { .. } => {
            "lower it, then resume with --allow-changes"
        }
        TrainError::RanksLost { .. } => "start all ranks again with --resume",
        TrainError::RanksDiffer { .. } => {
            "start the same program with the same arguments everywhere, where all see one run directory and the same data"
        }
        TrainError::NotShared(_) => "--run must be a directory that all ranks share",
        TrainError::MoreRanksThanSamples { .. } => "start fewer ranks, or raise batch",
        TrainError::NoEncoder(EncoderKind::Vae) => {
            "name it in the recipe (encoders.vae) or with --vae"
        }
        TrainError::NoEncoder(EncoderKind::Text) => {
            "name it in the recipe (encoders.text) or with --text-encoder"
        }
        TrainError::TooManyPictures => "lower --count or --place",
        TrainError::SheetTooLarge { .. } => {
            "write them one by one with --singles DIR, without --out"
        }
        TrainError::InTheWay { .. } => {
            "choose another directory with --singles, or replace it with --overwrite"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit::weights::ChoiceError;

    #[test]
    fn advice_reaches_what_another_error_holds() {
        let damage = || DataError::TooMuchDamage {
            damaged: 2,
            seen: 3,
            share: 0.5,
            reasons: "2 no caption".into(),
        };
        let help =
            |result: miette::Result<()>| result.unwrap_err().help().map(|help| help.to_string());
        for result in [
            Err(damage()).or_advise(),
            Err(TrainError::Data(damage())).or_advise(),
            Err(PrecomputeError::Data(damage())).or_advise(),
        ] {
            assert_eq!(help(result).as_deref(), Some(MAX_DAMAGE));
        }
        assert_eq!(help(Err(DataError::Interrupted).or_advise()), None);
        let of = |reason| WeightsError::Choice {
            path: "a.pt".into(),
            error: ChoiceError {
                reason,
                there: vec!["`model` (2 tensors)".into()],
                unread: Vec::new(),
            },
        };
        let several = of(NoChoice::Several);
        assert!(!several.to_string().contains("microdit"), "{several}");
        let advised = help(Err(TrainError::Weights(several)).or_advise());
        assert_eq!(advised.as_deref(), Some(CHOOSE));
        let advised = help(Err(of(NoChoice::Several)).or_advise());
        assert_eq!(advised.as_deref(), Some(CHOOSE));
        assert_eq!(help(Err(of(NoChoice::Nothing)).or_advise()), None);
    }
}
