//! Reads the pickle of a PyTorch checkpoint without executing it.
//!
//! A pickle is a program for a small stack machine. This one builds plain data only: the few constructors tensors are
//! made of are interpreted, every other class becomes an opaque value, and nothing is ever called.

use burn::tensor::DType;
use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

type Sequence = Rc<RefCell<Vec<Value>>>;
type Dict = Rc<RefCell<Vec<(Value, Value)>>>;

/// What a pickle can leave on the stack.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A number, as far as tensors need it.
    Int(i64),
    /// Text.
    Str(Rc<str>),
    /// A list, tuple or set.
    Sequence(Sequence),
    /// A dictionary, in its order.
    Dict(Dict),
    /// A class or function, by its full name.
    Global(Rc<str>),
    /// A tensor's memory.
    Storage(Rc<Storage>),
    /// A tensor.
    Tensor(Rc<TensorRecord>),
    /// Anything else: kept in place so that the rest can be read.
    Opaque,
    /// Where a group of values on the stack begins.
    Mark,
}

/// A file of the archive that holds the memory of one or several tensors.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) dtype: DType,
    pub(super) key: String,
}

/// A view into a storage; offset and strides count elements.
#[derive(Debug)]
pub(super) struct TensorRecord {
    pub(super) storage: Rc<Storage>,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl Value {
    /// The entry of a dictionary with a text key.
    pub(super) fn entry(&self, key: &str) -> Option<Value> {
        let Self::Dict(dict) = self else { return None };
        let dict = dict.borrow();
        dict.iter()
            .find(|(name, _)| matches!(name, Self::Str(text) if **text == *key))
            .map(|(_, value)| value.clone())
    }

    /// The tensor, if it is one.
    pub(super) fn tensor(&self) -> Option<Rc<TensorRecord>> {
        let Self::Tensor(tensor) = self else {
            return None;
        };
        Some(tensor.clone())
    }

    /// The values of a dictionary whose keys are texts, by key.
    pub(super) fn entries(&self) -> Vec<(String, Value)> {
        let Self::Dict(dict) = self else {
            return Vec::new();
        };
        dict.borrow()
            .iter()
            .filter_map(|(name, value)| match name {
                Self::Str(name) => Some((name.to_string(), value.clone())),
                _ => None,
            })
            .collect()
    }

    /// The number, if it is one that is not negative.
    pub(super) fn count(&self) -> Option<u64> {
        let Self::Int(value) = self else { return None };
        u64::try_from(*value).ok()
    }

    fn size(&self) -> Result<usize, String> {
        match self {
            Self::Int(value) => usize::try_from(*value).map_err(|_| format!("{value} is no size")),
            _ => Err("expected a size, found another value".into()),
        }
    }

    fn items(&self) -> Result<Vec<Value>, String> {
        match self {
            Self::Sequence(items) => Ok(items.borrow().clone()),
            _ => Err("expected a tuple, found another value".into()),
        }
    }
}

/// What a pickle held.
pub(super) struct Pickle {
    /// The pickled object.
    pub(super) root: Value,
    /// Classes of objects that were left unread.
    pub(super) unread: BTreeSet<String>,
    _containers: Containers,
}

/// Every list and dictionary of a pickle. They may hold each other to any depth, and themselves: emptied one by one,
/// they are freed without recursion.
#[derive(Default)]
struct Containers {
    sequences: Vec<Sequence>,
    dicts: Vec<Dict>,
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.sequences
            .iter()
            .for_each(|items| items.borrow_mut().clear());
        self.dicts
            .iter()
            .for_each(|pairs| pairs.borrow_mut().clear());
    }
}

/// Builds what a pickle describes.
///
/// # Errors
/// If it is truncated, or uses its stack or an opcode as no writer does.
pub(super) fn load(bytes: &[u8]) -> Result<Pickle, String> {
    let mut machine = Machine {
        input: bytes,
        stack: Vec::new(),
        memo: HashMap::new(),
        containers: Containers::default(),
        unread: BTreeSet::new(),
    };
    let root = machine.run()?;
    Ok(Pickle {
        root,
        unread: machine.unread,
        _containers: machine.containers,
    })
}

