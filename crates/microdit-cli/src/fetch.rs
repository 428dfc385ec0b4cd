//! `microdit fetch`: published models onto this machine.

use crate::advice::OrAdvise;
use crate::say;
use clap::builder::{PossibleValue, PossibleValuesParser};
use indicatif::{ProgressBar, ProgressStyle};
use microdit::printable;
use microdit_encoders::hub::{
    HubError, PUBLISHED, Published, Report, fetch, fetch_published, published,
};

/// Download published models into the Hugging Face cache, verified; what is there already is kept.
///
/// HF_HOME names the cache, HF_ENDPOINT a mirror, HF_TOKEN the reader of private models, HF_HUB_DOWNLOAD_TIMEOUT the seconds
/// a server may be silent; with HF_HUB_OFFLINE=1 nothing is downloaded.
#[derive(clap::Args)]
pub(crate) struct Fetch {
    /// Models
    #[arg(required_unless_present_any = ["list", "repository"], value_parser = PossibleValuesParser::new(names()))]
    models: Vec<String>,
    /// Any other model of the hub, as OWNER/NAME, with --file
    #[arg(long, requires = "file")]
    repository: Option<String>,
    /// Files of --repository; may be given several times
    #[arg(long, requires = "repository")]
    file: Vec<String>,
    /// List the models
    #[arg(long)]
    list: bool,
}

fn names() -> Vec<PossibleValue> {
    let name = |model: &Published| PossibleValue::new(model.name).aliases(model.aliases);
    PUBLISHED.iter().map(name).collect()
}

impl Fetch {
    pub(crate) fn run(self) -> miette::Result<()> {
        if self.list {
            for model in PUBLISHED {
                let repository = model.repositories.first().unwrap_or(&"");
                say!("{:<14} {} ({repository})", model.name, model.about);
            }
        }
        let mut report = Bar(ProgressBar::hidden());
        for model in self.models.iter().filter_map(|name| published(name)) {
            let refused = |error: &HubError| say!("{error}; trying a copy of it");
            let place = fetch_published(model, &mut report, refused).or_advise()?;
            say!("{}: {}", model.name, place.display());
        }
        if let Some(repository) = &self.repository {
            let files: Vec<&str> = self.file.iter().map(String::as_str).collect();
            for path in fetch(repository, &files, &mut report).or_advise()? {
                say!("{}", path.display());
            }
        }
        Ok(())
    }
}

/// A bar per file.
struct Bar(ProgressBar);

impl Report for Bar {
    fn begin(&mut self, file: &str, bytes: u64) {
        let template = "{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::new(bytes);
        self.0 = bar
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(printable::line(file).into_owned());
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}
