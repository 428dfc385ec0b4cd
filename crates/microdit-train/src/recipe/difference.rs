//! How two recipes differ, key by key, and what that means for a run that was begun with the first.

use super::{Recipe, RunConfig, keys};
use microdit::checksum::hexadecimal;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt};

/// Keys of the run that affect the weights; the others do not.
const REACHING: [&str; 1] = ["seed"];

/// Keys of a stage that do not affect the weights beyond rounding.
pub(super) const FREE_IN_STAGE: [&str; 8] = [
    "micro_batch",
    "activation_checkpointing",
    "distributed.shard_optimizer",
    "distributed.bucket_mib",
    "evaluate_every",
    "draw_every",
    "data.threads",
    "data.max_damage",
];

/// Keys of a stage that say where its data lie.
pub(super) const PLACES: [&str; 2] = ["data.shards", "data.mix"];

/// A key and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Such as `stages.masked.batch`.
    pub key: String,
    /// The value in the first recipe, if it has one.
    pub old: Option<String>,
    /// The value in the second, if it has one.
    pub new: Option<String>,
    /// What it does to a run.
    pub effect: Effect,
}

/// What a change does to a run that was begun without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The weights stay what they would have been, or there is more or less of the same training.
    None,
    /// None, if the data at the other path are the same.
    Moved {
        /// Index of the stage.
        stage: usize,
    },
    /// The run would no longer follow one recipe.
    Training,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".into());
        let Self { key, old, new, .. } = self;
        write!(f, "{key}: {} -> {}", value(old), value(new))
    }
}

impl Recipe {
    /// What `self` changes for a run that was begun with `old` and is in stage number `stage`.
    pub(crate) fn changes_from(&self, old: &Self, stage: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        compare(&old.run, &self.run, &mut |key, old, new| {
            let effect = match is_of(&key, keys::of::<RunConfig>()) && !is_of(&key, &REACHING) {
                true => Effect::None,
                false => Effect::Training,
            };
            changes.push(Change {
                key,
                old,
                new,
                effect,
            });
        });
        for i in 0..old.stages.len().max(self.stages.len()) {
            let (before, after) = match (old.stages.get(i), self.stages.get(i)) {
                (Some(before), Some(after)) => (before, after),
                (before, after) => {
                    let steps = |stage: &super::Stage| format!("{} steps", stage.steps);
                    let name = before.or(after).map_or("", |stage| stage.name.as_str());
                    changes.push(Change {
                        key: format!("stages.{name}"),
                        old: before.map(steps),
                        new: after.map(steps),
                        // More steps are the same training; a stage that is gone may be a mistake.
                        effect: match after {
                            Some(_) => Effect::None,
                            None => Effect::Training,
                        },
                    });
                    continue;
                }
            };
            compare(before, after, &mut |key, old, new| {
                // In a stage that is under way, they may not change learning rates and weights of losses.
                let open = i > stage || (i == stage && !after.depends_on_its_length());
                let effect = if is_of(&key, &FREE_IN_STAGE) || (key == "steps" && open) {
                    Effect::None
                } else if is_of(&key, &PLACES) {
                    Effect::Moved { stage: i }
                } else {
                    Effect::Training
                };
                let key = format!("stages.{}.{key}", before.name);
                changes.push(Change {
                    key,
                    old,
                    new,
                    effect,
                });
            });
        }
        changes
    }

    /// Its values by their dotted keys, such as `seed` and `stages.masked.batch`; lists are one value.
    pub fn values(&self) -> BTreeMap<String, String> {
        let mut values = leaves(&self.run);
        for stage in &self.stages {
            let name = &stage.name;
            let of_stage = leaves(stage).into_iter();
            values.extend(of_stage.map(|(key, value)| (format!("stages.{name}.{key}"), value)));
        }
        values
    }

    /// SHA-256 of the values that affect the weights, in hexadecimal digits: recipes that differ only in other values have the
    /// same.
    pub(crate) fn weights_hash(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add =
            |whose: &str, leaves: BTreeMap<String, String>, counts: &dyn Fn(&str) -> bool| {
                for (key, value) in leaves.into_iter().filter(|(key, _)| counts(key)) {
                    hasher.update(format!("{whose}.{key}: {value}\n"));
                }
            };
        add("run", leaves(&self.run), &|key| is_of(key, &REACHING));
        for stage in &self.stages {
            let whose = format!("stages.{}", stage.name);
            add(&whose, leaves(stage), &|key| !is_of(key, &FREE_IN_STAGE));
        }
        hexadecimal(&hasher.finalize())
    }
}

