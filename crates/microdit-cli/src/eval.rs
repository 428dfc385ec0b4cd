//! `microdit eval`: measures the pictures that a network draws, or those in a directory.

mod words;

use crate::{
    advice::OrAdvise,
    device::{Device, Devices, kind, on_device, parse_devices},
    number::{real, whole},
    preparation::{Shown, cache},
    sample::draw,
    say,
    signal::{Stopped, stop_on_signal},
    source::{Opened, Source},
    to_draw::ToDraw,
};
use burn_autodiff::Autodiff;
use crc32c::crc32c;
use microdit::{DitBackend, diffusion::Guidance};
use microdit_encoders::{
    features::{FeatureNetwork, Resize, text_tower},
    text::TextEncoder,
};
use microdit_eval::{
    classifier::Labels,
    evaluate::{
        Against, EvaluateError, Evaluation, Extractor, Judge, PictureSet, PublishedExtractor,
        Record, Wanted,
    },
    metrics::Metric,
    prompts::geneval,
};
use microdit_train::{
    Recipe,
    recipe::SamplingConfig,
    run::RunDir,
    sampling::{Drawing, Naming, Order},
};
use miette::miette;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

/// Side of generated pictures and of what a classifier sees, where no recipe says otherwise.
const SIDE: u32 = 32;

/// Where everything goes, unless told otherwise.
const OUT: &str = "eval";

/// Measure pictures: those a network draws, which are kept and not drawn again, or those of a directory.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("network").required(true).args(["run", "weights", "pipeline", "images"])))]
pub(crate) struct Eval {
    #[command(flatten)]
    source: Source,
    /// Pictures to measure as they are: a directory, or shards
    #[arg(long)]
    images: Option<String>,
    /// What to compare with: shards, a directory of images, an .npz of statistics (as pytorch-fid, clean-fid or dgm-eval write
    /// them), or `shapes`, the generated dataset [default: what a run names as evaluation.shards, or shapes if it was trained on them]
    #[arg(long)]
    reference: Option<String>,
    /// Use only the first N images of the reference [default: all; 10000 of shapes]
    #[arg(long, value_parser = whole(1..=1 << 24))]
    reference_samples: Option<usize>,
    /// Numbers to measure, such as fid,kid or prompt-accuracy [default: all that can be had]
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<String>,
    /// Weights of Inception-V3 as pytorch-fid publishes them: pt_inception-2015-12-05-6726825d.pth
    #[arg(long, value_name = "FILE")]
    inception: Option<PathBuf>,
    /// How Inception's pictures are resized
    #[arg(long, value_enum, default_value_t = Resizing::PytorchFid)]
    resize: Resizing,
    /// CLIP with its image tower: a directory, or a name such as clip-l14-336
    #[arg(long, value_name = "PATH")]
    clip: Option<PathBuf>,
    /// OpenAI's CLIP ViT-B/32 for clip-fid, with its pictures prepared as clean-fid does: a directory, or clip-b32
    #[arg(long, value_name = "PATH")]
    clean_clip: Option<PathBuf>,
    /// DINOv2: a directory, a file, or a name such as dinov2-base
    #[arg(long, value_name = "PATH")]
    dinov2: Option<PathBuf>,
    /// Labelled shards to train a small classifier on, which then sees pictures and the class their prompts ask for; its own accuracy is
    /// measured on the --reference, labelled shards too. Or `shapes`, the generated dataset, which needs no other. It is trained once,
    /// and kept with the features
    #[arg(long, value_name = "SHARDS")]
    classifier: Option<String>,
    /// Where labels are: `-` for what follows the last one in a key, or the name of a member such as cls
    #[arg(long, default_value = "-", requires = "classifier")]
    labels: String,
    /// What to draw: a prompt per line (- is the standard input), GenEval's .jsonl, PartiPrompts' .tsv, or COCO's captions_val2014.json:
    /// one caption of each image, images by the SHA-256 of their id, the first --samples of them (30000 are usual), so that everybody
    /// draws the same [default: captions of the reference]
    #[arg(long, conflicts_with = "images")]
    prompts: Option<PathBuf>,
    /// Pictures to draw; where there are fewer prompts, several of each
    #[arg(long, default_value_t = 1000, conflicts_with = "images", value_parser = whole(SamplingConfig::COUNTS))]
    samples: usize,
    /// Classifier-free guidance scales, each measured by itself [default: the recipe's, or 5]
    #[arg(long, value_delimiter = ',', conflicts_with = "images", value_parser = real(Guidance::SCALES))]
    guidance: Vec<f64>,
    /// Steps of the solver [default: the recipe's, or 30]
    #[arg(long, conflicts_with = "images", value_parser = whole(SamplingConfig::STEPS))]
    steps: Option<usize>,
    /// Replace a value of the recipe's `sampling`, as `microdit sample` does; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "images")]
    overrides: Vec<String>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, conflicts_with = "images")]
    seed: u64,
    /// Share of pictures that may be damaged
    #[arg(long, default_value_t = 0.1, value_parser = real(0.0..=1.0))]
    max_damage: f64,
    /// Directory for eval.json, to which numbers are added, and the pictures drawn [default: the run, or eval]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Directory that features are kept in, by content [default: microdit in the user's cache]
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Kind of device to compute on; an NVIDIA GPU where this build and machine have one, unless given
    #[arg(long, value_parser = kind(), default_value_t = Device::best())]
    device: Device,
    /// Number of the device of that kind
    #[arg(long, default_value = "0", value_parser = parse_devices)]
    devices: Devices,
}

