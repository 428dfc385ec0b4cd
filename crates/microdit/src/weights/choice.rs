//! Which of a checkpoint's dictionaries is the network.

#![deny(clippy::arithmetic_side_effects)]

use super::{
    choice_error::{ChoiceError, NoChoice},
    pickle::Value,
    wrappers,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
};

/// What the file itself is called, as `--key` of the command takes it.
const WHOLE: &str = ".";

/// Prefix of the network's tensors in a training checkpoint of the reference, under `state.model`.
const REFERENCE: &str = "dit.";

/// How deep state dicts are looked for, how many lists and dictionaries are looked at, and how long a key may be.
const MAX_DEPTH: usize = 8;
const MAX_VISITS: usize = 1 << 20;
const MAX_KEY: usize = 256;

/// State dicts that an error lists at most.
const MOST_LISTED: usize = 20;

/// The tensors of a state dict, and notes on the choice.
pub(super) struct Choice {
    /// Names as in the file, and tensors.
    pub(super) tensors: Vec<(String, Value)>,
    pub(super) notes: Vec<String>,
}

/// A dictionary with tensors.
struct Candidate {
    path: String,
    /// Other paths that lead to the same dictionary.
    also: Vec<String>,
    dict: Value,
    tensors: usize,
    /// Whether it may be a network: its tensors are more than counters, and it does not belong to an optimizer.
    plausible: bool,
}

/// The state dict at `key`, or the only one there is; of the reference's trainer, its network.
pub(super) fn choose(root: &Value, key: Option<&str>) -> Result<Choice, ChoiceError> {
    let candidates = candidates(root);
    let chosen = match key {
        Some(key) => candidates
            .iter()
            .find(|candidate| {
                candidate.path == key || candidate.also.iter().any(|also| also == key)
            })
            .ok_or_else(|| NoChoice::NotThere(key.to_owned())),
        None => only(&candidates),
    };
    let chosen = chosen.map_err(|reason| ChoiceError {
        there: match reason {
            NoChoice::Nothing => Vec::new(),
            _ => summary(candidates.iter()),
        },
        reason,
        unread: Vec::new(),
    })?;
    let mut choice = taken(chosen, key.is_none());
    let others = candidates.iter().filter(|other| other.path != chosen.path);
    let left: Vec<String> = summary(others);
    if !left.is_empty() {
        choice.notes.push(format!("left out: {}", left.join(", ")));
    }
    if chosen.path != WHOLE {
        choice
            .notes
            .insert(0, format!("taken: the state dict at {}", chosen.shown()));
    }
    Ok(choice)
}

impl Candidate {
    /// The paths to it.
    fn shown(&self) -> String {
        let also = self.also.iter().map(|path| format!(", also `{path}`"));
        format!("`{}`{}", self.path, also.collect::<String>())
    }
}

fn only(candidates: &[Candidate]) -> Result<&Candidate, NoChoice> {
    let reference = candidates.iter().find(|candidate| {
        candidate.path == "state.model"
            && candidate
                .dict
                .entries()
                .iter()
                .any(|(name, value)| value.is_tensor() && in_reference(name).is_some())
    });
    if let Some(reference) = reference {
        return Ok(reference);
    }
    let mut plausible = candidates.iter().filter(|candidate| candidate.plausible);
    match (plausible.next(), plausible.next(), candidates) {
        (Some(only), None, _) | (None, None, [only]) => Ok(only),
        (None, _, []) => Err(NoChoice::Nothing),
        _ => Err(NoChoice::Several),
    }
}

/// The name in the reference's network, if it is one.
fn in_reference(name: &str) -> Option<String> {
    let name = wrappers::bare(name);
    let name = name.strip_prefix("module.").unwrap_or(&name);
    name.strip_prefix(REFERENCE).map(str::to_owned)
}

/// The tensors of a state dict; `state.model` of the reference holds other networks beside its own.
fn taken(candidate: &Candidate, narrow: bool) -> Choice {
    let mut choice = Choice {
        tensors: Vec::new(),
        notes: Vec::new(),
    };
    let entries = candidate.dict.entries();
    let narrow = narrow
        && candidate.path == "state.model"
        && entries.iter().any(|(name, _)| in_reference(name).is_some());
    let mut beside: BTreeMap<String, usize> = BTreeMap::new();
    let mut others = Vec::new();
    for (name, value) in entries {
        if !value.is_tensor() {
            // What holds tensors of its own is listed among the other state dicts.
            if value.identity().is_none() {
                others.push(format!("`{name}` ({})", value.kind()));
            }
        } else if narrow && in_reference(&name).is_none() {
            let network = name.split('.').next().unwrap_or(&name).to_owned();
            let count = beside.entry(network).or_default();
            *count = count.saturating_add(1);
        } else {
            choice.tensors.push((name.to_string(), value));
        }
    }
    for (network, count) in beside {
        choice.notes.push(format!(
            "left out: `{network}` beside the network ({count} tensors)"
        ));
    }
    if !others.is_empty() {
        let more = others.len().saturating_sub(MOST_LISTED);
        others.truncate(MOST_LISTED);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        choice
            .notes
            .push(format!("no tensors: {}{more}", others.join(", ")));
    }
    choice
}

