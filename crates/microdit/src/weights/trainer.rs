//! Checkpoints of the reference's trainer: the network, the optimizer's moments and the counters.

use super::{
    StateDict, WeightsError, content, content::Format, file::WeightsFile, format_error,
    pickle::Value, pytorch::Checkpoint, wrappers,
};
use burn::tensor::TensorData;
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// The largest number of steps or samples that is accepted: f64 holds every whole number up to it.
const MAX_COUNT: u64 = 1 << 53;

/// What a checkpoint of the reference's trainer holds of a run; moments are named like their parameters.
#[derive(Clone, Debug)]
pub struct TrainerCheckpoint {
    /// The network.
    pub weights: StateDict,
    /// AdamW's means of the gradients and of their squares, of the parameters' shapes: of all parameters or of none.
    pub moments: BTreeMap<String, [Arc<TensorData>; 2]>,
    /// Steps the optimizer has taken.
    pub optimizer_steps: u64,
    /// Batches trained.
    pub batches: u64,
    /// Samples trained.
    pub samples: u64,
    /// Classes of objects in the file that were left unread, and never called.
    pub unread: Vec<String>,
}

impl TrainerCheckpoint {
    /// Reads `state.model.dit.*`, `state.optimizers.*.state.dit.*` and `state.timestamp` without executing the pickle.
    ///
    /// # Errors
    /// An unreadable, damaged or foreign file, with what it lacks; non-finite values; moments of other parameters or shapes
    /// than the network's; counters that are fractional or out of range.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        let fail = |message: String| format_error(path, &message);
        let lack = |what: &str| {
            fail(format!(
                "it holds no {what}: it is not a checkpoint of the trainer"
            ))
        };
        let open = || match content::open(path)? {
            (file, Format::Torch(layout)) => Checkpoint::open(file, layout).map_err(fail),
            _ => Err(fail(
                "it is not a checkpoint of the trainer; those are files of torch.save".into(),
            )),
        };
        let checkpoint = open()?;
        let unread = checkpoint.unread();
        let state = checkpoint.pickle.root.entry("state");
        let state = state.ok_or_else(|| lack("`state`"))?;
        let clock = state
            .entry("timestamp")
            .and_then(|timestamp| timestamp.entry("Timestamp"));
        let count = |key: &str, what: &str| {
            let value = clock.as_ref().and_then(|clock| clock.entry(key));
            let value = value.ok_or_else(|| lack(what))?;
            counted(&value).ok_or_else(|| {
                fail(format!("state.timestamp.Timestamp.{key} is {}; expected a whole number from 0 to {MAX_COUNT}", shown(&value)))
            })
        };
        let (batches, samples) = (
            count("batch", "number of batches")?,
            count("sample", "number of samples")?,
        );
        let of_parameters =
            optimizer_state(&state).ok_or_else(|| lack("state of exactly one optimizer"))?;
        let weights = StateDict::read(path)?;
        weights.check_finite()?;
        let named = pair(of_parameters, &weights).map_err(fail)?;
        let (moments, optimizer_steps) = read_moments(path, checkpoint, named, &weights)?;
        Ok(Self {
            weights,
            moments,
            optimizer_steps,
            batches,
            samples,
            unread,
        })
    }
}

/// What the only optimizer keeps, by parameter.
fn optimizer_state(state: &Value) -> Option<Vec<(String, Value)>> {
    let optimizers = state.entry("optimizers")?.entries();
    let [(_, optimizer)] = &optimizers[..] else {
        return None;
    };
    let entries = optimizer.entry("state")?.entries();
    Some(
        entries
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect(),
    )
}

/// The optimizer's entries by the names of the network's parameters: all have one, or none has.
fn pair(
    of_parameters: Vec<(String, Value)>,
    weights: &StateDict,
) -> Result<Vec<(String, Value)>, String> {
    let mut named = BTreeMap::new();
    for (name, entry) in of_parameters {
        let bare = wrappers::bare(&name);
        let bare = bare.strip_prefix("module.").unwrap_or(&bare);
        let parameter = bare.strip_prefix("dit.").unwrap_or(bare);
        if weights.get(parameter).is_none() {
            return Err(format!(
                "the optimizer has a state of {name}, which is not a parameter of the network"
            ));
        }
        if named.insert(parameter.to_owned(), entry).is_some() {
            return Err(format!("the optimizer has two states of {parameter}"));
        }
    }
    let without = weights.iter().find(|(name, _)| !named.contains_key(*name));
    match without {
        Some((name, _)) if !named.is_empty() => Err(format!(
            "the optimizer has a state of {} of {} parameters, and none of {name}",
            named.len(),
            weights.len()
        )),
        _ => Ok(named.into_iter().collect()),
    }
}

type Moments = BTreeMap<String, [Arc<TensorData>; 2]>;

