//! `microdit eval` as part of another command, which is told its arguments after `--`.

use super::Eval;
use crate::advice::OrAdvise;
use clap::Parser;
use microdit_encoders::hub::locate;
use microdit_eval::{
    evaluate::{EvaluateError, PictureSet, Wanted},
    features::Family,
    metrics::Metric,
};
use microdit_train::Recipe;
use miette::miette;

/// What follows `--`.
#[derive(Parser)]
#[command(name = "microdit eval")]
struct Words {
    #[command(flatten)]
    eval: Eval,
}

impl Eval {
    /// Reads `words` after `own`, the arguments that the other command gives.
    ///
    /// # Errors
    /// Words that `microdit eval` does not take.
    pub(crate) fn of_words(own: &[String], words: &[String]) -> miette::Result<Self> {
        let all = std::iter::once("eval").chain(own.iter().chain(words).map(String::as_str));
        let parsed = Words::try_parse_from(all);
        parsed
            .map(|words| words.eval)
            .map_err(|error| miette!("after --: {error}"))
    }

    /// Checks what can be known before there is a run by `recipe`: the names of metrics, the networks that these need, and the reference.
    /// No network is read.
    ///
    /// # Errors
    /// A name that is none, a network or a reference that is missing or cannot be found.
    pub(crate) fn check_before(&self, recipe: &Recipe) -> miette::Result<()> {
        let networks = [
            (Family::Inception, &self.inception),
            (Family::Clip, &self.clip),
            (Family::CleanClip, &self.clean_clip),
            (Family::DinoV2, &self.dinov2),
        ];
        for (_, path) in networks {
            if let Some(path) = path {
                locate(path).or_advise()?;
            }
        }
        if let Some(shards) = &self.classifier {
            PictureSet::open(shards, 1).or_advise()?;
        }
        let against = self.against(Some(recipe))?;
        for name in &self.metrics {
            let wanted: Wanted = name.parse().or_advise()?;
            let (of, family) = match wanted {
                Wanted::Features(of, family) => (Some(of), family),
                Wanted::ClassAccuracy => (None, Family::Classifier),
                Wanted::PromptAccuracy => continue,
            };
            let metric = name.clone();
            let mut given = networks.iter().filter(|(_, path)| path.is_some());
            let has = given.any(|(given, _)| *given == family)
                || (family == Family::Classifier && self.classifier.is_some());
            if !has {
                return Err(EvaluateError::NoNetwork { metric, family }).or_advise();
            }
            let is_alone = matches!(of, None | Some(Metric::InceptionScore | Metric::ClipScore));
            if against.is_none() && !is_alone {
                return Err(EvaluateError::NoReference { metric }).or_advise();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_cannot_be_measured_is_said_before_there_is_a_run() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let recipe = Recipe::load(&quickstart, &[]).unwrap();
        let checked = |words: &str| {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            let own = ["--run".to_owned(), "there".to_owned()];
            let eval = Eval::of_words(&own, &words).map_err(|error| error.to_string())?;
            let checked = eval.check_before(&recipe);
            checked.map_err(|error| error.to_string())
        };
        checked("--metrics prompt-accuracy --samples 8").unwrap();
        for (words, part) in [
            ("--metrics fd-classifier", "fd-classifier"),
            ("--metrics fidd", "did you mean"),
            ("--sampels 8", "--sampels"),
            ("--dinov2 nowhere/else", "nowhere/else"),
            ("--classifier nowhere.tar", "nowhere.tar"),
            ("--reference nowhere", "nowhere"),
        ] {
            let said = checked(words).unwrap_err();
            assert!(said.contains(part), "{words}: {said}");
        }
    }
}