/// The stack machine.
struct Machine<'a> {
    input: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    containers: Containers,
    unread: BTreeSet<String>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let [code] = self.take()?;
            match code {
                b'.' => return self.pop(),
                0x80 => drop(self.take::<1>()?),
                0x95 => drop(self.take::<8>()?),
                b'(' => self.stack.push(Value::Mark),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.group()?),
                b'2' => {
                    let top = self.top()?.clone();
                    self.stack.push(top);
                }
                b'N' | 0x88 | 0x89 => self.stack.push(Value::Opaque),
                b'K' => self.integer::<1>()?,
                b'M' => self.integer::<2>()?,
                b'J' => {
                    let value = i32::from_le_bytes(self.take()?);
                    self.stack.push(Value::Int(value.into()));
                }
                0x8a => self.long()?,
                b'G' => {
                    self.take::<8>()?;
                    self.stack.push(Value::Opaque);
                }
                b'X' => self.text::<4>()?,
                0x8c => self.text::<1>()?,
                0x8d => self.text::<8>()?,
                b'B' | b'T' => self.bytes::<4>()?,
                b'C' | b'U' => self.bytes::<1>()?,
                0x8e | 0x96 => self.bytes::<8>()?,
                b']' | b')' | 0x8f => self.sequence(Vec::new()),
                b'}' => {
                    let dict = self.dict();
                    self.stack.push(dict);
                }
                b't' | 0x91 => {
                    let items = self.group()?;
                    self.sequence(items);
                }
                0x85..=0x87 => {
                    let first = self.stack.len().checked_sub(usize::from(code - 0x84));
                    let items = self.stack.split_off(first.ok_or("the stack is empty")?);
                    self.sequence(items);
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.group()?;
                    self.extend(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(vec![key, value])?;
                }
                b'u' => {
                    let items = self.group()?;
                    self.insert(items)?;
                }
                b'q' => {
                    let [slot] = self.take()?;
                    self.remember(slot.into())?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.take()?);
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let [slot] = self.take()?;
                    self.recall(slot.into())?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.take()?);
                    self.recall(slot)?;
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    self.stack.push(Value::Global(name.into()));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let global = match (module, name) {
                        (Value::Str(module), Value::Str(name)) => {
                            Value::Global(format!("{module}.{name}").into())
                        }
                        _ => Value::Opaque,
                    };
                    self.stack.push(global);
                }
                b'R' | 0x81 => {
                    let (arguments, class) = (self.pop()?, self.pop()?);
                    let value = self.construct(&class, &arguments)?;
                    self.stack.push(value);
                }
                0x92 => {
                    self.pop()?;
                    let (arguments, class) = (self.pop()?, self.pop()?);
                    let value = self.construct(&class, &arguments)?;
                    self.stack.push(value);
                }
                // The state of an object: what is read here has none that matters.
                b'b' => drop(self.pop()?),
                b'Q' => {
                    let id = self.pop()?;
                    self.stack.push(storage(&id)?);
                }
                other => {
                    return Err(format!(
                        "the pickle uses the unknown opcode {other:#04x}: it is damaged, or no torch.save file"
                    ));
                }
            }
        }
    }

    fn slice(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self
            .input
            .split_at_checked(count)
            .ok_or("the pickle is truncated")?;
        self.input = rest;
        Ok(head)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    /// An unsigned little-endian number of `N` bytes.
    fn count<const N: usize>(&mut self) -> Result<usize, String> {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(&self.take::<N>()?);
        Ok(u64::from_le_bytes(bytes) as usize)
    }

    fn integer<const N: usize>(&mut self) -> Result<(), String> {
        let value = self.count::<N>()?;
        self.stack.push(Value::Int(value as i64));
        Ok(())
    }

    /// A number of any length; beyond 64 bits it is no size and of no interest.
    fn long(&mut self) -> Result<(), String> {
        let length = self.count::<1>()?;
        let bytes = self.slice(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut padded = [if negative { 0xff } else { 0 }; 8];
        self.stack.push(match padded.get_mut(..length) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(padded))
            }
            None => Value::Opaque,
        });
        Ok(())
    }

    fn text<const N: usize>(&mut self) -> Result<(), String> {
        let length = self.count::<N>()?;
        let text = String::from_utf8_lossy(self.slice(length)?);
        self.stack.push(Value::Str(text.into()));
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<(), String> {
        let length = self.count::<N>()?;
        self.slice(length)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self
            .input
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or("the pickle is truncated")?;
        let line = String::from_utf8_lossy(self.slice(end)?).into_owned();
        self.slice(1)?;
        Ok(line)
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack
            .pop()
            .ok_or_else(|| "the pickle's stack is empty".into())
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack
            .last()
            .ok_or_else(|| "the pickle's stack is empty".into())
    }

    /// The values since the last mark.
    fn group(&mut self) -> Result<Vec<Value>, String> {
        let mark = self
            .stack
            .iter()
            .rposition(|value| matches!(value, Value::Mark));
        let items = self
            .stack
            .split_off(mark.ok_or("the pickle lacks a mark")? + 1);
        self.stack.pop();
        Ok(items)
    }

    fn sequence(&mut self, items: Vec<Value>) {
        let sequence = Rc::new(RefCell::new(items));
        self.containers.sequences.push(sequence.clone());
        self.stack.push(Value::Sequence(sequence));
    }

    /// A new dictionary.
    fn dict(&mut self) -> Value {
        let dict = Dict::default();
        self.containers.dicts.push(dict.clone());
        Value::Dict(dict)
    }

    /// Appends to the list on top; to an opaque object it is of no interest.
    fn extend(&mut self, items: Vec<Value>) -> Result<(), String> {
        if let Value::Sequence(list) = self.top()? {
            list.borrow_mut().extend(items);
        }
        Ok(())
    }

    /// Inserts keys and values, in turn, into the dictionary on top.
    fn insert(&mut self, items: Vec<Value>) -> Result<(), String> {
        if let Value::Dict(dict) = self.top()? {
            let (pairs, _) = items.as_chunks::<2>();
            let pairs = pairs
                .iter()
                .map(|[key, value]| (key.clone(), value.clone()));
            dict.borrow_mut().extend(pairs);
        }
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let value = self.top()?.clone();
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let value = self
            .memo
            .get(&slot)
            .cloned()
            .ok_or("the pickle recalls what it never stored")?;
        self.stack.push(value);
        Ok(())
    }

    /// What a constructor leaves: dictionaries and tensors are built, all other classes are opaque.
    fn construct(&mut self, class: &Value, arguments: &Value) -> Result<Value, String> {
        let Value::Global(name) = class else {
            return Ok(Value::Opaque);
        };
        match &**name {
            "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" => {
                Ok(self.dict())
            }
            "torch._utils._rebuild_parameter" => {
                Ok(arguments.items()?.first().cloned().unwrap_or(Value::Opaque))
            }
            "torch._utils._rebuild_tensor_v2" => {
                let arguments = arguments.items()?;
                if matches!(arguments.first(), Some(Value::Opaque)) {
                    return Ok(Value::Opaque);
                }
                let [Value::Storage(storage), offset, shape, strides, ..] = &arguments[..] else {
                    return Err("a tensor's record is not as torch.save writes it".into());
                };
                let sizes = |value: &Value| {
                    value
                        .items()?
                        .iter()
                        .map(Value::size)
                        .collect::<Result<Vec<_>, _>>()
                };
                let (shape, strides) = (sizes(shape)?, sizes(strides)?);
                if shape.len() != strides.len() {
                    return Err(format!(
                        "a tensor of shape {shape:?} has strides {strides:?}"
                    ));
                }
                Ok(Value::Tensor(Rc::new(TensorRecord {
                    storage: storage.clone(),
                    offset: offset.size()?,
                    shape,
                    strides,
                })))
            }
            unknown => {
                self.unread.insert(unknown.to_owned());
                Ok(Value::Opaque)
            }
        }
    }
}

