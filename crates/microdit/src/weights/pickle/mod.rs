//! Reads the pickle of a PyTorch checkpoint without executing it.
//!
//! A pickle is a program for a small stack machine. This one builds plain data only: the few constructors tensors are
//! made of are interpreted, every other class becomes an opaque value, and nothing is ever called.

#![deny(clippy::arithmetic_side_effects)]

mod torch;
mod value;

pub(super) use value::{Storage, TensorRecord, Value};

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
    sync::Arc,
};
use value::{Dict, Sequence};

/// The largest pickle that is read. Tensors lie outside it: what describes thousands of them has a few megabytes.
pub(super) const MAX_BYTES: u64 = 1 << 26;

/// Lists and dictionaries, values on the stack, remembered values, and storages of a pickle at most. Each takes some hundred bytes of
/// memory and one of the file.
const MOST: usize = 1 << 22;

/// The longest name of a class, and the longest key of a storage.
const MAX_NAME: usize = 1 << 10;
const MAX_KEY: usize = 1 << 6;

/// What a pickle held.
pub(super) struct Pickle {
    /// The pickled object.
    pub(super) root: Value,
    /// Classes of objects that were left unread: their modules and names.
    pub(super) unread: BTreeSet<(Rc<str>, Rc<str>)>,
    /// The storages it names, once each.
    pub(super) storages: BTreeSet<Arc<Storage>>,
    _containers: Containers,
}

/// Every list and dictionary of a pickle. They may hold each other to any depth, and themselves: emptied one by one,
/// they are freed without recursion.
#[derive(Default)]
struct Containers {
    sequences: Vec<Sequence>,
    dicts: Vec<Dict>,
}

impl Containers {
    fn within_bounds(&self) -> Result<(), String> {
        if self.sequences.len() > MOST || self.dicts.len() > MOST {
            return Err(format!(
                "the pickle holds more than {MOST} lists or dictionaries"
            ));
        }
        Ok(())
    }
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
    load_first(bytes).map(|(pickle, _)| pickle)
}

/// Builds what the first of several pickles describes; with what follows it.
///
/// # Errors
/// If it is truncated, or uses its stack or an opcode as no writer does.
pub(super) fn load_first(bytes: &[u8]) -> Result<(Pickle, &[u8]), String> {
    let mut machine = Machine {
        input: bytes,
        stack: Vec::new(),
        memo: HashMap::new(),
        containers: Containers::default(),
        unread: BTreeSet::new(),
        storages: BTreeSet::new(),
        copied: 0,
    };
    let root = machine.run()?;
    let pickle = Pickle {
        root,
        unread: machine.unread,
        storages: machine.storages,
        _containers: machine.containers,
    };
    Ok((pickle, machine.input))
}

/// The stack machine.
struct Machine<'a> {
    input: &'a [u8],
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    containers: Containers,
    unread: BTreeSet<(Rc<str>, Rc<str>)>,
    storages: BTreeSet<Arc<Storage>>,
    /// Pairs that constructors have copied.
    copied: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            if self.stack.len() > MOST || self.memo.len() > MOST {
                return Err(format!("the pickle holds more than {MOST} values at once"));
            }
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
                b'N' => self.stack.push(Value::Opaque),
                0x88 | 0x89 => self.stack.push(Value::Bool(code == 0x88)),
                b'K' => self.integer::<1>()?,
                b'M' => self.integer::<2>()?,
                b'J' => {
                    let value = i32::from_le_bytes(self.take()?);
                    self.stack.push(Value::Int(value.into()));
                }
                0x8a => self.long()?,
                b'G' => {
                    let value = f64::from_be_bytes(self.take()?);
                    self.stack.push(Value::Float(value));
                }
                // `T` and `U` are the texts of Python 2.
                b'X' | b'T' => self.text::<4>()?,
                0x8c | b'U' => self.text::<1>()?,
                0x8d => self.text::<8>()?,
                b'B' => self.bytes::<4>()?,
                b'C' => self.bytes::<1>()?,
                0x8e | 0x96 => self.bytes::<8>()?,
                b']' | b')' | 0x8f => self.sequence(Vec::new())?,
                b'}' => {
                    let dict = self.dict(Vec::new())?;
                    self.stack.push(dict);
                }
                b't' | 0x91 => {
                    let items = self.group()?;
                    self.sequence(items)?;
                }
                0x85..=0x87 => {
                    let count = usize::from(code.saturating_sub(0x84));
                    let first = self.stack.len().checked_sub(count);
                    let items = self.stack.split_off(first.ok_or("the stack is empty")?);
                    self.sequence(items)?;
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
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module.into(), name.into())?;
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Str(name), Value::Str(module)) => self.global(module, name)?,
                    _ => self.stack.push(Value::Opaque),
                },
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
                    let value = self.persistent(&id)?;
                    self.stack.push(value);
                }
                other => {
                    return Err(format!(
                        "the pickle uses the unknown opcode {other:#04x}: it is damaged, or not a torch.save file"
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
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|error| error.to_string())
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
        let mark = mark.ok_or("the pickle lacks a mark")?;
        let items = self.stack.split_off(mark.saturating_add(1));
        self.stack.pop();
        Ok(items)
    }

    fn sequence(&mut self, items: Vec<Value>) -> Result<(), String> {
        let sequence = Sequence::new(items.into());
        self.containers.sequences.push(sequence.clone());
        self.stack.push(Value::Sequence(sequence));
        self.containers.within_bounds()
    }

    /// A new dictionary.
    fn dict(&mut self, pairs: Vec<(Value, Value)>) -> Result<Value, String> {
        let dict = Dict::new(pairs.into());
        self.containers.dicts.push(dict.clone());
        self.containers.within_bounds()?;
        Ok(Value::Dict(dict))
    }

    fn global(&mut self, module: Rc<str>, name: Rc<str>) -> Result<(), String> {
        let longest = module.len().max(name.len());
        if longest > MAX_NAME {
            return Err(format!("the pickle names a class by {longest} bytes"));
        }
        self.stack.push(Value::Global(module, name));
        Ok(())
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
        assert!(pickle.unread.contains(&("os".into(), "system".into())));
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
