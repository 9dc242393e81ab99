//! Lines that every variant has of its own: off-site, each emulator has its score before and after, and each model its own
//! ceiling. Beside each other they are a table, not rows under the results.

use std::collections::BTreeMap;

use super::table::spread;
use super::{Measure, Row, Spread, Study, Table};
use crate::results::Who;

/// So many variants with a line of their own are too many for rows.
const MANY: usize = 3;

/// Names of lines that stand in [`beside`] and not among the rows of the results.
pub(super) fn names(study: &Study) -> Vec<String> {
    let mut seen: BTreeMap<&str, Vec<Vec<_>>> = BTreeMap::new();
    for v in &study.variants {
        let all = || v.cells.iter().filter_map(|c| Some((c.seed, c.measured()?)));
        for name in all().next().iter().flat_map(|(_, m)| m.lines.keys()) {
            let values: Vec<_> = all().map(|(seed, m)| (seed, m.lines.get(name))).collect();
            let known = seen.entry(name).or_default();
            // a variant with fewer seeds so far has no line of its own for that
            let same = |k: &Vec<(u64, Option<&BTreeMap<String, f64>>)>| {
                values.iter().all(|(seed, n)| k.iter().all(|(s, m)| s != seed || m == n))
            };
            if !known.iter().any(same) {
                known.push(values);
            }
        }
    }
    seen.into_iter().filter(|(_, k)| k.len() >= MANY).map(|(name, _)| name.to_owned()).collect()
}

/// The measure `m` of every variant between its lines, where variants have lines of their own.
#[must_use]
pub fn beside(study: &Study, m: &Measure) -> Option<Table> {
    let own = names(study);
    if own.is_empty() {
        return None;
    }
    // in the order of a run's own table, and where all of them come from in front
    let shown = |w: &Who| *w == Who::Base || own.iter().any(|n| n == w.label());
    let columns: Vec<&str> = Who::ALL.iter().filter(|w| shown(w)).map(|w| w.label()).collect();
    let row = |v: &super::Variant| {
        let line = |name: &str| {
            let all: Option<Vec<f64>> =
                v.finished().map(|c| c.lines.get(name).and_then(|n| n.get(m.name)).copied()).collect();
            Some(spread(Spread::of(&all?)?, m.text))
        };
        let result = v.spread(|c| super::number(m, c.test.as_ref()?)).map(|s| spread(s, m.text));
        let cells = columns.iter().map(|name| line(name)).chain([result]).collect();
        Row { name: v.name.clone(), variant: true, cells }
    };
    let rows: Vec<Row> = study.variants.iter().map(row).collect();
    let head = [String::new()].into_iter().chain(columns.iter().map(|c| (*c).to_owned()));
    Some(Table {
        head: head.chain(["result".to_owned()]).collect(),
        rows,
        note: format!(
            "{} of every variant and of the lines that it has of its own, on the same test data.",
            m.name
        ),
    })
}
