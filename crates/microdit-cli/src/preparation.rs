//! What is prepared before pictures are judged: classifiers that are trained, features that are kept, and how far that is.

use crate::{bar::Bar, say};
use microdit_eval::{Preparing, classifier, evaluate::Seen};
use miette::miette;
use std::path::{Path, PathBuf};

/// The directory that features and classifiers are kept in: the one given, or one in the user's cache.
pub(crate) fn cache(given: Option<&Path>) -> miette::Result<PathBuf> {
    let user = || {
        let set = |name| std::env::var_os(name).map(PathBuf::from);
        let home = || Some(set("HOME")?.join(".cache"));
        let cache = set("XDG_CACHE_HOME").or_else(home)?;
        Some(cache.join("microdit/features"))
    };
    let cache = given.map(Path::to_owned).or_else(user);
    cache.ok_or_else(|| miette!("there is no home directory for a cache; give --cache"))
}

/// The bar of what is done now.
#[derive(Default)]
pub(crate) struct Shown {
    /// What it says, and the bar.
    now: Option<(String, Bar)>,
}

impl Shown {
    /// Shows how a probe's preparation gets on.
    pub(crate) fn preparing(&mut self, done: Preparing<'_>) {
        match done {
            Preparing::Classifier(progress) => self.classifier(progress),
            Preparing::Reference(seen) => self.seen(seen),
        }
    }

    /// Shows how the training of a classifier gets on.
    pub(crate) fn classifier(&mut self, progress: classifier::Progress) {
        let bar = || Bar::new("training the classifier", "steps");
        let (_, bar) = self.now.get_or_insert_with(|| (String::new(), bar()));
        bar.show(progress.step, progress.steps);
    }

    /// Shows how a network gets on with a set of pictures.
    pub(crate) fn seen(&mut self, seen: Seen<'_>) {
        let says = format!("{} looks at {}", seen.network, seen.set);
        if self.now.as_ref().is_none_or(|(said, _)| *said != says) {
            say!("{says}");
            self.now = Some((says, Bar::new("looking at", "pictures")));
        }
        if let Some((_, bar)) = &mut self.now {
            bar.show(seen.done, seen.of);
        }
    }
}
