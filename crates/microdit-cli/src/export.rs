//! `microdit export`: a run as a folder to publish.

use crate::{advice::OrAdvise, say, source::choice};
use microdit_train::{
    export::{Card, export},
    run::Choice,
};
use std::path::PathBuf;

/// Write a folder to publish: weights, config, recipe, pictures, and a model card with what is known of the training.
#[derive(clap::Args)]
pub(crate) struct Export {
    /// Run directory that `microdit train` wrote
    #[arg(long)]
    run: PathBuf,
    /// Folder to create
    #[arg(long)]
    out: PathBuf,
    /// Which weights: `none` for those as trained, or the number of an average, counted from 1 as the recipe lists them under `ema`
    /// [default: the first average, or as trained if there is none]
    #[arg(long, value_name = "NUMBER", value_parser = choice)]
    ema: Option<Choice>,
    /// Licence, by the hub's identifier of it
    #[arg(long, default_value = "apache-2.0", value_parser = license)]
    license: String,
}

/// Reads the identifier of a licence, which becomes a line of the card's header.
fn license(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-.+".contains(c);
    match !text.is_empty() && text.len() <= 64 && text.chars().all(known) {
        true => Ok(text.to_owned()),
        false => Err(
            "a licence is named by letters, digits, `-`, `.` and `+`, such as apache-2.0".into(),
        ),
    }
}

impl Export {
    pub(crate) fn run(self) -> miette::Result<()> {
        let card = Card {
            license: self.license,
            choice: self.ema.unwrap_or_default(),
        };
        for path in export(&self.run, &self.out, &card).or_advise()? {
            say!("wrote {}", path.display());
        }
        Ok(())
    }
}
