//! `microdit study`: a page on which people compare pictures, and what their votes come to.

use crate::{advice::OrAdvise, number::whole, output, say};
use microdit::atomic_file;
use microdit_encoders::read_labels;
use microdit_eval::study::{Study, Tally, page, pairs, read_ballots};
use microdit_train::sampling::read_prompts;
use miette::miette;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Let people compare the images of two folders blindly, or count their votes.
///
/// The page shows the pairs in an order, and each pair's pictures in places, that follow from the voter's name; votes stay in
/// the browser until they are downloaded as a file. Whose a picture is does not show at a glance, neither in the page nor
/// in the votes; it is no secret from one who reads the page's source.
#[derive(clap::Args)]
pub(crate) struct StudyCommand {
    /// The two folders: of pictures named NNNNN_K.png (numbers of prompt and picture, from 0), or as
    /// `microdit sample --prompts FILE --count K --singles FOLDER` writes them
    #[arg(num_args = 2, value_names = ["A", "B"], required_unless_present = "votes")]
    folders: Vec<PathBuf>,
    /// The prompts of the pictures, one per line
    #[arg(long, required_unless_present = "votes")]
    prompts: Option<PathBuf>,
    /// Images to show for each prompt
    #[arg(long, default_value_t = 1, value_parser = whole(1..=1000))]
    per_prompt: usize,
    /// Page to write
    #[arg(long, default_value = "study.html")]
    out: PathBuf,
    /// Files of votes to count
    #[arg(long, num_args = 1.., value_name = "FILE", conflicts_with_all = ["folders", "prompts", "per_prompt", "out"])]
    votes: Vec<PathBuf>,
}

impl StudyCommand {
    pub(crate) fn run(self) -> miette::Result<()> {
        if !self.votes.is_empty() {
            let (study, ballots) = read_ballots(&self.votes).or_advise()?;
            say!("{}", Tally::new(study, &ballots));
            return Ok(());
        }
        let (Some(prompts), [a, b]) = (&self.prompts, &self.folders[..]) else {
            return Err(miette!("a study needs two folders and --prompts FILE"));
        };
        output::file(&self.out)?;
        let prompts = read_prompts(prompts).or_advise()?;
        let shown = pairs([a, b], &prompts, self.per_prompt, prompt_of).or_advise()?;
        let (a, b) = (a.display().to_string(), b.display().to_string());
        let study = Study::new(&a, &b, &shown);
        let html = page(&study, &shown);
        atomic_file::write(&self.out, |path| fs::write(path, html)).or_advise()?;
        say!("{} pairs: {}", shown.len(), self.out.display());
        Ok(())
    }
}

/// What a picture says that it shows, if it says that.
fn prompt_of(path: &Path) -> Option<String> {
    let labels = read_labels(path).ok()?;
    let prompt = labels.into_iter().find(|(key, _)| key == "prompt");
    prompt.map(|(_, text)| text)
}
