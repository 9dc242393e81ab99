//! A vector told by the words in which it differs from one that the receiver has: a former state, or zeros.
//!
//! ```text
//! index    for each run of changed words, ascending:
//!              varint 2·g + m      g: unchanged words since the run before, m: 1 if the run is longer than one word
//!              varint n - 2        n: its length; only where m = 1
//! words    the changed words, 4 bytes each, in order
//! ```
//!
//! Varints are LEB128 in their shortest form. Runs are as long as they can be and every word in them differs, so that a vector
//! has one form. The words are the message's body, the index stands in its header; the digest is that of the whole vector, so
//! what a receiver puts together is checked like what it is sent whole.

use antiphon_core::Digest;
use bytes::Bytes;

use crate::{Vector, WireError};

/// Longest index: beyond it, a vector is sent whole.
pub const MAX_INDEX: usize = 8 * 1024;

/// Bytes of a word.
const WORD: usize = 4;

/// What changed, and in what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub(crate) base: Digest,
    pub(crate) digest: Digest,
    pub(crate) index: Bytes,
    pub(crate) words: Bytes,
}

impl Patch {
    /// What makes `new` of `old`; `None` where sending `new` whole is shorter, or they are of different lengths.
    #[must_use]
    pub fn between(old: &Vector, new: &Vector) -> Option<Self> {
        let (index, words) = changes(old.bytes(), new.bytes())?;
        Some(Self { base: old.digest(), digest: new.digest(), index: index.into(), words: words.into() })
    }

    /// Digest of the vector that it changes.
    #[must_use]
    pub fn base(&self) -> Digest {
        self.base
    }

    /// Digest of the vector that it makes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The vector that it makes of `old`; `None` if `old` is another vector than it was made for, or the result is.
    #[must_use]
    pub fn apply(&self, old: &Vector) -> Option<Vector> {
        if old.digest() != self.base {
            return None;
        }
        let new = applied(old.bytes(), &self.index, &self.words).ok()?;
        Vector::verified(new.into(), self.digest, |_| ())
    }
}

/// Index and words of what changed from `old` to `new`, if they are shorter than `new`.
pub(crate) fn changes(old: &[u8], new: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    if old.len() != new.len() || !new.len().is_multiple_of(WORD) {
        return None;
    }
    let (old, new_words) = (old.as_chunks::<WORD>().0, new.as_chunks::<WORD>().0);
    let (mut index, mut words) = (Vec::new(), Vec::new());
    let (mut at, mut end) = (0, 0);
    while at < new_words.len() {
        if old[at] == new_words[at] {
            at += 1;
            continue;
        }
        let run = (at..new_words.len()).take_while(|&i| old[i] != new_words[i]).count();
        put(&mut index, 2 * (at - end) as u64 + u64::from(run > 1));
        if run > 1 {
            put(&mut index, run as u64 - 2);
        }
        words.extend_from_slice(new_words[at..at + run].as_flattened());
        if index.len() > MAX_INDEX || index.len() + words.len() >= new.len() {
            return None;
        }
        at += run;
        end = at;
    }
    (index.len() + words.len() < new.len()).then_some((index, words))
}

/// `old` with the words of `index` replaced. Refuses an index that [`changes`] would not write; `words` and the result are
/// no longer than the receiver expects, whatever the index says.
pub(crate) fn applied(old: &[u8], index: &[u8], words: &[u8]) -> Result<Vec<u8>, WireError> {
    let runs = runs(index, old.len() / WORD, words.len())?;
    let mut new = old.to_vec();
    let mut words = words;
    for (at, n) in runs {
        let (own, rest) = words.split_at(WORD * n);
        words = rest;
        let place = &mut new[WORD * at..WORD * (at + n)];
        let pairs = place.as_chunks::<WORD>().0.iter().zip(own.as_chunks::<WORD>().0);
        if pairs.into_iter().any(|(old, new)| old == new) {
            return Err(WireError::Index { reason: "it names a word that has not changed" });
        }
        place.copy_from_slice(own);
    }
    Ok(new)
}

/// Start and length of each run of an index over `dim` words whose runs have `bytes` bytes in all.
pub(crate) fn runs(index: &[u8], dim: usize, bytes: usize) -> Result<Vec<(usize, usize)>, WireError> {
    let refuse = |reason| Err(WireError::Index { reason });
    if index.len() > MAX_INDEX {
        return refuse("it is longer than the vector may save");
    }
    let (mut rest, mut out) = (index, Vec::new());
    let (mut end, mut total) = (0_usize, 0_usize);
    while !rest.is_empty() {
        let head = take(&mut rest)?;
        let gap = (head / 2) as usize;
        if gap == 0 && !out.is_empty() {
            return refuse("two runs touch");
        }
        // far below overflow: a varint here has at most 35 bits
        let n = if head % 2 == 1 { take(&mut rest)? as usize + 2 } else { 1 };
        let at = end + gap;
        if at + n > dim {
            return refuse("a run ends beyond the vector");
        }
        out.push((at, n));
        end = at + n;
        total += n;
    }
    if total * WORD == bytes { Ok(out) } else { refuse("it counts other words than there are") }
}

/// `bytes` for keeping: as the words that are not zero where that is shorter (1, the index's length in 4 bytes, the index,
/// the words), else whole (0, the bytes).
#[must_use]
pub fn pack(bytes: &[u8]) -> Vec<u8> {
    match changes(&vec![0; bytes.len()], bytes) {
        Some((index, words)) => [&[1][..], &(index.len() as u32).to_le_bytes(), &index, &words].concat(),
        None => [&[0][..], bytes].concat(),
    }
}

