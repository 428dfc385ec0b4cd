//! From files and the command line to a typed recipe.

use super::{
    Recipe, RunConfig, beside,
    file::read_text,
    keys,
    overrides::{Override, lay_over},
    problem,
    tree::{Failure, Node, Origin, Value, shortened},
};
use crate::error::TrainError;
use microdit::range::OutOfRange;
use ron::extensions::Extensions;
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// Keys of earlier versions, and their replacements.
const RENAMED: [(&str, &str); 8] = [
    ("optimiser", "is now called `optimizer`"),
    (
        "recompute",
        "is now called `activation_checkpointing`: On, Off or Auto",
    ),
    ("max_broken_steps", "is now called `max_non_finite_steps`"),
    ("sigmas", "is now called `schedule: Sigmas(...)`"),
    (
        "dataset",
        "is now the name before the parentheses: `data: WebDataset(...)`",
    ),
    ("codec", "is now called `data.codec`, and Latents need none"),
    (
        "captions",
        "is now called `data.captions`, or `data.tokens` of Latents, and `drop` `caption_drop`",
    ),
    ("drop", "is now called `caption_drop`, beside `data`"),
];

/// Beginnings of lines of earlier versions whose key still exists, and their replacements.
const REWRITTEN: [(&str, &str); 3] = [
    ("diffusion: (", "diffusion: Edm(...)"),
    ("method: Lamb,", "method: Lamb()"),
    (
        "data: (",
        "data: Shapes(...), WebDataset(...) or Latents(...)",
    ),
];

/// The network meant by sizes without a name.
const NETWORK: &str = "Dit";

/// Recipes that may extend each other in a chain; more are taken for a cycle.
const MAX_EXTENDS: usize = 64;

/// Most stages of a run: each is a copy of everything the recipe says.
const MAX_STAGES: usize = 100;

/// Most bytes of a recipe and those it extends: hundreds of times what they need.
pub(super) const MAX_BYTES: usize = 1 << 20;

impl Recipe {
    /// Reads a recipe and what it extends, and applies `path=value` overrides such as `stages.masked.steps=10` or
    /// `data.shards=train.tar`.
    ///
    /// # Errors
    /// A missing file, a syntax error, an unknown key, a wrong type, a number outside of its range or values that contradict
    /// each other, each with file, line and key.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        Self::load_with(path, &of_command_line(overrides))
    }

    /// As [`load`](Self::load), with overrides from anywhere, which errors then name.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(path: &Path, overrides: &[Override]) -> Result<Self, TrainError> {
        Self::of_tree(read(path, &[], MAX_BYTES)?, overrides)
    }

    /// The same recipe with further overrides.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn with(&self, overrides: &[String]) -> Result<Self, TrainError> {
        let tree = Node::parse(&self.source, "the recipe")?;
        Self::of_tree(tree, &of_command_line(overrides))
    }

    fn of_tree(mut tree: Node, overrides: &[Override]) -> Result<Self, TrainError> {
        lay_over(&mut tree, overrides)?;
        let typed = match Typed::new(tree.clone()) {
            Err(error) => Typed::with_bare_strings(tree, overrides).ok_or(error)?,
            typed => typed?,
        };
        match typed.recipe.validate() {
            Ok(()) => Ok(typed.recipe),
            Err(error) => Err(typed.located(&error)),
        }
    }
}

/// A typed recipe, and the trees it was made of.
struct Typed {
    recipe: Recipe,
    run: Node,
    /// Keys that hold for every stage.
    base: Node,
    stages: Vec<Node>,
}

impl Typed {
    /// The recipe if bare words of the command line are taken for strings wherever no name fits: shell quoting of
    /// strings would be a nuisance.
    fn with_bare_strings(mut tree: Node, overrides: &[Override]) -> Option<Self> {
        let mut typed = Self::new(tree.clone());
        for _ in overrides {
            let Err(TrainError::Recipe { origin, .. }) = &typed else {
                break;
            };
            let wrong = overrides.iter().find(|one| one.is_at(origin))?;
            wrong.set_as_string(&mut tree).ok()?;
            typed = Self::new(tree.clone());
        }
        typed.ok()
    }

    fn new(mut tree: Node) -> Result<Self, TrainError> {
        let source = tree.write().0;
        let origin = tree.origin.clone();
        let stages = tree.take("stages")?;
        let mut run = Vec::new();
        for key in keys::of::<RunConfig>() {
            run.extend(tree.take(key)?.map(|node| ((*key).to_owned(), node)));
        }
        let run = Node {
            value: Value::Struct(String::new(), run),
            origin: origin.clone(),
        };
        let stages = match stages.map(|stages| (stages.value, stages.origin)) {
            Some((Value::List(stages), _)) => stages,
            Some((_, origin)) => {
                return Err((origin, "stages are a list: [(name: ...)]".into()).into());
            }
            None => Vec::new(),
        };
        if stages.len() > MAX_STAGES {
            let message = format!("more than {MAX_STAGES} stages");
            return Err((origin, message).into());
        }
        let whole = |stage: &Node| {
            let mut whole = tree.clone().merge(stage.clone());
            whole.name("model", NETWORK);
            typed(&whole)
        };
        let recipe = Recipe {
            run: typed(&run)?,
            stages: stages.iter().map(whole).collect::<Result<_, _>>()?,
            source,
        };
        Ok(Self {
            recipe,
            run,
            base: tree,
            stages,
        })
    }

