//! Log-probabilities of a row of logits.

use std::cmp::Ordering;
use std::sync::Arc;

/// Which log-probabilities are wanted beside that of the token itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// So many of the likeliest.
    pub(crate) top: usize,
    /// These.
    pub(crate) ids: Arc<[u32]>,
}

/// A token with the log-probabilities at its position: natural logarithms of `softmax(logits)`, before temperature.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scored {
    pub(crate) id: u32,
    pub(crate) logprob: f64,
    /// 1 for the likeliest.
    pub(crate) rank: usize,
    /// Likeliest first, equal ones by id.
    pub(crate) top: Vec<(u32, f64)>,
    /// In the order of [`Ask::ids`].
    pub(crate) asked: Vec<(u32, f64)>,
}

/// The scores of token `id` among `logits`.
pub(crate) fn scored(logits: &[f32], id: u32, ask: &Ask) -> Scored {
    let greatest = logits.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let sum: f64 = logits.iter().map(|v| (f64::from(*v) - f64::from(greatest)).exp()).sum();
    let log_sum = f64::from(greatest) + sum.ln();
    let at = |id: u32| (id, f64::from(logits[id as usize]) - log_sum);
    let own = logits[id as usize];
    Scored {
        id,
        logprob: at(id).1,
        rank: 1 + logits.iter().filter(|v| **v > own).count(),
        top: likeliest(logits, ask.top).into_iter().map(at).collect(),
        asked: ask.ids.iter().map(|&id| at(id)).collect(),
    }
}

/// The `count` greatest, greatest first, equal ones by id.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    let order =
        |a: &u32, b: &u32| -> Ordering { logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)) };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count < ids.len() {
        ids.select_nth_unstable_by(count - 1, order);
        ids.truncate(count);
    }
    ids.sort_unstable_by(order);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_ranks_and_ties() {
        let logits: Vec<f32> = [0.1f32, 0.4, 0.1, 0.4].map(f32::ln).to_vec();
        let ask = Ask { top: 3, ids: [2, 1].into() };
        let s = scored(&logits, 2, &ask);
        assert!((s.logprob - 0.1f64.ln()).abs() < 1e-6);
        assert_eq!(s.rank, 3);
        assert_eq!(s.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 0]);
        assert_eq!(s.asked[0], (2, s.logprob));
        assert!((s.asked[1].1 - 0.4f64.ln()).abs() < 1e-6);
        let all = scored(&logits, 0, &Ask { top: 9, ids: [].into() });
        let total: f64 = all.top.iter().map(|t| t.1.exp()).sum();
        assert!((total - 1.0).abs() < 1e-12 && all.top.len() == 4);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let s = scored(&[3e4, -3e4], 1, &Ask { top: 1, ids: [].into() });
        assert_eq!((s.logprob, s.top[0]), (-6e4, (0, 0.0)));
    }
}
