//! Each client's examples into training, validation and test, once for the whole run.
//!
//! Duplicates (equal content keys) stay together, also across clients: a text that one client trains on is in nobody's
//! test. A group of duplicates that several clients hold is drawn into a part by its own coin; the rest of each client
//! fills its parts up to `round(fraction · n)`, so sizes are exact for clients that share nothing. Every client keeps at
//! least one training example. Deliberately missing: stratification by label.

use std::collections::{BTreeMap, BTreeSet};

use antiphon_core::{ClientId, Digest, Purpose, Stream};
use serde::{Deserialize, Serialize};

/// Fractions of each client's examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fractions {
    /// For choosing (early stopping, hyper-parameters); 0 by default.
    #[serde(default)]
    pub validation: f64,
    /// For the tables of the report; 0 by default.
    #[serde(default)]
    pub test: f64,
}

/// One client's parts: indices into its own list of examples, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Trained on.
    pub train: Vec<usize>,
    /// Looked at for choices.
    pub validation: Vec<usize>,
    /// Looked at for results.
    pub test: Vec<usize>,
}

/// A split that cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// Fractions out of range.
    #[error(
        "split.validation = {validation} and split.test = {test}: each must be at least 0, and together below 1, so \
         that something is left to train on"
    )]
    Fractions {
        /// As given.
        validation: f64,
        /// As given.
        test: f64,
    },
    /// A client without examples.
    #[error("{client} has no examples to split")]
    EmptyClient {
        /// Which.
        client: ClientId,
    },
    /// A part that no client has.
    #[error(
        "split.{part} = {fraction} gives no client a {part} example: the largest has {largest} examples, {distinct} of \
         them different, and equal ones stay together; {}a `{part}_path` would",
        if (0.5 / *largest as f64) > *fraction && *distinct > 1 {
            format!("a fraction of {:.3} or ", (500.0 / *largest as f64).ceil() / 1000.0)
        } else {
            String::new()
        }
    )]
    EmptyPart {
        /// Which part.
        part: &'static str,
        /// Its fraction.
        fraction: f64,
        /// Examples of the largest client.
        largest: usize,
        /// Contents among them.
        distinct: usize,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Train,
    Validation,
    Test,
}

/// Splits every client, given the content keys of its examples. Client `i` is `ClientId(i)`.
pub fn split(clients: &[Vec<Digest>], fractions: Fractions, seed: u64) -> Result<Vec<Parts>, SplitError> {
    let Fractions { validation, test } = fractions;
    // Written so that NaN fails.
    if !(validation >= 0.0 && test >= 0.0 && validation + test < 1.0) {
        return Err(SplitError::Fractions { validation, test });
    }
    if let Some(i) = clients.iter().position(Vec::is_empty) {
        return Err(SplitError::EmptyClient { client: ClientId(i as u64) });
    }
    let mut shared = shared_groups(clients, fractions, seed);
    let mut local: Vec<BTreeMap<Digest, Part>> = Vec::with_capacity(clients.len());
    for (i, keys) in clients.iter().enumerate() {
        local.push(fill(keys, &shared, fractions, seed, ClientId(i as u64)));
    }
    // A client left without training examples holds shared groups only: one of them becomes training, for everybody.
    for (keys, local) in clients.iter().zip(&local) {
        let part = |k: &Digest| shared.get(k).or_else(|| local.get(k));
        if keys.iter().all(|k| part(k) != Some(&Part::Train)) {
            shared.insert(keys[0], Part::Train);
        }
    }
    let parts: Vec<Parts> = clients
        .iter()
        .zip(&local)
        .map(|(keys, local)| {
            let mut parts = Parts::default();
            for (i, key) in keys.iter().enumerate() {
                match shared.get(key).or_else(|| local.get(key)) {
                    Some(Part::Test) => parts.test.push(i),
                    Some(Part::Validation) => parts.validation.push(i),
                    Some(Part::Train) | None => parts.train.push(i),
                }
            }
            parts
        })
        .collect();
    let largest = clients.iter().max_by_key(|keys| keys.len());
    for (part, fraction, empty) in [
        ("validation", validation, parts.iter().all(|p| p.validation.is_empty())),
        ("test", test, parts.iter().all(|p| p.test.is_empty())),
    ] {
        if fraction > 0.0 && empty {
            let distinct = largest.map_or(0, |keys| keys.iter().collect::<BTreeSet<_>>().len());
            return Err(SplitError::EmptyPart {
                part,
                fraction,
                largest: largest.map_or(0, Vec::len),
                distinct,
            });
        }
    }
    Ok(parts)
}

/// The part of each content key that several clients hold.
fn shared_groups(clients: &[Vec<Digest>], fractions: Fractions, seed: u64) -> BTreeMap<Digest, Part> {
    let mut first = BTreeMap::<Digest, usize>::new();
    let mut shared = BTreeSet::new();
    for (i, keys) in clients.iter().enumerate() {
        for key in keys {
            if *first.entry(*key).or_insert(i) != i {
                shared.insert(*key);
            }
        }
    }
    let coin = |key: &Digest| {
        let u = Stream::keyed(seed, Purpose::Split, None, None, &key.to_hex()).uniform();
        match u {
            u if u < fractions.test => Part::Test,
            u if u < fractions.test + fractions.validation => Part::Validation,
            _ => Part::Train,
        }
    };
    shared.into_iter().map(|key| (key, coin(&key))).collect()
}

