//! Lines that variants share: the base model as it was is one line for all variants on the same data, random search one for
//! each search that it stands beside.

use std::collections::BTreeMap;

use super::{Measured, Study, Variant, shown};

/// A line to compare with, on one kind of data.
#[derive(Clone, Debug)]
pub(super) struct Line<'a, T> {
    /// What it is called in its runs.
    pub(super) key: &'a str,
    /// Its name in tables.
    pub(super) name: String,
    /// The variants whose runs measured it.
    pub(super) beside: Vec<&'a Variant>,
    /// One a seed.
    pub(super) values: BTreeMap<u64, &'a T>,
}

/// Every line of a study, `pick`ed from what runs measured. Variants on the same data share a line if it has the same value
/// at every seed that both have.
pub(super) fn lines<'a, T: PartialEq>(
    study: &'a Study,
    pick: impl Fn(&'a Measured) -> &'a BTreeMap<String, T>,
) -> Vec<Line<'a, T>> {
    let mut out: Vec<(&str, Line<'a, T>)> = Vec::new();
    for variant in &study.variants {
        let mut own: BTreeMap<&str, BTreeMap<u64, &T>> = BTreeMap::new();
        for cell in &variant.cells {
            for (name, value) in cell.measured().into_iter().flat_map(&pick) {
                own.entry(name).or_default().insert(cell.seed, value);
            }
        }
        for (name, values) in own {
            let same = |(n, l): &&mut (&str, Line<'a, T>)| {
                let agrees = values.iter().all(|(seed, v)| l.values.get(seed).is_none_or(|w| w == v));
                *n == name && agrees && l.beside.iter().all(|b| b.data == variant.data)
            };
            match out.iter_mut().find(same) {
                Some((_, line)) => {
                    line.values.extend(values);
                    line.beside.push(variant);
                }
                None => {
                    out.push((name, Line { key: name, name: name.to_owned(), beside: vec![variant], values }))
                }
            }
        }
    }
    let several = study.variants.iter().any(|v| v.data != study.variants[0].data);
    let twins = |name: &str, line: &Line<'_, T>| {
        out.iter().filter(|(n, l)| *n == name && l.beside[0].data == line.beside[0].data).count() > 1
    };
    let named = |(name, line): &(&str, Line<'a, T>)| {
        let mut text = (*name).to_owned();
        if twins(name, line) {
            text = format!("{text}, beside {}", some(&line.beside));
        } else if several {
            text = format!("{text}, {}", shown(&line.beside[0].data));
        }
        Line { key: line.key, name: text, beside: line.beside.clone(), values: line.values.clone() }
    };
    out.iter().map(named).collect()
}

/// The names of one or two variants; of more, the first and how many.
fn some(variants: &[&Variant]) -> String {
    match variants {
        [one] => one.name.clone(),
        [one, two] => format!("{} and {}", one.name, two.name),
        [first, rest @ ..] => format!("{} and {} others", first.name, rest.len()),
        [] => String::new(),
    }
}
