//! The `microdit` command: one thin file per subcommand.

mod convert;
mod data;
mod device;
mod fetch;
#[cfg(test)]
mod flags;
mod number;
mod plan;
mod recipe;
mod sample;
mod signal;
mod train;

/// A line on the standard output, which a run outlives: whoever read it may have gone (`microdit train ... | head`).
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}
pub(crate) use say;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Train text-to-image diffusion transformers on a micro-budget, and draw with them.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Train),
    Sample(sample::Sample),
    Fetch(fetch::Fetch),
    Plan(plan::PlanCommand),
    Convert(convert::Convert),
    #[command(subcommand)]
    Data(data::DataCommand),
    #[command(subcommand)]
    Recipe(recipe::RecipeCommand),
}

fn main() -> miette::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    let command = Cli::parse().command;
    // On a worker of the pool, a parallel operation starts without waking another thread first.
    rayon::scope(|_| match command {
        Command::Train(train) => train.run(),
        Command::Sample(sample) => sample.run(),
        Command::Fetch(fetch) => fetch.run(),
        Command::Plan(plan) => plan.run(),
        Command::Convert(convert) => convert.run(),
        Command::Data(data) => data.run(),
        Command::Recipe(recipe) => recipe.run(),
    })
}
