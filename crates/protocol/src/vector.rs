//! A vector as it travels: little-endian bytes and their BLAKE3 digest.

use std::fmt;

use antiphon_algo::Carrier;
use antiphon_algo::vector::by_columns;
use antiphon_core::{Digest, Payload};
use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::digest::digest_on;

/// Bytes hashed at a time: small enough that the second pass finds them in cache, large
/// enough that BLAKE3 works at full width.
pub(crate) const BLOCK: usize = 64 * 1024;

/// The body of a message. Cloning shares it.
#[derive(Clone, PartialEq, Eq)]
pub struct Vector {
    bytes: Bytes,
    digest: Digest,
}

/// Prints length and digest only: a body may be a client's private update.
impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vector({} bytes, {:?})", self.bytes.len(), self.digest)
    }
}

impl Vector {
    /// From `[d]` reals: 4 bytes each, copied.
    #[must_use]
    pub fn from_reals(x: &[f32]) -> Self {
        Self::from_payload(Payload::Real(x.to_vec()))
    }

    /// [`Vector::from_reals`] by `threads >= 1` threads.
    #[must_use]
    pub fn from_reals_on(threads: usize, x: &[f32]) -> Self {
        if !LITTLE {
            return Self::from_reals(x);
        }
        let mut copy = vec![0.0; x.len()];
        by_columns(threads, &mut copy, |at, part| part.copy_from_slice(&x[at..at + part.len()]));
        let bytes = Bytes::from_owner(Words(copy));
        Self { digest: digest_on(threads, &bytes), bytes }
    }

    /// From a payload, whose memory becomes the message's where the machine is little-endian.
    #[must_use]
    pub fn from_payload(x: Payload) -> Self {
        let bytes = match x {
            Payload::RealBytes(b) => b,
            Payload::Real(v) if LITTLE => Bytes::from_owner(Words(v)),
            Payload::Ring(v) if LITTLE => Bytes::from_owner(Words(v)),
            Payload::Real(v) => v.iter().flat_map(|w| w.to_le_bytes()).collect(),
            Payload::Ring(v) => v.iter().flat_map(|w| w.to_le_bytes()).collect(),
        };
        Self { digest: Digest::of(&bytes), bytes }
    }

    /// A body that arrived with the digest it should have; `None` if it has another. `look` sees every byte,
    /// in pieces of a multiple of 64 bytes but for the last, while it is in cache for the hash.
    #[must_use]
    pub fn verified(bytes: Bytes, digest: Digest, mut look: impl FnMut(&[u8])) -> Option<Self> {
        let mut hash = blake3::Hasher::new();
        for block in bytes.chunks(BLOCK) {
            hash.update(block);
            look(block);
        }
        (hash.finalize().as_bytes() == &digest.0).then_some(Self { bytes, digest })
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Their BLAKE3 digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// As coordinates of `carrier`, shared where the carrier allows it.
    #[must_use]
    pub fn to_payload(&self, carrier: Carrier) -> Payload {
        match carrier {
            Carrier::Real => Payload::RealBytes(self.bytes.clone()),
            Carrier::Ring => {
                Payload::Ring(self.bytes.as_chunks::<8>().0.iter().map(|&w| u64::from_le_bytes(w)).collect())
            }
        }
    }

    /// The reals: the message's own memory where it is aligned and the machine is little-endian, otherwise
    /// copied into `scratch`, whose allocation is reused.
    pub fn reals<'a>(&'a self, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        if LITTLE && let Ok(x) = <[f32]>::ref_from_bytes(&self.bytes) {
            return x;
        }
        scratch.clear();
        scratch.extend(self.bytes.as_chunks::<4>().0.iter().map(|&w| f32::from_le_bytes(w)));
        scratch
    }
}

/// Whether memory and wire agree on the order of bytes.
const LITTLE: bool = cfg!(target_endian = "little");

/// Numbers that are read as bytes.
struct Words<T>(Vec<T>);

impl<T: IntoBytes + Immutable> AsRef<[u8]> for Words<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_digest_are_those_of_the_words() {
        let x: Vec<f32> = (0..40_000).map(|i| i as f32 * 0.5 - 3.0).collect();
        let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let v = Vector::from_reals(&x);
        assert_eq!((&v.bytes()[..], v.digest()), (&bytes[..], Digest::of(&bytes)));
        assert_eq!(v.reals(&mut Vec::new()), x);
        for threads in [1, 4] {
            assert_eq!(Vector::from_reals_on(threads, &x), v);
        }
        // one byte further on nothing is aligned
        let shifted = Bytes::from([&[0], &bytes[..]].concat()).slice(1..);
        let shifted = Vector::verified(shifted, v.digest(), |_| ()).unwrap();
        assert_eq!(shifted.reals(&mut Vec::new()), x);
        assert_eq!(Vector::from_payload(v.to_payload(Carrier::Real)), v);
        let ring = Vector::from_payload(Payload::Ring(vec![1, u64::MAX]));
        assert_eq!(ring.to_payload(Carrier::Ring), Payload::Ring(vec![1, u64::MAX]));
        assert_eq!(Vector::verified(ring.bytes().clone(), v.digest(), |_| ()), None);
    }
}
