//! Frozen tensors: where they lie, and widening stored elements to binary32, which is exact for every type of a checkpoint.

mod quantised;

use std::sync::Arc;

use half::f16;

use quantised::BLOCK;
pub use quantised::{Code, Quantised};

use crate::backend::BackendError;
use crate::map::Mapped;

/// Element type of a frozen tensor as stored in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE-754 binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE-754 binary16.
    F16,
}

impl DType {
    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Bytes of a frozen tensor, shared by everything that reads it.
#[derive(Clone, Debug)]
pub enum FrozenData {
    /// A range of a memory-mapped checkpoint, little-endian, aligned to its element size or not.
    Mapped {
        /// The file.
        file: Arc<Mapped>,
        /// First byte.
        at: usize,
        /// How the bytes are read.
        dtype: DType,
        /// Number of elements.
        len: usize,
    },
    /// Values made in memory.
    Owned(Arc<[f32]>),
    /// Codes and scales in memory.
    Quantised(Arc<Quantised>),
}

impl FrozenData {
    /// Number of elements.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a tensor of no elements is no tensor")]
    pub fn len(&self) -> usize {
        match self {
            Self::Mapped { len, .. } => *len,
            Self::Owned(values) => values.len(),
            Self::Quantised(q) => q.len(),
        }
    }

    /// Bytes that it takes, on a disk or in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Mapped { dtype, len, .. } => dtype.size() * len,
            Self::Owned(values) => 4 * values.len(),
            Self::Quantised(q) => q.bytes(),
        }
    }

    /// Checks that the range lies within the file.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let Self::Mapped { file, at, dtype, len } = self else { return Ok(()) };
        let available = file.bytes().len().saturating_sub(*at) / dtype.size();
        if *len > available {
            return Err(BackendError::Length { from: available, to: *len });
        }
        Ok(())
    }

    /// Elements `at .. at + len` as they lie in memory, when they are binary32 and aligned.
    #[must_use]
    pub fn as_f32(&self, at: usize, len: usize) -> Option<&[f32]> {
        match self {
            Self::Owned(values) => Some(&values[at..at + len]),
            Self::Mapped { dtype: DType::F32, .. } if cfg!(target_endian = "little") => {
                let bytes = self.stored(at, len);
                // SAFETY: every bit pattern is an f32, and `align_to` itself splits off what is not aligned.
                let (head, body, tail) = unsafe { bytes.align_to::<f32>() };
                (head.is_empty() && tail.is_empty()).then_some(body)
            }
            Self::Mapped { .. } | Self::Quantised(_) => None,
        }
    }

    /// Elements `at .. at + out.len()` widened into `out`.
    pub fn widen(&self, at: usize, out: &mut [f32]) {
        if let Some(values) = self.as_f32(at, out.len()) {
            out.copy_from_slice(values);
            return;
        }
        let dtype = match self {
            Self::Mapped { dtype, .. } => dtype,
            Self::Quantised(q) => return q.widen(at, out),
            // as it lies in memory, above
            Self::Owned(_) => return,
        };
        let bytes = self.stored(at, out.len());
        match dtype {
            DType::F32 => {
                for (y, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *y = f32::from_le_bytes(*b);
                }
            }
            DType::Bf16 => {
                for (y, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *y = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
            DType::F16 => {
                for (y, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *y = f16::from_le_bytes(*b).to_f32();
                }
            }
        }
    }

    /// Index of the first element that is a NaN or an infinity: all exponent bits set, in every stored type.
    #[must_use]
    pub fn first_non_finite(&self) -> Option<usize> {
        // blocks first: the search for the place is rare, the pass over a checkpoint is not
        fn first<T: Copy>(elements: &[T], bad: impl Fn(T) -> bool) -> Option<usize> {
            const AT_ONCE: usize = 4096;
            let any = |block: &[T]| block.iter().fold(false, |any, x| any | bad(*x));
            let block = elements.chunks(AT_ONCE).position(any)?;
            let inside = elements[block * AT_ONCE..].iter().position(|x| bad(*x))?;
            Some(block * AT_ONCE + inside)
        }
        let half = |mask: u16| move |b: [u8; 2]| u16::from_le_bytes(b) & mask == mask;
        match self {
            Self::Owned(values) => first(values, |x| !x.is_finite()),
            Self::Quantised(q) => first(q.scales(), |x| !x.is_finite()).map(|b| b * BLOCK),
            Self::Mapped { dtype, len, .. } => {
                let bytes = self.stored(0, *len);
                match dtype {
                    DType::F32 => first(bytes.as_chunks::<4>().0, |b| !f32::from_le_bytes(b).is_finite()),
                    DType::Bf16 => first(bytes.as_chunks::<2>().0, half(0x7f80)),
                    DType::F16 => first(bytes.as_chunks::<2>().0, half(0x7c00)),
                }
            }
        }
    }

    /// Stored bytes of elements `at .. at + len` of a file; empty for what is in memory.
    fn stored(&self, at: usize, len: usize) -> &[u8] {
        match self {
            Self::Mapped { file, at: first, dtype, len: total } => {
                assert!(at + len <= *total, "elements {at}..{} of a frozen tensor of {total}", at + len);
                &file.bytes()[first + at * dtype.size()..][..len * dtype.size()]
            }
            Self::Owned(_) | Self::Quantised(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_first_number_that_is_none_is_found_in_every_type() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0u8; 3];
        for (dtype, none, largest) in [
            (DType::F32, f32::NEG_INFINITY.to_le_bytes().to_vec(), f32::MAX.to_le_bytes().to_vec()),
            (DType::Bf16, half::bf16::NAN.to_le_bytes().to_vec(), half::bf16::MAX.to_le_bytes().to_vec()),
            (DType::F16, f16::INFINITY.to_le_bytes().to_vec(), f16::MIN.to_le_bytes().to_vec()),
        ] {
            bytes.truncate(3);
            (0..5000).for_each(|_| bytes.extend(&largest));
            let sound = bytes.clone();
            bytes[3 + 4321 * dtype.size()..][..dtype.size()].copy_from_slice(&none);
            for (bytes, found) in [(&sound, None), (&bytes, Some(4321))] {
                file.as_file_mut().set_len(0).unwrap();
                std::io::Seek::rewind(file.as_file_mut()).unwrap();
                file.write_all(bytes).unwrap();
                let mapped = Arc::new(Mapped::open(file.path()).unwrap());
                let data = FrozenData::Mapped { file: mapped, at: 3, dtype, len: 5000 };
                assert_eq!(data.first_non_finite(), found, "{dtype:?}");
            }
        }
        assert_eq!(FrozenData::Owned([0.0, f32::NAN].into()).first_non_finite(), Some(1));
    }
}
