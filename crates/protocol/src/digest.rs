//! BLAKE3 of one long input on several threads.
//!
//! BLAKE3 is a tree (section 2.1 of its paper): the digest is that of the input whatever the division of labour. Each
//! thread hashes subtrees, which are merged in order.

use antiphon_core::Digest;
use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

/// Below this a thread costs more than it saves.
const GRAIN: usize = 512 * 1024;

/// `Digest::of(bytes)` by up to about `threads` threads.
pub(crate) fn digest_on(threads: usize, bytes: &[u8]) -> Digest {
    if threads <= 1 || bytes.len() <= 2 * GRAIN {
        return Digest::of(bytes);
    }
    // the left subtree is a power of two of chunks: one level more than threads need evens out the rest
    let depth = threads.next_power_of_two().ilog2() + 1;
    let (left, right) = halves(bytes, 0, depth);
    Digest(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

/// The chaining values of the two subtrees of `bytes`, which are longer than a chunk and begin at `offset` of the input.
fn halves(bytes: &[u8], offset: u64, depth: u32) -> (ChainingValue, ChainingValue) {
    let at = left_subtree_len(bytes.len() as u64);
    let (left, right) = bytes.split_at(at as usize);
    std::thread::scope(|s| {
        let other = s.spawn(|| subtree(left, offset, depth - 1));
        let right = subtree(right, offset + at, depth - 1);
        let left = match other.join() {
            Ok(left) => left,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (left, right)
    })
}

fn subtree(bytes: &[u8], offset: u64, depth: u32) -> ChainingValue {
    if depth == 0 || bytes.len() <= GRAIN {
        return Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root();
    }
    let (left, right) = halves(bytes, offset, depth);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..(5 * GRAIN + 12_345)).map(|i| (i * 31 % 251) as u8).collect();
        for len in [0, 1, GRAIN, 2 * GRAIN, 2 * GRAIN + 1, 3 * GRAIN + 1024, bytes.len()] {
            for threads in [1, 2, 3, 4, 8] {
                assert_eq!(digest_on(threads, &bytes[..len]), Digest::of(&bytes[..len]), "{len} {threads}");
            }
        }
    }
}
