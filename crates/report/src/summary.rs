//! The whole run, as measured: `summary.json`.

use std::collections::BTreeMap;
use std::fmt;

use antiphon_core::{ClientId, Digest};
use serde::{Deserialize, Serialize};

use crate::alignment::Aligned;
use crate::format;
use crate::record::{Evaluation, Metrics, Traffic, Waypoint};

/// Version of the layout of [`Summary`]; raised when a field changes its meaning or goes.
pub const SUMMARY_SCHEMA: u32 = 1;

/// The whole run, as measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SUMMARY_SCHEMA`].
    pub schema: u32,
    /// What was run.
    pub run: RunFacts,
    /// The final global model on test data, on the union and on each client's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federated: Option<Evaluation>,
    /// What to compare it with, on the same test data.
    #[serde(default)]
    pub baselines: Baselines,
    /// The five numbers of off-site tuning, where clients held an emulator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off_site: Option<OffSite>,
    /// What a search without gradients has asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<Queries>,
    /// Label scores as each client calibrates them, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated: Option<Calibrated>,
    /// Bytes of all rounds.
    pub traffic: Traffic,
    /// Seconds from the start of the command to its end, the sum over resumed parts.
    pub wall_seconds: f64,
    /// Largest resident set of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// What `antiphon plan` predicted beside what was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predicted: Vec<Comparison>,
    /// How the data were divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataReport>,
    /// What the length limit cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// BLAKE3 of the final adapter or model file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Identifies the trainable vector that the state stands for, where scalars travelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Digest>,
    /// Where the adapter is, as the user would type it: relative to the run directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// What a search asked of its oracle, the whole run together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Queries {
    /// Who answered.
    pub oracle: String,
    /// What the search was granted: `text`, `logprobs`, `embeddings`.
    pub access: String,
    /// Examples evaluated under one candidate.
    pub examples: u64,
    /// Requests.
    pub calls: u64,
    /// Tokens sent, rows of soft prompts among them.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// Examples answered without asking.
    pub cache_hits: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Money, in millionths.
    pub cost_micros: u64,
    /// Examples that the run might have evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// Largest |Δ log p| between answers to one repeated question, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_floor: Option<f64>,
    /// Typical |Δ loss| of one question between two states of the search at its start, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_effect: Option<f64>,
    /// Numbers that were searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched: Option<u64>,
}

/// Label scores of the prompt that was found, calibrated by each client on its own validation data. Losses are over the labels
/// of the task: not to be compared with those over all continuations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// Weight of the pull towards the scores as they are.
    pub penalty: f64,
    /// On test data, as the model says.
    pub plain: Evaluation,
    /// On test data, calibrated.
    pub calibrated: Evaluation,
    /// What each client found.
    pub clients: BTreeMap<ClientId, Fitted>,
}

/// One client's calibration: label `c` of log-probability `l` counts `scale l + bias_c`, renormalised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// `a`.
    pub scale: f64,
    /// `b`, one for each label.
    pub bias: Vec<f64>,
    /// Validation examples that it was fitted on; with none, the scores stay as they are.
    pub examples: u64,
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// Its name: that of the run directory.
    pub name: String,
    /// The base model, as the run file names it.
    pub base_model: String,
    /// The data, as the run file names them.
    pub data: String,
    /// `lora`, `full`, …
    pub method: String,
    /// `sft`, `classification`, …
    pub objective: String,
    /// Reducer and server step in a phrase, such as `FedAvg, server sgd`.
    pub federation: String,
    /// Clients in the federation.
    pub clients: u64,
    /// Clients asked per round.
    pub cohort: u64,
    /// Rounds asked for.
    pub rounds: u64,
    /// Rounds done; fewer when the run was stopped.
    pub rounds_done: u64,
    /// The round whose model the run ends with, where validation data were to choose it (`eval.select = "best"`). All numbers on
    /// test data are that round's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ChosenRound>,
    /// Local optimiser steps per client and round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_steps: Option<u64>,
    /// Scalars trained.
    pub trainable: u64,
    /// Scalars of the base model; absent where it is behind an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// The seed of everything random.
    pub seed: u64,
    /// Worker threads; the result does not depend on it.
    pub threads: u64,
    /// ISA and GEMM blocking: the same profile gives the same bits.
    pub kernel_profile: String,
    /// Program and library versions.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// Rounds at which the run was resumed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed_at: Vec<u64>,
}

