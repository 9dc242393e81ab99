//! The blocks that change the stream most (Men et al. 2024, "ShortGPT", arXiv:2403.03853, section 3.2): of `n` blocks the `n - m`
//! of least [`Influence`](crate::Influence) go.
//!
//! Scores are those of the whole model and are not measured again as blocks go.

use antiphon_core::{Entry, registry};
use serde::Deserialize;

use super::rules::{LayerRule, Middle};

pub(super) const ENTRY: Entry<dyn LayerRule> = Entry {
    id: "importance",
    paper: "arXiv:2403.03853",
    about: "the blocks of most influence, 1 - mean cosine between what goes in and what comes out, measured on public data \
            at the start; of equals the later stays",
    build: |t| Ok(Box::new(registry::settings::<Importance>("importance", t)?)),
};

/// It has no settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Importance {}

impl LayerRule for Importance {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn measured(&self) -> bool {
        true
    }

    fn keep(&self, Middle { keep, influence, .. }: Middle<'_>) -> Vec<usize> {
        let mut order: Vec<usize> = (0..influence.len()).collect();
        // stable, so that of equals the first goes first
        order.sort_by(|&a, &b| influence[a].total_cmp(&influence[b]));
        let mut kept = order.split_off(influence.len() - keep);
        kept.sort_unstable();
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(keep: usize, influence: &[f64]) -> Vec<usize> {
        Importance {}.keep(Middle { blocks: influence.len(), keep, influence })
    }

    #[test]
    fn the_least_influential_go_first_and_of_equals_the_first() {
        let influence = [0.3, 0.1, 0.2, 0.1, 0.5];
        assert_eq!(keep(4, &influence), [0, 2, 3, 4]);
        assert_eq!(keep(3, &influence), [0, 2, 4]);
        assert_eq!(keep(1, &influence), [4]);
        assert_eq!(keep(2, &[0.0; 4]), [2, 3]);
    }
}
