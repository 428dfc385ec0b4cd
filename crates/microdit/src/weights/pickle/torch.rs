//! The constructors tensors and the dictionaries around them are pickled by.

use super::{
    MAX_KEY, MOST, Machine,
    value::{Storage, TensorRecord, Value, View},
};
use crate::weights::element::Element;
use std::sync::Arc;

/// Dimensions of a tensor that is read. One record describes it and many names may: a longer shape would be copied each time.
const MAX_DIMS: usize = 8;

impl Machine<'_> {
    /// What a constructor leaves: dictionaries and tensors are built, all other classes are opaque.
    pub(super) fn construct(&mut self, class: &Value, arguments: &Value) -> Result<Value, String> {
        let Value::Global(module, name) = class else {
            return Ok(Value::Opaque);
        };
        let Value::Sequence(arguments) = arguments else {
            return Ok(Value::Opaque);
        };
        let first = arguments.borrow().first().cloned();
        match (&**module, &**name) {
            ("collections", "OrderedDict" | "defaultdict")
            | ("builtins" | "__builtin__", "dict") => {
                let pairs = first.as_ref().map_or_else(Vec::new, pairs);
                // One list may be the argument of any number of calls.
                self.copied = self.copied.saturating_add(pairs.len());
                if self.copied > MOST {
                    return Err(format!("the pickle copies more than {MOST} pairs"));
                }
                self.dict(pairs)
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Ok(first.unwrap_or(Value::Opaque))
            }
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
                tensor(&arguments.borrow(), name)
            }
            // A subclass of tensors: the constructor of the tensor, the class, its arguments.
            ("torch._tensor" | "torch._utils", "_rebuild_from_type_v2") => {
                let inner = arguments.borrow().get(2).cloned();
                match (first, inner) {
                    (Some(class), Some(inner)) if !is_nested(&class) => {
                        self.construct(&class, &inner)
                    }
                    _ => Ok(Value::Opaque),
                }
            }
            ("torch._utils", kind) if kind.starts_with("_rebuild_") => Ok(Value::Unreadable(
                format!("it is of a kind that is not read ({kind})").into(),
            )),
            _ => {
                self.unread.insert((module.clone(), name.clone()));
                Ok(Value::Opaque)
            }
        }
    }

    /// What a persistent id names: a storage, `("storage", class, key, device, elements)`, in files before PyTorch 1.6 followed by
    /// nothing or the view it is of that storage; or in those the class of a network, `("module", class, file, source)`.
    pub(super) fn persistent(&mut self, id: &Value) -> Result<Value, String> {
        const FOREIGN: &str = "a storage's record is not as torch.save writes it";
        let Value::Sequence(items) = id else {
            return Err(FOREIGN.into());
        };
        let items = items.borrow();
        let (module, class, key, elements, view) = match &items[..] {
            [Value::Str(kind), class @ Value::Global(..), ..] if &**kind == "module" => {
                return Ok(class.clone());
            }
            [
                _,
                Value::Global(module, class),
                Value::Str(key),
                _,
                elements,
                view @ ..,
            ] => (module, class, key, elements.size()?, view.first()),
            _ => return Err(FOREIGN.into()),
        };
        if key.len() > MAX_KEY {
            return Err(format!("the pickle names a storage by {} bytes", key.len()));
        }
        let view = match view {
            None | Some(Value::Opaque) => None,
            Some(Value::Sequence(view)) => match &view.borrow()[..] {
                [_, offset, elements] => Some(View {
                    offset: offset.size()?,
                    elements: elements.size()?,
                }),
                _ => return Err(FOREIGN.into()),
            },
            Some(_) => return Err(FOREIGN.into()),
        };
        let element = match (Element::of_storage(class), &**class) {
            (Some(element), _) => Ok(Some(element)),
            (None, "UntypedStorage") => Ok(None),
            (None, other) => Err(format!("{module}.{other}")),
        };
        let storage = Arc::new(Storage {
            key: key.to_string(),
            element,
            elements,
            view,
        });
        self.storages.insert(storage.clone());
        if self.storages.len() > MOST {
            return Err(format!("the pickle names more than {MOST} storages"));
        }
        Ok(Value::Storage(storage))
    }
}

/// Whether a constructor would construct by itself again, to any depth.
fn is_nested(class: &Value) -> bool {
    matches!(class, Value::Global(_, name) if &**name == "_rebuild_from_type_v2")
}

/// The pairs a dictionary is made of.
fn pairs(list: &Value) -> Vec<(Value, Value)> {
    let pair = |item: &Value| {
        let Value::Sequence(pair) = item else {
            return None;
        };
        match &pair.borrow()[..] {
            [key, value] => Some((key.clone(), value.clone())),
            _ => None,
        }
    };
    match list {
        Value::Sequence(items) => items.borrow().iter().filter_map(pair).collect(),
        _ => Vec::new(),
    }
}

/// A view into a storage.
fn tensor(arguments: &[Value], constructor: &str) -> Result<Value, String> {
    const FOREIGN: &str = "a tensor's record is not as torch.save writes it";
    let [Value::Storage(storage), offset, shape, strides, more @ ..] = arguments else {
        return Err(FOREIGN.into());
    };
    let unreadable = |what: String| Ok(Value::Unreadable(what.into()));
    let element = match (&storage.element, constructor) {
        (Err(foreign), _) => return unreadable(format!("it is stored as {foreign}")),
        (Ok(Some(element)), _) => *element,
        // Of an untyped storage: whether gradients are wanted, hooks, and the type.
        (Ok(None), "_rebuild_tensor_v3") => match more.get(2) {
            Some(Value::Global(module, name)) if &**module == "torch" => {
                match Element::of_torch(name) {
                    Some(element) => element,
                    None => return unreadable(format!("it is stored as torch.{name}")),
                }
            }
            _ => return Err(FOREIGN.into()),
        },
        (Ok(None), _) => return Err(FOREIGN.into()),
    };
    // What the tensor was conjugated or negated by, without its numbers being touched.
    let metadata = match constructor {
        "_rebuild_tensor_v2" => more.get(2),
        _ => more.get(3),
    };
    if matches!(metadata, Some(Value::Dict(pairs)) if !pairs.borrow().is_empty()) {
        return unreadable("its numbers are to be negated".into());
    }
    let (Value::Sequence(shape), Value::Sequence(strides)) = (shape, strides) else {
        return Err(FOREIGN.into());
    };
    let (shape, strides) = (shape.borrow(), strides.borrow());
    if shape.len() > MAX_DIMS {
        return unreadable(format!("it has {} dimensions", shape.len()));
    }
    if shape.len() != strides.len() {
        return Err(format!(
            "a tensor of {} dimensions has {} strides",
            shape.len(),
            strides.len()
        ));
    }
    let sizes = |values: &[Value]| values.iter().map(Value::size).collect::<Result<_, _>>();
    Ok(Value::Tensor(Arc::new(TensorRecord {
        storage: storage.clone(),
        element,
        offset: offset.size()?,
        shape: sizes(&shape)?,
        strides: sizes(&strides)?,
    })))
}
