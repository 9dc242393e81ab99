//! What a client is sent when the emulator has been aligned: how its middle changed, as bytes.
//!
//! ```text
//!  0  20  "antiphon emulator 1\n"
//! 20  32  digest of the checkpoint that the emulator was made from
//! 52  32  digest of the middle's schema
//! 84   4  version after this update; it applies to the one before
//! 88   4  codec: 0 binary32, 1 eight bits
//! 92   8  scalars
//! 100     the change: f32 each, or for each 256 of them a scale (f32) and one byte each (i8)
//! end 32  BLAKE3 of everything before
//! ```
//!
//! All numbers are little-endian. Eight bits are symmetric, `q = round(127 δ / max|δ|)` in blocks of 256, so the error is at
//! most 1/254 of a block's largest change. A sender keeps what its clients hold and sends the next change against that, so
//! errors do not add up.
//!
//! Deliberately missing: sparse changes (an optimiser moves every weight), a signature (a digest says that bytes are whole,
//! not whose they are).

use antiphon_core::Digest;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 20] = b"antiphon emulator 1\n";
const HEAD: usize = 100;
const DIGEST: usize = 32;
/// Scalars that share a scale.
const BLOCK: usize = 256;

/// How a change is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Four bytes a scalar, exact.
    #[default]
    F32,
    /// One byte a scalar and four for each 256.
    Int8,
}

impl Codec {
    /// Bytes of a change of `dim` scalars.
    fn body(self, dim: usize) -> usize {
        match self {
            Self::F32 => 4 * dim,
            Self::Int8 => dim + 4 * dim.div_ceil(BLOCK),
        }
    }

    /// Bytes of a whole update of `dim` scalars.
    #[must_use]
    pub fn bytes(self, dim: usize) -> usize {
        HEAD + self.body(dim) + DIGEST
    }
}

/// A change of an emulator's middle, from one version to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The version that it makes, from 1.
    pub version: u32,
    /// What is added to each scalar.
    pub delta: Vec<f32>,
}

/// Bytes that are not the next update of this emulator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Another thing, cut short, or damaged.
    #[error("an emulator update of {found} bytes: {wanted}")]
    Damaged {
        /// What should be there.
        wanted: &'static str,
        /// Bytes there are.
        found: usize,
    },
    /// Of an emulator of another checkpoint.
    #[error("an update of an emulator made from checkpoint {found}; this one was made from {expected}")]
    Base {
        /// In the update.
        found: Digest,
        /// Of the emulator at hand.
        expected: Digest,
    },
    /// Of an emulator that keeps other layers.
    #[error("an update of an emulator with tensors {found}; this one has {expected}: other layers were kept")]
    Schema {
        /// In the update.
        found: Digest,
        /// Of the emulator at hand.
        expected: Digest,
    },
    /// Not the next one.
    #[error("an update to version {found} of an emulator that needs version {expected}")]
    Version {
        /// In the update.
        found: u32,
        /// The next.
        expected: u32,
    },
    /// A change that is no number.
    #[error("an emulator update that makes scalar {index} no number")]
    NotFinite {
        /// Of the first such scalar.
        index: usize,
    },
}

/// Whose update it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Of the checkpoint.
    pub base: Digest,
    /// Of the middle.
    pub schema: Digest,
}

