//! One tensor in the container that `torch.save` writes: a zip of stored entries with a pickle of one tensor and the bytes
//! of its storage. Read without running anything: of the pickle's programs only the one that rebuilds a contiguous tensor
//! is understood, and everything else is an error.
//!
//! Deliberately missing: compressed entries, several tensors, views, sparse tensors, other element types.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::{bf16, f16};

/// A container that is not one plain tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TorchError {
    #[error("no base64")]
    Base64,
    #[error("no torch.save file of one tensor: {0}")]
    Format(&'static str),
    #[error("elements of type {0}; expected FloatStorage, HalfStorage or BFloat16Storage")]
    Type(String),
    #[error("a tensor of shape {shape:?} with strides {strides:?}; save it `.contiguous()`")]
    Strides { shape: Vec<usize>, strides: Vec<usize> },
    #[error("a tensor of shape {shape:?} with a storage of {found} bytes")]
    Length { shape: Vec<usize>, found: usize },
}

use TorchError::Format;

/// Shape and elements of the tensor in `text`.
pub(crate) fn read_base64(text: &str) -> Result<(Vec<usize>, Vec<f32>), TorchError> {
    read(&STANDARD.decode(text.trim()).map_err(|_| TorchError::Base64)?)
}

/// Shape and elements of the tensor in a file's `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Result<(Vec<usize>, Vec<f32>), TorchError> {
    let entries =
        entries(bytes).ok_or(Format("the zip directory cannot be read, or an entry is compressed"))?;
    let (name, program) =
        entries.iter().find(|(n, _)| n.ends_with("/data.pkl")).ok_or(Format("no data.pkl in it"))?;
    let tensor = run(program)?;
    let root = &name[..name.len() - "data.pkl".len()];
    let wanted = format!("{root}data/{}", tensor.key);
    let (_, data) = entries.iter().find(|(n, _)| *n == wanted).ok_or(Format("no storage in it"))?;
    let big = entries.iter().any(|(n, d)| *n == format!("{root}byteorder") && *d == b"big");
    if big {
        return Err(Format("big-endian storage"));
    }
    let (shape, wrong) = (tensor.shape, |found| move |shape| TorchError::Length { shape, found });
    let count = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let size = if tensor.kind == "FloatStorage" { 4 } else { 2 };
    let needed = count.and_then(|n| n.checked_mul(size));
    let Some(data) = needed.and_then(|n| data.get(..n)) else { return Err(wrong(data.len())(shape)) };
    // a shape with a zero in it may have any other sizes, and strides that no number holds
    let mut expected = Some(1_usize);
    let contiguous = shape.iter().zip(&tensor.strides).rev().all(|(d, s)| {
        let ok = Some(*s) == expected || *d == 1;
        expected = expected.and_then(|e| e.checked_mul(*d));
        ok
    });
    if !contiguous || tensor.strides.len() != shape.len() {
        return Err(TorchError::Strides { shape, strides: tensor.strides });
    }
    let values = match tensor.kind.as_str() {
        "FloatStorage" => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        "BFloat16Storage" => {
            data.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        }
        "HalfStorage" => data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        other => return Err(TorchError::Type(other.to_owned())),
    };
    Ok((shape, values))
}

/// Names and bytes of a zip's entries, all of them stored.
fn entries(bytes: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    // the end record has 22 bytes and a comment
    let end = (0..=bytes.len().checked_sub(22)?).rev().find(|&at| bytes[at..].starts_with(b"PK\x05\x06"))?;
    let (count, mut at) = (u16_at(end + 10)?, u32_at(end + 16)?);
    let mut found = Vec::new();
    for _ in 0..count {
        if !bytes.get(at..)?.starts_with(b"PK\x01\x02") || u16_at(at + 10)? != 0 {
            return None;
        }
        let (size, name_len) = (u32_at(at + 20)?, u16_at(at + 28)?);
        let (local, name) = (u32_at(at + 42)?, bytes.get(at + 46..at + 46 + name_len)?);
        let data = local.checked_add(30)? + u16_at(local.checked_add(26)?)? + u16_at(local + 28)?;
        found.push((std::str::from_utf8(name).ok()?, bytes.get(data..data.checked_add(size)?)?));
        at += 46 + name_len + u16_at(at + 30)? + u16_at(at + 32)?;
    }
    Some(found)
}

/// What the pickle describes.
struct Tensor {
    kind: String,
    key: String,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// A value on the pickle machine's stack.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    Mark,
    Int(usize),
    Bool,
    Text(String),
    Name(String),
    Tuple(Vec<Item>),
    /// `('storage', type, key, location, elements)`
    Storage {
        kind: String,
        key: String,
    },
    /// An `OrderedDict()`: the hooks of a tensor, always empty.
    Hooks,
    Tensor {
        kind: String,
        key: String,
        shape: Vec<usize>,
        strides: Vec<usize>,
    },
}

