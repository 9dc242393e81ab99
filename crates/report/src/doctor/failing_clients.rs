//! Clients that keep failing, and updates that are not numbers.

use std::collections::BTreeMap;

use antiphon_core::ClientId;

use super::{Diagnosis, Finding, Run, Severity, name_clients};
use crate::format::percent;
use crate::record::ClientStatus;

/// A client that fails this part of its rounds takes no real part.
const OFTEN: f64 = 0.5;
/// One failure may be bad luck.
const ROUNDS: usize = 2;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "failing_clients",
    about: "clients whose updates are not finite, or that fail in half of their rounds",
    look,
};

#[derive(Default)]
struct History {
    asked: usize,
    lost: usize,
    not_finite: Vec<u32>,
    /// The last, in words.
    reason: String,
}

fn look(run: &Run<'_>) -> Option<Finding> {
    let mut clients: BTreeMap<ClientId, History> = BTreeMap::new();
    for round in run.rounds {
        for c in &round.clients {
            let h = clients.entry(c.client).or_default();
            h.asked += 1;
            h.lost += usize::from(!c.status.counted());
            match &c.status {
                ClientStatus::Counted => {}
                ClientStatus::NotFinite => h.not_finite.push(round.round.0),
                ClientStatus::Refused(why) => h.reason = format!("refused: {why}"),
                ClientStatus::Failed(why) => h.reason = format!("failed: {why}"),
                ClientStatus::TimedOut => h.reason = "timed out".to_owned(),
            }
        }
    }
    let asked: usize = clients.values().map(|h| h.asked).sum();
    let lost: usize = clients.values().map(|h| h.lost).sum();
    let diverged: Vec<ClientId> =
        clients.iter().filter(|(_, h)| !h.not_finite.is_empty()).map(|(c, _)| *c).collect();
    let failing: Vec<_> = clients
        .iter()
        .filter(|(_, h)| {
            h.not_finite.is_empty() && h.lost >= ROUNDS && h.lost as f64 >= OFTEN * h.asked as f64
        })
        .collect();
    if diverged.is_empty() && failing.is_empty() {
        return None;
    }
    let mut evidence = Vec::new();
    for client in diverged.iter().take(5) {
        let rounds = &clients[client].not_finite;
        let named: Vec<String> = rounds.iter().take(5).map(u32::to_string).collect();
        let more = if rounds.len() > named.len() { ", …" } else { "" };
        evidence.push(format!(
            "{client}: NaN or infinity in {} of {} rounds ({}{more})",
            rounds.len(),
            clients[client].asked,
            named.join(", ")
        ));
    }
    for (client, h) in failing.iter().take(5) {
        evidence.push(format!("{client}: no update in {} of {} rounds, last {}", h.lost, h.asked, h.reason));
    }
    evidence
        .push(format!("{lost} of {asked} answers did not count ({})", percent(lost as f64 / asked as f64)));
    let (signature, advice) = if diverged.is_empty() {
        let ids: Vec<ClientId> = failing.iter().map(|(c, _)| **c).collect();
        (
            format!(
                "{} hardly {} part.",
                capital(&name_clients(&ids, 5)),
                if ids.len() == 1 { "takes" } else { "take" }
            ),
            "See their logs in `clients/`; the model learns nothing from their data until this is mended.",
        )
    } else {
        (
            format!("{} sent updates that are not numbers.", capital(&name_clients(&diverged, 5))),
            "Lower `learning_rate` or set `max_grad_norm`; look at these clients' data for empty or extreme examples.",
        )
    };
    let severity = if (lost as f64) >= OFTEN * asked as f64 { Severity::Serious } else { Severity::Warning };
    Some(Finding { id: DIAGNOSIS.id, severity, signature, evidence, advice: advice.to_owned() })
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
