//! One round, as measured: a line of `metrics.jsonl`.
//!
//! Whatever was not measured is absent, never zero. JSON has no NaN: a loss that was not finite is
//! written as `null`, reads back as absent, and its client's [`ClientStatus`] says what happened.

use std::collections::BTreeMap;

use antiphon_core::{ClientId, Round};
use serde::{Deserialize, Serialize};

use crate::alignment::Alignment;
use crate::spread::UpdateSpread;

/// Which part of every client's data a number was computed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What is trained on.
    Train,
    /// What model selection looks at.
    Validation,
    /// What tables show; never looked at before the end.
    Test,
}

impl Split {
    /// Its name in text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Quality of one model on one set of examples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean cross-entropy in nats: per labelled token, or per example for classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// `exp(loss)`; generative objectives only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Total loss in bits over the UTF-8 bytes of the labelled text: comparable between tokenizers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Fraction of examples answered correctly, in `0..=1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Examples evaluated.
    pub examples: u64,
    /// Labelled tokens evaluated (classification: equal to `examples`).
    pub tokens: u64,
}

/// One model on the data of several clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Which part of their data.
    pub split: Split,
    /// On the union of the clients' examples.
    pub global: Metrics,
    /// On each client's own examples.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub per_client: BTreeMap<ClientId, Metrics>,
}

/// A model on its way to a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waypoint {
    /// Example forwards until then; see [`RoundRecord::worked`].
    pub forwards: u64,
    /// Its quality there.
    pub eval: Evaluation,
}

/// What became of one client's part in a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "reason")]
#[non_exhaustive]
pub enum ClientStatus {
    /// Its update was counted.
    Counted,
    /// Its update arrived and was refused; why.
    Refused(String),
    /// Its update held a NaN or an infinity.
    NotFinite,
    /// It reported a failure; which.
    Failed(String),
    /// It did not answer in time.
    TimedOut,
}

impl ClientStatus {
    /// True when its update is part of the aggregate.
    #[must_use]
    pub fn counted(&self) -> bool {
        *self == Self::Counted
    }
}

/// One client's part in a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientRecord {
    /// Who.
    pub client: ClientId,
    /// What became of it.
    #[serde(flatten)]
    pub status: ClientStatus,
    /// Training examples it holds, the default weight of its update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<u64>,
    /// Mean loss of its local steps, each before its update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// ‖Δ‖₂ of its raw update, before any layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_norm: Option<f64>,
    /// Seconds of local work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Tokens fed to the model in local work, padding excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Bytes of its encoded answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
}

/// Bytes of encoded messages, counted on the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// From clients to the server, everything.
    pub up: u64,
    /// From the server to clients, everything.
    pub down: u64,
    /// The part of `up` that is update coordinates.
    pub payload_up: u64,
    /// The part of `down` that is model coordinates.
    pub payload_down: u64,
}

impl Traffic {
    /// Headers, names and digests: what is sent beside coordinates.
    #[must_use]
    pub fn overhead(&self) -> u64 {
        (self.up + self.down).saturating_sub(self.payload_up + self.payload_down)
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.up += other.up;
        self.down += other.down;
        self.payload_up += other.payload_up;
        self.payload_down += other.payload_down;
    }
}

/// What a search asked in one round, evaluation of the global model excluded: sums over rounds are its axis of queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Examples evaluated under one candidate ("queries").
    pub examples: u64,
    /// Requests.
    pub calls: u64,
    /// Tokens sent and generated.
    pub tokens: u64,
    /// Examples answered from the cache.
    #[serde(default)]
    pub cache_hits: u64,
    /// Money, in millionths.
    #[serde(default)]
    pub cost_micros: u64,
}

impl Spent {
    /// What the search asked: examples under one candidate, answered by the oracle or from the cache. A round that is done again
    /// after a kill finds its answers in the cache, and has asked as much as before.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.examples.saturating_add(self.cache_hits)
    }
}

/// How far a search has gone, of what its method has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gauge {
    /// Mean entropy of a position of the prompt over that of the uniform distribution: 1 undecided, 0 decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Step size of an evolution strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
}