/// Every dictionary that holds tensors, the outermost first.
fn candidates(root: &Value) -> Vec<Candidate> {
    let mut found = Vec::new();
    // What was visited, and which candidate it is.
    let mut visited: HashMap<usize, Option<usize>> = HashMap::new();
    let mut queue = VecDeque::from([(Vec::<Rc<str>>::new(), root.clone())]);
    while let Some((path, value)) = queue.pop_front() {
        let Some(place) = value.identity() else {
            continue;
        };
        let shown = || match &path[..] {
            [] => WHOLE.to_owned(),
            parts => parts.join("."),
        };
        if let Some(known) = visited.get(&place) {
            let candidate = known.and_then(|known| found.get_mut(known));
            let candidate: Option<&mut Candidate> = candidate;
            if let Some(candidate) = candidate.filter(|c| c.also.len() < MOST_LISTED) {
                candidate.also.push(shown());
            }
            continue;
        }
        if visited.len() > MAX_VISITS {
            break;
        }
        let entries = value.entries();
        let tensors = entries.iter().filter(|(_, value)| value.is_tensor());
        let tensors: Vec<&Value> = tensors.map(|(_, value)| value).collect();
        visited.insert(place, (!tensors.is_empty()).then_some(found.len()));
        if !tensors.is_empty() {
            let of_optimizer = path
                .iter()
                .any(|part| part.to_ascii_lowercase().starts_with("optim"));
            found.push(Candidate {
                path: shown(),
                also: Vec::new(),
                plausible: !of_optimizer && tensors.iter().any(|value| is_weight(value)),
                tensors: tensors.len(),
                dict: value.clone(),
            });
        }
        if path.len() < MAX_DEPTH {
            for (name, member) in value.members() {
                if member.identity().is_some() && name.len() <= MAX_KEY {
                    let mut path = path.clone();
                    path.push(name);
                    queue.push_back((path, member));
                }
            }
        }
    }
    found
}

/// Whether a tensor may belong to a network, and is not a counter or the state of a random generator.
fn is_weight(value: &Value) -> bool {
    match value {
        Value::Tensor(record) => {
            record.element.is_float() && record.shape.iter().any(|&side| side > 1)
        }
        _ => true,
    }
}

