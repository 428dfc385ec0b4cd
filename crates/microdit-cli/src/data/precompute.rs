//! `microdit data precompute` and `microdit data index`: images into latents.

use super::describe;
use crate::{
    advice::OrAdvise,
    bar::Counter,
    device::{Device, kind, on_device},
    number::{real, whole},
    ranks::RanksArgs,
    say,
    signal::{Stopped, stop_on_signal},
    terminal::complain,
};
use burn::tensor::DType;
use microdit::{DitBackend, nn::Precision};
use microdit_data::{BucketConfig, DatasetIndex, Members, Shards};
use microdit_encoders::{hub::locate, text::TextEncoder, vae::Vae};
use microdit_train::{
    collective::Launch,
    precompute::{self, EncoderIdentity, PrecomputeConfig, Precomputed, index},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How long a batch may take to end by itself after a signal.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Encode shards of images into latents and caption states. An interrupted command resumes when it is run again.
///
/// What is there already is kept once its checksum and that of its images are verified: whatever their names, the images
/// must be the same. A shard that cannot be read to its end is reported; what came before the fault is used. Once it is repaired, or left out
/// of the list, or others were added, --update makes what is new and keeps the rest.
#[derive(clap::Args)]
pub(crate) struct Precompute {
    /// A tar, a pattern such as train-{000..009}.tar, a directory of shards, or the URL of one of these
    shards: String,
    /// Directory to write to, or to resume in
    #[arg(long)]
    out: PathBuf,
    /// Directory of the VAE, as diffusers saves it, or a name such as sdxl-vae
    #[arg(long)]
    vae: PathBuf,
    /// Directory of the text encoder, as open_clip or transformers save it, or a name such as dfn-clip-h14
    #[arg(long)]
    text_encoder: PathBuf,
    /// Sides of the square images in pixels; a latent is made for each
    #[arg(long, value_delimiter = ',', default_value = "256,512", value_parser = clap::value_parser!(u32).range(1..=8192))]
    sizes: Vec<u32>,
    /// Crop images to sizes that are not square, with as many pixels as each of --sizes at most, for `data.buckets`: all with sides of
    /// multiples of a step, such as 64, or those of a list, such as 320x192,256x256
    #[arg(long)]
    buckets: Option<BucketConfig>,
    /// Take any part of an image, drawn by the seed, not only the middle
    #[arg(long)]
    random_crop: bool,
    /// Encode images with left and right swapped too, for `data.flip`
    #[arg(long)]
    flips: bool,
    /// Names of several captions to encode of each sample, for `data.caption_mix`: KEY.NAME.txt, an entry NAME of KEY.json or a column
    /// NAME; only the first that is found if absent
    #[arg(long, value_delimiter = ',')]
    captions: Vec<String>,
    /// Trim padding off caption states, for `data.trimmed`: fewer bytes, and for CLIP another conditioning than the paper's
    #[arg(long)]
    trim_padding: bool,
    /// Tokens of a caption, for text encoders that read any number, such as T5: 120 if absent
    #[arg(long, value_parser = whole(1..=65_536))]
    tokens: Option<usize>,
    /// Images, and captions, encoded at once
    #[arg(long, default_value_t = 16, value_parser = whole(1..=4096))]
    batch: usize,
    /// Seed of the draws from the VAE's posterior
    #[arg(long, default_value_t = 18)]
    seed: u64,
    #[command(flatten)]
    ranks: RanksArgs,
    /// What the encoders compute in; a tiny VAE computes in f32 either way. bf16 takes less memory; whether it takes less time depends on
    /// the processor, so measure a few pictures first
    #[arg(long, value_enum, default_value_t)]
    precision: EncoderPrecision,
    /// Accept that shards were added, replaced or removed since the directory was begun
    #[arg(long)]
    update: bool,
    /// Share of the samples that may be damaged, 0 to 1, before the command stops
    #[arg(long, default_value_t = 0.5, value_parser = real(0.0..=1.0))]
    max_damage: f64,
    /// Device to encode on
    #[arg(long, value_parser = kind(), default_value_t = Device::best())]
    device: Device,
}

/// What encoders compute in.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum EncoderPrecision {
    #[default]
    F32,
    Bf16,
}

impl From<EncoderPrecision> for Precision {
    fn from(precision: EncoderPrecision) -> Self {
        match precision {
            EncoderPrecision::F32 => Self::F32,
            EncoderPrecision::Bf16 => Self::Bf16,
        }
    }
}

impl Precompute {
    pub(crate) fn run(self) -> miette::Result<()> {
        let launch = self.ranks.launch()?;
        on_device!(self.device, Inner => self.run_on::<Inner>(launch, Default::default()))
    }