/// The `length` bytes that [`pack`] packed; an error where they are none.
pub fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>, WireError> {
    match packed.split_first() {
        Some((0, bytes)) if bytes.len() == length => Ok(bytes.to_vec()),
        Some((1, rest)) => {
            let cut = WireError::Index { reason: "it is cut short" };
            let (size, rest) = rest.split_first_chunk::<4>().ok_or(cut.clone())?;
            let (index, words) = rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or(cut)?;
            applied(&vec![0; length], index, words)
        }
        _ => Err(WireError::Body { expected: length, found: packed.len().saturating_sub(1) }),
    }
}

fn put(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// The next varint, at most five bytes, in its shortest form.
fn take(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut v = 0;
    for i in 0..5 {
        let Some((&byte, tail)) = rest.split_first() else {
            return Err(WireError::Index { reason: "it ends within a number" });
        };
        *rest = tail;
        v |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            if byte == 0 && i > 0 {
                return Err(WireError::Index { reason: "a number is longer than it need be" });
            }
            return Ok(v);
        }
    }
    Err(WireError::Index { reason: "a number is too large" })
}

/// Bytes of the index of `changed` words among `dim`, at most.
#[must_use]
pub fn index_bytes(changed: usize, dim: usize) -> usize {
    let mut longest = Vec::new();
    put(&mut longest, 2 * dim as u64 + 1);
    // a run of n words takes two numbers, and n >= 2 of them
    changed * longest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn runs_and_gaps_are_as_documented() {
        let old = bytes(&[0; 300]);
        let mut new = [0; 300];
        new[3] = 7;
        new[200..205].fill(9);
        new[299] = 1;
        let (index, words) = changes(&old, &bytes(&new)).unwrap();
        // 2·3; 2·196 + 1 and 5 - 2; 2·94
        assert_eq!(index, [6, 0x89, 3, 3, 0xbc, 1]);
        assert_eq!(words, bytes(&[7, 9, 9, 9, 9, 9, 1]));
        assert_eq!(applied(&old, &index, &words).unwrap(), bytes(&new));
        assert_eq!(changes(&old, &old), Some((vec![], vec![])));
        // nothing to be saved
        assert_eq!(changes(&old, &bytes(&[5; 300])).map(|c| c.1.len()), None);
        assert_eq!(changes(&old, &bytes(&[5; 299])), None);
        assert_eq!(changes(b"abc", b"abd"), None);
    }

    #[test]
    fn hostile_indices_are_refused() {
        let old = bytes(&[0; 8]);
        let word = bytes(&[1]);
        for (index, words, why) in [
            (&[16][..], &word[..], "beyond"),
            (&[1, 7][..], &bytes(&[1; 9])[..], "beyond"),
            (&[0xfe, 0xff, 0xff, 0xff, 0x7f][..], &word[..], "beyond"),
            (&[1, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &word[..], "beyond"),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 1][..], &word[..], "too large"),
            (&[0x80][..], &word[..], "ends within"),
            (&[1][..], &word[..], "ends within"),
            (&[0x82, 0][..], &word[..], "longer than it need"),
            (&[0, 0][..], &bytes(&[1, 1])[..], "touch"),
            (&[0][..], &bytes(&[0])[..], "not changed"),
            (&[0][..], &[][..], "counts other"),
            (&[][..], &word[..], "counts other"),
            (&vec![2; MAX_INDEX + 1][..], &word[..], "longer than the vector"),
        ] {
            let e = applied(&old, index, words).unwrap_err().to_string();
            assert!(e.contains(why), "{index:?}: {e}");
        }
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_was(
            old in prop::collection::vec(0..4_u32, 0..400),
            changed in prop::collection::vec((0..400_usize, any::<u32>()), 0..60),
        ) {
            let mut new = old.clone();
            for (at, v) in changed {
                if let Some(w) = new.get_mut(at) { *w = v; }
            }
            let vector = |w: &[u32]| Vector::from_reals(&w.iter().map(|w| f32::from_bits(*w)).collect::<Vec<_>>());
            let (a, b) = (vector(&old), vector(&new));
            if let Some(patch) = Patch::between(&a, &b) {
                prop_assert!(patch.index.len() + patch.words.len() < b.bytes().len());
                prop_assert!(patch.index.len() <= index_bytes(patch.words.len() / WORD, new.len()));
                prop_assert_eq!(patch.apply(&a), Some(b.clone()));
                prop_assert_eq!(unpack(&pack(b.bytes()), b.bytes().len()), Ok(b.bytes().to_vec()));
                prop_assert_eq!(patch.apply(&b).is_some(), a == b);
            } else {
                prop_assert!(b.bytes().is_empty() || 2 * old.iter().zip(&new).filter(|(a, b)| a != b).count() > old.len() / 2);
            }
        }

        /// Any bytes are an index with one meaning, or none.
        #[test]
        fn one_index_one_meaning(index in prop::collection::vec(any::<u8>(), 0..12), dim in 0..600_usize) {
            let old = vec![0; WORD * dim];
            let total = |runs: &[(usize, usize)]| runs.iter().map(|r| r.1).sum::<usize>();
            for count in 0..20 {
                if let Ok(runs) = runs(&index, dim, WORD * count) {
                    prop_assert_eq!(total(&runs), count);
                    let words = vec![1; WORD * count];
                    let new = applied(&old, &index, &words).unwrap();
                    if let Some((again, _)) = changes(&old, &new) {
                        prop_assert_eq!(&again, &index);
                    }
                }
            }
        }
    }
}
