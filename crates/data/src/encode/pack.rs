//! Packing: documents laid end to end and cut into rows of exactly `limit` tokens, so that every row is full and no
//! token is padding. Each document is its own attention segment: nothing attends across a seam.
//!
//! A document cut at the end of a row goes on in the next one, where it sees nothing of its beginning. Its last token
//! is repeated there as context, not as a target, so that every target is learnt exactly once.

use crate::sequence::Sequence;

/// Rows of sequences; all but the last have `limit` tokens (two at least), or one less where a single token could not
/// have been a target.
pub(super) fn pack(documents: impl IntoIterator<Item = Sequence>, limit: usize) -> Vec<Vec<Sequence>> {
    let mut rows: Vec<Vec<Sequence>> = Vec::new();
    // With one token a row nothing could ever be predicted.
    let limit = limit.max(2);
    let mut room = 0;
    for document in documents {
        let mut at = 0;
        while at + 1 < document.len() {
            if room < 2 {
                rows.push(Vec::new());
                room = limit;
            }
            let end = document.len().min(at + room);
            let mut target = document.target[at..end].to_vec();
            target[0] = false;
            let piece = Sequence { ids: document.ids[at..end].to_vec(), target, class: None };
            room -= piece.len();
            if let Some(row) = rows.last_mut() {
                row.push(piece);
            }
            at = end - 1;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document(first: u32, n: usize) -> Sequence {
        let target = (0..n).map(|i| i > 0).collect();
        Sequence { ids: (first..).take(n).collect(), target, class: None }
    }

    #[test]
    fn by_hand() {
        let rows = pack([document(10, 3), document(20, 6)], 5);
        let ids: Vec<Vec<&[u32]>> =
            rows.iter().map(|r| r.iter().map(|s| s.ids.as_slice()).collect()).collect();
        assert_eq!(ids, [vec![&[10, 11, 12][..], &[20, 21]], vec![&[21, 22, 23, 24, 25]]]);
        assert_eq!(rows[1][0].target, [false, true, true, true, true]);
    }

    proptest! {
        #[test]
        fn every_target_is_learnt_once_and_rows_are_full(
            lengths in prop::collection::vec(1_usize..40, 1..20), limit in 2_usize..17
        ) {
            let documents: Vec<Sequence> =
                lengths.iter().enumerate().map(|(i, &n)| document(1000 * i as u32, n)).collect();
            let expected: Vec<u32> = documents.iter().flat_map(|d| d.labels().map(|(_, t)| t)).collect();
            let rows = pack(documents, limit);
            let learnt: Vec<u32> = rows.iter().flatten().flat_map(|s| s.labels().map(|(_, t)| t)).collect();
            prop_assert_eq!(learnt, expected);
            let tokens = |r: &Vec<Sequence>| r.iter().map(Sequence::len).sum::<usize>();
            for (i, row) in rows.iter().enumerate() {
                prop_assert!(tokens(row) <= limit);
                prop_assert!(i + 1 == rows.len() || tokens(row) + 1 >= limit);
                prop_assert!(row.iter().all(|s| s.label_tokens() > 0));
            }
        }
    }
}
