//! How far an emulator is from the model that it stands for, and what aligning it changed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::format::significant;

/// How far emulator and model are apart on some data, with one adapter in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// Mean squared difference of hidden states in units of the model's mean square, the mean over the places compared.
    pub hidden: f64,
    /// `KL(model ‖ emulator)` of the next token, nats per labelled token; absent for a classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Cross-entropy of the emulator, nats per labelled token; absent for a classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

impl Distance {
    /// The number that says most of what an adapter meets: the divergence of predictions where there is one.
    #[must_use]
    pub fn main(&self) -> (&'static str, f64) {
        match self.kl {
            Some(kl) => ("KL", kl),
            None => ("hidden-state distance", self.hidden),
        }
    }
}

/// `hidden states 0.0312, KL 0.102`.
impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hidden states {}", significant(self.hidden, 3))?;
        self.kl.map_or(Ok(()), |kl| write!(f, ", KL {}", significant(kl, 3)))
    }
}

/// One alignment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// Before it, on public data that it never saw, with the adapter of that moment.
    pub before: Distance,
    /// After it, on the same; of the emulator as clients then hold it.
    pub after: Distance,
    /// After it, on the public data that it was trained on.
    pub trained_on: Distance,
    /// Optimiser steps.
    pub steps: u64,
    /// Bytes of the change for one client; absent before the first round, where the emulator is sent as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Seconds it took, measurements included; absent after a resume, since a checkpoint keeps no times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// What the alignments of a run come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aligned {
    /// Public sequences trained on.
    pub public: u64,
    /// Public sequences that were only measured on.
    pub held_out: u64,
    /// Public sequences that some client has too.
    pub overlap: u64,
    /// Scalars of the middle that clients hold: trained by the owner, no longer the checkpoint's.
    pub scalars: u64,
    /// Before the first round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distilled: Option<Alignment>,
    /// Alignments between rounds.
    pub alignments: u64,
    /// With the final adapter in both, on public data never trained on.
    pub last: Distance,
}
