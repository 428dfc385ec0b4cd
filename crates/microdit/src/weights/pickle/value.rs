//! What a pickle holds, as plain data.

use super::super::element::Element;
use std::{cell::RefCell, rc::Rc, sync::Arc};

pub(super) type Sequence = Rc<RefCell<Vec<Value>>>;
pub(super) type Dict = Rc<RefCell<Vec<(Value, Value)>>>;

/// What a pickle can leave on the stack.
#[derive(Clone, Debug)]
pub(in super::super) enum Value {
    /// A whole number of 64 bits.
    Int(i64),
    /// Another number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Str(Rc<str>),
    /// A list, tuple or set.
    Sequence(Sequence),
    /// A dictionary, in its order.
    Dict(Dict),
    /// A class or function: its module and its name.
    Global(Rc<str>, Rc<str>),
    /// A tensor's memory.
    Storage(Arc<Storage>),
    /// A tensor.
    Tensor(Arc<TensorRecord>),
    /// A tensor that is not read, and what kind it is.
    Unreadable(Rc<str>),
    /// Anything else: kept in place so that the rest can be read.
    Opaque,
    /// Where a group of values on the stack begins.
    Mark,
}

/// The memory of one or several tensors, or a view of such memory.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct Storage {
    /// What the file calls it.
    pub(in super::super) key: String,
    /// Type of its numbers; of an untyped one each tensor says it itself. Or the name of a type that is not read.
    pub(in super::super) element: Result<Option<Element>, String>,
    /// Numbers of the whole memory; of an untyped one, bytes.
    pub(in super::super) elements: usize,
    /// The part of it that is meant; none is all.
    pub(in super::super) view: Option<View>,
}

/// A part of a storage, which tensors see as a storage of its own.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct View {
    pub(in super::super) offset: usize,
    pub(in super::super) elements: usize,
}

impl Storage {
    /// Bytes of `elements`; none if there are too many to count, or their type is unknown.
    pub(in super::super) fn bytes(&self, elements: usize) -> Option<usize> {
        let size = match &self.element {
            Ok(element) => element.map_or(1, Element::size),
            Err(class) => Element::size_of_unread(class)?,
        };
        elements.checked_mul(size)
    }

    /// The part of the whole memory's bytes that is meant.
    ///
    /// # Errors
    /// If the memory ends before it does.
    pub(in super::super) fn part<'a>(&self, whole: &'a [u8]) -> Result<&'a [u8], String> {
        let Some(View { offset, elements }) = self.view else {
            return Ok(whole);
        };
        let range = || {
            let begin = self.bytes(offset)?;
            whole.get(begin..begin.checked_add(self.bytes(elements)?)?)
        };
        range().ok_or_else(|| {
            format!(
                "a view of {elements} elements from {offset} on reaches beyond the {} bytes of storage {}",
                whole.len(),
                self.key
            )
        })
    }
}

/// A view into a storage; offset and strides count elements.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct TensorRecord {
    pub(in super::super) storage: Arc<Storage>,
    pub(in super::super) element: Element,
    pub(in super::super) offset: usize,
    pub(in super::super) shape: Vec<usize>,
    pub(in super::super) strides: Vec<usize>,
}

impl TensorRecord {
    /// Bytes of its numbers as stored, if they can be counted.
    pub(in super::super) fn bytes(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(self.element.size(), |bytes, &side| bytes.checked_mul(side))
    }
}

impl Value {
    /// The entry of a dictionary with a text key; as in Python, the last of them.
    pub(in super::super) fn entry(&self, key: &str) -> Option<Value> {
        let Self::Dict(dict) = self else { return None };
        let dict = dict.borrow();
        dict.iter()
            .rev()
            .find(|(name, _)| matches!(name, Self::Str(text) if **text == *key))
            .map(|(_, value)| value.clone())
    }

    /// Whether it is a tensor, readable or not.
    pub(in super::super) fn is_tensor(&self) -> bool {
        matches!(self, Self::Tensor(_) | Self::Unreadable(_))
    }

    /// The values of a dictionary whose keys are texts, by key.
    pub(in super::super) fn entries(&self) -> Vec<(Rc<str>, Value)> {
        let Self::Dict(dict) = self else {
            return Vec::new();
        };
        dict.borrow()
            .iter()
            .filter_map(|(name, value)| match name {
                Self::Str(name) => Some((name.clone(), value.clone())),
                _ => None,
            })
            .collect()
    }

    /// Everything a list or dictionary holds, each with what it is called there.
    pub(in super::super) fn members(&self) -> Vec<(Rc<str>, Value)> {
        match self {
            Self::Sequence(items) => {
                let items = items.borrow();
                let numbered = items.iter().enumerate();
                numbered
                    .map(|(i, item)| (i.to_string().into(), item.clone()))
                    .collect()
            }
            Self::Dict(pairs) => pairs
                .borrow()
                .iter()
                .map(|(key, value)| {
                    let name = match key {
                        Self::Str(text) => text.clone(),
                        Self::Int(number) => number.to_string().into(),
                        _ => "?".into(),
                    };
                    (name, value.clone())
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// What tells one list or dictionary from another.
    pub(in super::super) fn identity(&self) -> Option<usize> {
        match self {
            Self::Sequence(items) => Some(Rc::as_ptr(items).addr()),
            Self::Dict(pairs) => Some(Rc::as_ptr(pairs).addr()),
            _ => None,
        }
    }

    /// What it is, in a word.
    pub(in super::super) fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Str(_) => "a text",
            Self::Sequence(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Tensor(_) | Self::Unreadable(_) => "a tensor",
            _ => "an object",
        }
    }

    pub(super) fn size(&self) -> Result<usize, String> {
        match self {
            Self::Int(value) => {
                usize::try_from(*value).map_err(|_| format!("{value} is not a size"))
            }
            _ => Err("expected a size, found another value".into()),
        }
    }
}
