//! Examples that no client gets: drawn for whoever runs the federation, before the rest is divided.

use std::collections::{BTreeMap, BTreeSet};

use antiphon_core::{Digest, Purpose, Stream};

use crate::example::Example;

/// How much is kept back of the training data.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum KeptBack {
    /// Clients get everything.
    #[default]
    Nothing,
    /// A share of what clients would get, in `[0, 1)`.
    Share(f64),
    /// So many examples of every class. Rows that `max_examples` leaves out come first, so that clients hold what they would
    /// hold otherwise wherever those suffice. No text is both kept back and a client's.
    Shots(usize),
}

/// A class with too few examples to keep back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "class `{label}` has {found} different examples in the training data, and {expected} of every class are to be kept back: \
     ask for fewer, or leave the class out"
)]
pub struct TooFew {
    /// The class.
    pub label: String,
    /// Examples of it.
    pub found: usize,
    /// Asked for.
    pub expected: usize,
}

/// At most `most` of the examples (0: all) for clients, in their order, and what is kept back. `labels` are classes that there
/// must be besides those that occur.
pub(crate) fn draw(
    examples: Vec<Example>,
    most: usize,
    back: KeptBack,
    labels: &[String],
    seed: u64,
) -> Result<(Vec<Example>, Vec<Example>), TooFew> {
    let (examples, left_out) = sample(examples, most, seed);
    match back {
        KeptBack::Nothing => Ok((examples, Vec::new())),
        KeptBack::Share(share) => Ok(keep_share(examples, share, seed)),
        KeptBack::Shots(shots) => keep_shots(examples, left_out, shots, labels, seed),
    }
}

/// `max` examples drawn by the seed, in their order, and the others; all of them if `max` is 0.
fn sample(examples: Vec<Example>, max: usize, seed: u64) -> (Vec<Example>, Vec<Example>) {
    if max == 0 || max >= examples.len() {
        return (examples, Vec::new());
    }
    let stream = Stream::keyed(seed, Purpose::Partition, None, None, "max_examples");
    chosen(examples, max, stream)
}

/// The examples without `share` of them, and those.
fn keep_share(examples: Vec<Example>, share: f64, seed: u64) -> (Vec<Example>, Vec<Example>) {
    let count = ((share * examples.len() as f64).round() as usize).min(examples.len());
    if count == 0 {
        return (examples, Vec::new());
    }
    let stream = Stream::keyed(seed, Purpose::Partition, None, None, "public");
    let (public, kept) = chosen(examples, count, stream);
    (kept, public)
}

/// `count` examples drawn from `stream`, and the others, both in their order.
fn chosen(examples: Vec<Example>, count: usize, mut stream: Stream) -> (Vec<Example>, Vec<Example>) {
    let mut taken = vec![false; examples.len()];
    stream.choose(examples.len(), count).into_iter().for_each(|i| taken[i] = true);
    let mut taken = taken.into_iter();
    examples.into_iter().partition(|_| taken.next().unwrap_or(false))
}

/// Clients' examples without `shots` of every class, where `left_out` has too few, and these.
fn keep_shots(
    mut examples: Vec<Example>,
    mut left_out: Vec<Example>,
    shots: usize,
    labels: &[String],
    seed: u64,
) -> Result<(Vec<Example>, Vec<Example>), TooFew> {
    let clients: BTreeSet<Digest> = examples.iter().map(|e| e.key).collect();
    left_out.retain(|e| !clients.contains(&e.key));
    let mut stream = Stream::keyed(seed, Purpose::Partition, None, None, "shots");
    stream.shuffle(&mut left_out);
    let mut own: Vec<&Example> = examples.iter().collect();
    stream.shuffle(&mut own);
    let every = left_out.iter().chain(&examples).filter_map(Example::label);
    let mut counts: BTreeMap<String, usize> =
        every.chain(labels.iter().map(String::as_str)).map(|l| (l.to_owned(), 0)).collect();
    let mut taken = BTreeSet::new();
    let mut public = Vec::new();
    for example in left_out.iter().chain(own) {
        let Some(count) = example.label().and_then(|l| counts.get_mut(l)) else { continue };
        if *count < shots && taken.insert(example.key) {
            *count += 1;
            public.push(example.clone());
        }
    }
    if let Some((label, &found)) = counts.iter().find(|(_, found)| **found < shots) {
        return Err(TooFew { label: label.clone(), found, expected: shots });
    }
    examples.retain(|e| !taken.contains(&e.key));
    Ok((examples, public))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::Kind;

    fn rows(each: usize) -> Vec<Example> {
        let row = |(i, label): (usize, &str)| {
            Example::new(Kind::Labelled { text: format!("{label} {i}"), label: label.into() }, None, 0)
        };
        (0..each).flat_map(|i| [(i, "good"), (i, "bad")]).map(row).collect()
    }

    fn of<'a>(examples: &'a [Example], label: &str) -> Vec<&'a Example> {
        examples.iter().filter(|e| e.label() == Some(label)).collect()
    }

    #[test]
    fn shots_are_of_every_class_and_of_no_client() {
        for most in [0, 20] {
            let (clients, public) = draw(rows(40), most, KeptBack::Shots(5), &[], 3).unwrap();
            assert_eq!([of(&public, "good").len(), of(&public, "bad").len()], [5, 5]);
            let keys: BTreeSet<Digest> = clients.iter().map(|e| e.key).collect();
            assert!(public.iter().all(|e| !keys.contains(&e.key)));
            // what `max_examples` leaves out is enough here
            let plain = draw(rows(40), most, KeptBack::Nothing, &[], 3).unwrap().0;
            assert_eq!(clients.len(), if most == 0 { 70 } else { 20 });
            assert!(most == 0 || clients == plain);
            assert_eq!((clients, public), draw(rows(40), most, KeptBack::Shots(5), &[], 3).unwrap());
        }
        let other = draw(rows(40), 0, KeptBack::Shots(5), &[], 4).unwrap();
        assert_ne!(other, draw(rows(40), 0, KeptBack::Shots(5), &[], 3).unwrap());
    }

    #[test]
    fn what_is_left_out_is_topped_up_from_what_clients_would_get() {
        // 4 of 44 are left out, so that clients lose six or more
        let (clients, public) = draw(rows(22), 40, KeptBack::Shots(5), &[], 3).unwrap();
        assert_eq!(public.len(), 10);
        assert!((30..=34).contains(&clients.len()), "{}", clients.len());
        // a text that some client has is never public, however often it occurs
        let twice: Vec<Example> = rows(10).into_iter().chain(rows(10)).collect();
        let (clients, public) = draw(twice, 20, KeptBack::Shots(3), &[], 1).unwrap();
        assert!(public.iter().all(|p| clients.iter().all(|c| c.key != p.key)));
        assert_eq!(public.iter().map(|e| e.key).collect::<BTreeSet<_>>().len(), 6);
    }

    #[test]
    fn a_class_with_too_few_is_named() {
        let few = draw(rows(4), 0, KeptBack::Shots(5), &[], 3).unwrap_err();
        assert_eq!(few, TooFew { label: "bad".into(), found: 4, expected: 5 });
        let absent = draw(rows(9), 0, KeptBack::Shots(5), &["fair".into()], 3).unwrap_err();
        assert_eq!((absent.label.as_str(), absent.found), ("fair", 0));
    }
}
