//! How different clients are: the realised division, for the run report.
//!
//! For distributions `p_i` of the clients over some values (labels, fields, hashed words), with natural sizes ignored:
//! - Jensen-Shannon divergence of two clients, `H((p + q)/2) - (H(p) + H(q))/2` with `H` in bits, so in `[0, 1]`
//!   (Lin 1991, equation 3.1); mean and maximum over pairs;
//! - total variation of a client from all data together, `½ Σ |p - g|`, in `[0, 1]`; mean and maximum over clients.

use std::collections::BTreeMap;

use antiphon_core::ClientId;
use serde::{Deserialize, Serialize};

use crate::example::Example;
use crate::partition::clusters::{bucket, words};

/// Buckets of the word distribution.
const WORD_BUCKETS: usize = 512;

/// The realised division.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heterogeneity {
    /// One line a client.
    pub clients: Vec<ClientShape>,
    /// Divergence over labels, fields and words, as far as examples have them.
    pub divergences: Vec<Divergence>,
    /// Standard deviation of client sizes over their mean.
    pub size_variation: f64,
    /// Examples that belong to no client.
    pub left: usize,
    /// Why; empty if none.
    pub left_why: String,
}

/// What one client holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientShape {
    /// Which client.
    pub id: ClientId,
    /// The value, file or number it was made from.
    pub name: String,
    /// Examples in all.
    pub examples: usize,
    /// Of which in training.
    pub train: usize,
    /// Of which in validation.
    pub validation: usize,
    /// Of which in test.
    pub test: usize,
    /// Bytes of text.
    pub bytes: usize,
    /// Examples by label; empty where rows have none.
    pub labels: BTreeMap<String, usize>,
    /// Examples by field; empty where rows have none.
    pub fields: BTreeMap<String, usize>,
}

/// How far apart clients are over one kind of value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// `label`, `field` or `words`.
    pub over: String,
    /// Mean Jensen-Shannon divergence over pairs of clients, in bits; zero for one client.
    pub js_mean: f64,
    /// The largest.
    pub js_max: f64,
    /// Mean total variation from all data together.
    pub tv_mean: f64,
    /// The largest.
    pub tv_max: f64,
}

impl ClientShape {
    /// The shape of a client's three parts.
    #[must_use]
    pub fn of(id: ClientId, name: &str, parts: [&[Example]; 3]) -> Self {
        let all = || parts.iter().copied().flatten();
        let count = |value: fn(&Example) -> Option<&str>| {
            let mut counts = BTreeMap::new();
            all().filter_map(value).for_each(|v| *counts.entry(v.to_owned()).or_default() += 1);
            counts
        };
        Self {
            id,
            name: name.to_owned(),
            examples: all().count(),
            train: parts[0].len(),
            validation: parts[1].len(),
            test: parts[2].len(),
            bytes: all().map(Example::bytes).sum(),
            labels: count(Example::label),
            fields: count(|e| e.field.as_deref()),
        }
    }
}

impl Heterogeneity {
    /// Measures clients, given each one's shape and the examples behind it.
    pub fn measure<'a, E>(clients: impl IntoIterator<Item = (ClientShape, E)>) -> Self
    where
        E: IntoIterator<Item = &'a Example>,
    {
        let mut shapes = Vec::new();
        let mut word_counts = Vec::new();
        for (shape, examples) in clients {
            let mut counts = vec![0.0; WORD_BUCKETS];
            for word in examples.into_iter().flat_map(Example::texts).flat_map(words) {
                counts[bucket(&word, WORD_BUCKETS)] += 1.0;
            }
            shapes.push(shape);
            word_counts.push(counts);
        }
        let named = |over: &str, of: fn(&ClientShape) -> &BTreeMap<String, usize>| {
            let values: std::collections::BTreeSet<&String> =
                shapes.iter().flat_map(|c| of(c).keys()).collect();
            let counts = |c| values.iter().map(|v| of(c).get(*v).copied().unwrap_or(0) as f64).collect();
            let counts: Vec<Vec<f64>> = shapes.iter().map(counts).collect();
            divergence(over, &counts)
        };
        let divergences =
            [named("label", |c| &c.labels), named("field", |c| &c.fields), divergence("words", &word_counts)];
        let sizes: Vec<f64> = shapes.iter().map(|c| c.examples as f64).collect();
        let mean = sizes.iter().sum::<f64>() / sizes.len().max(1) as f64;
        let variance = sizes.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / sizes.len().max(1) as f64;
        Self {
            divergences: divergences.into_iter().flatten().collect(),
            size_variation: if mean > 0.0 { variance.sqrt() / mean } else { 0.0 },
            clients: shapes,
            left: 0,
            left_why: String::new(),
        }
    }
}

