//! `microdit data prepare`: collected images into shards.

use super::describe;
use crate::{
    advice::OrAdvise,
    bar::Counter,
    number::real,
    say,
    signal::{Stopped, stop_on_signal},
};
use microdit_data::{DataError, DatasetCard, Fraction, PrepareConfig, Prepared, prepare};
use std::path::PathBuf;

/// Filter, clean and pack collected images into shards.
#[derive(clap::Args)]
pub(crate) struct Prepare {
    /// Description of the dataset, such as datasets/cc12m.ron
    card: PathBuf,
    /// Directory or shards of the collected images, or the URL of shards; generated datasets need none
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
    /// Share of the samples to take, 0 to 1, for a first try: each by a draw of its own, so that 0.1 has all that 0.01 has
    #[arg(long, value_parser = real(0.0..=1.0))]
    fraction: Option<f64>,
    /// Seed of the draws of --fraction
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Share of the samples that may be damaged, 0 to 1, before the command stops; what the card filters out does not count
    #[arg(long, default_value_t = 0.5, value_parser = real(0.0..=1.0))]
    max_damage: f64,
}

impl Prepare {
    pub(crate) fn run(self) -> miette::Result<()> {
        let text = std::fs::read_to_string(&self.card).map_err(|error| {
            miette::miette!(
                help = concat!(
                    "give the file of a description; those of known datasets are in ",
                    env!("CARGO_PKG_REPOSITORY"),
                    "/tree/main/datasets"
                ),
                "{} could not be read: {error}",
                self.card.display()
            )
        })?;
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
            max_damage: self.max_damage,
            fraction: self.fraction.map(|share| Fraction {
                share,
                seed: self.seed,
            }),
        };
        let stop = stop_on_signal("finishing the current shard")?;
        let mut bar = Counter::new("prepared samples");
        let prepared = prepare(&card, &config, &self.out, &stop, |seen| bar.show(seen, ""));
        drop(bar);
        let Prepared {
            index,
            left_out,
            passed,
            stopped,
        } = match prepared {
            Err(error @ DataError::Interrupted) => return Err(Stopped(error.to_string()).into()),
            prepared => prepared.or_advise()?,
        };
        let out = self.out.display();
        say!(
            "{out}: {} samples in {} shards, {} MiB",
            index.samples,
            index.shards.len(),
            index.bytes >> 20
        );
        if passed > 0 {
            say!("passed over {passed}, by --fraction");
        }
        describe(&left_out);
        if stopped {
            let message = format!(
                "stopped: {out} holds the beginning of the dataset only; use it as it is, or remove it and run the same command again"
            );
            return Err(Stopped(message).into());
        }
        if !index.lacks.is_empty() {
            return Err(miette::miette!(
                "{out} lacks a part of the source, all else is there: {}",
                index.lacks.join("; ")
            ));
        }
        Ok(())
    }
}
