//! `microdit ema`: an average of a run's weights, of a length that is chosen afterwards.

use crate::{
    advice::OrAdvise,
    bar::Bar,
    device::{Device, on_device},
    number::real,
    output, say,
};
use microdit::{DitBackend, post_hoc_ema::SIGMA_RELS};
use microdit_train::post_hoc::{Wanted, reconstruct};
use std::path::PathBuf;

/// Write an average of the weights of a run whose recipe has `post_hoc_ema`.
#[derive(clap::Args)]
pub(crate) struct EmaCommand {
    /// Run directory that `microdit train` wrote
    #[arg(long)]
    run: PathBuf,
    /// Length of the average: standard deviation of the moments it weighs over the steps of the stage
    #[arg(long, value_parser = real(SIGMA_RELS))]
    sigma_rel: f64,
    /// Name or number of the stage [default: the last that has snapshots]
    #[arg(long)]
    stage: Option<String>,
    /// Steps of the stage after which the average ends [default: those of the newest snapshot]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 53))]
    step: Option<u64>,
    /// File of weights to write (.safetensors)
    #[arg(long)]
    out: PathBuf,
}

impl EmaCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        output::file(&self.out)?;
        on_device!(Device::Cpu, Inner => self.write::<Inner>())
    }

    fn write<B: DitBackend>(self) -> miette::Result<()> {
        let wanted = Wanted {
            sigma_rel: self.sigma_rel,
            stage: self.stage,
            step: self.step,
        };
        let mut bar = Bar::new("reading", "snapshots");
        let show = |done, all| bar.show(done, all);
        let made = reconstruct::<B>(&self.run, &wanted, &self.out, &Default::default(), show);
        drop(bar);
        let made = made.or_advise()?;
        say!(
            "stage {} after {} steps, sigma_rel {}, of {} snapshots: {}",
            made.stage,
            made.step,
            wanted.sigma_rel,
            made.snapshots,
            self.out.display()
        );
        Ok(())
    }
}