/// Which round's model a run ends with, chosen on validation data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChosenRound {
    /// Counted from 1.
    pub round: u64,
    /// Loss on validation data after it, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Accuracy on validation data after it, where answers are texts without a loss. With neither, no round could be compared, and
    /// this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

impl fmt::Display for ChosenRound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the model is that of round {}, ", self.round)?;
        match (self.loss, self.accuracy) {
            (Some(loss), _) => write!(f, "the best on validation data (loss {})", format::loss(loss)),
            (None, Some(a)) => write!(f, "the best on validation data (accuracy {})", format::percent(a)),
            (None, None) => write!(f, "the last: no round has a loss on validation data"),
        }
    }
}

/// What the federated model is compared with. Each is measured only on request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// The base model as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<Baseline>,
    /// Each client alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_only: Option<LocalOnly>,
    /// The best of random prompts, with as many queries as a search had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_search: Option<Baseline>,
    /// One model trained on all data in one place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub centralised: Option<Baseline>,
}

/// One model to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Its quality.
    pub eval: Evaluation,
    /// Optimiser steps it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Examples it was trained on, repetitions counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples_seen: Option<u64>,
    /// Seconds it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// On validation data on the way, to be read beside the rounds of a run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<Waypoint>,
}

/// Off-site tuning: what was divided, and its five numbers, always together (Offsite-Tuning, arXiv:2302.04870, table 2).
/// All are on the test data of all clients together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffSite {
    /// Which layers the emulator keeps: the rule's id.
    pub rule: String,
    /// Share of the layers between the adapters that the owner kept back.
    pub drop_rate: f64,
    /// Layers of the whole model.
    pub layers: u64,
    /// Layers that clients trained.
    pub adapter: Vec<u64>,
    /// Layers that clients held.
    pub kept: Vec<u64>,
    /// What each layer of the whole model does to the stream (arXiv:2403.03853), where that decided which ones clients held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub influence: Vec<f64>,
    /// Scalars that clients held, embeddings and head included.
    pub held: u64,
    /// Scalars of the whole model.
    pub whole: u64,
    /// Bytes of the emulator as each client gets it before its first round: kept layers, embeddings and head.
    #[serde(default)]
    pub sent_once: u64,
    /// Bytes of its changes, to all clients and rounds together.
    #[serde(default)]
    pub sent_changes: u64,
    /// What the owner did to bring it nearer to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aligned: Option<Aligned>,
    /// The whole model as it was.
    pub zero_shot: Metrics,
    /// The emulator as it was.
    pub emulator_zero_shot: Metrics,
    /// The emulator with the trained adapter.
    pub emulator_tuned: Metrics,
    /// The whole model with the trained adapter.
    pub plugged_in: Metrics,
    /// The whole model, tuned on all of its layers by the same federation.
    pub full: Metrics,
}

impl OffSite {
    /// What plugging in gained over the model as it was, and what is left to full tuning: positive is better, whether
    /// more of the number is better (`higher`) or less.
    #[must_use]
    pub fn gaps(&self, number: impl Fn(&Metrics) -> Option<f64>, higher: bool) -> Option<(f64, f64)> {
        let sign = if higher { 1.0 } else { -1.0 };
        let [before, plugged, full] = [&self.zero_shot, &self.plugged_in, &self.full].map(number);
        Some((sign * (plugged? - before?), sign * (full? - plugged?)))
    }
}

