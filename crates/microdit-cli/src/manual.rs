//! `microdit completions` and `microdit man`: what shells and manuals know of the command, from its own parser.

use crate::{examples::command, output, say};
use clap::builder::PossibleValuesParser;
use clap_complete::{Generator, Shell};
use miette::{IntoDiagnostic, WrapErr, miette};
use std::{fs, path::PathBuf};

/// Print what a shell needs to complete this command's arguments.
#[derive(clap::Args)]
pub(crate) struct Completions {
    /// Shell
    #[arg(value_parser = PossibleValuesParser::new(["bash", "elvish", "fish", "powershell", "zsh"]))]
    shell: String,
}

impl Completions {
    pub(crate) fn run(self) -> miette::Result<()> {
        let shell: Shell = self.shell.parse().map_err(|error| miette!("{error}"))?;
        let mut command = command();
        command.set_bin_name("microdit");
        command.build();
        let mut text = Vec::new();
        shell.generate(&command, &mut text);
        say!("{}", String::from_utf8_lossy(&text).trim_end());
        Ok(())
    }
}

/// Write manual pages, one for each command.
#[derive(clap::Args)]
pub(crate) struct Manual {
    /// Directory for the pages
    #[arg(long)]
    out: PathBuf,
}

impl Manual {
    pub(crate) fn run(self) -> miette::Result<()> {
        output::folder(&self.out)?;
        fs::create_dir_all(&self.out).into_diagnostic()?;
        clap_mangen::generate_to(command(), &self.out)
            .into_diagnostic()
            .wrap_err_with(|| format!("{} cannot be written", self.out.display()))?;
        say!(
            "manual pages in {}; read one with: man -l {}",
            self.out.display(),
            self.out.join("microdit.1").display()
        );
        Ok(())
    }
}
