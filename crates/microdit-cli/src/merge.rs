//! `microdit merge`: weights between those of several networks.

use crate::{advice::OrAdvise, bar::Bar, convert::Dtype, number::real, output, say};
use microdit::{range::require, weights};
use miette::miette;
use std::{ops::RangeInclusive, path::PathBuf};

/// Shares a file may have: below 0 and above 1, networks are moved beyond each other.
const SHARES: RangeInclusive<f64> = -10.0..=10.0;

/// How far the sum of all shares may be from 1.
const ROUNDING: f64 = 1e-6;

/// Write a weighted sum of the weights of networks of the same sizes.
#[derive(clap::Args)]
pub(crate) struct Merge {
    /// Files of weights (.safetensors, .pt)
    #[arg(required = true, num_args = 2..)]
    files: Vec<PathBuf>,
    /// Share of the first of two files; the other one has the rest [default: 0.5]
    #[arg(long, conflicts_with = "shares", allow_negative_numbers = true, value_parser = real(SHARES))]
    lambda: Option<f64>,
    /// Share of each file, separated by commas; together they are 1
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true, value_parser = real(SHARES))]
    shares: Vec<f64>,
    /// File of weights to write (.safetensors)
    #[arg(long)]
    out: PathBuf,
    /// Type of the numbers in that file
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
}

impl Merge {
    pub(crate) fn run(self) -> miette::Result<()> {
        output::file(&self.out)?;
        let shares = self.shares()?;
        let files = self.files.iter().zip(&shares);
        let files: Vec<_> = files
            .map(|(path, share)| (path.as_path(), *share))
            .collect();
        let mut bar = Bar::new("merging", "tensors");
        let merged = weights::merge(&files, |done, all| bar.show(done, all));
        drop(bar);
        let (merged, description) = merged.or_advise()?;
        // A checkpoint of our own names parameters by their paths in the task.
        let merged = match merged.is_of_task() {
            true => merged.into_reference(),
            false => merged,
        };
        merged.check_finite().or_advise()?;
        let written =
            merged.write_safetensors(&self.out, self.dtype.of_tensors(), description.as_ref());
        written.or_advise()?;
        for (path, share) in files {
            say!("{share} x {}", path.display());
        }
        let tensors = merged.len() + merged.buffers();
        say!("{tensors} tensors: {}", self.out.display());
        Ok(())
    }

    fn shares(&self) -> miette::Result<Vec<f64>> {
        if self.shares.is_empty() {
            let lambda = self.lambda.unwrap_or(0.5);
            return match self.files.len() {
                2 => Ok(vec![lambda, 1.0 - lambda]),
                count => Err(miette!(
                    "{count} files need --shares, such as {}; --lambda is for two",
                    vec!["0.2"; count].join(",")
                )),
            };
        }
        if self.shares.len() != self.files.len() {
            let (shares, files) = (self.shares.len(), self.files.len());
            return Err(miette!("--shares has {shares} numbers for {files} files"));
        }
        let sum: f64 = self.shares.iter().sum();
        let whole = require((sum - 1.0).abs() <= ROUNDING, "--shares", || {
            format!("together they must be 1, not {sum:?}: the network would be scaled")
        });
        whole.or_advise()?;
        Ok(self.shares.clone())
    }
}