/// Reports every key in which `old` and `new` differ.
fn compare<T: Serialize>(
    old: &T,
    new: &T,
    tell: &mut impl FnMut(String, Option<String>, Option<String>),
) {
    let (old, new) = (leaves(old), leaves(new));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let (old, new) = (old.get(key), new.get(key));
        if old != new {
            tell(key.clone(), old.cloned(), new.cloned());
        }
    }
}

/// The values of a struct and those in it by their dotted keys.
pub(super) fn leaves(value: &impl Serialize) -> BTreeMap<String, String> {
    let value = serde_json::to_value(value).expect("a recipe is plain data");
    let mut leaves = BTreeMap::new();
    flatten("", &value, &mut leaves);
    leaves
}

/// The values of structs by their dotted keys, as `--set` takes them; lists are one value. A variant with fields is its name
/// at its key, and the fields below.
fn flatten(key: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    if let Some((name, fields)) = variant(value)
        && fields.is_object()
        && variant(fields).is_none()
    {
        leaves.insert(key.to_owned(), name.clone());
        return flatten(key, fields, leaves);
    }
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if key.is_empty() { "" } else { "." };
                flatten(&format!("{key}{dot}{name}"), value, leaves);
            }
        }
        // An option that is absent, as if its key were.
        Value::Null => {}
        value => {
            leaves.insert(key.to_owned(), value.to_string());
        }
    }
}

/// Name and content of a variant that holds something: serde's form of it has one key, and only variants begin with a capital.
fn variant(value: &Value) -> Option<(&String, &Value)> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let (name, inner) = fields.iter().next()?;
    name.starts_with(char::is_uppercase)
        .then_some((name, inner))
}