    /// What is wrong with a value, at the place it was written.
    fn located(&self, error: &OutOfRange) -> TrainError {
        let in_stage = error.key.strip_prefix("stages.").and_then(|rest| {
            let (name, path) = rest.split_once('.')?;
            let mut stages = self.recipe.stages.iter();
            let place = stages.position(|stage| stage.name == name);
            let stage = self.stages.get(place.or_else(|| name.parse().ok())?)?;
            let whole = self.base.clone().merge(stage.clone());
            Some(whole.origin_of(path).clone())
        });
        let origin = in_stage.unwrap_or_else(|| self.run.origin_of(&error.key).clone());
        problem(&origin.to_string(), error)
    }
}

/// A file, laid over the one it extends; together they have `room` bytes. Those before it extend it.
fn read(path: &Path, before: &[Origin], room: usize) -> Result<Node, TrainError> {
    let text = read_text(path, room).map_err(|error| match before.last() {
        Some(origin) => problem(&origin.to_string(), &format!("extends {error}")),
        None => error,
    })?;
    let mut node = Node::parse(&text, &path.display().to_string())?;
    let Some(base) = node.take("extends")? else {
        return Ok(node);
    };
    if before.len() == MAX_EXTENDS {
        return Err((base.origin, "recipes extend each other in a cycle".into()).into());
    }
    let file = beside(path, &base.as_text()?);
    let before = [before, &[base.origin]].concat();
    Ok(read(&file, &before, room - text.len())?.merge(node))
}

/// What `--set` is given several times.
fn of_command_line(entries: &[String]) -> Vec<Override> {
    let entries = entries.iter();
    entries
        .map(|entry| Override::of_command_line(entry))
        .collect()
}

/// Settings with some of their values replaced, each as `path=value`.
pub(super) fn changed<T: DeserializeOwned + Serialize>(
    settings: &T,
    overrides: &[String],
) -> Result<T, TrainError> {
    let text = dialect().to_string(settings);
    let mut tree = Node::parse(&text.expect("settings are plain data"), "the settings")?;
    lay_over(&mut tree, &of_command_line(overrides))?;
    typed(&tree)
}

/// RON as used in recipes.
pub fn dialect() -> ron::Options {
    let extensions = Extensions::IMPLICIT_SOME | Extensions::UNWRAP_VARIANT_NEWTYPES;
    ron::Options::default().with_default_extension(extensions)
}

/// Gives a tree its type; an error names the line its value came from.
pub(super) fn typed<T: DeserializeOwned>(node: &Node) -> Result<T, TrainError> {
    let (text, origins) = node.write();
    dialect().from_str(&text).map_err(|error| {
        let line = error.span.end.line.clamp(1, origins.len());
        // A line of one value names its key, where neither the parser's message nor the `--set` does.
        let value = text.lines().nth(line - 1).unwrap_or_default().trim();
        let mut message = explain(&error.code);
        let renamed = REWRITTEN.iter().find(|(old, _)| value.starts_with(old));
        if let Some((_, new)) = renamed {
            message = format!("{message}; it is written {new} now");
        }
        let origin = origins[line - 1].clone();
        if let Some((key, _)) = value.split_once(": ") {
            let named = message.contains(&format!("`{key}`")) || origin.is_of(key);
            if !named {
                message = format!("{}: {message}", shortened(value.trim_end_matches(',')));
            }
        }
        (origin, message).into()
    })
}

/// The parser's message, with the nearest known name where one is unknown.
fn explain(error: &ron::Error) -> String {
    let (ron::Error::NoSuchStructField {
        expected, found, ..
    }
    | ron::Error::NoSuchEnumVariant {
        expected, found, ..
    }) = error
    else {
        return error.to_string();
    };
    if let Some((_, new)) = RENAMED.iter().find(|(old, _)| old == found) {
        return format!("{error}; `{found}` {new}");
    }
    let near = expected
        .iter()
        .chain(keys::of::<RunConfig>())
        .map(|name| (strsim::jaro_winkler(name, found), name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, name)) => format!("{error}; did you mean `{name}`?"),
        None => error.to_string(),
    }
}