/// Paths of state dicts with their number of tensors; those of an optimizer in one line.
fn summary<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Vec<String> {
    let (mut named, mut optimizer) = (Vec::new(), 0usize);
    for candidate in candidates {
        if candidate
            .path
            .split('.')
            .any(|part| part.to_ascii_lowercase().starts_with("optim"))
        {
            optimizer = optimizer.saturating_add(candidate.tensors);
        } else {
            named.push(format!(
                "{} ({} tensors)",
                candidate.shown(),
                candidate.tensors
            ));
        }
    }
    let more = named.len().saturating_sub(MOST_LISTED);
    named.truncate(MOST_LISTED);
    if more > 0 {
        named.push(format!("{more} more"));
    }
    if optimizer > 0 {
        named.push(format!("the optimizer's state ({optimizer} tensors)"));
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::forged::{Node, Tensor, dict, storage, tensor};

    fn chosen(root: &Node, key: Option<&str>) -> Result<(Vec<String>, String), String> {
        let pickle = root.load()?;
        let choice = choose(&pickle.root, key).map_err(|error| error.to_string())?;
        let names = choice.tensors.into_iter().map(|(name, _)| name);
        Ok((names.collect(), choice.notes.join("; ")))
    }

    fn network() -> Node {
        dict([("w", tensor("0", &[2])), ("b", tensor("1", &[2]))])
    }

    fn counter() -> Node {
        Node::Tensor(Tensor {
            class: "torch LongStorage",
            key: "0",
            elements: 4,
            offset: 0,
            shape: Vec::new(),
            strides: Vec::new(),
        })
    }

    #[test]
    fn the_only_network_is_taken_whatever_lies_beside_it() {
        let optimizer = || {
            let moments = dict([("exp_avg", tensor("0", &[2])), ("step", counter())]);
            dict([("state", dict([("w", moments)]))])
        };
        for key in ["model", "ema", "state_dict", "module", "net", "anything"] {
            let whole = dict([
                ("step", counter()),
                ("epoch", Node::Int(3)),
                (key, network()),
                ("optimizer", optimizer()),
                ("rng", dict([("seed", counter())])),
            ]);
            let (names, notes) = chosen(&whole, None).unwrap();
            assert_eq!(names, ["w", "b"]);
            for part in [
                &format!("taken: the state dict at `{key}`"),
                "`.` (1 tensors)",
                "`rng` (1 tensors)",
                "the optimizer's state (2 tensors)",
            ] {
                assert!(notes.contains(part), "no {part} in {notes}");
            }
        }
        // Under two names that mean the same.
        let remembered = Node::Raw([&network().opcodes()[..], b"q\x01"].concat());
        let twice = dict([("model", remembered), ("ema", Node::Raw(b"h\x01".into()))]);
        for key in [None, Some("model"), Some("ema")] {
            let (_, notes) = chosen(&twice, key).unwrap();
            assert_eq!(notes, "taken: the state dict at `model`, also `ema`");
        }
        // Of its own, at any depth; with what is no tensor.
        let bare = dict([("w", tensor("0", &[2])), ("epoch", Node::Int(1))]);
        let (names, notes) = chosen(&bare, None).unwrap();
        assert_eq!(
            (names, notes),
            (
                vec!["w".to_owned()],
                "no tensors: `epoch` (a number)".into()
            )
        );
        let deep = dict([("a", dict([("b", dict([("c", network())]))]))]);
        assert_eq!(
            chosen(&deep, None).unwrap().1,
            "taken: the state dict at `a.b.c`"
        );
        let counters = dict([("steps", counter())]);
        assert_eq!(chosen(&counters, None).unwrap().0, ["steps"]);
    }

    #[test]
    fn of_several_networks_one_must_be_chosen() {
        let whole = dict([
            ("step", counter()),
            ("model", network()),
            ("ema", network()),
        ]);
        let error = chosen(&whole, None).unwrap_err();
        for part in ["several", "`model` (2 tensors)", "`ema` (2 tensors)"] {
            assert!(error.contains(part), "{error}");
        }
        let (names, notes) = chosen(&whole, Some("ema")).unwrap();
        assert_eq!(names, ["w", "b"]);
        assert!(
            notes.contains("left out: `.` (1 tensors), `model` (2 tensors)"),
            "{notes}"
        );
        assert_eq!(chosen(&whole, Some(".")).unwrap().0, ["step"]);
        let error = chosen(&whole, Some("emma")).unwrap_err();
        assert!(
            error.contains("no state dict at `emma`; there are"),
            "{error}"
        );
        let none = dict([("epoch", Node::Int(1))]);
        assert!(
            chosen(&none, None)
                .unwrap_err()
                .contains("it holds no tensors")
        );
    }

    #[test]
    fn the_references_network_is_taken_from_among_others() {
        let model = dict([
            ("dit.w", tensor("0", &[2])),
            ("vae.w", tensor("1", &[2])),
            ("vae.b", tensor("2", &[2])),
        ]);
        let whole = dict([("state", dict([("model", model), ("ema", network())]))]);
        let (names, notes) = chosen(&whole, None).unwrap();
        assert_eq!(names, ["dit.w"]);
        assert!(
            notes.contains("`vae` beside the network (2 tensors)"),
            "{notes}"
        );
        assert!(
            notes.contains("left out: `state.ema` (2 tensors)"),
            "{notes}"
        );
        assert_eq!(chosen(&whole, Some("state.model")).unwrap().0.len(), 3);
    }

    /// A tensor that cannot be read counts as one, so that reading it names it.
    #[test]
    fn tensors_that_cannot_be_read_are_kept() {
        let call = |class: &str, arguments: &[u8]| {
            let class = crate::weights::forged::global(class);
            Node::Raw([&class[..], b"(", arguments, b"tR"].concat())
        };
        let complex = [
            &storage("torch ComplexFloatStorage", "0", 4)[..],
            b"K\x00))\x89}",
        ]
        .concat();
        let float4 = [
            &storage("torch.storage UntypedStorage", "0", 4)[..],
            b"K\x00))\x89}",
            &crate::weights::forged::global("torch float4_e2m1fn_x2"),
        ]
        .concat();
        let whole = dict([
            ("fine", tensor("0", &[2])),
            ("complex", call("torch._utils _rebuild_tensor_v2", &complex)),
            ("float4", call("torch._utils _rebuild_tensor_v3", &float4)),
            ("sparse", call("torch._utils _rebuild_sparse_tensor", b"")),
            ("quantised", call("torch._utils _rebuild_qtensor", b"")),
        ]);
        let pickle = whole.load().unwrap();
        let choice = choose(&pickle.root, None).unwrap();
        let shown: Vec<String> = choice
            .tensors
            .iter()
            .map(|(name, value)| match value {
                Value::Unreadable(why) => format!("{name}: {why}"),
                _ => name.clone(),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "fine",
                "complex: it is stored as torch.ComplexFloatStorage",
                "float4: it is stored as torch.float4_e2m1fn_x2",
                "sparse: it is of a kind that is not read (_rebuild_sparse_tensor)",
                "quantised: it is of a kind that is not read (_rebuild_qtensor)",
            ]
        );
    }
}
