//! Synthetic runs with the shape of real ones: a healthy federation and, by one change each, sick ones.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;

use antiphon_core::{ClientId, Digest, Noise, Purpose, Round, Stream};
use antiphon_report::{
    Aligned, Alignment, Baseline, Baselines, ClientData, ClientRecord, ClientStatus, Comparison, DataReport,
    Distance, Evaluation, LocalOnly, Metrics, OffSite, RoundRecord, RunFacts, SUMMARY_SCHEMA, Split, Summary,
    Traffic, Truncation, UpdateSpread,
};

pub const NAMES: [&str; 10] = [
    "banking",
    "credit_cards",
    "kitchen_and_dining",
    "home",
    "auto_and_commute",
    "travel",
    "utility",
    "work",
    "small_talk",
    "meta",
];
const LABELS: usize = 12;

pub const RUN_TOML: &str = r#"[run]
name = "clinc-dirichlet"
seed = 1
durable = false

[model]
base_model = "minilm-l6"
task = "classification"
pooling = "mean"

[data]
path = "clinc150.jsonl"   # <script> & friends are only text here
text = "text"
label = "intent"

[data.partition]
id = "dirichlet_client"
clients = 10
alpha = 0.3

[method]
id = "lora"
lora_r = 8
lora_alpha = 16

[train]
learning_rate = 2e-3
local_steps = 10
micro_batch_size = 16

[federation]
num_rounds = 24
fraction = 0.6
"#;

/// What may be wrong with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sick {
    No,
    Drift,
    Factors,
    NotFinite,
    Absent,
    Exploding,
    Vanishing,
    OverFitting,
    Stuck,
    Truncation,
    NoGain,
    PluggedIn,
    DriftedEmulator,
    OverfittedAlignment,
}

pub struct Sample {
    pub rounds: Vec<RoundRecord>,
    pub summary: Summary,
}

fn metrics(loss: f64, accuracy: f64, examples: u64) -> Metrics {
    let examples_correct = (accuracy.clamp(0.0, 1.0) * examples as f64).round();
    Metrics {
        loss: Some(loss),
        accuracy: Some(examples_correct / examples as f64),
        examples,
        tokens: examples,
        ..Metrics::default()
    }
}

fn noise(seed: u64, round: u32, client: u64, what: &str) -> f64 {
    Stream::keyed(seed, Purpose::Test, Some(Round(round)), Some(ClientId(client)), what).standard_normal()
}