/// Reads moments of the parameters' shapes, and the steps they stand for.
fn read_moments(
    path: &Path,
    checkpoint: Checkpoint,
    named: Vec<(String, Value)>,
    weights: &StateDict,
) -> Result<(Moments, u64), WeightsError> {
    const KINDS: [&str; 2] = ["exp_avg", "exp_avg_sq"];
    let fail = |message: String| format_error(path, &message);
    let (mut tensors, mut steps) = (Vec::new(), Vec::new());
    for (name, entry) in &named {
        let expected = weights
            .get(name)
            .map_or_else(Vec::new, |data| data.shape.to_vec());
        for kind in KINDS {
            let value = entry.entry(kind).filter(Value::is_tensor);
            let value =
                value.ok_or_else(|| fail(format!("the optimizer has no {kind} of {name}")))?;
            if let Value::Tensor(record) = &value
                && record.shape != expected
            {
                return Err(fail(format!(
                    "the optimizer's {kind} of {name}: expected shape {expected:?}, found {:?}",
                    record.shape
                )));
            }
            tensors.push((format!("{kind}.{name}"), value));
        }
        let step = entry
            .entry("step")
            .ok_or_else(|| fail(format!("the optimizer has no step of {name}")))?;
        match &step {
            Value::Tensor(record) if record.bytes() != Some(record.element.size()) => {
                return Err(fail(format!(
                    "the optimizer's step of {name} has shape {:?}; expected one number",
                    record.shape
                )));
            }
            value if value.is_tensor() => tensors.push((format!("step.{name}"), step.clone())),
            value => steps.push((name.clone(), counted(value), shown(value))),
        }
    }
    let mut read = WeightsFile::of_torch(path, checkpoint.into_file(tensors)).read_all()?;
    let mut moments = BTreeMap::new();
    for (name, _) in &named {
        let mut take = |kind: &str| {
            let key = format!("{kind}.{name}");
            read.remove(&key)
                .ok_or_else(|| fail(format!("the optimizer has no {key}")))
        };
        let both = [take(KINDS[0])?, take(KINDS[1])?];
        for (kind, data) in KINDS.into_iter().zip(&both) {
            // A mean of squares is not negative either.
            let sound = |value: &f32| value.is_finite() && (kind == KINDS[0] || *value >= 0.0);
            if let Some(value) = data.iter::<f32>().find(|value| !sound(value)) {
                return Err(fail(format!(
                    "the optimizer's {kind} of {name} holds {value}"
                )));
            }
        }
        if let Ok(step) = take("step") {
            let value = step.iter::<f32>().next().unwrap_or(f32::NAN);
            steps.push((
                name.clone(),
                counted(&Value::Float(value.into())),
                value.to_string(),
            ));
        }
        moments.insert(name.clone(), both);
    }
    let mut taken = None;
    for (name, step, shown) in steps {
        let Some(step) = step.filter(|&step| step > 0) else {
            return Err(fail(format!(
                "the optimizer's step of {name} is {shown}; expected a whole number from 1 to {MAX_COUNT}"
            )));
        };
        // One bias correction serves all parameters.
        let first = *taken.get_or_insert(step);
        if step != first {
            return Err(fail(format!(
                "the optimizer has taken {step} steps for {name} and {first} for others; expected one number for all"
            )));
        }
    }
    Ok((moments, taken.unwrap_or(0)))
}

