//! The `microdit` command: one thin file per subcommand.

mod advice;
mod bar;
mod convert;
mod data;
mod device;
mod doctor;
mod ema;
mod eval;
mod examples;
mod export;
mod fetch;
mod figure;
#[cfg(test)]
mod flags;
mod manual;
mod merge;
mod merge_curve;
mod network;
mod number;
mod output;
mod plan;
mod preparation;
mod push;
mod ranks;
mod recipe;
mod report;
mod runs;
mod sample;
mod signal;
mod source;
mod study;
mod sweep;
mod terminal;
mod to_draw;
mod train;

pub(crate) use terminal::say;

use clap::{Parser, Subcommand};
use microdit::worker_pool;
use microdit_train::allocator;
use std::process::ExitCode;

/// Train text-to-image diffusion transformers on a micro-budget, and draw with them.
#[derive(Parser)]
#[command(name = "microdit", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Train),
    Sample(Box<sample::Sample>),
    Eval(Box<eval::Eval>),
    Fetch(fetch::Fetch),
    Plan(plan::PlanCommand),
    Sweep(Box<sweep::SweepCommand>),
    Convert(convert::Convert),
    Merge(merge::Merge),
    Ema(ema::EmaCommand),
    Export(export::Export),
    Push(push::Push),
    Report(report::ReportCommand),
    Study(study::StudyCommand),
    Runs(runs::RunsCommand),
    #[command(subcommand)]
    Data(data::DataCommand),
    #[command(subcommand)]
    Recipe(recipe::RecipeCommand),
    Doctor(doctor::Doctor),
    Completions(manual::Completions),
    Man(manual::Manual),
}

/// Of tensors, mostly.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocator::PagePool = allocator::PagePool::new();

fn main() -> ExitCode {
    allocator::keep_freed();
    terminal::set_up();
    let command = match terminal::parse() {
        Ok(cli) => cli.command,
        Err(status) => return status,
    };
    // Training and drawing enter the pool themselves; from here on, so does all other work, and a command stays on this thread.
    let done = worker_pool::enter(|| match command {
        Command::Train(train) => train.run(),
        Command::Sample(sample) => sample.run(),
        Command::Eval(eval) => eval.run(),
        Command::Fetch(fetch) => fetch.run(),
        Command::Plan(plan) => plan.run(),
        Command::Sweep(sweep) => sweep.run(),
        Command::Convert(convert) => convert.run(),
        Command::Merge(merge) => merge.run(),
        Command::Ema(ema) => ema.run(),
        Command::Export(export) => export.run(),
        Command::Push(push) => push.run(),
        Command::Report(report) => report.run(),
        Command::Study(study) => study.run(),
        Command::Runs(runs) => runs.run(),
        Command::Data(data) => data.run(),
        Command::Recipe(recipe) => recipe.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(manual) => manual.run(),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => terminal::report(&error),
    }
}
