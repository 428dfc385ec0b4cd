//! `microdit push`: an exported folder onto the hub.

use crate::{advice::OrAdvise, bar::Bytes, say};
use microdit_encoders::hub::{Uploaded, upload};
use microdit_train::export::files;
use std::path::PathBuf;

/// Upload a folder that `microdit export` wrote to the Hugging Face hub, where it becomes a model.
///
/// HF_TOKEN is a token that may write to its owner, HF_ENDPOINT another hub. The model is created if it is not there; files of other
/// names in it stay. All files appear at once, in one commit; large ones that an earlier attempt sent are not sent again.
#[derive(clap::Args)]
pub(crate) struct Push {
    /// The folder
    folder: PathBuf,
    /// The model, as OWNER/NAME
    repository: String,
    /// Let a model that is created be seen by its owners alone
    #[arg(long)]
    private: bool,
}

impl Push {
    pub(crate) fn run(self) -> miette::Result<()> {
        let files = files(&self.folder).or_advise()?;
        let mut bytes = Bytes::default();
        let uploaded = upload(&self.repository, &files, self.private, &mut bytes).or_advise()?;
        let Uploaded {
            address,
            files,
            there,
            ignored,
        } = uploaded;
        let there = match there {
            0 => String::new(),
            count => format!(", of which {count} large ones were there"),
        };
        say!("{files} files{there}: {address}");
        if !ignored.is_empty() {
            say!("left out by the repository's rules: {}", ignored.join(", "));
        }
        Ok(())
    }
}