/// Runs the few operations that a plain tensor's pickle has (protocol 2, `pickletools`).
fn run(program: &[u8]) -> Result<Tensor, TorchError> {
    let bad = || Format("its pickle holds more than one plain tensor");
    let mut rest = program;
    let mut stack: Vec<Item> = Vec::new();
    let mut memo: Vec<(usize, Item)> = Vec::new();
    let take = |rest: &mut &[u8], n: usize| -> Result<Vec<u8>, TorchError> {
        let (head, tail) = rest.split_at_checked(n).ok_or_else(bad)?;
        *rest = tail;
        Ok(head.to_vec())
    };
    let int = |bytes: &[u8]| bytes.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
    loop {
        let op = take(&mut rest, 1)?[0];
        let pushed = match op {
            0x80 => {
                take(&mut rest, 1)?;
                continue;
            }
            b'c' => {
                let mut line = || -> Result<String, TorchError> {
                    let end = rest.iter().position(|b| *b == b'\n').ok_or_else(bad)?;
                    let line = take(&mut rest, end + 1)?;
                    String::from_utf8(line[..end].to_vec()).map_err(|_| bad())
                };
                let (module, name) = (line()?, line()?);
                Item::Name(format!("{module}.{name}"))
            }
            b'q' | b'r' => {
                let at = int(&take(&mut rest, if op == b'q' { 1 } else { 4 })?);
                memo.push((at, stack.last().ok_or_else(bad)?.clone()));
                continue;
            }
            b'h' | b'j' => {
                let at = int(&take(&mut rest, if op == b'h' { 1 } else { 4 })?);
                memo.iter().rev().find(|m| m.0 == at).ok_or_else(bad)?.1.clone()
            }
            b'(' => Item::Mark,
            b'X' => {
                let len = int(&take(&mut rest, 4)?);
                Item::Text(String::from_utf8(take(&mut rest, len)?).map_err(|_| bad())?)
            }
            b'K' => Item::Int(int(&take(&mut rest, 1)?)),
            b'M' => Item::Int(int(&take(&mut rest, 2)?)),
            b'J' => Item::Int(int(&take(&mut rest, 4)?)),
            0x88 | 0x89 => Item::Bool,
            b')' => Item::Tuple(Vec::new()),
            b't' => {
                let mark = stack.iter().rposition(|i| *i == Item::Mark).ok_or_else(bad)?;
                let items = stack.split_off(mark + 1);
                stack.pop();
                Item::Tuple(items)
            }
            0x85..=0x87 => {
                let from = stack.len().checked_sub(usize::from(op - 0x84)).ok_or_else(bad)?;
                Item::Tuple(stack.split_off(from))
            }
            b'Q' => storage(stack.pop()).ok_or_else(bad)?,
            b'R' => {
                let arguments = stack.pop();
                rebuild(stack.pop(), arguments).ok_or_else(bad)?
            }
            b'.' => {
                return match (stack.pop(), stack.is_empty()) {
                    (Some(Item::Tensor { kind, key, shape, strides }), true) => {
                        Ok(Tensor { kind, key, shape, strides })
                    }
                    _ => Err(bad()),
                };
            }
            _ => return Err(bad()),
        };
        stack.push(pushed);
    }
}

fn storage(id: Option<Item>) -> Option<Item> {
    let Some(Item::Tuple(items)) = id else { return None };
    match <[Item; 5]>::try_from(items).ok()? {
        [Item::Text(word), Item::Name(kind), Item::Text(key), Item::Text(_), Item::Int(_)]
            if word == "storage" =>
        {
            Some(Item::Storage { kind: kind.strip_prefix("torch.")?.to_owned(), key })
        }
        _ => None,
    }
}

fn rebuild(function: Option<Item>, arguments: Option<Item>) -> Option<Item> {
    let (Some(Item::Name(name)), Some(Item::Tuple(items))) = (function, arguments) else { return None };
    let ints = |items: Vec<Item>| {
        items
            .into_iter()
            .map(|i| if let Item::Int(n) = i { Some(n) } else { None })
            .collect::<Option<Vec<_>>>()
    };
    match name.as_str() {
        "collections.OrderedDict" if items.is_empty() => Some(Item::Hooks),
        "torch._utils._rebuild_tensor_v2" => match <[Item; 6]>::try_from(items).ok()? {
            [
                Item::Storage { kind, key },
                Item::Int(0),
                Item::Tuple(shape),
                Item::Tuple(strides),
                Item::Bool,
                Item::Hooks,
            ] => Some(Item::Tensor { kind, key, shape: ints(shape)?, strides: ints(strides)? }),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
