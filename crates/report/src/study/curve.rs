//! Quality against example forwards, read off one run a seed.

use std::collections::BTreeMap;

use super::line::lines;
use super::{Measure, Point, Spread, Study, Variant, number};
use crate::record::Metrics;
use crate::results::Who;

/// One model's way to its result, at every seed.
#[derive(Clone, Debug)]
pub struct Curve<'a> {
    /// Of the variant or of the line.
    pub name: String,
    /// Whether it is a line to compare with.
    pub line: bool,
    /// What was set of the data; see [`Variant::data`].
    pub data: &'a BTreeMap<String, String>,
    /// One a seed, ascending by forwards, never empty.
    pub seeds: Vec<&'a [Point]>,
}

impl Curve<'_> {
    /// Every curve of a study: those of its variants, then those of the lines beside them.
    #[must_use]
    pub fn all(study: &Study) -> Vec<Curve<'_>> {
        let own = study.variants.iter().map(|v| Curve {
            name: v.name.clone(),
            line: false,
            data: &v.data,
            seeds: v.finished().map(|c| &c.curve[..]).filter(|p| !p.is_empty()).collect(),
        });
        let lines = lines(study, |m| &m.line_curves).into_iter().map(|l| Curve {
            name: l.name,
            line: true,
            data: &l.beside[0].data,
            seeds: l.values.values().map(|p| &p[..]).collect(),
        });
        own.chain(lines).filter(|c| !c.seeds.is_empty()).collect()
    }

    /// A number at `forwards`: of each seed the last one evaluated until then. `None` if a seed has none.
    #[must_use]
    pub fn at(&self, forwards: u64, m: &Measure) -> Option<Spread> {
        let values: Option<Vec<f64>> =
            self.seeds.iter().map(|points| number(m, &read(points, forwards)?.metrics)).collect();
        Spread::of(&values?)
    }

    /// First and last number of forwards at which every seed has a point.
    #[must_use]
    pub fn extent(&self) -> Option<(u64, u64)> {
        let first = self.seeds.iter().filter_map(|p| p.first()).map(|p| p.forwards).max()?;
        let last = self.seeds.iter().filter_map(|p| p.last()).map(|p| p.forwards).min()?;
        Some((first, last))
    }
}

/// The last point until `forwards`.
fn read(points: &[Point], forwards: u64) -> Option<&Point> {
    points.iter().take_while(|p| p.forwards <= forwards).last()
}

/// Where a variant begins to be better than a line at every point that was evaluated, at every seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pays {
    /// At so many example forwards: where the slowest seed does.
    From(u64),
    /// Nowhere: some seed ended no better.
    Never,
}

/// [`Pays`] against two lines; `None` where some run did not measure the line on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// The base model as it was.
    pub base: Option<Pays>,
    /// Random search with as many forwards.
    pub random: Option<Pays>,
}

/// That of each variant with curves, by the measure `m`.
#[must_use]
pub fn thresholds<'a>(study: &'a Study, m: &Measure) -> Vec<(&'a Variant, Threshold)> {
    let curved = study.variants.iter().filter(|v| v.finished().any(|c| !c.curve.is_empty()));
    let of = |v: &'a Variant| {
        let against = |who: Who| {
            let each = v.finished().map(|c| Some(lasting(&c.curve, c.line_curves.get(who.label())?, m)));
            let each: Vec<Option<u64>> = each.collect::<Option<_>>()?;
            let slowest =
                each.into_iter().collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().max());
            Some(slowest.map_or(Pays::Never, Pays::From))
        };
        (v, Threshold { base: against(Who::Base), random: against(Who::RandomSearch) })
    };
    curved.map(of).collect()
}

/// The first point from which on `points` are better than `line` read at as many forwards.
fn lasting(points: &[Point], line: &[Point], m: &Measure) -> Option<u64> {
    let better = |p: &Point| {
        let pair = |a: &Metrics, b: &Metrics| Some((number(m, a)?, number(m, b)?));
        // a line that has not begun yet is not beaten
        let found = read(line, p.forwards).and_then(|l| pair(&p.metrics, &l.metrics));
        found.is_some_and(|(own, other)| if m.higher { own > other } else { own < other })
    };
    let lasting = points.iter().rev().take_while(|p| better(p));
    lasting.last().map(|p| p.forwards)
}

#[cfg(test)]
mod tests {
    use super::super::measure;
    use super::*;

    fn curve(points: &[(u64, f64)]) -> Vec<Point> {
        let metrics = |loss| Metrics { loss: Some(loss), examples: 1, tokens: 1, ..Metrics::default() };
        points.iter().map(|&(forwards, l)| Point { forwards, bytes: None, metrics: metrics(l) }).collect()
    }

    #[test]
    fn a_curve_is_read_where_every_seed_has_begun() {
        let (a, b) = (curve(&[(100, 3.0), (300, 1.0)]), curve(&[(120, 5.0), (250, 3.0)]));
        let both = Curve { name: String::new(), line: false, data: &BTreeMap::new(), seeds: vec![&a, &b] };
        let m = measure("loss").unwrap();
        assert_eq!(both.at(100, &m), None);
        assert_eq!(both.at(299, &m).map(|s| s.mean), Some(3.0));
        assert_eq!(both.at(9999, &m).map(|s| s.mean), Some(2.0));
        assert_eq!(both.extent(), Some((120, 250)));
    }

    #[test]
    fn a_threshold_lasts() {
        let m = measure("loss").unwrap();
        let base = curve(&[(0, 2.0)]);
        let own = curve(&[(100, 1.9), (200, 2.1), (300, 1.8), (400, 1.7)]);
        assert_eq!(lasting(&own, &base, &m), Some(300));
        assert_eq!(lasting(&own[..2], &base, &m), None);
        let luck = curve(&[(350, 1.0)]);
        assert_eq!(lasting(&own, &luck, &m), None);
        let accuracy = measure("accuracy").unwrap();
        assert_eq!(lasting(&own, &base, &accuracy), None);
    }
}