/// The storage a persistent id names: `("storage", class, key, device, elements)`.
fn storage(id: &Value) -> Result<Value, String> {
    let items = id.items()?;
    let [_, Value::Global(class), Value::Str(key), ..] = &items[..] else {
        return Err("a storage's record is not as torch.save writes it".into());
    };
    let dtype = match &**class {
        "torch.FloatStorage" => DType::F32,
        "torch.DoubleStorage" => DType::F64,
        "torch.HalfStorage" => DType::F16,
        "torch.BFloat16Storage" => DType::BF16,
        "torch.LongStorage" => DType::I64,
        "torch.IntStorage" => DType::I32,
        // Tensors of other types are no weights.
        _ => return Ok(Value::Opaque),
    };
    Ok(Value::Storage(Rc::new(Storage {
        dtype,
        key: key.to_string(),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_pickles_are_errors() {
        // Truncated, popping an empty stack, recalling nothing, text of 2^64 bytes, an unknown opcode.
        for bytes in [
            &b""[..],
            b"\x80\x02",
            b".",
            b"0",
            b"h\x05",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xff",
            b"u",
            b"Q",
        ] {
            assert!(load(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn no_global_is_called() {
        // os.system("x") as a pickle of protocol 2: an opaque value is all that remains.
        let pickle = load(b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85R.").unwrap();
        assert!(matches!(pickle.root, Value::Opaque));
        assert!(pickle.unread.contains("os.system"));
    }

    #[test]
    fn a_pickle_of_any_depth_is_freed() {
        // A million lists, each in the next.
        let mut bytes = vec![b']'];
        bytes.extend(b"\x85".repeat(1_000_000));
        bytes.push(b'.');
        assert!(matches!(load(&bytes).unwrap().root, Value::Sequence(_)));
    }
}
