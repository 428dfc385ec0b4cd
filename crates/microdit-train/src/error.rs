//! What can go wrong between a recipe and a finished run.

use crate::collective::Lost;
use microdit_encoders::{hub::HubError, text::FixedTokens};
use std::path::{Path, PathBuf};

/// A run that cannot start or continue: what, where, and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file or directory could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The recipe is not valid RON, or has a wrong key or type.
    #[error("{origin}: {message}")]
    Recipe {
        /// File and line, or the `--set` at fault.
        origin: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A stage does not say where its data lie.
    #[error(
        "stages.{stage}.data.shards: this dataset needs its shards (a tar, a directory of tars, or a pattern)"
    )]
    NoShards {
        /// Name of the stage.
        stage: String,
    },
    /// Caption states with padding where a stage asks for those without, or the reverse.
    #[error(
        "{}: its caption states {}, and `trimmed` of stages.{stage}.data is {}: another conditioning. {}",
        folder.display(),
        if *trimmed { "lack their padding" } else { "have their padding" },
        !trimmed,
        if *trimmed { "A network that is trained from the start may take it: trimmed: true" } else { "Encode them with --trim-padding, or leave out `trimmed`" }
    )]
    Padding {
        /// Name of the stage.
        stage: String,
        /// The directory of latents.
        folder: PathBuf,
        /// Whether its padding was trimmed.
        trimmed: bool,
    },
    /// A text encoder that cannot read as many tokens as the network expects.
    #[error(transparent)]
    Tokens(#[from] FixedTokens),
    /// The evaluation does not say where its data lie.
    #[error(
        "evaluation.shards: the held-out loss needs shards that are not trained on (a tar, a directory of tars, or a pattern)"
    )]
    NoHeldOutShards,
    /// The run directory already holds a run.
    #[error("{} already holds a run", .0.display())]
    RunExists(PathBuf),
    /// Something lies where a new folder was to be.
    #[error("{} is there already", .0.display())]
    Taken(PathBuf),
    /// A folder that is to be published holds something other than files.
    #[error("{} is not a regular file with a name in Unicode; an exported folder has nothing else", .0.display())]
    NotExported(PathBuf),
    /// A folder that is to be published lacks what makes it one.
    #[error("{} is no exported folder ({missing} is missing)", folder.display())]
    NoExport {
        /// The folder given.
        folder: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// The directory holds no finished run.
    #[error("{} holds no run ({missing} is missing)", directory.display())]
    NoRun {
        /// The directory given.
        directory: PathBuf,
        /// The file that is not there.
        missing: String,
    },
    /// The run has no such average.
    #[error("{} holds no average number {number} of the weights", directory.display())]
    NoAverage {
        /// The run directory.
        directory: PathBuf,
        /// Counted from 1, as the recipe lists them under `ema`.
        number: usize,
    },
    /// The sizes of the network contradict each other.
    #[error(transparent)]
    Config(#[from] microdit::ConfigError),
    /// A setting outside of its range.
    #[error(transparent)]
    Range(#[from] microdit::range::OutOfRange),
    /// Adapters that the network cannot have.
    #[error("stages.{stage}.{key}.{error}")]
    Lora {
        /// Name of the stage.
        stage: String,
        /// Key of the adapters.
        key: &'static str,
        /// What is wrong with them.
        error: microdit::nn::lora::LoraConfigError,
    },
    /// Weights that a stage cannot begin with.
    #[error("stages.{stage}.{key}: {error}")]
    StageWeights {
        /// Name of the stage.
        stage: String,
        /// Key of the weights.
        key: &'static str,
        /// What is wrong with them.
        error: Box<TrainError>,
    },
    /// Weights that a stage began with are others now.
    #[error(
        "stages.{stage}.{key}: {} is not the file the stage began with: expected {expected}, found {found}", path.display()
    )]
    OtherWeights {
        /// Name of the stage.
        stage: String,
        /// Key of the weights.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the checkpoint says.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A published pipeline cannot be read.
    #[error(transparent)]
    Pipeline(#[from] microdit_encoders::pipeline_files::PipelineError),
    /// A checkpoint could not be read, written, or does not fit the network.
    #[error(transparent)]
    Weights(#[from] microdit::weights::WeightsError),
    /// A file has fewer numbers than its network has parameters.
    #[error("{} holds {there} numbers, and the network has {needed} parameters", path.display())]
    TooFewWeights {
        /// The file.
        path: PathBuf,
        /// Parameters of the network.
        needed: usize,
        /// Numbers in the file.
        there: usize,
    },
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] microdit_data::DataError),
    /// Another process is in the run directory.
    #[error("{}: another microdit is at work there", .0.display())]
    RunBusy(PathBuf),
    /// The checkpoint is of a stage the recipe does not have.
    #[error(
        "the newest checkpoint is of stage number {0}, which the recipe no longer has; resume with the recipe the run began with"
    )]
    StageGone(usize),
    /// There is no layer-wise scaling to compare constant widths with.
    #[error("the widths of the network are constant already (model.qkv_width and model.ffn_width)")]
    ConstantAlready,
    /// The machine has less memory than a stage needs.
    #[error(
        "stage {stage} needs about {needed:.1} GiB of memory, and this process may have {there:.1}; lower batch or micro_batch, set activation_checkpointing: On, or take a smaller network"
    )]
    NoRoom {
        /// The stage.
        stage: String,
        /// GiB it needs.
        needed: f64,
        /// GiB there are.
        there: f64,
    },
    /// An imported checkpoint has trained for longer than the recipe does.
    #[error(
        "the checkpoint has trained {batches} batches; the recipe's stages have {steps} steps together: give the last one more"
    )]
    TrainedFor {
        /// Batches of the checkpoint.
        batches: u64,
        /// Steps of all stages.
        steps: u64,
    },
    /// No checkpoint is intact.
    #[error(
        "no checkpoint in {} is intact: {}. Restore one from a backup, or remove that directory to start the run over", checkpoints.display(), damaged.join("; ")
    )]
    AllDamaged {
        /// The directory of the checkpoints.
        checkpoints: PathBuf,
        /// Each and what is wrong with it, the newest first.
        damaged: Vec<String>,
    },
    /// A run is finished, and there is no state to resume from.
    #[error(
        "{} is finished after {steps} steps, and there is no checkpoint to resume from", directory.display()
    )]
    NoCheckpoint {
        /// The run directory.
        directory: PathBuf,
        /// Steps of the run.
        steps: u64,
    },
    /// A run has no snapshots to make an average of.
    #[error("{} has no snapshots{}", directory.display(), stage.as_ref().map(|stage| format!(" of stage {stage}")).unwrap_or_default())]
    NoSnapshots {
        /// The run directory.
        directory: PathBuf,
        /// Name of the stage, if one was asked for.
        stage: Option<String>,
    },
    /// A snapshot is not as it was written.
    #[error("{} is damaged ({damage})", folder.display())]
    SnapshotDamaged {
        /// Its directory.
        folder: PathBuf,
        /// What is wrong.
        damage: String,
    },
    /// The recipe has no such stage.
    #[error("there is no stage {wanted}; there are {}", stages.join(", "))]
    NoStage {
        /// The name or number given.
        wanted: String,
        /// Names of those there are.
        stages: Vec<String>,
    },
    /// The recipe a run was begun with cannot be read.
    #[error("the run's own recipe cannot be compared with the one given: {0}")]
    NoOwnRecipe(Box<TrainError>),
    /// The recipe trains something other than the one the run was begun with.
    #[error(
        "the recipe changes what {} trains:\n  {}", directory.display(), refused.join("\n  ")
    )]
    OtherRecipe {
        /// The run directory.
        directory: PathBuf,
        /// The changes, each with its old and new value.
        refused: Vec<String>,
    },
    /// The stages of the recipe are not those the run was begun with.
    #[error(
        "stage number {number} of the run is {old}, and the recipe has {new} there; give the recipe the run was begun with"
    )]
    OtherStage {
        /// Index of the stage.
        number: usize,
        /// Its name in the run.
        old: String,
        /// Its name in the recipe.
        new: String,
    },
    /// The data are not those the run was trained on.
    #[error(
        "the data of stage {stage} are not those the run was trained on: expected {expected}, found {found}"
    )]
    OtherData {
        /// Name of the stage.
        stage: String,
        /// What the checkpoint says.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The state holds values that are not finite.
    #[error(
        "{count} of {of} values of {tensor} in {what} are not finite after step {step}: nothing of that state is saved, and what was saved before is sound. The learning rate (optimizer.lr) may be too high"
    )]
    NotFinite {
        /// What holds them.
        what: String,
        /// The first tensor with such values.
        tensor: String,
        /// How many they are.
        count: usize,
        /// Values of the tensor.
        of: usize,
        /// Finished steps.
        step: u64,
    },
    /// A batch cannot be split over the ranks.
    #[error("a batch of {batch} has no sample for each of {ranks} ranks")]
    MoreRanksThanSamples {
        /// Samples of a batch.
        batch: usize,
        /// Ranks.
        ranks: usize,
    },
    /// The ranks of a run would not train the same.
    #[error("rank {rank} differs from rank 0:\n  {}", differences.join("\n  "))]
    RanksDiffer {
        /// The first that does.
        rank: usize,
        /// In what, with what each has.
        differences: Vec<String>,
    },
    /// What one rank writes of a checkpoint is not there where another looks.
    #[error("{} is not the same directory on all ranks, which write a checkpoint together", .0.display())]
    NotShared(PathBuf),
    /// Another rank of the run failed, and said so.
    #[error("rank {rank} failed, for a reason it gives itself{}", after(*step))]
    RankFailed {
        /// Which.
        rank: usize,
        /// Finished steps, where there are some.
        step: Option<u64>,
    },
    /// Other ranks of the run no longer answer.
    #[error("other ranks are lost ({lost}){}", after(*step))]
    RanksLost {
        /// What came instead of an answer.
        lost: Lost,
        /// Finished steps, where there are some.
        step: Option<u64>,
    },
    /// Loss or gradient were not finite too often.
    #[error(
        "loss or gradient were not finite in {steps} steps in a row, up to step {last}; none of them was applied, checkpoints saved before are sound, and the batches are in {}. The learning rate (optimizer.lr) or the clipping norm (optimizer.clip_norm) may be too high", batches.display()
    )]
    NonFiniteSteps {
        /// Steps in a row.
        steps: u64,
        /// The last of them.
        last: u64,
        /// File of the batches.
        batches: PathBuf,
    },
    /// An encoder is not on this machine.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Pictures need an encoder nobody named.
    #[error("no pictures without a {0}, and none is named")]
    NoEncoder(EncoderKind),
    /// An encoder does not fit the network.
    #[error("the {what} has {channels} channels; the network was trained with {expected}")]
    Misfit {
        /// Which.
        what: &'static str,
        /// Channels it has.
        channels: usize,
        /// Channels of the network.
        expected: usize,
    },
    /// A text encoder reads captions into vectors of other numbers or sizes.
    #[error(
        "the text encoder reads {} tokens of {} channels; the recipe says {} of {}: name another one in encoders.text, or change data.tokens",
        found[0], found[1], expected[0], expected[1]
    )]
    Misread {
        /// Tokens and channels it has.
        found: [usize; 2],
        /// Tokens and channels of the stage.
        expected: [usize; 2],
    },
    /// A caption that is to be compared with images is known by its vectors alone.
    #[error(
        "stages.{stage}.distill.clip: the data do not say what the caption of {key} reads, and CLIP compares it with images: write latents with the texts of their captions beside them, or name a file in distill.prompts"
    )]
    NoText {
        /// Name of the stage.
        stage: String,
        /// Name of the sample.
        key: String,
    },
    /// Two towers that are not of one CLIP.
    #[error(
        "stages.{stage}.distill.clip.model: its towers do not make features of one size from texts and images; name a CLIP with both towers"
    )]
    Towers {
        /// Name of the stage.
        stage: String,
    },
    /// A file of prompts holds none that can be read.
    #[error("{}: {message}", path.display())]
    Prompts {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        message: String,
    },
    /// More pictures than can be numbered.
    #[error("more pictures than can be numbered")]
    TooManyPictures,
    /// Pictures that do not fit on one sheet.
    #[error("{}: {count} pictures are too many for one sheet", path.display())]
    SheetTooLarge {
        /// File of the sheet.
        path: PathBuf,
        /// Number of the pictures.
        count: usize,
    },
    /// A file where a picture is to be written is not that picture.
    #[error("{} is in the way: {difference}", path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
        /// What is different.
        difference: String,
    },
    /// The network drew something that is not a picture.
    #[error(
        "{count} pictures are not finite and were left out, {drawn} are; the first is place {place}, prompt: {prompt}. The weights, the guidance or the prompt drive the network out of range"
    )]
    NonFinitePictures {
        /// Pictures left out.
        count: usize,
        /// Pictures drawn.
        drawn: usize,
        /// Place of the first that was left out.
        place: u64,
        /// Beginning of its prompt.
        prompt: String,
    },
}

/// A frozen network that pictures need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderKind {
    /// Latents to images.
    Vae,
    /// Captions to vectors.
    Text,
}

impl std::fmt::Display for EncoderKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vae => "VAE",
            Self::Text => "text encoder",
        })
    }
}

/// Where a rank stops, if it had begun.
fn after(step: Option<u64>) -> String {
    step.map_or_else(String::new, |step| {
        format!("; this one stops after step {step}")
    })
}

impl TrainError {
    /// Ranks that are lost after as many finished steps.
    pub(crate) fn lost(step: Option<u64>) -> impl Fn(Lost) -> Self {
        move |lost| Self::RanksLost { lost, step }
    }

    /// An operating system's error at `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
