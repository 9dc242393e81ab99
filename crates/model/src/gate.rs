//! The gate before every safetensors file.
//!
//! The format's own reader accepts headers of 100 MB, millions of empty tensors, ranks in the millions, duplicate
//! names and NaN. Here a header is parsed once under limits, so that a hostile file costs no more than its limits, and
//! what comes out is true of the file: every range lies inside it, has the size of its shape and type, and the ranges
//! tile the data without holes. Two profiles: [`Limits::PEER`] for what arrives from others, to be matched against a
//! manifest by [`peer`], and [`Limits::LOCAL`] for a checkpoint that the user named, which may carry bounded string
//! metadata and buffers of other types.
//!
//! Format: 8 bytes of little-endian length `n`, `n` bytes of JSON, data. A tensor is `{dtype, shape, data_offsets}`;
//! `__metadata__` maps strings to strings.
//!
//! Deliberately missing: types of less than a byte, and any use of a name as a path.

mod error;
mod read;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use antiphon_core::Schema;
use antiphon_kernels::DType;
use half::{bf16, f16};

pub use error::GateError;
use read::{Raw, Raws, read};

/// What a header may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of JSON.
    pub header_bytes: usize,
    /// Tensors.
    pub tensors: usize,
    /// Dimensions of a tensor.
    pub rank: usize,
    /// Whether a tensor may have no dimensions at all.
    pub scalars: bool,
    /// Bytes of a name.
    pub name_bytes: usize,
    /// Entries of `__metadata__`; zero forbids the key itself.
    pub metadata_entries: usize,
    /// Bytes of all keys and values of `__metadata__`.
    pub metadata_bytes: usize,
    /// Whether types that are no weights (integers, booleans, binary64, bytes) may occur.
    pub other_types: bool,
}

impl Limits {
    /// What a peer may send.
    pub const PEER: Self = Self {
        header_bytes: 256 << 10,
        tensors: 4096,
        rank: 4,
        scalars: false,
        name_bytes: 512,
        metadata_entries: 0,
        metadata_bytes: 0,
        other_types: false,
    };
    /// What a checkpoint on this machine may contain: wide enough for a shard of a model of hundreds of billions
    /// of parameters.
    pub const LOCAL: Self = Self {
        header_bytes: 16 << 20,
        tensors: 65_536,
        rank: 8,
        scalars: true,
        name_bytes: 1024,
        metadata_entries: 4096,
        metadata_bytes: 1 << 20,
        other_types: true,
    };
}

/// Element type of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// One that weights may have.
    Weight(DType),
    /// One that only buffers have, by its name and size in bytes.
    Other(&'static str, usize),
}

impl Stored {
    fn parse(name: &str) -> Option<Self> {
        let other = |name, size| Some(Self::Other(name, size));
        match name {
            "F32" => Some(Self::Weight(DType::F32)),
            "BF16" => Some(Self::Weight(DType::Bf16)),
            "F16" => Some(Self::Weight(DType::F16)),
            "BOOL" => other("BOOL", 1),
            "U8" => other("U8", 1),
            "I8" => other("I8", 1),
            "F8_E4M3" => other("F8_E4M3", 1),
            "F8_E5M2" => other("F8_E5M2", 1),
            "I16" => other("I16", 2),
            "U16" => other("U16", 2),
            "I32" => other("I32", 4),
            "U32" => other("U32", 4),
            "F64" => other("F64", 8),
            "I64" => other("I64", 8),
            "U64" => other("U64", 8),
            _ => None,
        }
    }

    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Weight(t) => t.size(),
            Self::Other(_, size) => size,
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weight(DType::F32) => "F32",
            Self::Weight(DType::Bf16) => "BF16",
            Self::Weight(DType::F16) => "F16",
            Self::Other(name, _) => name,
        })
    }
}

/// A tensor of a file that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Element type.
    pub dtype: Stored,
    /// Rows first.
    pub shape: Vec<usize>,
    /// Bytes in the file, from its beginning.
    pub bytes: Range<usize>,
}

