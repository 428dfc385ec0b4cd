//! `microdit data prepare`: collected pictures into shards.

use super::counter;
use crate::say;
use microdit_data::{DatasetCard, PrepareConfig, prepare};
use miette::{IntoDiagnostic, WrapErr};
use std::path::PathBuf;

/// Filter, clean and pack collected pictures into shards.
#[derive(clap::Args)]
pub(crate) struct Prepare {
    /// Description of the dataset, such as datasets/cc12m.ron
    card: PathBuf,
    /// Directory or shards of the collected pictures; datasets that are drawn need none
    #[arg(long, default_value = "")]
    source: String,
    /// Directory to create
    #[arg(long)]
    out: PathBuf,
    /// Table of captions (.jsonl, .csv, .parquet), if it is not in the directory as captions.* or metadata.*
    #[arg(long)]
    captions: Option<PathBuf>,
    /// MiB after which the next shard begins
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    shard_mib: u64,
    /// Samples after which to stop
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Prepare {
    pub(crate) fn run(self) -> miette::Result<()> {
        let text = std::fs::read_to_string(&self.card)
            .into_diagnostic()
            .wrap_err_with(|| format!("{} could not be read", self.card.display()))?;
        let options = ron::Options::default()
            .with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
        let card: DatasetCard = options
            .from_str(&text)
            .map_err(|error| miette::miette!("{}:{error}", self.card.display()))?;
        let config = PrepareConfig {
            source: &self.source,
            captions: self.captions.as_deref(),
            shard_bytes: self.shard_mib << 20,
            limit: self.limit,
        };
        let bar = counter("prepared");
        let index = prepare(&card, &config, &self.out, |seen| bar.set_position(seen));
        bar.finish_and_clear();
        let index = index.into_diagnostic()?;
        say!(
            "{}: {} samples in {} shards, {} MiB",
            self.out.display(),
            index.samples,
            index.shards.len(),
            index.bytes >> 20
        );
        for (reason, count) in &index.rejected {
            say!("left out {count}: {reason}");
        }
        Ok(())
    }
}
