//! The names of numbers that points can be compared by.

use super::conditions::{FEATURE_DISTANCE, HELD_OUT};
use crate::{
    evaluate::{ASPECTS, CLASS_ACCURACY, Wanted},
    features::Family,
    metrics::Metric,
    statistics::Direction,
};
use microdit_train::{Recipe, probe::HeldOutLoss, recipe::FeatureNetworkConfig};

/// Checks that a run by `recipe` can have a number of this name: in its log, or measured by `microdit eval`, whose names may be
/// followed by labels.
///
/// # Errors
/// The name that is most like it, if it is none.
pub(super) fn require(name: &str, recipe: &Recipe) -> Result<(), String> {
    let logged = logged(recipe);
    let metric = name.split(' ').next().unwrap_or_default();
    let known = match is_logged(name) {
        true => logged.iter().any(|known| known == name),
        false => evaluated().any(|known| known == metric),
    };
    if known {
        return Ok(());
    }
    let all = logged.into_iter().chain(evaluated().map(str::to_owned));
    let near = all
        .map(|known| (strsim::damerau_levenshtein(&known, name), known))
        .min();
    Err(near.map_or_else(String::new, |(_, known)| known))
}

/// Whether this is the name of a number of a run's log, and not one of `microdit eval`.
pub(super) fn is_logged(name: &str) -> bool {
    name.starts_with(HELD_OUT) || name.starts_with(FEATURE_DISTANCE)
}

/// The numbers at the end of a run's log.
fn logged(recipe: &Recipe) -> Vec<String> {
    let Some(evaluation) = &recipe.run.evaluation else {
        return Vec::new();
    };
    let averaged = !recipe.last_stage().ema.is_empty();
    let losses = HeldOutLoss::names(averaged).map(|name| format!("{HELD_OUT}{name}"));
    let network = evaluation.feature_distance.iter();
    let distances = network.flat_map(|config| -> Vec<&str> {
        let published = !matches!(config.network, FeatureNetworkConfig::Classifier { .. });
        let is_of = |key: &&str| match Metric::from_key(key) {
            Some((Metric::Frechet | Metric::Kernel, family)) => {
                published != (family == Family::Classifier)
            }
            _ => !published && *key == CLASS_ACCURACY,
        };
        Metric::keys()
            .chain([CLASS_ACCURACY])
            .filter(is_of)
            .collect()
    });
    let distances = distances.map(|name| format!("{FEATURE_DISTANCE}{name}"));
    losses.chain(distances).collect()
}

/// The numbers of `microdit eval`.
fn evaluated() -> impl Iterator<Item = &'static str> {
    Metric::keys().chain(ASPECTS).chain([CLASS_ACCURACY])
}

/// Which way a number improves, if its name tells; of losses only the means over the noise levels have one.
pub(super) fn direction(name: &str) -> Option<Direction> {
    if let Some(loss) = name.strip_prefix(HELD_OUT) {
        return matches!(loss, "loss" | "ema_loss").then_some(Direction::Lower);
    }
    let metric = name.strip_prefix(FEATURE_DISTANCE).unwrap_or(name);
    Some(match Wanted::measuring(metric).ok()? {
        Wanted::Features(metric, _) => metric.direction(),
        Wanted::PromptAccuracy | Wanted::ClassAccuracy => Direction::Higher,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_tell_which_way_a_number_improves() {
        for (name, better) in [
            ("held_out/loss", Some(Direction::Lower)),
            ("held_out/loss_at_1.3", None),
            ("feature_distance/kid", Some(Direction::Lower)),
            ("feature_distance/class-accuracy", Some(Direction::Higher)),
            ("fid guidance=3", Some(Direction::Lower)),
            ("coverage-dinov2", Some(Direction::Higher)),
            ("prompt-accuracy", Some(Direction::Higher)),
            ("prompt-accuracy-color", Some(Direction::Higher)),
            ("beauty", None),
        ] {
            assert_eq!(direction(name), better, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_answered_with_one_that_is() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let network = |network: &str| {
            let distance = format!("feature_distance: (samples: 9, network: {network})");
            let sets = [
                format!("evaluation=(every: 2, samples: 8, {distance})"),
                "stages.unmasked.ema=[]".into(),
            ];
            Recipe::load(&quickstart, &sets).unwrap()
        };
        let classifier = network("Classifier(shards: \"a.tar\")");
        let published = network("Published(\"dinov2-base\")");
        for (name, recipe) in [
            ("held_out/loss", &classifier),
            ("held_out/loss_at_15", &classifier),
            ("feature_distance/kd-classifier", &classifier),
            ("feature_distance/class-accuracy", &classifier),
            ("feature_distance/fd-dinov2", &published),
            ("fid guidance=3", &classifier),
            ("prompt-accuracy-color", &classifier),
        ] {
            assert_eq!(require(name, recipe), Ok(()), "{name}");
        }
        for (name, recipe, near) in [
            ("held_out/los", &classifier, "held_out/loss"),
            // Its last stage keeps no average.
            ("held_out/ema_loss", &classifier, "held_out/loss"),
            (
                "feature_distance/fd-classifier",
                &published,
                "feature_distance/fd-clip",
            ),
            ("fdi", &classifier, "fid"),
            (
                "prompt-accuracy-colour",
                &classifier,
                "prompt-accuracy-color",
            ),
        ] {
            assert_eq!(require(name, recipe), Err(near.into()), "{name}");
        }
    }
}