/// Ways to resize pictures for Inception.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Resizing {
    /// Bilinear without antialiasing, as the FID literature has it.
    PytorchFid,
    /// Bicubic with antialiasing.
    CleanFid,
}

/// The pictures drawn with one setting, and the labels that describe it.
struct Lot {
    set: PictureSet,
    labels: BTreeMap<String, String>,
}

impl Eval {
    pub(crate) fn run(self) -> miette::Result<()> {
        on_device!(self.device, Inner => self.run_on::<Inner>())
    }

    /// The classifier, trained now or found again.
    fn classifier<B: DitBackend>(
        &self,
        shards: &str,
        recipe: Option<&Recipe>,
        cache: &Path,
        device: &B::Device,
    ) -> miette::Result<Judge<B>> {
        let reference = self.reference(recipe);
        let size = recipe.map_or(SIDE, |recipe| recipe.last_stage().data.image_size());
        let mut shown = Shown::default();
        let judge = Judge::trained::<Autodiff<B>>(
            shards,
            reference.as_deref(),
            Labels::named(Some(&self.labels)),
            size,
            cache,
            device,
            |progress| shown.classifier(progress),
        );
        drop(shown);
        let judge = judge.or_advise()?;
        let accuracy = judge.accuracy();
        say!("the classifier sees the class of {accuracy} held-out images");
        Ok(judge)
    }

