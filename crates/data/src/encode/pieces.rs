//! Running text longer than the limit goes on in further sequences, so that nothing of it is lost.
//!
//! A piece sees nothing of the pieces before it. The last token of a piece is repeated at the head of the next as context,
//! not as a target, so that every target is learnt exactly once. Deliberately missing: joining short documents into
//! full rows. Sequences lie end to end in a batch without padding as it is, and joined documents would see one another.

use super::mark::Marked;

/// Cuts `marked` into pieces of at most `limit` tokens (two at least, or nothing could be predicted).
pub(super) fn pieces(marked: Marked, limit: usize) -> Vec<Marked> {
    let limit = limit.max(2);
    let n = marked.ids.len();
    if n <= limit {
        return vec![marked];
    }
    let mut out = Vec::new();
    let mut at = 0;
    while at + 1 < n {
        let end = n.min(at + limit);
        let mut piece = Marked {
            ids: marked.ids[at..end].to_vec(),
            target: marked.target[at..end].to_vec(),
            bytes: marked.bytes[at..end].to_vec(),
            ..Marked::default()
        };
        piece.target[0] = false;
        out.push(piece);
        at = end - 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document(n: usize) -> Marked {
        let target = (0..n).map(|i| i > 0).collect();
        Marked { ids: (0..n as u32).collect(), target, bytes: vec![1; n], ..Marked::default() }
    }

    #[test]
    fn by_hand() {
        let p = pieces(document(7), 3);
        assert_eq!(p.iter().map(|p| p.ids.clone()).collect::<Vec<_>>(), [[0, 1, 2], [2, 3, 4], [4, 5, 6]]);
        assert_eq!(p[1].target, [false, true, true]);
    }

    proptest! {
        #[test]
        fn every_target_is_learnt_once_within_the_limit(n in 1_usize..60, limit in 2_usize..17) {
            let document = document(n);
            let expected: Vec<u32> = (1..n as u32).collect();
            let pieces = pieces(document, limit);
            let targets = |p: &Marked| p.ids.iter().zip(&p.target).filter(|(_, t)| **t).map(|(i, _)| *i).collect::<Vec<_>>();
            prop_assert_eq!(pieces.iter().flat_map(targets).collect::<Vec<_>>(), expected);
            prop_assert!(pieces.iter().all(|p| p.ids.len() <= limit && p.ids.len() == p.target.len()));
        }
    }
}
