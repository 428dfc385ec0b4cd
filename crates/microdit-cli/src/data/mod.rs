//! `microdit data`: from collected images to what is trained on.

mod inspect;
mod precompute;
mod prepare;

use crate::say;
use clap::Subcommand;
use microdit_data::LeftOut;

/// Prepare, pre-compute and inspect datasets.
#[derive(Subcommand)]
pub(crate) enum DataCommand {
    Prepare(prepare::Prepare),
    Precompute(precompute::Precompute),
    Index(precompute::Index),
    Inspect(inspect::Inspect),
}

impl DataCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        match self {
            Self::Prepare(prepare) => prepare.run(),
            Self::Precompute(precompute) => precompute.run(),
            Self::Index(index) => index.run(),
            Self::Inspect(inspect) => inspect.run(),
        }
    }
}

/// What was left out, by reason, and the first for each.
fn describe(left_out: &LeftOut) {
    for (reason, count) in &left_out.counts {
        say!("left out {count}: {reason}");
        for example in left_out.named.get(reason).into_iter().flatten() {
            say!("  {example}");
        }
    }
}