    fn run_on<B: DitBackend>(self) -> miette::Result<()> {
        let device = self.devices.of::<B>(self.device)?.swap_remove(0);
        let recipe = match &self.source.run {
            Some(run) => Some(RunDir::open(run).or_advise()?.1),
            None => None,
        };
        let cache = cache(self.cache.as_deref())?;
        let wanted = self
            .metrics
            .iter()
            .map(|name| name.parse::<Wanted>().or_advise())
            .collect::<miette::Result<Vec<_>>>()?;
        let mut networks = self.networks::<B>(&wanted, &device)?;
        if let Some(shards) = &self.classifier {
            let judge = self.classifier::<B>(shards, recipe.as_ref(), &cache, &device)?;
            networks.push(Box::new(judge));
        }
        let evaluation = Evaluation {
            networks,
            against: self.against(recipe.as_ref())?,
            wanted,
            cache,
            max_damage: self.max_damage,
        };
        evaluation.check().or_advise()?;
        let to_draw = match &self.images {
            Some(_) => None,
            None => {
                let against = evaluation.against.as_ref();
                Some(ToDraw::of(self.prompts.as_deref(), against, self.samples)?)
            }
        };
        let measures = match &to_draw {
            Some(to_draw) => self.measures(&evaluation, to_draw)?,
            None => true,
        };
        let out = match (&self.out, &self.source.run) {
            (Some(out), _) => out.clone(),
            (None, Some(run)) => run.clone(),
            (None, None) => PathBuf::from(OUT),
        };
        let file = out.join("eval.json");
        // What is damaged is said before anything is drawn.
        let mut record = Record::read(&file).or_advise()?;
        let stop = stop_on_signal("stopping; pictures and features so far are kept")?;
        let lots = match to_draw {
            Some(to_draw) => self.drawn::<B>(to_draw, &out, device, &stop)?,
            None => self.given()?,
        };
        if !measures {
            say!(
                "nothing is measured: no network was given, and no prompt is one this command can check; give the folder to GenEval"
            );
            return Ok(());
        }
        for Lot { set, labels } in lots {
            let mut shown = Shown::default();
            let found = evaluation.measure(&set, &stop, |seen| shown.seen(seen));
            drop(shown);
            let found = found.or_advise()?.ok_or_else(stopped)?;
            // Another evaluation may have added to it meanwhile.
            record = Record::read(&file).or_advise()?;
            for mut row in found {
                row.labels.extend(labels.clone());
                record.add(row);
            }
            std::fs::create_dir_all(&out)
                .map_err(|error| miette!("{} cannot be created: {error}", out.display()))?;
            record.write(&file).or_advise()?;
        }
        say!("{}\nin {}", record.table(), file.display());
        Ok(())
    }

    /// The networks that are named.
    fn networks<B: DitBackend>(
        &self,
        wanted: &[Wanted],
        device: &B::Device,
    ) -> miette::Result<Vec<Box<dyn Extractor>>> {
        let mut networks: Vec<Box<dyn Extractor>> = Vec::new();
        let mut add = |network, texts: Option<TextEncoder<B>>| {
            let mut extractor = PublishedExtractor::new(network, device.clone());
            if let Some(tower) = texts {
                extractor = extractor.with_texts(tower);
            }
            networks.push(Box::new(extractor));
        };
        if let Some(path) = &self.inception {
            let network = FeatureNetwork::<B>::open_inception(path, device).or_advise()?;
            let resize = match self.resize {
                Resizing::PytorchFid => Resize::PytorchFid,
                Resizing::CleanFid => Resize::CleanFid,
            };
            add(network.with_resize(resize).or_advise()?, None);
        }
        for (path, clean) in [(&self.clip, false), (&self.clean_clip, true)] {
            let Some(path) = path else {
                continue;
            };
            let mut network = FeatureNetwork::<B>::open(path, device).or_advise()?;
            if clean {
                network = network.clean_clip().or_advise()?;
            }
            // A tower that nobody asks takes memory and time.
            let scores = |wanted: &Wanted| matches!(wanted, Wanted::Features(Metric::ClipScore, _));
            let texts = match wanted.is_empty() || wanted.iter().any(scores) {
                true => text_tower(path, device).or_advise()?,
                false => None,
            };
            add(network, texts);
        }
        if let Some(path) = &self.dinov2 {
            add(FeatureNetwork::<B>::open(path, device).or_advise()?, None);
        }
        Ok(networks)
    }

    /// The name of what pictures are compared with.
    fn reference(&self, recipe: Option<&Recipe>) -> Option<String> {
        let of_run = || recipe.and_then(Against::of_recipe);
        self.reference.clone().or_else(of_run)
    }

    /// What pictures are compared with.
    fn against(&self, recipe: Option<&Recipe>) -> miette::Result<Option<Against>> {
        let limit = self.reference_samples.map(|samples| samples as u64);
        let size = recipe.map_or(SIDE, |recipe| recipe.last_stage().data.image_size());
        let Some(reference) = self.reference(recipe) else {
            return Ok(None);
        };
        Against::open(&reference, limit, size).or_advise().map(Some)
    }

