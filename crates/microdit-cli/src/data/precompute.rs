//! `microdit data precompute` and `microdit data index`: pictures into latents.

use super::counter;
use crate::{
    device::{Device, on_device},
    number::whole,
    say,
    signal::stop_on_signal,
};
use microdit::DitBackend;
use microdit_data::{DatasetIndex, Members, PrecomputeConfig, Shards, index};
use microdit_encoders::{hub::locate, text::TextEncoder, vae::Vae};
use miette::IntoDiagnostic;
use std::path::{Path, PathBuf};

/// Encode shards of pictures into latents and caption states. A command that was cut off is run again and goes on.
#[derive(clap::Args)]
pub(crate) struct Precompute {
    /// A tar, a pattern such as train-{000..009}.tar, or a directory of shards
    shards: String,
    /// Directory to write to, or to go on in
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
    /// Images encoded at once
    #[arg(long, default_value_t = 16, value_parser = whole(1..=4096))]
    batch: usize,
    /// Seed of the draws from the VAE's posterior
    #[arg(long, default_value_t = 18)]
    seed: u64,
    /// This process among --world-size, which share the shards
    #[arg(long, env = "SLURM_PROCID", default_value_t = 0, value_parser = whole(0..=999_999))]
    rank: usize,
    /// Processes at work
    #[arg(long, env = "SLURM_NTASKS", default_value_t = 1, value_parser = whole(1..=1_000_000))]
    world_size: usize,
    /// Device to encode on
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
}

impl Precompute {
    pub(crate) fn run(self) -> miette::Result<()> {
        if self.rank >= self.world_size {
            return Err(miette::miette!(
                "--rank {} must be below --world-size {}",
                self.rank,
                self.world_size
            ));
        }
        on_device!(self.device, Inner => self.run_on::<Inner>(Default::default()))
    }

    fn run_on<B: DitBackend>(self, device: B::Device) -> miette::Result<()> {
        let shards = Shards::open(&self.shards, Members::Pictures).into_diagnostic()?;
        let vae =
            Vae::<B>::open(&locate(&self.vae).into_diagnostic()?, &device).into_diagnostic()?;
        let text = TextEncoder::<B>::open(&locate(&self.text_encoder).into_diagnostic()?, &device)
            .into_diagnostic()?;
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let config = PrecomputeConfig {
            encoders: [name(&self.vae), name(&self.text_encoder)],
            sizes: self.sizes,
            batch: self.batch,
            seed: self.seed,
            rank: self.rank,
            world: self.world_size,
        };
        let stop = stop_on_signal("leaving the shard at hand unfinished")?;
        let bar = counter("encoded");
        let work = microdit_data::Precompute {
            vae: &vae,
            text: &text,
            config: &config,
            device: &device,
        };
        let done = work.run(&shards, &self.out, &stop, |state| {
            bar.set_position(state.samples)
        });
        bar.finish_and_clear();
        let done = done.into_diagnostic()?;
        if done.stopped {
            say!(
                "stopped after {} of {} shards; the same command goes on from there",
                done.shards,
                done.of
            );
            return Ok(());
        }
        if self.world_size > 1 {
            say!(
                "{} samples encoded, all {} shards of rank {} are there; when all ranks are done: microdit data index {}",
                done.samples,
                done.of,
                self.rank,
                self.out.display()
            );
            return Ok(());
        }
        say!("{} samples encoded", done.samples);
        write_index(&self.out)
    }
}

/// Join the shards of latents that several processes wrote into one dataset.
#[derive(clap::Args)]
pub(crate) struct Index {
    /// Directory that `microdit data precompute` wrote to
    folder: PathBuf,
}

impl Index {
    pub(crate) fn run(self) -> miette::Result<()> {
        write_index(&self.folder)
    }
}

fn write_index(folder: &Path) -> miette::Result<()> {
    let DatasetIndex {
        samples,
        bytes,
        rejected,
        shards,
        ..
    } = index(folder).into_diagnostic()?;
    say!(
        "{}: {samples} samples in {} shards, {} MiB",
        folder.display(),
        shards.len(),
        bytes >> 20
    );
    for (reason, count) in &rejected {
        say!("left out {count}: {reason}");
    }
    Ok(())
}