    fn run_on<B: DitBackend>(self, launch: Launch, device: B::Device) -> miette::Result<()> {
        let shards = Shards::open(&self.shards, Members::Pictures).or_advise()?;
        let paths = [&self.vae, &self.text_encoder].map(|name| locate(name).or_advise());
        let [vae_path, text_path] = paths;
        let (vae_path, text_path) = (vae_path?, text_path?);
        let precision = Precision::from(self.precision);
        if precision == Precision::Bf16 && !B::supports_dtype(&device, DType::BF16) {
            return Err(miette::miette!(
                help = "leave out --precision",
                "this device does not compute in bf16"
            ));
        }
        let vae = Vae::<B>::open(&vae_path, &device).or_advise()?;
        let vae = vae.computing_in(precision);
        let text = TextEncoder::<B>::open(&text_path, &device).or_advise()?;
        let text = Arc::new(text.computing_in(precision));
        let text = text
            .reading(self.tokens.unwrap_or(text.tokens()))
            .or_advise()?;
        let identity = |name: &Path, path: &Path, nested: &str| {
            let name = name.file_name().unwrap_or_default().to_string_lossy();
            EncoderIdentity::of(&name, path, nested).or_advise()
        };
        let config = PrecomputeConfig {
            encoders: [
                identity(&self.vae, &vae_path, "vae")?,
                identity(&self.text_encoder, &text_path, "text_encoder")?,
            ],
            sizes: self.sizes,
            buckets: self.buckets,
            random_crop: self.random_crop,
            flips: self.flips,
            captions: self.captions,
            trim_padding: self.trim_padding,
            batch: self.batch,
            precision,
            seed: self.seed,
            rank: launch.rank,
            world: launch.world_size,
            update: self.update,
            max_damage: self.max_damage,
        };
        let stop = stop_on_signal("leaving the current shard unfinished")?;
        leave_soon_after(&stop);
        let mut bar = Counter::new("encoded samples");
        let work = precompute::Precompute {
            vae: &vae,
            text: &text,
            config: &config,
            device: &device,
        };
        let done = work.run(&shards, &self.out, &stop, |state| {
            let shards = format!(
                "; {} of {} shards there, {} checked",
                state.shards, state.of, state.checked
            );
            bar.show(state.samples, &shards);
        });
        drop(bar);
        let done = done.or_advise()?;
        say!("{} samples encoded", done.samples);
        describe(&done.left_out);
        if done.captions_cut > 0 {
            say!(
                "{} captions were cut: the text encoder reads {} tokens of each",
                done.captions_cut,
                text.tokens()
            );
        }
        if let [full, written] = done.caption_bytes
            && self.trim_padding
            && done.sound() > 0
        {
            let each = |bytes: u64| bytes / done.sound();
            say!(
                "caption states take {} bytes of a sample, and took {} with their padding",
                each(written),
                each(full)
            );
            if !text.masks_padding() {
                say!(
                    "this text encoder lets padding see the caption: without it the states are another conditioning, which networks \
                     trained on all {} tokens refuse",
                    text.tokens()
                );
            }
        }
        if done.stopped {
            let Precomputed { shards, of, .. } = done;
            let message = format!(
                "stopped after {shards} of {of} shards; run the same command again to resume"
            );
            return Err(Stopped(message).into());
        }
        match &done.index {
            Some(index) => report(&self.out, index),
            None if launch.world_size > 1 => say!(
                "{} of {} shards of rank {} are there; when all ranks are done: microdit data index {}",
                done.shards,
                done.of,
                launch.rank,
                self.out.display()
            ),
            None => {}
        }
        verdict(&done)
    }
}

/// What could not be read, if anything.
fn verdict(done: &Precomputed) -> miette::Result<()> {
    let (lost, cut) = (done.lost.len(), done.cut.len());
    if lost + cut == 0 {
        return Ok(());
    }
    let faults = done.lost.iter().chain(&done.cut);
    let faults: Vec<&str> = faults.map(String::as_str).collect();
    let mut what = Vec::new();
    if lost > 0 {
        what.push(format!("{lost} could not be used"));
    }
    if cut > 0 {
        what.push(format!("{cut} only up to a fault"));
    }
    Err(miette::miette!(
        help = "repair the shards or leave them out of the list, and run the same command with --update: the others stay as they are",
        "of {} shards, {}; all else is there\n{}",
        done.of,
        what.join(", "),
        faults.join("\n")
    ))
}

/// Ends the process soon after `stop` is set, though a batch may take minutes: nothing of the current shard is kept anyway, and
/// what is finished is written.
fn leave_soon_after(stop: &Arc<AtomicBool>) {
    let stop = stop.clone();
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(PATIENCE);
        complain("stopped within a shard; run the same command again to resume");
        std::process::exit(Stopped::STATUS.into());
    });
}

/// Join the shards of latents that several processes wrote into one dataset.
#[derive(clap::Args)]
pub(crate) struct Index {
    /// Directory that `microdit data precompute` wrote to
    folder: PathBuf,
}

impl Index {
    pub(crate) fn run(self) -> miette::Result<()> {
        let stop = stop_on_signal("leaving the index as it is")?;
        let mut bar = Counter::new("checked shards");
        let index = index(&self.folder, &stop, |checked| bar.show(checked as u64, ""));
        drop(bar);
        let index = index.or_advise()?;
        let stopped = || Stopped("stopped; no index was written".into());
        let index = index.ok_or_else(stopped)?;
        report(&self.folder, &index);
        for (reason, count) in &index.rejected {
            say!("left out {count}: {reason}");
        }
        for lack in &index.lacks {
            say!("lacks      {lack}");
        }
        Ok(())
    }
}

fn report(folder: &Path, index: &DatasetIndex) {
    say!(
        "{}: {} samples in {} shards, {} MiB",
        folder.display(),
        index.samples,
        index.shards.len(),
        index.bytes >> 20
    );
}