/// Whether `key` is one of `keys` or lies below one.
pub(super) fn is_of(key: &str, keys: &[&str]) -> bool {
    keys.iter().any(|&above| {
        key.strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn recipe(sets: &[&str]) -> Recipe {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Recipe::load(&path, &sets).unwrap()
    }

    #[test]
    fn a_recipe_does_not_differ_from_itself() {
        assert_eq!(recipe(&[]).changes_from(&recipe(&[]), 0), []);
        // What is written out is the same as what is left to its default.
        let explicit = recipe(&[
            "micro_batch=None",
            "activation_checkpointing=Off",
            "max_non_finite_steps=10",
        ]);
        assert_eq!(explicit.changes_from(&recipe(&[]), 0), []);
    }

    #[test]
    fn every_change_is_told_with_its_effect() {
        for (set, stage, key, effect) in [
            ("log_every=3", 0, "log_every", Effect::None),
            ("checkpoints.keep=9", 0, "checkpoints.keep", Effect::None),
            ("budget.hours=1.0", 0, "budget.hours", Effect::None),
            ("seed=5", 0, "seed", Effect::Training),
            (
                "stages.unmasked.steps=5",
                0,
                "stages.unmasked.steps",
                Effect::None,
            ),
            (
                "stages.masked.steps=5",
                0,
                "stages.masked.steps",
                Effect::Training,
            ),
            (
                "stages.masked.masking=Naive(ratio: 0.75)",
                0,
                "stages.masked.masking",
                Effect::Training,
            ),
            (
                "stages.masked.masking.ratio=0.5",
                0,
                "stages.masked.masking.ratio",
                Effect::Training,
            ),
            (
                "data.threads=3",
                1,
                "stages.masked.data.threads",
                Effect::None,
            ),
            (
                "stages.masked.steps=5",
                1,
                "stages.masked.steps",
                Effect::Training,
            ),
            (
                "stages.unmasked.micro_batch=3",
                0,
                "stages.unmasked.micro_batch",
                Effect::None,
            ),
            (
                "stages.unmasked.batch=3",
                0,
                "stages.unmasked.batch",
                Effect::Training,
            ),
            (
                "stages.masked.masking=None",
                1,
                "stages.masked.masking",
                Effect::Training,
            ),
            (
                "stages.masked.optimizer.lr=1.0",
                0,
                "stages.masked.optimizer.lr",
                Effect::Training,
            ),
        ] {
            let changes = recipe(&[set]).changes_from(&recipe(&[]), stage);
            let change = changes.iter().find(|change| change.key == key);
            let change = change.unwrap_or_else(|| panic!("{set}: {changes:?}"));
            assert_eq!(change.effect, effect, "{set}");
            assert_ne!(change.old, change.new);
            assert!(change.to_string().contains(" -> "), "{change}");
        }
    }

    /// A term that falls to zero over the whole stage is another one in a longer stage.
    #[test]
    fn more_steps_change_what_ends_with_the_stage() {
        let student = |until: &str, steps: u64| {
            recipe(&[
                "stages.unmasked.distill=(regression: (weight: 0.1))",
                &format!("stages.unmasked.distill.regression.until={until}"),
                "stages.unmasked.schedule=(curve: Constant())",
                &format!("stages.unmasked.steps={steps}"),
                "sampling.steps=1",
                "sampling.guidance=1.0",
            ])
        };
        for (until, effect) in [("None", Effect::Training), ("50", Effect::None)] {
            let changes = student(until, 200).changes_from(&student(until, 100), 1);
            let keys = changes
                .iter()
                .map(|change| (change.key.as_str(), change.effect));
            assert_eq!(
                keys.collect::<Vec<_>>(),
                [("stages.unmasked.steps", effect)]
            );
        }
    }

    #[test]
    fn data_in_another_place_are_moved_and_of_another_kind_others() {
        let latents = |shards: &str| {
            recipe(&[
                "data=Latents(image_size: 256, tokens: 7)",
                &format!("data.shards={shards}"),
            ])
        };
        let changes = latents("a.tar").changes_from(&latents("b.tar"), 0);
        assert!(
            changes
                .iter()
                .all(|change| change.key.ends_with(".data.shards"))
        );
        let stages: Vec<Effect> = changes.iter().map(|change| change.effect).collect();
        assert_eq!(stages, [0, 1].map(|stage| Effect::Moved { stage }));
        // A change of steps does not affect learning rates that end at a step of their own.
        let long = [
            "stages.masked.schedule.curve.total=1700",
            "stages.masked.steps=5",
        ];
        let changes = recipe(&long).changes_from(&recipe(&long[..1]), 0);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].effect, Effect::None);
        let changes = latents("a.tar").changes_from(&recipe(&[]), 0);
        let kind = changes
            .iter()
            .find(|change| change.key == "stages.masked.data");
        assert_eq!(kind.unwrap().effect, Effect::Training);
    }

    #[test]
    fn the_hash_is_of_what_reaches_the_weights() {
        let hash = |sets: &[&str]| recipe(sets).weights_hash();
        let own = hash(&[]);
        assert_eq!(own.len(), 64);
        for same in [
            "distributed.shard_optimizer=true",
            "distributed.bucket_mib=3",
            "data.threads=7",
            "micro_batch=3",
            "log_every=3",
            "name=x",
            "budget.hours=1.0",
        ] {
            assert_eq!(hash(&[same]), own, "{same}");
        }
        for other in [
            "seed=5",
            "batch=3",
            "distributed.gradients=Bf16",
            "stages.masked.steps=5",
            "diffusion.sigma_data=0.6",
        ] {
            assert_ne!(hash(&[other]), own, "{other}");
        }
    }

    #[test]
    fn stages_are_added_and_do_not_go_unnoticed() {
        let (one, mut two) = (recipe(&[]), recipe(&[]));
        let mut more = two.stages[0].clone();
        more.name = "more".into();
        two.stages.push(more);
        let told = |changes: Vec<Change>| -> Vec<(String, Effect)> {
            changes
                .into_iter()
                .map(|change| (change.key, change.effect))
                .collect()
        };
        let key = "stages.more".to_owned();
        assert_eq!(
            told(two.changes_from(&one, 1)),
            [(key.clone(), Effect::None)]
        );
        assert_eq!(told(one.changes_from(&two, 1)), [(key, Effect::Training)]);
    }
}