/// `clients` clients, `rounds` rounds, an evaluation every second round.
pub fn run(sick: Sick, clients: u64, rounds: u32, seed: u64) -> Sample {
    let ids: Vec<ClientId> = (0..clients).map(ClientId).collect();
    let hard = |c: u64| 0.25 * noise(seed, 0, c, "hard");
    let test_size = |c: u64| 40 + 13 * (c % 5);
    let mut records = Vec::new();
    for r in 0..rounds {
        let t = f64::from(r + 1) / f64::from(rounds);
        let progress = if sick == Sick::Drift { 0.02 } else { 1.0 - (-4.0 * t).exp() };
        let cohort: Vec<ClientId> = Stream::keyed(seed, Purpose::Sampling, Some(Round(r)), None, "")
            .choose(clients as usize, (clients as usize * 6).div_ceil(10).max(2))
            .into_iter()
            .map(|i| ids[i])
            .collect();
        let growth = match sick {
            Sick::Exploding => (8.0 * t * t).exp(),
            Sick::Vanishing => (-20.0 * t).exp(),
            _ => 1.0,
        };
        let mut norms = Vec::new();
        let records_of: Vec<ClientRecord> = cohort
            .iter()
            .map(|&client| {
                let status = match (sick, client.0) {
                    (Sick::NotFinite, 3) if r >= 2 => ClientStatus::NotFinite,
                    (Sick::Absent, 4) => ClientStatus::TimedOut,
                    // one failure in a run is no signature
                    (_, 1) if r == rounds / 3 => ClientStatus::TimedOut,
                    _ => ClientStatus::Counted,
                };
                let norm =
                    growth * (1.3 - 0.7 * t) * (1.0 + 0.15 * noise(seed, r, client.0, "norm")).max(0.2);
                let counted = status.counted();
                if counted {
                    norms.push((100.0 + client.0 as f64, norm));
                }
                ClientRecord {
                    client,
                    status,
                    examples: Some(280 + 91 * (client.0 % 5)),
                    train_loss: counted.then(|| {
                        (2.9 - 2.3 * progress + hard(client.0) + 0.05 * noise(seed, r, client.0, "train"))
                            .max(0.05)
                    }),
                    update_norm: counted.then_some(norm),
                    seconds: counted.then(|| 0.42 + 0.05 * noise(seed, r, client.0, "time").abs()),
                    tokens: counted.then_some(3_100 + 37 * client.0),
                    bytes_up: counted.then_some(301_944),
                }
            })
            .collect();
        let train_loss = {
            let counted: Vec<f64> = records_of.iter().filter_map(|c| c.train_loss).collect();
            (!counted.is_empty()).then(|| counted.iter().sum::<f64>() / counted.len() as f64)
        };
        let alignment = if sick == Sick::Drift { 0.02 } else { 0.55 - 0.4 * t };
        let spread = spread(&norms, alignment);
        let over = if sick == Sick::OverFitting { 1.2 * (t - 0.35).max(0.0) } else { 0.0 };
        let blow_up = if sick == Sick::Exploding { 3.0 * (t - 0.4).max(0.0) } else { 0.0 };
        let held_out = 2.95 - 2.05 * progress + over + blow_up;
        let accuracy = 0.11 + 0.72 * progress - 0.2 * over - 0.1 * blow_up;
        let eval = (r % 2 == 1 || r + 1 == rounds).then(|| Evaluation {
            split: Split::Validation,
            global: metrics(
                held_out + 0.01 * noise(seed, r, 0, "eval"),
                accuracy,
                ids.iter().map(|c| test_size(c.0)).sum(),
            ),
            per_client: ids
                .iter()
                .map(|c| {
                    let stuck = sick == Sick::Stuck && c.0 == 2;
                    let own = if stuck {
                        3.3 + 0.1 * t
                    } else {
                        held_out + hard(c.0) + 0.04 * noise(seed, r, c.0, "own")
                    };
                    let acc = if stuck { 0.08 } else { accuracy - 0.4 * hard(c.0) };
                    (*c, metrics(own.max(0.05), acc, test_size(c.0)))
                })
                .collect(),
        });
        let asked = cohort.len() as u64;
        records.push(RoundRecord {
            round: Round(r),
            clients: records_of,
            train_loss,
            eval,
            traffic: Some(Traffic {
                up: 301_944 * norms.len() as u64,
                down: 301_802 * asked,
                payload_up: 301_056 * norms.len() as u64,
                payload_down: 301_056 * asked,
            }),
            step_norm: spread.as_ref().map(|s| s.norm_of_mean),
            spread,
            factor_error: Some(
                if sick == Sick::Factors { 0.7 } else { 0.06 + 0.12 * t }
                    + 0.01 * noise(seed, r, 0, "factor").abs(),
            ),
            wall_seconds: Some(0.9 + 0.1 * noise(seed, r, 0, "wall").abs()),
            eval_seconds: (r % 2 == 1 || r + 1 == rounds).then_some(0.35),
            forwards: Some(160 * asked),
            tokens_per_second: Some(20_300.0 + 500.0 * noise(seed, r, 0, "tokens")),
            spent: None,
            gauge: None,
            alignment: None,
            emulator_down: None,
            cohort,
        });
    }
    let summary = summary(sick, &ids, rounds, seed, &records, hard, test_size);
    Sample { rounds: records, summary }
}

fn spread(norms: &[(f64, f64)], alignment: f64) -> Option<UpdateSpread> {
    let total: f64 = norms.iter().map(|n| n.0).sum();
    let linear: f64 = norms.iter().map(|(w, n)| w / total * n).sum();
    let diagonal: f64 = norms.iter().map(|(w, n)| (w / total * n).powi(2)).sum();
    let of_mean = (alignment * (linear * linear - diagonal) + diagonal).max(0.0).sqrt();
    UpdateSpread::from_norms(norms, of_mean)
}

