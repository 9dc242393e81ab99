//! A vector as it travels: little-endian bytes and their BLAKE3 digest.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

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
        Self::from_words(x, &Pool::default(), |v| v.to_le_bytes())
    }

    /// From a payload, into a buffer of `pool`; one that lies in a message already is hashed, not copied.
    #[must_use]
    pub fn from_payload(x: &Payload, pool: &Pool) -> Self {
        match x {
            Payload::Real(v) => Self::from_words(v, pool, |v| v.to_le_bytes()),
            Payload::RealBytes(b) => Self { digest: Digest::of(b), bytes: b.clone() },
            Payload::Ring(v) => Self::from_words(v, pool, |w| w.to_le_bytes()),
        }
    }

    fn from_words<T: Copy, const N: usize>(x: &[T], pool: &Pool, word: impl Fn(T) -> [u8; N]) -> Self {
        let mut buffer = pool.take(N * x.len());
        let mut hash = blake3::Hasher::new();
        for block in x.chunks(BLOCK / N) {
            let at = buffer.bytes.len();
            buffer.bytes.extend(block.iter().flat_map(|&v| word(v)));
            hash.update(&buffer.bytes[at..]);
        }
        Self { bytes: Bytes::from_owner(buffer), digest: Digest(*hash.finalize().as_bytes()) }
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

    /// Whether `other` is this very memory: the same unchanging bytes, which need not be hashed twice.
    #[must_use]
    pub fn shares(&self, other: &Bytes) -> bool {
        std::ptr::eq(&raw const self.bytes[..], &raw const other[..])
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

/// Buffers for bodies, given back when the last reader of a message lets go. A round of large updates then costs no
/// fresh memory after the first, whose pages the system would have to clear. Cloning shares the pool.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    fn take(&self, capacity: usize) -> Buffer {
        let mut bytes = self.lock().pop().unwrap_or_default();
        bytes.clear();
        bytes.reserve_exact(capacity);
        Buffer { bytes, home: self.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Buffer {
    bytes: Vec<u8>,
    home: Pool,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // a pool that nobody else holds would only keep the buffer alive for nothing
        if Arc::strong_count(&self.home.0) > 1 {
            self.home.lock().push(std::mem::take(&mut self.bytes));
        }
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
        assert_eq!(Vector::from_payload(&v.to_payload(Carrier::Real), &Pool::default()), v);
        let ring = Vector::from_payload(&Payload::Ring(vec![1, u64::MAX]), &Pool::default());
        assert_eq!(ring.to_payload(Carrier::Ring), Payload::Ring(vec![1, u64::MAX]));
        assert_eq!(Vector::verified(ring.bytes().clone(), v.digest(), |_| ()), None);
    }

    #[test]
    fn a_pool_gets_its_buffers_back_when_the_last_reader_lets_go() {
        let pool = Pool::default();
        let x = Payload::Real(vec![1.0; 1000]);
        let v = Vector::from_payload(&x, &pool);
        let at = v.bytes().as_ptr();
        let reader = v.bytes().slice(8..);
        drop(v);
        assert_ne!(Vector::from_payload(&x, &pool).bytes().as_ptr(), at);
        drop(reader);
        assert_eq!(Vector::from_payload(&x, &pool).bytes().as_ptr(), at);
    }
}
