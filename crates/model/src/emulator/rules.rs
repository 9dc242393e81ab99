//! Which `m` of `n` consecutive blocks an emulator keeps.
//!
//! Both released programs walk from the first block to the last in `m - 1` equal strides of binary64, `s = (n - 1) / (m - 1)`,
//! and differ in how they make an index of `i s`. Truncation can miss the last block by an ulp (12 of 31 ends at 29); it is
//! kept as released, because the blocks decide every number that follows.

use std::fmt;

use antiphon_core::Entry;

use super::{federatedscope, offsite_tuning};

/// A way of thinning out the blocks between the adapters.
///
/// Laws, checked for every registry entry: `m` indices, strictly ascending, below `n`, starting at 0; `m = n` is all of
/// them.
pub trait LayerRule: fmt::Debug + Send + Sync {
    /// Id in the registry.
    fn id(&self) -> &'static str;
    /// The blocks that stay, for `2 <= m <= n`.
    fn keep(&self, n: usize, m: usize) -> Vec<usize>;
}

/// Every rule.
pub const RULES: &[&Entry<dyn LayerRule>] = &[&federatedscope::ENTRY, &offsite_tuning::ENTRY];

/// `i s`, multiplied and not summed, in the arithmetic of Python's floats.
pub(super) fn strides(n: usize, m: usize) -> impl Iterator<Item = f64> {
    let stride = (n as f64 - 1.0) / (m as f64 - 1.0);
    (0..m).map(move |i| i as f64 * stride)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use antiphon_testkit::Golden;
    use serde::Deserialize;

    use super::*;

    fn all() -> impl Iterator<Item = Box<dyn LayerRule>> {
        RULES.iter().map(|e| (e.build)(&toml::Table::new()).unwrap())
    }

    #[test]
    fn laws() {
        for rule in all() {
            for n in 2..40 {
                for m in 2..=n {
                    let kept = rule.keep(n, m);
                    assert_eq!((kept.len(), kept[0]), (m, 0), "{} {n} {m}", rule.id());
                    assert!(kept.windows(2).all(|w| w[0] < w[1]) && kept[m - 1] < n, "{} {n} {m}", rule.id());
                }
                assert_eq!(rule.keep(n, n), (0..n).collect::<Vec<_>>(), "{}", rule.id());
            }
        }
    }

    /// What the released programs keep of `n` blocks at a drop rate; `null` where they divide by zero.
    #[derive(Deserialize)]
    struct Case {
        n: usize,
        drop: f64,
        kept: BTreeMap<String, Option<Vec<usize>>>,
    }

    #[test]
    fn indices_are_those_of_the_released_programs() {
        let cases: Vec<Case> = Golden::of(env!("CARGO_MANIFEST_DIR")).json("emulator/layers.json").unwrap();
        let mut seen = 0;
        for case in &cases {
            for rule in all() {
                let expected = &case.kept[rule.id()];
                let m = super::super::kept_of(case.n, case.drop);
                assert_eq!(expected.is_none(), m == 1, "n {} drop {}", case.n, case.drop);
                if let Some(expected) = expected {
                    assert_eq!(
                        rule.keep(case.n, m),
                        *expected,
                        "{} n {} drop {}",
                        rule.id(),
                        case.n,
                        case.drop
                    );
                    seen += 1;
                }
            }
        }
        assert!(seen > 200, "{seen}");
    }
}