/// A whole number in range, however it is stored.
fn counted(value: &Value) -> Option<u64> {
    let count = match value {
        Value::Int(value) => u64::try_from(*value).ok()?,
        Value::Float(value) if value.fract() == 0.0 && (0.0..=MAX_COUNT as f64).contains(value) => {
            *value as u64
        }
        _ => return None,
    };
    (count <= MAX_COUNT).then_some(count)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        other => other.kind().to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::weights::forged::{self, Node, dict, floats, tensor};

    type Storages = Vec<(&'static str, Vec<u8>)>;

    /// The pickle of a checkpoint of a network of two parameters, and its storages.
    pub(in super::super) fn checkpoint() -> (Vec<u8>, Storages) {
        let (root, storages) = parts();
        (root.pickle(), storages)
    }

    fn moments(first: &'static str, second: &'static str, shape: &[i32]) -> Node {
        dict([
            ("step", tensor("step", &[])),
            ("exp_avg", tensor(first, shape)),
            ("exp_avg_sq", tensor(second, shape)),
        ])
    }

    fn root(states: Node, batch: Node, sample: Node) -> Node {
        let model = dict([
            ("dit.a", tensor("a", &[2])),
            ("dit.b", tensor("b", &[1, 2])),
        ]);
        let clock = dict([("batch", batch), ("sample", sample)]);
        let optimizers = dict([("AdamW", dict([("state", states)]))]);
        let timestamp = dict([("Timestamp", clock)]);
        let state = [
            ("model", model),
            ("optimizers", optimizers),
            ("timestamp", timestamp),
        ];
        dict([("state", dict(state))])
    }

    fn states() -> Node {
        dict([
            ("dit.a", moments("m", "v", &[2])),
            ("dit.b", moments("m", "v", &[1, 2])),
        ])
    }

    fn parts() -> (Node, Storages) {
        let storages = vec![
            ("a", floats(&[1.0, 2.0])),
            ("b", floats(&[3.0, 4.0])),
            ("m", floats(&[-0.5, 0.5])),
            ("v", floats(&[0.25, 0.0])),
            ("step", floats(&[5.0])),
        ];
        (root(states(), Node::Int(6), Node::Int(24)), storages)
    }

    fn read(root: &Node, storages: &Storages) -> Result<TrainerCheckpoint, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.pt");
        forged::file(&path, &root.pickle(), storages);
        TrainerCheckpoint::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_sound_checkpoint_is_read() {
        let (sound, storages) = parts();
        let checkpoint = read(&sound, &storages).unwrap();
        assert_eq!(
            (
                checkpoint.batches,
                checkpoint.samples,
                checkpoint.optimizer_steps
            ),
            (6, 24, 5)
        );
        assert_eq!(checkpoint.moments.len(), 2);
        let [first, second] = &checkpoint.moments["b"];
        assert_eq!(first.to_vec::<f32>().unwrap(), [-0.5, 0.5]);
        assert_eq!(second.shape.to_vec(), [1, 2]);
        // An optimizer that has taken no step has no state.
        let untrained = read(&root(dict([]), Node::Int(0), Node::Int(0)), &storages).unwrap();
        assert_eq!((untrained.moments.len(), untrained.optimizer_steps), (0, 0));
    }

    #[test]
    fn counters_are_whole_numbers_in_range() {
        let (_, storages) = parts();
        for bad in [
            Node::Int(-1),
            Node::Int(i64::MAX),
            Node::Int(1 << 54),
            Node::Float(1.5),
            Node::Float(-1.0),
            Node::Float(f64::NAN),
            Node::Float(f64::INFINITY),
            Node::Float(1e300),
            Node::Text("7"),
        ] {
            for (key, found) in [
                ("batch", root(states(), bad.clone(), Node::Int(1))),
                ("sample", root(states(), Node::Int(1), bad.clone())),
            ] {
                let error = read(&found, &storages).unwrap_err();
                assert!(
                    error.contains(&format!("Timestamp.{key} is ")),
                    "{bad:?}: {error}"
                );
            }
        }
        for step in [0.0, -1.0, 1.5, f32::NAN, f32::INFINITY, 1e30] {
            let (sound, mut storages) = parts();
            storages[4].1 = floats(&[step]);
            let error = read(&sound, &storages).unwrap_err();
            assert!(
                error.contains("optimizer's step of a is"),
                "{step}: {error}"
            );
        }
        let whole = root(states(), Node::Float(6.0), Node::Int(24));
        assert_eq!(read(&whole, &storages).unwrap().batches, 6);
    }

    #[test]
    fn moments_are_those_of_the_parameters() {
        let (sound, storages) = parts();
        let both = |a: Node, b: Node| dict([("dit.a", a), ("dit.b", b)]);
        let good = || moments("m", "v", &[1, 2]);
        let other_steps = dict([
            ("step", tensor("a", &[])),
            ("exp_avg", tensor("m", &[1, 2])),
            ("exp_avg_sq", tensor("v", &[1, 2])),
        ]);
        for (states, part) in [
            (
                both(moments("m", "v", &[1]), good()),
                "exp_avg of a: expected shape [2], found [1]",
            ),
            (
                both(moments("m", "v", &[2]), moments("m", "v", &[2])),
                "exp_avg of b: expected shape [1, 2], found [2]",
            ),
            (
                dict([("dit.a", moments("m", "v", &[2]))]),
                "of 1 of 2 parameters, and none of b",
            ),
            (
                both(moments("m", "v", &[2]), other_steps),
                "1 steps for b and 5 for others",
            ),
            (both(moments("m", "v", &[2]), dict([])), "no exp_avg of b"),
            (
                dict([("dit.a", moments("m", "v", &[2])), ("dit.c", good())]),
                "a state of dit.c, which is not a parameter",
            ),
            (
                dict([("dit.a", moments("m", "v", &[2])), ("module.dit.a", good())]),
                "two states of a",
            ),
        ] {
            let error = read(&root(states, Node::Int(1), Node::Int(1)), &storages).unwrap_err();
            assert!(error.contains(part), "expected `{part}`: {error}");
        }
        for (storage, values, part) in [
            (2, [0.0, f32::NAN], "exp_avg of a holds NaN"),
            (3, [0.0, f32::INFINITY], "exp_avg_sq of a holds inf"),
            (3, [-1e-9, 0.0], "exp_avg_sq of a holds -"),
            (0, [f32::NAN, 0.0], "a: value 0 is NaN"),
        ] {
            let mut storages = storages.clone();
            storages[storage].1 = floats(&values);
            let error = read(&sound, &storages).unwrap_err();
            assert!(error.contains(part), "expected `{part}`: {error}");
        }
    }
}
