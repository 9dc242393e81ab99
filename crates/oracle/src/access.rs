//! Tiers of access, what a method needs of them, and the refusal before round 0.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::oracle::{EmbedOracle, LogprobOracle, TextOracle, WeightOracle};

/// What may be asked of a model, in ascending order: each tier has all that is below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Text in, text out.
    Text,
    /// Log-probabilities of given continuations.
    Logprobs,
    /// Rows of input embeddings before the text.
    Embeddings,
    /// Other values for the trainable tensors.
    Weights,
}

impl Access {
    /// Every tier, ascending.
    pub const ALL: [Self; 4] = [Self::Text, Self::Logprobs, Self::Embeddings, Self::Weights];

    /// As written in run files.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Logprobs => "logprobs",
            Self::Embeddings => "embeddings",
            Self::Weights => "weights",
        }
    }

    /// What it lets a client do, in words.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Text => "text in, text out",
            Self::Logprobs => "log-probabilities of given continuations",
            Self::Embeddings => "rows of embeddings before the text",
            Self::Weights => "trainable tensors, evaluated forward only",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// The least access that a method can work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The method's id.
    pub method: &'static str,
    /// The lowest tier that has what it asks.
    pub access: Access,
}

/// A method that asks more than the oracle gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{method}` needs {needs} access ({}), but the oracle gives {gives} ({}); {}",
    needs.about(), gives.about(), remedy(fitting)
)]
pub struct Refusal {
    /// The method's id.
    pub method: &'static str,
    /// What it needs.
    pub needs: Access,
    /// What there is.
    pub gives: Access,
    /// Methods that could work with it, as listed.
    pub fitting: Vec<&'static str>,
}

fn remedy(fitting: &[&str]) -> String {
    if fitting.is_empty() {
        "no known method works with so little".to_owned()
    } else {
        format!("methods that would fit: {}", fitting.join(", "))
    }
}

/// Refuses a method that needs more than `gives`, with those of `known` that would fit.
pub fn admit(need: Need, gives: Access, known: &[Need]) -> Result<(), Refusal> {
    if need.access <= gives {
        return Ok(());
    }
    let fitting = known.iter().filter(|n| n.access <= gives).map(|n| n.method).collect();
    Err(Refusal { method: need.method, needs: need.access, gives, fitting })
}

/// An oracle under the tier that was granted. What lies above it cannot be reached: there is no way back from the trait
/// of a lower tier to the type behind it.
#[derive(Clone)]
pub enum Grant {
    /// [`Access::Text`].
    Text(Arc<dyn TextOracle>),
    /// [`Access::Logprobs`].
    Logprobs(Arc<dyn LogprobOracle>),
    /// [`Access::Embeddings`].
    Embeddings(Arc<dyn EmbedOracle>),
    /// [`Access::Weights`].
    Weights(Arc<dyn WeightOracle>),
}

impl Grant {
    /// What it gives.
    #[must_use]
    pub fn access(&self) -> Access {
        match self {
            Self::Text(_) => Access::Text,
            Self::Logprobs(_) => Access::Logprobs,
            Self::Embeddings(_) => Access::Embeddings,
            Self::Weights(_) => Access::Weights,
        }
    }

    /// The same oracle with at most `access`; what was withheld before stays withheld.
    #[must_use]
    pub fn at_most(self, access: Access) -> Self {
        if self.access() <= access {
            return self;
        }
        match (access, self) {
            (Access::Text, grant) => Self::Text(grant.text()),
            (Access::Logprobs, Self::Embeddings(o)) => Self::Logprobs(o),
            (Access::Logprobs, Self::Weights(o)) => Self::Logprobs(o),
            (Access::Embeddings, Self::Weights(o)) => Self::Embeddings(o),
            (_, grant) => grant,
        }
    }

    /// The text tier, which every oracle has.
    #[must_use]
    pub fn text(&self) -> Arc<dyn TextOracle> {
        match self.clone() {
            Self::Text(o) => o,
            Self::Logprobs(o) => o,
            Self::Embeddings(o) => o,
            Self::Weights(o) => o,
        }
    }

    /// The log-probability tier, if granted.
    #[must_use]
    pub fn logprobs(&self) -> Option<Arc<dyn LogprobOracle>> {
        match self.clone() {
            Self::Text(_) => None,
            Self::Logprobs(o) => Some(o),
            Self::Embeddings(o) => Some(o),
            Self::Weights(o) => Some(o),
        }
    }

    /// The embedding tier, if granted.
    #[must_use]
    pub fn embeddings(&self) -> Option<Arc<dyn EmbedOracle>> {
        match self.clone() {
            Self::Text(_) | Self::Logprobs(_) => None,
            Self::Embeddings(o) => Some(o),
            Self::Weights(o) => Some(o),
        }
    }

    /// The weight tier, if granted.
    #[must_use]
    pub fn weights(&self) -> Option<Arc<dyn WeightOracle>> {
        match self.clone() {
            Self::Weights(o) => Some(o),
            _ => None,
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Grant({})", self.access())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Need; 3] = [
        Need { method: "edit", access: Access::Text },
        Need { method: "bdpl", access: Access::Logprobs },
        Need { method: "bbt", access: Access::Embeddings },
    ];

    #[test]
    fn tiers_are_ordered_and_named_as_in_run_files() {
        assert!(Access::ALL.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(Access::ALL.map(Access::id), ["text", "logprobs", "embeddings", "weights"]);
    }

    #[test]
    fn a_refusal_lists_what_would_fit() {
        assert_eq!(admit(KNOWN[1], Access::Weights, &KNOWN), Ok(()));
        let refused = admit(KNOWN[2], Access::Logprobs, &KNOWN).unwrap_err();
        assert_eq!(refused.fitting, ["edit", "bdpl"]);
        assert_eq!(
            refused.to_string(),
            "`bbt` needs embeddings access (rows of embeddings before the text), but the oracle gives logprobs \
             (log-probabilities of given continuations); methods that would fit: edit, bdpl"
        );
    }
}