fn summary(
    sick: Sick,
    ids: &[ClientId],
    rounds: u32,
    seed: u64,
    records: &[RoundRecord],
    hard: impl Fn(u64) -> f64,
    test_size: impl Fn(u64) -> u64,
) -> Summary {
    let union: u64 = ids.iter().map(|c| test_size(c.0)).sum();
    let every = |f: &dyn Fn(u64) -> Metrics| -> BTreeMap<ClientId, Metrics> {
        ids.iter().map(|c| (*c, f(c.0))).collect()
    };
    let evaluation = |loss: f64, accuracy: f64| Evaluation {
        split: Split::Test,
        global: metrics(loss, accuracy, union),
        per_client: every(&|c| metrics(loss + hard(c), accuracy - 0.3 * hard(c), test_size(c))),
    };
    let (loss, accuracy) = if sick == Sick::NoGain { (2.1, 0.29) } else { (0.981, 0.812) };
    let base = evaluation(2.96, 0.098);
    let mut federated = evaluation(loss, accuracy);
    if sick == Sick::Stuck {
        let unmoved = base.per_client[&ClientId(2)].clone();
        federated.per_client.insert(ClientId(2), unmoved);
    }
    let mut traffic = Traffic::default();
    records.iter().filter_map(|r| r.traffic).for_each(|t| traffic += t);
    let rounds64 = u64::from(rounds);
    let cohort = records.first().map_or(0, |r| r.cohort.len() as u64);
    Summary {
        schema: SUMMARY_SCHEMA,
        run: RunFacts {
            name: "clinc-dirichlet".into(),
            base_model: "minilm-l6".into(),
            data: "clinc150.jsonl".into(),
            method: "lora".into(),
            objective: "classification".into(),
            federation: "FedAvg over examples".into(),
            clients: ids.len() as u64,
            cohort,
            rounds: rounds64,
            rounds_done: rounds64,
            chosen: None,
            local_steps: Some(10),
            trainable: 75_264,
            parameters: Some(22_713_216),
            seed: 1,
            threads: 4,
            kernel_profile: "x86-64-v3 mc=96 kc=256 nr=16".into(),
            versions: [("antiphon", "0.1.0"), ("rustc", "1.95.0")].map(|(a, b)| (a.into(), b.into())).into(),
            resumed_at: vec![],
        },
        federated: Some(federated),
        queries: None,
        calibrated: None,
        baselines: Baselines {
            zero_shot: Some(Baseline {
                eval: base,
                steps: None,
                examples_seen: None,
                seconds: Some(0.4),
                curve: Vec::new(),
            }),
            local_only: Some(LocalOnly {
                steps: Some(10 * rounds64),
                on_union: every(&|c| {
                    let skill = 0.335 + 0.07 * noise(seed, 0, c, "alone");
                    metrics(2.35 - skill, skill, union)
                }),
                on_own: every(&|c| {
                    metrics(
                        1.25 + hard(c),
                        0.70 - 0.5 * hard(c) + 0.04 * noise(seed, 1, c, "own"),
                        test_size(c),
                    )
                }),
                seconds: Some(38.0),
            }),
            random_search: None,
            centralised: Some(Baseline {
                eval: evaluation(0.743, 0.861),
                steps: Some(10 * rounds64 * cohort),
                examples_seen: Some(160 * rounds64 * cohort),
                seconds: Some(31.0),
                curve: Vec::new(),
            }),
        },
        off_site: off_site(sick, &|loss, accuracy| metrics(loss, accuracy, union)),
        traffic,
        wall_seconds: 97.4,
        peak_rss_bytes: Some(212_400_000),
        predicted: vec![
            Comparison {
                quantity: "scalars trained".into(),
                unit: String::new(),
                predicted: 75_264.0,
                measured: Some(75_264.0),
                exact: true,
            },
            Comparison {
                quantity: "payload bytes up per client and round".into(),
                unit: "bytes".into(),
                predicted: 301_056.0,
                measured: Some(301_056.0),
                exact: true,
            },
            Comparison {
                quantity: "peak memory".into(),
                unit: "bytes".into(),
                predicted: 231_000_000.0,
                measured: Some(212_400_000.0),
                exact: false,
            },
            Comparison {
                quantity: "local work".into(),
                unit: "FLOP".into(),
                predicted: 4.1e12,
                measured: None,
                exact: false,
            },
            Comparison {
                quantity: "time of all rounds".into(),
                unit: "seconds".into(),
                predicted: 26.0,
                measured: Some(23.1),
                exact: false,
            },
        ],
        data: Some(data(ids, test_size)),
        truncation: Some(Truncation {
            max_tokens: 64,
            examples: 5_940,
            truncated: if sick == Sick::Truncation { 2_410 } else { 3 },
            labels: 59_400,
            labels_lost: if sick == Sick::Truncation { 12_100 } else { 11 },
            emptied: if sick == Sick::Truncation { 120 } else { 0 },
        }),
        digest: Some(Digest::of(b"adapter")),
        weights: None,
        output: Some("latest".into()),
    }
}

