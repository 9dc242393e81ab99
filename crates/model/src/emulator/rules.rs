//! Which `m` of `n` consecutive blocks an emulator keeps.
//!
//! Both released programs walk from the first block to the last in `m - 1` equal strides of binary64, `s = (n - 1) / (m - 1)`,
//! and differ in how they make an index of `i s`. Truncation can miss the last block by an ulp (12 of 31 ends at 29); it is
//! kept as released, because the blocks decide every number that follows. Of one block alone there is no stride, and the programs
//! divide by zero: here the walk ends where it begins, at the first.
//!
//! Other rules look at what blocks do: they are given a score of each.

use std::fmt;

use antiphon_core::Entry;

use super::{federatedscope, importance, offsite_tuning};

/// The blocks between the adapters, and how many of them stay.
#[derive(Clone, Copy, Debug)]
pub struct Middle<'a> {
    /// How many there are, `n`.
    pub blocks: usize,
    /// How many stay, `1 <= m <= n`.
    pub keep: usize,
    /// What each does to the stream ([`Influence`](crate::Influence)), where the rule asks for it; else empty.
    pub influence: &'a [f64],
}

/// A way of thinning out the blocks between the adapters.
///
/// Laws, checked for every registry entry: `m` indices, strictly ascending, below `n`; `m = n` is all of them.
pub trait LayerRule: fmt::Debug + Send + Sync {
    /// Id in the registry.
    fn id(&self) -> &'static str;
    /// Whether it asks for [`Middle::influence`], which somebody has to measure on data.
    fn measured(&self) -> bool {
        false
    }
    /// The blocks that stay.
    fn keep(&self, middle: Middle<'_>) -> Vec<usize>;
}

/// Every rule.
pub const RULES: &[&Entry<dyn LayerRule>] =
    &[&federatedscope::ENTRY, &importance::ENTRY, &offsite_tuning::ENTRY];

/// `i s`, multiplied and not summed, in the arithmetic of Python's floats.
pub(super) fn strides(Middle { blocks, keep, .. }: Middle<'_>) -> impl Iterator<Item = f64> {
    let stride = if keep > 1 { (blocks as f64 - 1.0) / (keep as f64 - 1.0) } else { 0.0 };
    (0..keep).map(move |i| i as f64 * stride)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use antiphon_core::{Noise, Purpose, Stream};
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
                let mut stream = Stream::keyed(n as u64, Purpose::Test, None, None, rule.id());
                let influence: Vec<f64> = (0..n).map(|_| stream.standard_normal()).collect();
                let keep = |m| rule.keep(Middle { blocks: n, keep: m, influence: &influence });
                for m in 1..=n {
                    let kept = keep(m);
                    assert_eq!(kept.len(), m, "{} {n} {m}", rule.id());
                    assert!(kept.windows(2).all(|w| w[0] < w[1]) && kept[m - 1] < n, "{} {n} {m}", rule.id());
                    // whoever looks at no block begins with the first
                    assert!(rule.measured() || kept[0] == 0, "{} {n} {m}", rule.id());
                }
                assert_eq!(keep(n), (0..n).collect::<Vec<_>>(), "{}", rule.id());
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
            for rule in all().filter(|r| !r.measured()) {
                let expected = &case.kept[rule.id()];
                let m = super::super::kept_of(case.n, case.drop);
                assert_eq!(expected.is_none(), m == 1, "n {} drop {}", case.n, case.drop);
                if let Some(expected) = expected {
                    let kept = rule.keep(Middle { blocks: case.n, keep: m, influence: &[] });
                    assert_eq!(kept, *expected, "{} n {} drop {}", rule.id(), case.n, case.drop);
                    seen += 1;
                }
            }
        }
        assert!(seen > 200, "{seen}");
    }
}