/// The divergence of rows of counts, one a client; `None` where nothing was counted.
fn divergence(over: &str, counts: &[Vec<f64>]) -> Option<Divergence> {
    let distribution = |c: &[f64]| {
        let total: f64 = c.iter().sum();
        c.iter().map(|x| x / total).collect::<Vec<f64>>()
    };
    let counts: Vec<&Vec<f64>> = counts.iter().filter(|c| c.iter().any(|x| *x > 0.0)).collect();
    let width = counts.first()?.len();
    let global: Vec<f64> = (0..width).map(|k| counts.iter().map(|c| c[k]).sum()).collect();
    let global = distribution(&global);
    let p: Vec<Vec<f64>> = counts.iter().map(|c| distribution(c)).collect();
    let entropies: Vec<f64> = p.iter().map(|p| entropy(p.iter().copied())).collect();
    let (mut js_sum, mut js_max, mut pairs) = (0.0, 0.0_f64, 0.0);
    for i in 0..p.len() {
        for j in 0..i {
            let middle = p[i].iter().zip(&p[j]).map(|(a, b)| (a + b) / 2.0);
            let js = (entropy(middle) - (entropies[i] + entropies[j]) / 2.0).clamp(0.0, 1.0);
            js_sum += js;
            js_max = js_max.max(js);
            pairs += 1.0;
        }
    }
    let tv: Vec<f64> =
        p.iter().map(|p| p.iter().zip(&global).map(|(a, g)| (a - g).abs()).sum::<f64>() / 2.0).collect();
    Some(Divergence {
        over: over.to_owned(),
        js_mean: if pairs > 0.0 { js_sum / pairs } else { 0.0 },
        js_max,
        tv_mean: tv.iter().sum::<f64>() / tv.len() as f64,
        tv_max: tv.iter().copied().fold(0.0, f64::max),
    })
}

/// Shannon entropy in bits.
fn entropy(p: impl Iterator<Item = f64>) -> f64 {
    p.filter(|p| *p > 0.0).map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::Kind;

    fn client(i: u64, labels: &[&str]) -> (ClientShape, Vec<Example>) {
        let example = |l: &&str| {
            Example::new(Kind::Labelled { text: "same words".into(), label: (*l).into() }, None, 0)
        };
        let examples: Vec<Example> = labels.iter().map(example).collect();
        (ClientShape::of(ClientId(i), "c", [&examples, &[], &[]]), examples)
    }

    fn measure(clients: &[(ClientShape, Vec<Example>)]) -> Heterogeneity {
        Heterogeneity::measure(clients.iter().map(|(s, e)| (s.clone(), e.iter())))
    }

    #[test]
    fn divergences_by_hand() {
        // p = (1, 0), q = (1/2, 1/2): H((p+q)/2) = H(3/4, 1/4), H(p) = 0, H(q) = 1
        let h = measure(&[client(0, &["a", "a"]), client(1, &["a", "b"])]);
        let js = -(0.75 * 0.75_f64.log2() + 0.25 * 0.25_f64.log2()) - 0.5;
        let d = &h.divergences[0];
        assert_eq!(d.over, "label");
        assert!((d.js_mean - js).abs() < 1e-12 && (d.js_max - js).abs() < 1e-12, "{d:?}");
        // g = (3/4, 1/4): both clients are 1/4 away
        assert!((d.tv_mean - 0.25).abs() < 1e-12 && (d.tv_max - 0.25).abs() < 1e-12, "{d:?}");
        assert_eq!(h.divergences.len(), 2, "no field, so labels and words");
        assert_eq!((h.divergences[1].js_max, h.size_variation), (0.0, 0.0));
        assert_eq!(h.clients[1].labels["b"], 1);
    }

    #[test]
    fn disjoint_clients_are_one_bit_apart_and_equal_ones_none() {
        let apart = measure(&[client(0, &["a"]), client(1, &["b", "b", "b"])]);
        assert_eq!(apart.divergences[0].js_max, 1.0);
        assert!((apart.size_variation - 0.5).abs() < 1e-12, "sizes 1 and 3");
        let equal = measure(&[client(0, &["a", "b"]), client(1, &["b", "a", "a", "b"])]);
        assert_eq!((equal.divergences[0].js_max, equal.divergences[0].tv_max), (0.0, 0.0));
        let alone = measure(&[client(0, &["a", "b"])]);
        assert_eq!((alone.divergences[0].js_mean, alone.divergences[0].tv_max), (0.0, 0.0));
    }
}