    /// Whether anything can be measured of what is drawn: GenEval's prompts may be drawn for its own evaluator alone.
    fn measures(&self, evaluation: &Evaluation, to_draw: &ToDraw) -> miette::Result<bool> {
        match evaluation.check_prompts(&to_draw.prompts) {
            Err(EvaluateError::NothingToMeasure)
                if to_draw.geneval.is_some() && self.metrics.is_empty() =>
            {
                Ok(false)
            }
            checked => checked.or_advise().map(|()| true),
        }
    }

    /// The pictures to measure that are there.
    fn given(&self) -> miette::Result<Vec<Lot>> {
        let lot = |images: &String| -> miette::Result<Lot> {
            let set = PictureSet::open(images, u64::MAX).or_advise()?;
            let labels = BTreeMap::from([("images".to_owned(), images.clone())]);
            Ok(Lot { set, labels })
        };
        self.images.iter().map(lot).collect()
    }

    /// The pictures to measure that are drawn, for each guidance scale.
    fn drawn<B: DitBackend>(
        &self,
        ToDraw { prompts, geneval }: ToDraw,
        out: &Path,
        device: B::Device,
        stop: &AtomicBool,
    ) -> miette::Result<Vec<Lot>> {
        let Opened {
            pipeline,
            mut settings,
        } = self.source.open::<B>(device)?;
        settings = settings.with(&self.overrides).or_advise()?;
        settings.count = self.samples / prompts.len();
        let drawn = settings.count * prompts.len();
        if drawn < self.samples {
            let count = settings.count;
            say!("{drawn} pictures are drawn, {count} of each prompt");
        }
        settings.prompts = prompts;
        settings.steps = self.steps.unwrap_or(settings.steps);
        let scales = match self.guidance.is_empty() {
            true => vec![settings.guidance],
            false => self.guidance.clone(),
        };
        let folder = out.join("eval");
        let mut lots = Vec::with_capacity(scales.len());
        for guidance in scales {
            settings.guidance = guidance;
            settings.validate().or_advise()?;
            let order = Order {
                settings: &settings,
                seed: self.seed,
                place: 0,
                sheet: None,
                singles: Some(&folder),
                naming: Naming::Label,
                overwrite: false,
            };
            let drawing = Drawing::new(&pipeline, order).or_advise()?;
            let drawn = draw(&drawing, stop)?;
            if drawn.stopped {
                return Err(stopped());
            }
            say!(
                "guidance {guidance}: {} pictures drawn, {} were there",
                drawn.drawn,
                drawn.kept
            );
            let count = order.count().or_advise()?;
            let files: Vec<PathBuf> = (0..count).filter_map(|i| drawing.single(i)).collect();
            // Their names are hashes of all that they depend on, prompts included.
            let names = files.iter().filter_map(|file| file.file_name()?.to_str());
            let pictures = crc32c(names.collect::<Vec<_>>().join(" ").as_bytes());
            if let Some(suite) = &geneval {
                let laid_out = out.join(format!("geneval-{guidance}-{pictures:08x}"));
                geneval::lay_out(&laid_out, suite, &files).or_advise()?;
                say!("as GenEval reads them: {}", laid_out.display());
            }
            let name = folder.display().to_string();
            let set = PictureSet::of_files(&name, files, u64::MAX).or_advise()?;
            let label = |key: &str, value: String| (key.to_owned(), value);
            let mut labels = BTreeMap::from([
                label("guidance", guidance.to_string()),
                label("steps", settings.steps.to_string()),
                label("solver", format!("{:?}", settings.solver)),
                label("seed", self.seed.to_string()),
                label("pictures", format!("{pictures:08x}")),
                label("weights", pipeline.weights().to_owned()),
            ]);
            for (key, value) in self.overrides.iter().filter_map(|set| set.split_once('=')) {
                // What another flag decides is what was drawn with.
                let entry = labels.entry(key.trim().to_owned());
                entry.or_insert_with(|| value.trim().to_owned());
            }
            lots.push(Lot { set, labels });
        }
        Ok(lots)
    }
}

fn stopped() -> miette::Report {
    Stopped("stopped; run the same command again to resume".into()).into()
}