fn data(ids: &[ClientId], test_size: impl Fn(u64) -> u64) -> DataReport {
    let clients = ids
        .iter()
        .map(|&client| {
            let mut s = Stream::keyed(9, Purpose::Partition, None, Some(client), "");
            let total = 350.0 + 104.0 * (client.0 % 5) as f64;
            let counts =
                s.dirichlet(&[0.3; LABELS]).into_iter().map(|p| (p * total).round() as u64).collect();
            let name = NAMES
                .get(client.0 as usize)
                .map_or_else(|| format!("site {}", client.0), |n| (*n).to_owned());
            ClientData {
                client,
                name,
                train: 280 + 91 * (client.0 % 5),
                validation: test_size(client.0),
                test: test_size(client.0),
                counts,
            }
        })
        .collect();
    DataReport {
        partitioner: "dirichlet_client(alpha = 0.3)".into(),
        field: "intent group".into(),
        values: [
            "transfer",
            "balance",
            "bill",
            "fraud",
            "recipe",
            "reminder",
            "timer",
            "directions",
            "flight",
            "weather",
            "meeting",
            "joke",
        ]
        .map(String::from)
        .into(),
        clients,
        divergence: [
            ("mean Jensen-Shannon divergence to the union (bits)".to_owned(), 0.412),
            ("effective number of clients by size".to_owned(), 9.1),
        ]
        .into(),
        digest: None,
    }
}

/// How near emulator and model are, as `KL`; hidden states follow.
fn distance(kl: f64) -> Distance {
    Distance { hidden: 0.3 * kl, kl: Some(kl), loss: Some(3.0 + kl) }
}

/// An alignment that brings unseen data from `before` to `after`, and its own to `seen`.
pub fn alignment(before: f64, after: f64, seen: f64) -> Alignment {
    let [before, after, trained_on] = [before, after, seen].map(distance);
    Alignment { before, after, trained_on, steps: 50, bytes: None, seconds: Some(3.5) }
}

fn off_site(sick: Sick, metrics: &dyn Fn(f64, f64) -> Metrics) -> Option<OffSite> {
    let distilled = match sick {
        Sick::PluggedIn | Sick::DriftedEmulator => alignment(2.0, 0.4, 0.38),
        Sick::OverfittedAlignment => alignment(0.9, 0.8, 0.1),
        _ => return None,
    };
    let last = if sick == Sick::DriftedEmulator { 1.1 } else { 1.1 * distilled.after.kl.unwrap() };
    let plugged = if sick == Sick::PluggedIn { metrics(0.981, 0.812) } else { metrics(0.65, 0.89) };
    Some(OffSite {
        rule: "offsite_tuning".into(),
        drop_rate: 0.5,
        layers: 14,
        adapter: vec![0, 1, 12, 13],
        kept: vec![0, 1, 2, 4, 6, 9, 11, 12, 13],
        influence: Vec::new(),
        held: 14_000_000,
        whole: 22_713_216,
        sent_once: 56_000_000,
        sent_changes: 0,
        aligned: Some(Aligned {
            public: 400,
            held_out: 100,
            overlap: 0,
            scalars: 6_000_000,
            distilled: Some(distilled),
            alignments: 0,
            last: distance(last),
        }),
        zero_shot: metrics(0.9, 0.83),
        emulator_zero_shot: metrics(3.1, 0.09),
        emulator_tuned: metrics(0.7, 0.88),
        plugged_in: plugged,
        full: metrics(0.6, 0.9),
    })
}
