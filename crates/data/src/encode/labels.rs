//! Label sets and verbalisers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The ordered classes of a task; a label's index is its class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelSet(Vec<String>);

/// A list of labels that is no set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelSetError {
    /// Fewer than two.
    #[error("classification needs at least two labels, found {}: {}", .0.len(), .0.join(", "))]
    TooFew(Vec<String>),
    /// One twice.
    #[error("`labels` names `{0}` twice")]
    Twice(String),
}

impl LabelSet {
    /// The classes in the order given.
    pub fn new(labels: Vec<String>) -> Result<Self, LabelSetError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = labels.iter().find(|l| !seen.insert(*l)) {
            return Err(LabelSetError::Twice(twice.clone()));
        }
        if labels.len() < 2 { Err(LabelSetError::TooFew(labels)) } else { Ok(Self(labels)) }
    }

    /// The labels that occur, in numeric order if all are whole numbers, otherwise alphabetically.
    pub fn of<'a>(labels: impl IntoIterator<Item = &'a str>) -> Result<Self, LabelSetError> {
        let distinct: BTreeSet<&str> = labels.into_iter().collect();
        let mut labels: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
        let numbers: Option<Vec<i64>> = labels.iter().map(|l| l.parse().ok()).collect();
        if numbers.is_some() {
            labels.sort_by_key(|l| l.parse::<i64>().unwrap_or_default());
        }
        Self::new(labels)
    }

    /// The class of `label`.
    #[must_use]
    pub fn class(&self, label: &str) -> Option<u32> {
        self.0.iter().position(|l| l == label).map(|i| i as u32)
    }

    /// The labels, by class.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// The words that stand for labels, such as `{ neg = " bad", pos = " good" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Verbalizer(pub BTreeMap<String, String>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_ordered_as_people_expect() {
        let of = |l: &[&str]| LabelSet::of(l.iter().copied()).unwrap().0;
        assert_eq!(of(&["10", "9", "1", "9"]), ["1", "9", "10"]);
        assert_eq!(of(&["pos", "neg", "10"]), ["10", "neg", "pos"]);
        let set = LabelSet::new(vec!["pos".into(), "neg".into()]).unwrap();
        assert_eq!((set.class("neg"), set.class("meh")), (Some(1), None));
        assert!(LabelSet::of(["1", "1"]).is_err());
        assert!(
            LabelSet::new(vec!["a".into(), "b".into(), "a".into()])
                .unwrap_err()
                .to_string()
                .contains("`a` twice")
        );
    }
}
