//! Labels of any length where a server names next tokens only: one request for each beginning that labels have in common,
//! so that labels of one token are one request.

use std::collections::{BTreeMap, BTreeSet};

use crate::answer::LabelScore;
use crate::query::Label;

/// Log-probabilities of next tokens, by id.
pub(super) type Next = BTreeMap<u32, f64>;

/// Labels as ids, or `None` where one is text.
pub(super) fn ids(labels: &[Label]) -> Option<Vec<&[u32]>> {
    labels.iter().map(|l| if let Label::Tokens(ids) = l { Some(&ids[..]) } else { None }).collect()
}

/// The tokens that labels go on with after each beginning that they have, the empty one included.
pub(super) fn beginnings<'l>(labels: &[&'l [u32]]) -> BTreeMap<&'l [u32], BTreeSet<u32>> {
    let mut all: BTreeMap<&[u32], BTreeSet<u32>> = BTreeMap::new();
    for label in labels {
        for (at, id) in label.iter().enumerate() {
            all.entry(&label[..at]).or_default().insert(*id);
        }
    }
    all
}

/// Scores of `labels`, of which `ask` answers every beginning. A token that is not named has the least named
/// log-probability as an upper bound.
pub(super) fn scores<E>(
    labels: &[&[u32]],
    mut ask: impl FnMut(&[u32], &BTreeSet<u32>) -> Result<Next, E>,
) -> Result<Vec<LabelScore>, E> {
    let mut scores: Vec<LabelScore> =
        labels.iter().map(|l| LabelScore { logprob: 0.0, censored: false, tokens: l.len() as u32 }).collect();
    for (beginning, wanted) in beginnings(labels) {
        let next = ask(beginning, &wanted)?;
        let least = next.values().copied().fold(f64::INFINITY, f64::min);
        for (score, label) in scores.iter_mut().zip(labels) {
            if let Some((id, _)) = label.strip_prefix(beginning).and_then(<[u32]>::split_first) {
                score.logprob += next.get(id).copied().unwrap_or(least);
                score.censored |= !next.contains_key(id);
            }
        }
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_share_their_beginnings() {
        assert_eq!(beginnings(&[&[4], &[5], &[6]]).len(), 1);
        let mut asked = Vec::new();
        let told = scores(&[&[4, 1], &[4, 2], &[5]], |beginning, wanted| {
            asked.push((beginning.to_vec(), wanted.iter().copied().collect::<Vec<_>>()));
            let first = beginning.is_empty();
            Ok::<_, ()>(if first { Next::from([(4, -1.0)]) } else { Next::from([(1, -0.5), (2, -3.0)]) })
        });
        assert_eq!(asked, [(vec![], vec![4, 5]), (vec![4], vec![1, 2])]);
        let told: Vec<_> = told.unwrap().iter().map(|s| (s.logprob, s.censored, s.tokens)).collect();
        assert_eq!(told, [(-1.5, false, 2), (-4.0, false, 2), (-1.0, true, 1)]);
    }
}
