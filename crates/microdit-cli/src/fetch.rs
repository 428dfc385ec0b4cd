//! `microdit fetch`: published models onto this machine.

use crate::{advice::OrAdvise, bar::Bytes, say};
use clap::builder::{PossibleValue, PossibleValuesParser};
use microdit_encoders::hub::{HubError, PUBLISHED, Published, fetch, fetch_published, published};

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
        let mut report = Bytes::default();
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