/// One round, as measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// Zero-based.
    pub round: Round,
    /// Clients asked, ascending.
    pub cohort: Vec<ClientId>,
    /// What each of them did, in cohort order.
    pub clients: Vec<ClientRecord>,
    /// Mean of the counted clients' training losses, weighted by examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// The global model after this round on held-out data; rounds without evaluation have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<Evaluation>,
    /// Bytes of this round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// How far the counted updates agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<UpdateSpread>,
    /// `‖mean(BA) − mean(B)·mean(A)‖ / ‖mean(BA)‖`, Frobenius over all LoRA pairs: what averaging the
    /// factors instead of their products costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor_error: Option<f64>,
    /// ‖θ after − θ before‖₂ of the server step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_norm: Option<f64>,
    /// Seconds from the call to the closing of the round, evaluation excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<f64>,
    /// Seconds of evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_seconds: Option<f64>,
    /// Examples that passed forward through the model for the counted clients' training. An example under two perturbations
    /// is two; backward passes are not counted. Of a search, [`RoundRecord::spent`] says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwards: Option<u64>,
    /// Training tokens of the cohort per second of the round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// What the round's search asked; absent for training by gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
    /// The search's own measure of where it stands after the round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gauge: Option<Gauge>,
    /// Off-site, the alignment of the emulator that followed this round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<Alignment>,
    /// Off-site, bytes of changes of the emulator that this round's clients had missed, beside `traffic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator_down: Option<u64>,
}

impl RoundRecord {
    /// Example forwards of the round, of training or of a search ([`Spent::queries`]).
    #[must_use]
    pub fn worked(&self) -> Option<u64> {
        self.spent.map(|s| s.queries()).or(self.forwards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> RoundRecord {
        RoundRecord {
            round: Round(3),
            cohort: vec![ClientId(1), ClientId(4)],
            clients: vec![
                ClientRecord {
                    client: ClientId(1),
                    status: ClientStatus::Counted,
                    examples: Some(40),
                    train_loss: Some(2.25),
                    update_norm: Some(0.5),
                    seconds: None,
                    tokens: None,
                    bytes_up: None,
                },
                ClientRecord {
                    client: ClientId(4),
                    status: ClientStatus::Refused("schema digest".into()),
                    examples: None,
                    train_loss: Some(f64::NAN),
                    update_norm: None,
                    seconds: None,
                    tokens: None,
                    bytes_up: None,
                },
            ],
            train_loss: Some(2.25),
            eval: Some(Evaluation {
                split: Split::Validation,
                global: Metrics { loss: Some(2.5), examples: 9, tokens: 90, ..Metrics::default() },
                per_client: [(ClientId(1), Metrics::default())].into(),
            }),
            traffic: None,
            spread: None,
            factor_error: None,
            step_norm: None,
            wall_seconds: None,
            eval_seconds: None,
            forwards: None,
            tokens_per_second: None,
            spent: None,
            gauge: None,
            alignment: None,
            emulator_down: None,
        }
    }

    /// The line that other tools read: a change here is a change of a documented format.
    #[test]
    fn the_line_is_stable() {
        let line = serde_json::to_string(&minimal()).unwrap();
        insta::assert_snapshot!(line, @r#"{"round":3,"cohort":[1,4],"clients":[{"client":1,"status":"counted","examples":40,"train_loss":2.25,"update_norm":0.5},{"client":4,"status":"refused","reason":"schema digest","train_loss":null}],"train_loss":2.25,"eval":{"split":"validation","global":{"loss":2.5,"examples":9,"tokens":90},"per_client":{"1":{"examples":0,"tokens":0}}}}"#);
    }

    /// A round done again after a kill is answered from the cache, and is no less work.
    #[test]
    fn answers_from_the_cache_are_work_too() {
        let spent = |examples, cache_hits| Some(Spent { examples, cache_hits, ..Spent::default() });
        let first = RoundRecord { spent: spent(90, 0), ..minimal() };
        let again = RoundRecord { spent: spent(30, 60), ..minimal() };
        assert_eq!((first.worked(), again.worked()), (Some(90), Some(90)));
        assert_eq!(RoundRecord { forwards: Some(7), ..minimal() }.worked(), Some(7));
    }

    #[test]
    fn not_a_number_reads_back_as_absent() {
        let line = serde_json::to_string(&minimal()).unwrap();
        let back: RoundRecord = serde_json::from_str(&line).unwrap();
        assert_eq!(back.clients[1].train_loss, None);
        let mut expected = minimal();
        expected.clients[1].train_loss = None;
        assert_eq!(back, expected);
    }
}
