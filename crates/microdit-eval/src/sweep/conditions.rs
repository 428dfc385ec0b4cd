//! What the numbers of a run's log were measured under: values of other conditions are not compared.

use microdit_train::{
    Recipe,
    recipe::{FeatureDistanceConfig, FeatureNetworkConfig},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path};

/// The beginning of a name of the held-out losses in a log, and of feature distances.
pub(super) const HELD_OUT: &str = "held_out/";
pub(super) const FEATURE_DISTANCE: &str = "feature_distance/";

/// The conditions of a number of the log of a run by `recipe`, as a checksum: of a held-out loss what its meaning depends on and the
/// content of the held-out data; of a feature distance what is drawn, how, and what it is compared with. None of other numbers, and
/// where the data cannot be looked at.
pub(super) fn of_logged(recipe: &Recipe, name: &str) -> Option<String> {
    let evaluation = recipe.run.evaluation.as_ref()?;
    let conditions = if name.starts_with(HELD_OUT) {
        let mut conditions = recipe.held_out_conditions()?;
        conditions.insert("data".into(), recipe.held_out_on().ok()??);
        conditions
    } else if name.starts_with(FEATURE_DISTANCE) {
        of_pictures(recipe, evaluation.feature_distance.as_ref()?)?
    } else {
        return None;
    };
    Some(checksum(&conditions))
}

/// What feature distances depend on.
fn of_pictures(
    recipe: &Recipe,
    config: &FeatureDistanceConfig,
) -> Option<BTreeMap<String, String>> {
    let sampling = &recipe.run.sampling;
    // The same files have other places on another machine.
    let name = |path: &str| {
        let name = Path::new(path).file_name().unwrap_or(path.as_ref());
        name.to_string_lossy().into_owned()
    };
    let network = match &config.network {
        FeatureNetworkConfig::Classifier { shards, .. } => format!("classifier {}", name(shards)),
        FeatureNetworkConfig::Published(path) => name(&path.to_string_lossy()),
    };
    let reference = match &config.reference {
        Some(reference) => name(reference),
        None => recipe.held_out_on().ok()??,
    };
    let prompts = config.prompts.as_ref();
    let prompts = prompts.map_or_else(String::new, |path| name(&path.to_string_lossy()));
    let conditions = [
        ("samples", config.samples.to_string()),
        (
            "reference_samples",
            format!("{:?}", config.reference_samples),
        ),
        ("network", network),
        ("reference", reference),
        ("prompts", prompts),
        ("guidance", sampling.guidance.to_string()),
        ("steps", sampling.steps.to_string()),
    ];
    let named = conditions.map(|(key, value)| (key.to_owned(), value));
    Some(named.into())
}

/// The beginning of the SHA-256 of conditions, in 8 hexadecimal digits.
pub(super) fn checksum(conditions: &impl Serialize) -> String {
    let text = serde_json::to_string(conditions).expect("conditions are plain data");
    let digest = Sha256::digest(text);
    digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, sets: &[&str]) -> Option<String> {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let network = "Classifier(shards: \"a/labelled.tar\")";
        let evaluation = format!(
            "evaluation=(every: 2, samples: 8, feature_distance: (samples: 9, network: {network}))"
        );
        let sets = [&[evaluation.as_str()][..], sets].concat();
        let sets: Vec<String> = sets.into_iter().map(str::to_owned).collect();
        of_logged(&Recipe::load(&quickstart, &sets).unwrap(), name)
    }

    #[test]
    fn numbers_of_other_meaning_have_other_conditions() {
        let loss = |sets: &[&str]| of("held_out/ema_loss", sets);
        let distance = |sets: &[&str]| of("feature_distance/fd-classifier", sets);
        assert!(loss(&[]).is_some() && distance(&[]).is_some());
        assert_eq!(of("throughput/images", &[]), None);
        assert_eq!(loss(&["optimizer.lr=3e-3", "seed=4"]), loss(&[]));
        for other in ["evaluation.samples=64", "diffusion=FlowMatching()"] {
            assert_ne!(loss(&[other]), loss(&[]), "{other}");
        }
        // Pictures are compared whatever family drew them.
        assert_eq!(distance(&["diffusion=FlowMatching()"]), distance(&[]));
        let elsewhere = "evaluation.feature_distance.network.shards=b/labelled.tar";
        assert_eq!(distance(&[elsewhere]), distance(&[]));
        for other in [
            "evaluation.feature_distance.samples=10",
            "sampling.steps=7",
            "evaluation.feature_distance.network.shards=a/others.tar",
        ] {
            assert_ne!(distance(&[other]), distance(&[]), "{other}");
        }
    }
}