/// Each client alone: as many models as clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LocalOnly {
    /// Optimiser steps each client was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Each client's model on the union of the clients' test data: the federation's task.
    pub on_union: BTreeMap<ClientId, Metrics>,
    /// Each client's model on that client's own test data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub on_own: BTreeMap<ClientId, Metrics>,
    /// Seconds all of them took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl LocalOnly {
    /// `(mean, worst)` over clients of a number where more is better (`higher`) or less is.
    #[must_use]
    pub fn mean_and_worst(
        models: &BTreeMap<ClientId, Metrics>,
        number: impl Fn(&Metrics) -> Option<f64>,
        higher: bool,
    ) -> Option<(f64, f64)> {
        let values: Vec<f64> = models.values().map(number).collect::<Option<_>>()?;
        let worst = values.iter().copied().reduce(if higher { f64::min } else { f64::max })?;
        Some((values.iter().sum::<f64>() / values.len() as f64, worst))
    }
}

/// A prediction of `antiphon plan` and what came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What, such as `bytes up per round`.
    pub quantity: String,
    /// `bytes`, `seconds`, `FLOP`, or empty for a count.
    pub unit: String,
    /// Before the run.
    pub predicted: f64,
    /// In the run; absent when it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// True for what must be equal, false for an estimate.
    pub exact: bool,
}

/// How the data were divided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// Name and settings, such as `dirichlet_label(alpha = 0.1)`.
    pub partitioner: String,
    /// What `counts` counts: `label`, `category`, `speaker`, `cluster`.
    pub field: String,
    /// Its values, in the order of `counts`.
    pub values: Vec<String>,
    /// One entry a client.
    pub clients: Vec<ClientData>,
    /// Named divergences between the clients' histograms, such as `mean Jensen-Shannon (bits)`.
    #[serde(default)]
    pub divergence: BTreeMap<String, f64>,
    /// Identifies who holds what, and which of it is held out: runs with the same digest can be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// One client's data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientData {
    /// Who.
    pub client: ClientId,
    /// What the user calls it: a speaker, a file, a domain.
    pub name: String,
    /// Training examples.
    pub train: u64,
    /// Validation examples.
    pub validation: u64,
    /// Test examples.
    pub test: u64,
    /// Examples of each of [`DataReport::values`], all splits together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<u64>,
}

/// What the length limit cut off, over all clients and splits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    /// The limit, in tokens.
    pub max_tokens: u64,
    /// Examples in all.
    pub examples: u64,
    /// Examples that were longer than the limit.
    pub truncated: u64,
    /// Labelled tokens before cutting.
    pub labels: u64,
    /// Labelled tokens that were cut off.
    pub labels_lost: u64,
    /// Examples left without any labelled token, and therefore not trained on.
    pub emptied: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(loss: f64) -> Metrics {
        Metrics { loss: Some(loss), examples: 1, tokens: 1, ..Metrics::default() }
    }

    #[test]
    fn worst_depends_on_the_direction() {
        let models = [(ClientId(0), loss(1.0)), (ClientId(1), loss(3.0))].into();
        assert_eq!(LocalOnly::mean_and_worst(&models, |m| m.loss, false), Some((2.0, 3.0)));
        assert_eq!(LocalOnly::mean_and_worst(&models, |m| m.loss, true), Some((2.0, 1.0)));
        assert_eq!(LocalOnly::mean_and_worst(&models, |m| m.accuracy, true), None);
        assert_eq!(LocalOnly::mean_and_worst(&BTreeMap::new(), |m| m.loss, true), None);
    }

    #[test]
    fn a_summary_survives_json_and_old_files_lack_what_is_optional() {
        let text = r#"{"schema":1,"run":{"name":"a","base_model":"b","data":"d","method":"lora","objective":"sft",
            "federation":"FedAvg","clients":2,"cohort":2,"rounds":1,"rounds_done":1,"trainable":8,"parameters":80,
            "seed":1,"threads":1,"kernel_profile":"k"},"traffic":{"up":1,"down":2,"payload_up":1,"payload_down":1},
            "wall_seconds":0.5}"#;
        let summary: Summary = serde_json::from_str(text).unwrap();
        let again = serde_json::from_str(&serde_json::to_string(&summary).unwrap()).unwrap();
        assert_eq!(summary, again);
        assert_eq!(summary.traffic.overhead(), 1);
    }
}
