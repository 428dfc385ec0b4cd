//! What a run's results depend on, so that two runs can be told apart or known to be the same one.

use super::{
    Recipe, Stage,
    difference::{FREE_IN_STAGE, PLACES, is_of, leaves},
    tree::{Node, Value},
};
use microdit::diffusion::{DiffusionConfig, Edm, FlowMatching, Vp};
use std::collections::BTreeMap;

/// Keys of the run that affect its weights or what is measured of them.
const DECISIVE: [&str; 3] = ["seed", "evaluation.samples", "evaluation.caption"];

/// Keys of a stage that the meaning of its loss depends on, and those below them that it does not depend on: the noise levels that
/// are trained on.
const LOSS: [&str; 3] = ["diffusion", "data.codec", "data.image_size"];
const LEVELS: [&str; 4] = [
    "diffusion.p_mean",
    "diffusion.p_std",
    "diffusion.density",
    "diffusion.shift",
];

impl Recipe {
    /// The values that decide the weights of a run and its held-out losses, by their keys as `--set` takes them. Those that are
    /// left to their defaults are not among them, so that a key which a later version adds changes nothing; nor are the
    /// paths of the data, unless `places`: the same data lie elsewhere on another machine.
    ///
    /// # Panics
    /// If [`source`](Self::source) is not the text of this recipe.
    pub fn decisive(&self, places: bool) -> BTreeMap<String, String> {
        let mut tree = Node::parse(&self.source, "").expect("a recipe's source is RON");
        let stages = match tree.take("stages").expect("a recipe has fields") {
            Some(Node {
                value: Value::List(stages),
                ..
            }) => stages,
            _ => Vec::new(),
        };
        let run = leaves(&self.run).into_iter();
        let mut decisive: BTreeMap<_, _> = run
            .filter(|(key, _)| is_of(key, &DECISIVE) && tree.has(key))
            .collect();
        if self.stages.len() > 1 {
            let names: Vec<&str> = self
                .stages
                .iter()
                .map(|stage| stage.name.as_str())
                .collect();
            decisive.insert("stages".into(), names.join(", "));
        }
        for (stage, written) in self.stages.iter().zip(stages) {
            let lists = stage.data.lists();
            if lists.len() > 1 {
                let weights: Vec<f64> = lists.iter().map(|(_, weight)| *weight).collect();
                let key = format!("stages.{}.data.mix.weights", stage.name);
                decisive.insert(key, format!("{weights:?}"));
            }
            let whole = tree.clone().merge(written);
            let counts = |key: &str| {
                let free = is_of(key, &FREE_IN_STAGE) || (!places && is_of(key, &PLACES));
                !free && whole.has(key)
            };
            for (key, value) in leaves(stage).into_iter().filter(|(key, _)| counts(key)) {
                decisive.insert(format!("stages.{}.{key}", stage.name), value);
            }
        }
        decisive
    }
}

impl Stage {
    /// The values that the meaning of a loss at given noise levels depends on. Constants that are those of the family by default are
    /// not among them, so that a constant which a later version adds changes nothing.
    pub(crate) fn meaning_of_loss(&self) -> BTreeMap<String, String> {
        let by_default = match self.diffusion {
            DiffusionConfig::Edm(_) => DiffusionConfig::Edm(Edm::default()),
            DiffusionConfig::Vp(_) => DiffusionConfig::Vp(Vp::default()),
            DiffusionConfig::FlowMatching(_) => {
                DiffusionConfig::FlowMatching(FlowMatching::default())
            }
        };
        let by_default = leaves(&Self {
            diffusion: by_default,
            ..self.clone()
        });
        let all = leaves(self).into_iter();
        let counts = |key: &str, value: &String| {
            let constant = key.starts_with("diffusion.") && by_default.get(key) == Some(value);
            is_of(key, &LOSS) && !is_of(key, &LEVELS) && !constant
        };
        all.filter(|(key, value)| counts(key, value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn decisive(sets: &[&str]) -> BTreeMap<String, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Recipe::load(&path, &sets).unwrap().decisive(false)
    }

    #[test]
    fn only_what_decides_the_results_is_told() {
        let own = decisive(&[]);
        assert_eq!(own["stages.masked.model.dim"], "128");
        assert_eq!(own["stages.masked.masking"], "Deferred");
        assert_eq!(own["stages.masked.masking.ratio"], "0.75");
        assert_eq!(own["seed"], "0");
        // Left to its default.
        assert!(!own.contains_key("stages.masked.activation_checkpointing"));
        assert!(!own.contains_key("stages.masked.optimizer.beta1"));
        for same in [
            "name=x",
            "micro_batch=3",
            "log_every=3",
            "data.threads=7",
            "sampling.count=1",
            "optimizer.lr=0.002",
        ] {
            assert_eq!(decisive(&[same]), own, "{same}");
        }
        for (set, key) in [
            ("seed=5", "seed"),
            ("optimizer.beta2=0.95", "stages.masked.optimizer.beta2"),
            ("stages.unmasked.steps=5", "stages.unmasked.steps"),
            (
                "stages.unmasked.masking=Naive(ratio: 0.5)",
                "stages.unmasked.masking.ratio",
            ),
            ("evaluation=(every: 5, samples: 9)", "evaluation.samples"),
            (
                "stages.masked.ema=[(decay: Smoothing(0.5))]",
                "stages.masked.ema",
            ),
        ] {
            let other = decisive(&[set]);
            assert_ne!(other.get(key), own.get(key), "{set}");
        }
    }

    #[test]
    fn paths_of_data_count_where_they_are_asked_for() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let told = |shards: &str, places| {
            let sets = [
                "data=Latents(image_size: 256, tokens: 7)".to_owned(),
                format!("data.shards={shards}"),
            ];
            Recipe::load(&path, &sets).unwrap().decisive(places)
        };
        assert_eq!(told("a.tar", false), told("b.tar", false));
        assert_ne!(told("a.tar", true), told("b.tar", true));
    }
}
