//! `microdit merge`: weights between those of several networks.

use crate::{
    advice::OrAdvise,
    bar::Bar,
    convert::Dtype,
    merge_curve::{Shares, default_out, measure},
    number::real,
    output, say,
};
use microdit::{range::require, weights};
use miette::miette;
use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

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
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, value_parser = real(SHARES))]
    shares: Vec<f64>,
    /// Instead, measure the networks of several shares of the first of two files, such as 0,0.1,...,1, and print the curve; what follows --
    /// is told to `microdit eval`, such as --prompts FILE --samples 200
    #[arg(long, value_name = "SHARES", allow_hyphen_values = true, conflicts_with_all = ["lambda", "shares"], value_parser = Shares::parse)]
    sweep: Option<Shares>,
    /// File of weights to write (.safetensors); with --sweep a directory for numbers and pictures [default of that: merge]
    #[arg(long, required_unless_present = "sweep")]
    out: Option<PathBuf>,
    /// Type of the numbers in that file
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// What `microdit eval` is told by a --sweep
    #[arg(last = true, requires = "sweep")]
    eval: Vec<String>,
}

impl Merge {
    pub(crate) fn run(self) -> miette::Result<()> {
        if let Some(sweep) = &self.sweep {
            if self.files.len() != 2 {
                let count = self.files.len();
                return Err(miette!("--sweep is for two files, not for {count}"));
            }
            let out = self.out.clone().unwrap_or_else(default_out);
            output::folder(&out)?;
            return measure(sweep, &self.eval, &out, |share, path| {
                self.write(&[share, 1.0 - share], path)
            });
        }
        let out = self.out.clone().unwrap_or_default();
        output::file(&out)?;
        self.write(&self.shares()?, &out)
    }

    /// Writes the network of these shares.
    fn write(&self, shares: &[f64], out: &Path) -> miette::Result<()> {
        let files = self.files.iter().zip(shares);
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
        let written = merged.write_safetensors(out, self.dtype.of_tensors(), description.as_ref());
        written.or_advise()?;
        for (path, share) in files {
            say!("{share} x {}", path.display());
        }
        let tensors = merged.len() + merged.buffers();
        say!("{tensors} tensors: {}", out.display());
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