/// The part of each content key that this client alone holds: groups in random order, each put where it still fits.
fn fill(
    keys: &[Digest],
    shared: &BTreeMap<Digest, Part>,
    fractions: Fractions,
    seed: u64,
    client: ClientId,
) -> BTreeMap<Digest, Part> {
    let held = |part| keys.iter().filter(|k| shared.get(k) == Some(&part)).count();
    let target = |fraction: f64| (fraction * keys.len() as f64).round() as usize;
    let mut test = target(fractions.test).saturating_sub(held(Part::Test));
    let mut validation = target(fractions.validation).saturating_sub(held(Part::Validation));
    let mut sizes = BTreeMap::<Digest, usize>::new();
    keys.iter().filter(|k| !shared.contains_key(k)).for_each(|k| *sizes.entry(*k).or_default() += 1);
    let mut groups: Vec<(Digest, usize)> = sizes.into_iter().collect();
    Stream::keyed(seed, Purpose::Split, None, Some(client), "").shuffle(&mut groups);
    // The last group is never taken away from training unless a shared one trains.
    let spare = if held(Part::Train) > 0 { groups.len() } else { groups.len().saturating_sub(1) };
    groups
        .into_iter()
        .enumerate()
        .map(|(i, (key, size))| {
            let part = match i < spare {
                true if size <= test => {
                    test -= size;
                    Part::Test
                }
                true if size <= validation => {
                    validation -= size;
                    Part::Validation
                }
                _ => Part::Train,
            };
            (key, part)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(i: u32) -> Digest {
        Digest::of(&i.to_le_bytes())
    }

    fn fractions(validation: f64, test: f64) -> Fractions {
        Fractions { validation, test }
    }

    fn sizes(p: &Parts) -> [usize; 3] {
        [p.train.len(), p.validation.len(), p.test.len()]
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_and_no_content_is_in_two_of_them(
            clients in prop::collection::vec(prop::collection::vec(0_u32..60, 1..50), 1..6),
            validation in 0.0..0.45, test in 0.0..0.45, seed in any::<u64>()
        ) {
            let keys: Vec<Vec<Digest>> = clients.iter().map(|c| c.iter().map(|&i| key(i)).collect()).collect();
            let parts = match split(&keys, fractions(validation, test), seed) {
                Ok(parts) => parts,
                // small clients of few contents may have nothing to give
                Err(e) => {
                    prop_assert!(matches!(e, SplitError::EmptyPart { .. }), "{}", e);
                    return Ok(());
                }
            };
            prop_assert_eq!(&split(&keys, fractions(validation, test), seed).unwrap(), &parts);
            let mut part_of = BTreeMap::new();
            for (keys, p) in keys.iter().zip(&parts) {
                prop_assert!(!p.train.is_empty());
                let mut all: Vec<usize> = [&p.train, &p.validation, &p.test].into_iter().flatten().copied().collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..keys.len()).collect::<Vec<_>>());
                for (name, part) in [("train", &p.train), ("validation", &p.validation), ("test", &p.test)] {
                    for &i in part {
                        // also across clients
                        prop_assert_eq!(*part_of.entry(keys[i]).or_insert(name), name);
                    }
                }
            }
        }

        #[test]
        fn without_duplicates_sizes_are_exact(n in 10_u32..200, seed in any::<u64>()) {
            let keys = vec![(0..n).map(key).collect(), (1000..1000 + n).map(key).collect()];
            let parts = split(&keys, fractions(0.1, 0.2), seed).unwrap();
            let (v, t) = ((f64::from(n) * 0.1).round() as usize, (f64::from(n) * 0.2).round() as usize);
            for p in &parts {
                prop_assert_eq!(sizes(p), [n as usize - v - t, v, t]);
            }
            // among few examples two independent draws may well agree: one time in 45 among ten
            if n >= 40 {
                prop_assert_ne!(&parts[0].test, &parts[1].test, "clients draw independently");
            }
        }
    }

    #[test]
    fn a_client_of_shared_texts_keeps_one_to_train_on_and_nobody_tests_it() {
        // client 1 holds one text, which client 0 holds too; under many seeds the coin says test
        for seed in 0..50 {
            let keys = vec![(0..40).map(key).collect::<Vec<_>>(), vec![key(0)]];
            let parts = split(&keys, fractions(0.0, 0.5), seed).unwrap();
            assert_eq!(parts[1].train, [0]);
            assert!(parts[0].train.contains(&0));
        }
    }

    #[test]
    fn impossible_splits_say_what_would_work() {
        let one = vec![vec![key(0), key(1), key(2)]];
        let e = split(&one, fractions(0.5, 0.5), 0).unwrap_err().to_string();
        assert!(e.contains("below 1"), "{e}");
        assert!(split(&one, fractions(f64::NAN, 0.0), 0).is_err());
        let e = split(&one, fractions(0.0, 0.1), 0).unwrap_err().to_string();
        assert!(e.contains("the largest has 3") && e.contains("a fraction of 0.167 or a `test_path`"), "{e}");
        // one text, many times: no fraction would do
        let e = split(&[vec![key(0); 60]], fractions(0.1, 0.0), 0).unwrap_err().to_string();
        assert!(e.contains("60 examples, 1 of them different") && !e.contains("a fraction of"), "{e}");
        let e = split(&[vec![key(0)], vec![]], fractions(0.0, 0.1), 0).unwrap_err().to_string();
        assert!(e.contains("client 1"), "{e}");
    }
}
