//! A vector as it travels: little-endian bytes and their BLAKE3 digest.

use std::fmt;

use antiphon_algo::Carrier;
use antiphon_core::{Digest, Payload};
use bytes::Bytes;

/// Bytes converted and hashed at a time: small enough that the second pass finds them in cache, large
/// enough that BLAKE3 works at full width.
const BLOCK: usize = 64 * 1024;

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
    /// From `[d]` reals: 4 bytes each.
    #[must_use]
    pub fn from_reals(x: &[f32]) -> Self {
        Self::from_words(x, |v| v.to_le_bytes())
    }

    /// From a payload; one that lies in a message already is hashed, not copied.
    #[must_use]
    pub fn from_payload(x: &Payload) -> Self {
        match x {
            Payload::Real(v) => Self::from_reals(v),
            Payload::RealBytes(b) => Self { digest: Digest::of(b), bytes: b.clone() },
            Payload::Ring(v) => Self::from_words(v, |w| w.to_le_bytes()),
        }
    }

    fn from_words<T: Copy, const N: usize>(x: &[T], word: impl Fn(T) -> [u8; N]) -> Self {
        let mut bytes = Vec::with_capacity(N * x.len());
        let mut hash = blake3::Hasher::new();
        for block in x.chunks(BLOCK / N) {
            let at = bytes.len();
            bytes.extend(block.iter().flat_map(|&v| word(v)));
            hash.update(&bytes[at..]);
        }
        Self { bytes: bytes.into(), digest: Digest(*hash.finalize().as_bytes()) }
    }

    /// A body that arrived with the digest it should have; `None` if it has another.
    #[must_use]
    pub fn verified(bytes: Bytes, digest: Digest) -> Option<Self> {
        (Digest::of(&bytes) == digest).then_some(Self { bytes, digest })
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

    /// Copies the reals into `x`, whose allocation is reused.
    pub fn read_reals(&self, x: &mut Vec<f32>) {
        x.clear();
        x.extend(self.bytes.as_chunks::<4>().0.iter().map(|&w| f32::from_le_bytes(w)));
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
        let mut back = Vec::new();
        v.read_reals(&mut back);
        assert_eq!(back, x);
        assert_eq!(Vector::from_payload(&v.to_payload(Carrier::Real)), v);
        let ring = Vector::from_payload(&Payload::Ring(vec![1, u64::MAX]));
        assert_eq!(ring.to_payload(Carrier::Ring), Payload::Ring(vec![1, u64::MAX]));
        assert_eq!(Vector::verified(ring.bytes().clone(), v.digest()), None);
    }
}
