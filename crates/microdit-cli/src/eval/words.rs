//! `microdit eval` as part of another command, which is told its arguments after `--`.

use super::Eval;
use crate::{advice::OrAdvise, to_draw::ToDraw};
use clap::Parser;
use microdit_data::{Members, Shards};
use microdit_encoders::{
    features::FeatureError,
    hub::{HubError, locate},
};
use microdit_eval::{
    classifier::is_generated,
    evaluate::{EvaluateError, Wanted, labelled},
    features::Family,
    metrics::Metric,
};
use microdit_train::Recipe;
use miette::miette;
use std::path::Path;

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

    /// Networks that are given by their files or names.
    fn published(&self) -> [(Family, Option<&Path>); 4] {
        [
            (Family::Inception, self.inception.as_deref()),
            (Family::Clip, self.clip.as_deref()),
            (Family::CleanClip, self.clean_clip.as_deref()),
            (Family::DinoV2, self.dinov2.as_deref()),
        ]
    }

    /// What is asked for, by its names: in `--metrics`, and what the numbers are that are `compared`.
    ///
    /// # Errors
    /// A name that is none, or a number that these words do not measure.
    fn asked(&self, compared: &[&str]) -> miette::Result<Vec<(String, Wanted)>> {
        let mut asked = Vec::new();
        for name in &self.metrics {
            asked.push((name.clone(), name.parse::<Wanted>().or_advise()?));
        }
        let named: Vec<Wanted> = asked.iter().map(|(_, wanted)| *wanted).collect();
        for number in compared {
            let wanted = Wanted::measuring(number).or_advise()?;
            let is_measured = match named.is_empty() {
                true => wanted.is_default(),
                false => named.contains(&wanted),
            };
            if !is_measured {
                return Err(miette!(
                    help = format!(
                        "name {wanted} in --metrics after --, beside what else is to be measured"
                    ),
                    "{number} is compared, and microdit eval is not asked for it"
                ));
            }
            asked.push(((*number).to_owned(), wanted));
        }
        Ok(asked)
    }

    /// Checks what the words say by themselves: the names of metrics, that all numbers that are `compared` are measured, and that the
    /// networks of all of these are given.
    ///
    /// # Errors
    /// The first of these that is wrong.
    pub(crate) fn check_names(&self, compared: &[&str]) -> miette::Result<()> {
        for (metric, wanted) in self.asked(compared)? {
            let family = match wanted {
                Wanted::Features(_, family) => family,
                Wanted::ClassAccuracy => Family::Classifier,
                Wanted::PromptAccuracy => continue,
            };
            let published = self.published();
            let mut given = published.iter().filter(|(_, path)| path.is_some());
            let has = given.any(|(given, _)| *given == family)
                || (family == Family::Classifier && self.classifier.is_some());
            if !has {
                return Err(EvaluateError::NoNetwork { metric, family }).or_advise();
            }
        }
        Ok(())
    }

    /// Checks what can be known before there are runs by `recipes`, beside the names: the networks, the prompts, and the reference of
    /// each. No network is read, and what several recipes share is looked at once.
    ///
    /// # Errors
    /// A network, prompts or a reference that are missing or cannot be read.
    pub(crate) fn check_files<'a>(
        &self,
        recipes: impl Iterator<Item = &'a Recipe>,
        compared: &[&str],
    ) -> miette::Result<()> {
        for (family, path) in self.published() {
            if let Some(path) = path {
                is_there(family, path).or_advise()?;
            }
        }
        if let Some(shards) = self
            .classifier
            .as_ref()
            .filter(|train| !is_generated(train))
        {
            Shards::open(shards, Members::Pictures).or_advise()?;
        }
        // The standard input is read when pictures are drawn.
        if let Some(prompts) = self
            .prompts
            .as_deref()
            .filter(|path| *path != Path::new("-"))
        {
            ToDraw::of(Some(prompts), None, self.samples)?;
        }
        let asked = self.asked(compared)?;
        let mut known = Vec::new();
        for recipe in recipes {
            let size = recipe.last_stage().data.image_size();
            let reference = (self.reference(Some(recipe)), size);
            if known.contains(&reference) {
                continue;
            }
            if let Some(train) = &self.classifier {
                labelled(train, reference.0.as_deref()).or_advise()?;
            }
            let against = self.against(Some(recipe))?;
            for (metric, wanted) in &asked {
                let compares = match wanted {
                    Wanted::Features(of, _) => {
                        !matches!(of, Metric::InceptionScore | Metric::ClipScore)
                    }
                    Wanted::PromptAccuracy | Wanted::ClassAccuracy => false,
                };
                if against.is_none() && compares {
                    let metric = metric.clone();
                    return Err(EvaluateError::NoReference { metric }).or_advise();
                }
            }
            if self.prompts.is_none() {
                ToDraw::of(None, against.as_ref(), self.samples)?;
            }
            known.push(reference);
        }
        Ok(())
    }
}

/// Whether a network can be opened from `path`, with the error of one that cannot.
fn is_there(family: Family, path: &Path) -> Result<(), FeatureError> {
    if family == Family::Inception && !path.exists() {
        let name = path.display().to_string();
        return Err(FeatureError::Release { name });
    }
    match locate(path) {
        Ok(_) => Ok(()),
        Err(HubError::Unknown { name }) => Err(FeatureError::Unknown { name }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_measured_is_said_before_there_is_a_run() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let recipe = Recipe::load(&quickstart, &[]).unwrap();
        let checked = |compared: &[&str], words: &str| {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            let own = ["--run".to_owned(), "there".to_owned()];
            let eval = Eval::of_words(&own, &words).map_err(|error| error.to_string())?;
            let names = eval.check_names(compared);
            let recipes = [&recipe, &recipe].into_iter();
            let checked = names.and_then(|()| eval.check_files(recipes, compared));
            checked.map_err(|error| error.to_string())
        };
        let accuracy = "--metrics prompt-accuracy --samples 8";
        checked(&[], accuracy).unwrap();
        let compared = ["prompt-accuracy", "prompt-accuracy-color guidance=3"];
        checked(&compared, accuracy).unwrap();
        checked(&compared, "--samples 8").unwrap();
        // What is generated is labelled.
        let generated = "--classifier shapes --metrics fd-classifier,class-accuracy --samples 8";
        checked(&["fd-classifier"], generated).unwrap();
        let said = checked(&["fid"], accuracy).unwrap_err();
        assert!(said.contains("fid is compared"), "{said}");
        // Whose reference is generated.
        let folder = tempfile::tempdir().unwrap();
        let shard = folder.path().join("a.tar");
        std::fs::write(&shard, [0; 10_240]).unwrap();
        let unlabelled = format!("--classifier {}", shard.display());
        for (words, part) in [
            ("--metrics fd-classifier", "fd-classifier"),
            ("--metrics fidd", "did you mean"),
            ("--sampels 8", "--sampels"),
            ("--dinov2 nowhere/else", "no published network of features"),
            ("--inception nowhere.pth", "pytorch-fid"),
            ("--classifier nowhere.tar", "nowhere.tar"),
            ("--reference nowhere", "nowhere"),
            ("--prompts nowhere.txt", "nowhere.txt"),
            (&unlabelled, "labelled shards"),
        ] {
            let said = checked(&[], words).unwrap_err();
            assert!(said.contains(part), "{words}: {said}");
        }
    }
}
