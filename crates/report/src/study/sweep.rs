//! A key of the grid that takes several numbers is an axis: quality against it.

use std::collections::BTreeSet;

use super::{Measure, Spread, Study, Variant, number};
use crate::results::Who;

/// So many numbers make an axis.
const MANY: usize = 3;

/// Variants that differ in one number alone.
#[derive(Clone, Debug)]
pub struct Sweep<'a> {
    /// The last part of the key.
    pub key: &'a str,
    /// What its variants have in common, such as the name of an arm; may be empty.
    pub name: String,
    /// By ascending number.
    pub variants: Vec<(f64, &'a Variant)>,
}

/// What is drawn for one model of a [`Sweep`]: its name, and a spread over seeds at each number that has one.
pub type Trace = (String, Vec<(f64, Spread)>);

/// The sweeps of a study along the key with the most numbers; none where no key has three.
#[must_use]
pub fn sweeps(study: &Study) -> Vec<Sweep<'_>> {
    let numbers = |key: &str| -> BTreeSet<&str> {
        let value = |v: &Variant| v.set.get(key).is_some_and(|t| t.parse().is_ok_and(f64::is_finite));
        if !study.variants.iter().all(value) {
            return BTreeSet::new();
        }
        study.variants.iter().filter_map(|v| v.set.get(key).map(String::as_str)).collect()
    };
    let keys = study.variants.first().into_iter().flat_map(|v| v.set.keys());
    let axis = keys.map(|k| (numbers(k).len(), k)).filter(|(n, _)| *n >= MANY).max_by_key(|(n, _)| *n);
    let Some((_, dotted)) = axis else { return Vec::new() };
    let key = dotted.rsplit('.').next().unwrap_or(dotted);
    let mut sweeps: Vec<Sweep<'_>> = Vec::new();
    for variant in &study.variants {
        let Some((text, at)) = variant.set.get(dotted).and_then(|t| Some((t, t.parse().ok()?))) else {
            continue;
        };
        let own = format!("{key} = {text}");
        let parts: Vec<&str> = variant.name.split(", ").filter(|p| *p != own).collect();
        let name = parts.join(", ");
        match sweeps.iter_mut().find(|s| s.name == name) {
            Some(sweep) => sweep.variants.push((at, variant)),
            None => sweeps.push(Sweep { key, name, variants: vec![(at, variant)] }),
        }
    }
    for sweep in &mut sweeps {
        sweep.variants.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    sweeps.retain(|s| s.variants.len() > 1);
    sweeps
}

impl Sweep<'_> {
    /// The lines that its runs measured and the result, by `m`: as far as there are runs.
    #[must_use]
    pub fn traces(&self, m: &Measure) -> Vec<Trace> {
        let has = |w: &&Who| {
            self.variants.iter().any(|(_, v)| v.finished().any(|c| c.lines.contains_key(w.label())))
        };
        let shown = Who::ALL.iter().filter(has);
        let trace = |name: &str, of: &dyn Fn(&Variant) -> Option<Spread>| {
            (name.to_owned(), self.variants.iter().filter_map(|(at, v)| Some((*at, of(v)?))).collect())
        };
        let line = |name: &str, v: &Variant| {
            let all: Option<Vec<f64>> =
                v.finished().map(|c| c.lines.get(name).and_then(|n| n.get(m.name)).copied()).collect();
            Spread::of(&all?)
        };
        let lines = shown.map(|w| trace(w.label(), &|v| line(w.label(), v)));
        let result = trace("result", &|v| v.spread(|c| number(m, c.test.as_ref()?)));
        lines.chain([result]).filter(|t: &Trace| !t.1.is_empty()).collect()
    }
}
