//! Failure signatures: each looks at what a run measured and names itself, its evidence and the change
//! to try, or stays silent.
//!
//! A signature needs its cause *and* its consequence where the cause alone also occurs in healthy runs:
//! updates of clients disagree more and more as any run converges, so disagreement counts only where
//! held-out loss stands still as well. Every threshold is a named constant with its reason.
//!
//! A new signature is one file and one line in [`ALL`].

mod client_drift;
mod collapsed_prompt;
mod drifted_emulator;
mod factor_averaging;
mod failing_clients;
mod fails_plugged_in;
mod no_gain;
mod over_fitting;
mod overfitted_alignment;
mod query_cost;
mod slope;
mod stuck_client;
mod subspace;
mod truncation;
mod under_noise;
mod update_norms;

use antiphon_core::{ClientId, Round};
use serde::Serialize;

use crate::record::{Metrics, RoundRecord};
use crate::summary::Summary;

/// What a diagnosis may look at.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Ascending by round.
    pub rounds: &'a [RoundRecord],
    /// Absent while the run goes on.
    pub summary: Option<&'a Summary>,
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// The result is likely worse than it could be.
    Warning,
    /// The result should not be used.
    Serious,
}

/// A signature that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The [`Diagnosis::id`].
    pub id: &'static str,
    /// How bad.
    pub severity: Severity,
    /// What it is, in one sentence.
    pub signature: String,
    /// The numbers, each with the rounds or clients it is from.
    pub evidence: Vec<String>,
    /// The change to try first.
    pub advice: String,
}

/// One signature.
pub struct Diagnosis {
    /// Stable name.
    pub id: &'static str,
    /// What it looks for, one line for the generated reference.
    pub about: &'static str,
    /// Looks.
    pub look: fn(&Run<'_>) -> Option<Finding>,
}

impl std::fmt::Debug for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Diagnosis({})", self.id)
    }
}

/// Every signature, in the order of the report within one severity.
pub const ALL: &[&Diagnosis] = &[
    &failing_clients::DIAGNOSIS,
    &update_norms::DIAGNOSIS,
    &over_fitting::DIAGNOSIS,
    &client_drift::DIAGNOSIS,
    &factor_averaging::DIAGNOSIS,
    &stuck_client::DIAGNOSIS,
    &fails_plugged_in::DIAGNOSIS,
    &drifted_emulator::DIAGNOSIS,
    &overfitted_alignment::DIAGNOSIS,
    &under_noise::DIAGNOSIS,
    &collapsed_prompt::DIAGNOSIS,
    &subspace::DIAGNOSIS,
    &query_cost::DIAGNOSIS,
    &no_gain::DIAGNOSIS,
    &truncation::DIAGNOSIS,
];

/// All findings, the worst first.
#[must_use]
pub fn examine(run: &Run<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = ALL.iter().filter_map(|d| (d.look)(run)).collect();
    found.sort_by_key(|f| std::cmp::Reverse(f.severity));
    found
}

impl<'a> Run<'a> {
    /// `(round, global metrics)` of every evaluation.
    fn evaluations(&self) -> impl Iterator<Item = (Round, &'a Metrics)> {
        self.rounds.iter().filter_map(|r| Some((r.round, &r.eval.as_ref()?.global)))
    }

    /// `(round, held-out loss)` of every evaluation that has one.
    fn losses(&self) -> Vec<(Round, f64)> {
        self.evaluations().filter_map(|(r, m)| Some((r, m.loss?))).collect()
    }
}

/// The middle value; the mean of the middle two. `None` when empty.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut v: Vec<f64> = values.into_iter().filter(|x| !x.is_nan()).collect();
    v.sort_unstable_by(f64::total_cmp);
    match v.len() {
        0 => None,
        n if n % 2 == 1 => Some(v[n / 2]),
        n => Some(f64::midpoint(v[n / 2 - 1], v[n / 2])),
    }
}

/// `clients 3, 8 and 12`, with at most `most` named.
fn name_clients(clients: &[ClientId], most: usize) -> String {
    let named: Vec<String> = clients.iter().take(most).map(|c| c.0.to_string()).collect();
    let rest = clients.len() - named.len();
    match named.as_slice() {
        [] => "no client".to_owned(),
        [one] if rest == 0 => format!("client {one}"),
        _ if rest > 0 => format!("clients {} and {rest} more", named.join(", ")),
        [first @ .., last] => format!("clients {} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_names() {
        assert_eq!(median([3.0, 1.0, f64::NAN, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0]), Some(2.5));
        assert_eq!(median([]), None);
        let ids: Vec<ClientId> = [3, 8, 12].map(ClientId).into();
        assert_eq!(name_clients(&ids[..1], 5), "client 3");
        assert_eq!(name_clients(&ids, 5), "clients 3, 8 and 12");
        assert_eq!(name_clients(&ids, 2), "clients 3, 8 and 1 more");
    }

    #[test]
    fn ids_are_unique_and_silence_is_the_answer_to_nothing() {
        let mut ids: Vec<_> = ALL.iter().map(|d| d.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
        assert_eq!(examine(&Run { rounds: &[], summary: None }), []);
    }
}