impl From<Failure> for TrainError {
    fn from((origin, message): Failure) -> Self {
        problem(&origin.to_string(), &message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quickstart(set: &str) -> Result<Recipe, TrainError> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        Recipe::load(&path, &[set.to_owned()])
    }

    #[test]
    fn a_key_of_an_earlier_version_is_answered_with_its_successor() {
        for (old, new) in RENAMED {
            for place in ["", "data.", "data.captions.", "stages.masked.hand_over."] {
                let set = format!("{place}{old}=1");
                let said = quickstart(&set).unwrap_err().to_string();
                // Some are still keys, elsewhere.
                let unknown = said.contains("Unexpected field");
                let answered = said.contains(&format!("`{old}` {new}"));
                assert_eq!(unknown, answered, "{said}");
                assert!(said.contains(&set), "{said}");
                assert!(answered || !place.is_empty(), "{said}");
            }
        }
    }

    #[test]
    fn sizes_without_a_name_are_those_of_a_dit() {
        let named = quickstart("seed=0").unwrap();
        let text = named.source.replacen("Dit(", "(", 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("unnamed.ron");
        std::fs::write(&path, &text).unwrap();
        let unnamed = Recipe::load(&path, &["model.depth=4".to_owned()]).unwrap();
        assert_eq!(unnamed.stages, named.stages);
        std::fs::write(&path, named.source.replacen("Dit(", "Nit(", 1)).unwrap();
        let said = Recipe::load(&path, &[]).unwrap_err().to_string();
        assert!(said.contains("`Nit`") && said.contains("`Dit`"), "{said}");
    }

    #[test]
    fn fields_without_a_name_change_those_of_the_variant_there_is() {
        let recipe = quickstart("stages.unmasked.data=(threads: 3)").unwrap();
        let [masked, unmasked] = &recipe.stages[..] else {
            panic!("two stages");
        };
        assert_eq!((masked.data.threads(), unmasked.data.threads()), (2, 3));
        assert_eq!(masked.data.codec(), unmasked.data.codec());
        // Another variant replaces all of it.
        let latents = "data=Latents(shards: \"x\", image_size: 256, tokens: 77)";
        let said = quickstart(latents).unwrap().stages;
        assert!(said.iter().all(|stage| stage.data.codec().is_none()));
    }

    #[test]
    fn fields_given_to_set_change_those_there_are() {
        // As in a file that extends another one.
        let latents = [
            "data=Latents(image_size: 256, tokens: 77)",
            "data=(mix: [(shards: \"a\", weight: 1.0), (shards: \"b\", weight: 3.0)])",
            "model.mixer=(depth: 3)",
        ];
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let recipe = Recipe::load(&path, &latents.map(str::to_owned)).unwrap();
        let stage = &recipe.stages[0];
        assert_eq!(stage.data.lists(), [("a", 1.0), ("b", 3.0)]);
        assert_eq!((stage.data.image_size(), stage.data.tokens()), (256, 77));
        let before = quickstart("model.mixer.depth=3").unwrap();
        assert_eq!(stage.model, before.stages[0].model);
    }

    #[test]
    fn a_message_names_its_key_once() {
        for (set, key) in [
            ("batc=1", "batc"),
            ("batch=x", "batch"),
            ("data.image_sice=1", "image_sice"),
            ("stages.masked.hand_over.wights=Ema", "wights"),
        ] {
            let said = quickstart(set).unwrap_err().to_string();
            let message = said.replace(&format!("--set {set}"), "SET");
            let named = message.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            let count = named.filter(|word| *word == key).count();
            assert!(count <= 1, "{said}");
            assert!(message.starts_with("SET: "), "{said}");
        }
        // Of several keys in one value, the one at fault.
        let said = quickstart("data=Latents(image_size: small, tokens: 77)").unwrap_err();
        assert!(said.to_string().contains(": image_size: small: "), "{said}");
    }

    #[test]
    fn deferred_masking_needs_a_mixer() {
        let sets = |masking: &str| {
            [
                "model.mixer=None",
                &format!("stages.masked.masking={masking}"),
            ]
            .map(str::to_owned)
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        for masking in [
            "Deferred(ratio: 0.5)",
            "DeferredBlocks(ratio: 0.5, side: 2)",
        ] {
            let said = Recipe::load(&path, &sets(masking)).unwrap_err().to_string();
            assert!(said.contains("masking: deferred masking"), "{said}");
            assert!(
                said.contains("model.mixer is None") && said.contains("Naive"),
                "{said}"
            );
        }
        for masking in [
            "None",
            "Naive(ratio: 0.5)",
            "NaiveBlocks(ratio: 0.5, side: 2)",
        ] {
            Recipe::load(&path, &sets(masking)).unwrap();
        }
    }

    #[test]
    fn moments_are_not_handed_to_other_weights() {
        let said = quickstart("stages.unmasked.weights=\"x\"")
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("stages.unmasked.hand_over.optimizer: the moments"),
            "{said}"
        );
    }

    #[test]
    fn a_recipe_without_shards_loads_and_is_not_trained() {
        let recipe = quickstart("data=Latents(image_size: 256, tokens: 77)").unwrap();
        let said = recipe.require_shards().unwrap_err().to_string();
        assert!(
            said.contains("stages.masked.data.shards: this dataset needs"),
            "{said}"
        );
        quickstart("seed=0").unwrap().require_shards().unwrap();
    }
}