impl Update {
    /// The change from what clients `hold` to `now`, as bytes.
    #[must_use]
    pub fn encode(made: Made, version: u32, codec: Codec, hold: &[f32], now: &[f32]) -> Vec<u8> {
        let delta: Vec<f32> = now.iter().zip(hold).map(|(now, held)| now - held).collect();
        let mut out = Vec::with_capacity(codec.bytes(delta.len()));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&made.base.0);
        out.extend_from_slice(&made.schema.0);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&(codec as u32).to_le_bytes());
        out.extend_from_slice(&(delta.len() as u64).to_le_bytes());
        match codec {
            Codec::F32 => delta.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
            Codec::Int8 => {
                for block in delta.chunks(BLOCK) {
                    let largest = block.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                    out.extend_from_slice(&(largest / 127.0).to_le_bytes());
                    let step = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                    out.extend(block.iter().map(|v| (v * step).round_ties_even() as i8 as u8));
                }
            }
        }
        let digest = Digest::of(&out);
        out.extend_from_slice(&digest.0);
        out
    }

    /// Reads what [`Update::encode`] wrote for the emulator `made`, of `dim` scalars and version `version - 1`. Nothing is
    /// allocated before the lengths and the digest are right.
    ///
    /// # Errors
    /// Anything that is not that update.
    pub fn decode(bytes: &[u8], made: Made, version: u32, dim: usize) -> Result<Self, UpdateError> {
        let damaged = |wanted| UpdateError::Damaged { wanted, found: bytes.len() };
        let (head, rest) =
            bytes.split_first_chunk::<HEAD>().ok_or_else(|| damaged("shorter than its head of 100"))?;
        if head[..20] != MAGIC[..] {
            return Err(damaged("it does not begin as one"));
        }
        let digest = |at: usize| {
            let mut d = [0; 32];
            d.copy_from_slice(&head[at..at + 32]);
            Digest(d)
        };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let codec = match word(88) {
            0 => Codec::F32,
            1 => Codec::Int8,
            _ => return Err(damaged("of a codec other than 0 (f32) and 1 (int8)")),
        };
        if digest(20) != made.base {
            return Err(UpdateError::Base { found: digest(20), expected: made.base });
        }
        let scalars = u64::from(word(92)) | u64::from(word(96)) << 32;
        if digest(52) != made.schema || scalars != dim as u64 {
            return Err(UpdateError::Schema { found: digest(52), expected: made.schema });
        }
        if rest.len() != codec.body(dim) + DIGEST {
            return Err(damaged("of another length than its scalars and codec ask for"));
        }
        let (body, sum) = rest.split_at(rest.len() - DIGEST);
        if Digest::of(&bytes[..bytes.len() - DIGEST]).0[..] != *sum {
            return Err(damaged("changed on the way"));
        }
        if word(84) != version {
            return Err(UpdateError::Version { found: word(84), expected: version });
        }
        let real = |b: &[u8; 4]| f32::from_le_bytes(*b);
        let delta: Vec<f32> = match codec {
            Codec::F32 => body.as_chunks::<4>().0.iter().map(real).collect(),
            Codec::Int8 => body
                .chunks(BLOCK + 4)
                .filter_map(|block| block.split_first_chunk::<4>())
                .flat_map(|(scale, q)| q.iter().map(move |&q| f32::from(q as i8) * real(scale)))
                .collect(),
        };
        match delta.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(UpdateError::NotFinite { index }),
            None => Ok(Self { version, delta }),
        }
    }

    /// Adds the change to what a client holds.
    pub fn apply(&self, held: &mut [f32]) {
        held.iter_mut().zip(&self.delta).for_each(|(h, d)| *h += d);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made() -> Made {
        Made { base: Digest::of(b"base"), schema: Digest::of(b"schema") }
    }

    proptest! {
        #[test]
        fn a_change_arrives(pairs in prop::collection::vec((-1e3_f32..1e3, -1e3_f32..1e3), 1..700)) {
            let (held, now): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            for codec in [Codec::F32, Codec::Int8] {
                let bytes = Update::encode(made(), 3, codec, &held, &now);
                prop_assert_eq!(bytes.len(), codec.bytes(held.len()));
                let update = Update::decode(&bytes, made(), 3, held.len()).unwrap();
                let deltas = now.iter().zip(&held).map(|(a, b)| a - b).collect::<Vec<_>>();
                for (sent, meant) in update.delta.chunks(BLOCK).zip(deltas.chunks(BLOCK)) {
                    let largest = meant.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                    let error = sent.iter().zip(meant).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
                    let bound = if codec == Codec::F32 { 0.0 } else { largest / 253.0 };
                    prop_assert!(error <= bound, "{codec:?}: {error} of {largest}");
                }
            }
        }

        #[test]
        fn every_damage_is_noticed(at in 0_usize..10_000, bit in 0_u8..8, cut in 0_usize..10_000) {
            let bytes = Update::encode(made(), 1, Codec::Int8, &[0.0; 300], &[0.5; 300]);
            let mut hit = bytes.clone();
            let at = at % hit.len();
            hit[at] ^= 1 << bit;
            prop_assert!(Update::decode(&hit, made(), 1, 300).is_err());
            prop_assert!(Update::decode(&bytes[..cut % bytes.len()], made(), 1, 300).is_err());
        }
    }

    #[test]
    fn the_update_of_another_emulator_is_refused() {
        let bytes = Update::encode(made(), 2, Codec::F32, &[0.0; 3], &[1.0; 3]);
        let other = Digest::of(b"other");
        let read = |made, version, dim| Update::decode(&bytes, made, version, dim).unwrap_err();
        assert_eq!(
            read(Made { base: other, ..made() }, 2, 3),
            UpdateError::Base { found: made().base, expected: other }
        );
        assert!(matches!(read(Made { schema: other, ..made() }, 2, 3), UpdateError::Schema { .. }));
        assert!(matches!(read(made(), 2, 4), UpdateError::Schema { .. }));
        assert_eq!(read(made(), 3, 3), UpdateError::Version { found: 2, expected: 3 });
        let nan = Update::encode(made(), 1, Codec::F32, &[0.0], &[f32::NAN]);
        assert_eq!(Update::decode(&nan, made(), 1, 1), Err(UpdateError::NotFinite { index: 0 }));
    }

    #[test]
    fn what_a_block_has_in_common_is_its_largest_change() {
        let now: Vec<f32> = (0..256).map(|i| i as f32 / 255.0).collect();
        let bytes = Update::encode(made(), 1, Codec::Int8, &[0.0; 256], &now);
        let update = Update::decode(&bytes, made(), 1, 256).unwrap();
        let mut held = [0.0; 256];
        update.apply(&mut held);
        assert_eq!((held[0], held[255]), (0.0, 1.0));
    }
}