impl Located {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Never true for a file that passed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The header of a file that passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Located>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// Reads the header of `file` under `limits`.
///
/// Cost: one pass over the header, memory bounded by the limits, no look at the data.
pub fn header(file: &[u8], limits: &Limits) -> Result<Header, GateError> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(GateError::NoLength { found: file.len() });
    };
    let declared = u64::from_le_bytes(*length);
    let Some(length) = usize::try_from(declared).ok().filter(|&n| n <= limits.header_bytes) else {
        return Err(GateError::HeaderTooLong { found: declared, limit: limits.header_bytes });
    };
    let Some((json, data)) = rest.split_at_checked(length) else {
        return Err(GateError::HeaderTruncated { needed: 8 + length, found: file.len() });
    };
    let Raws { tensors, metadata } = read(json, limits)?;
    let tensors = place(tensors, 8 + length, data.len())?;
    Ok(Header { tensors, metadata })
}

/// Reads `file` from a peer: exactly the tensors of `manifest`, binary32, finite. The result is flat, in the
/// manifest's order.
pub fn peer(file: &[u8], manifest: &Schema) -> Result<Vec<f32>, GateError> {
    let header = header(file, &Limits::PEER)?;
    if let Some(name) = header.tensors.keys().find(|n| manifest.find(n).is_none()) {
        return Err(GateError::Unexpected { name: name.clone() });
    }
    let mut flat = Vec::with_capacity(manifest.dim());
    for spec in manifest.tensors() {
        let found =
            header.tensors.get(&spec.name).ok_or_else(|| GateError::Missing { name: spec.name.clone() })?;
        if found.dtype != Stored::Weight(DType::F32) || found.shape != spec.shape {
            return Err(GateError::Mismatch {
                name: spec.name.clone(),
                found: format!("{} {:?}", found.dtype, found.shape),
                expected: format!("F32 {:?}", spec.shape),
            });
        }
        let at = flat.len();
        flat.extend(widen(&file[found.bytes.clone()], DType::F32));
        finite(&spec.name, &flat[at..])?;
    }
    Ok(flat)
}

/// Values stored as `dtype`, little-endian, widened to binary32.
pub fn widen(bytes: &[u8], dtype: DType) -> impl Iterator<Item = f32> {
    let half = move |c: &[u8]| match dtype {
        DType::Bf16 => bf16::from_le_bytes([c[0], c[1]]).to_f32(),
        _ => f16::from_le_bytes([c[0], c[1]]).to_f32(),
    };
    bytes.chunks_exact(dtype.size()).map(move |c| match *c {
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => half(c),
    })
}

/// Refuses NaN and infinities in the tensor called `name`.
pub fn finite(name: &str, values: &[f32]) -> Result<(), GateError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(GateError::NotFinite { name: name.to_owned(), index, value: values[index] }),
    }
}

/// Checks that the ranges tile the data and moves them to positions in the file.
fn place(
    raw: BTreeMap<String, Raw>,
    data_at: usize,
    data_len: usize,
) -> Result<BTreeMap<String, Located>, GateError> {
    let mut order: Vec<(&String, &Raw)> = raw.iter().collect();
    order.sort_by_key(|(_, r)| r.offsets);
    let mut tensors = BTreeMap::new();
    let mut next = 0_usize;
    for (name, r) in order {
        let bytes = r.shape.iter().try_fold(r.dtype.size(), |n, &d| n.checked_mul(d));
        let (from, to) = (usize::try_from(r.offsets.0), usize::try_from(r.offsets.1));
        let (Ok(from), Ok(to), Some(bytes)) = (from, to, bytes) else { return Err(r.wrong_size(name)) };
        if to.checked_sub(from) != Some(bytes) {
            return Err(r.wrong_size(name));
        }
        if from != next {
            return Err(GateError::NotContiguous { name: name.clone(), found: from, expected: next });
        }
        next = to;
        if to > data_len {
            // the rest of the walk would only say the same
            let expected = raw.values().map(|r| r.offsets.1).max().unwrap_or(0);
            return Err(GateError::DataLength { expected: expected as usize, found: data_len });
        }
        let bytes = data_at + from..data_at + to;
        tensors.insert(name.clone(), Located { dtype: r.dtype, shape: r.shape.clone(), bytes });
    }
    if next != data_len {
        return Err(GateError::DataLength { expected: next, found: data_len });
    }
    Ok(tensors)
}
