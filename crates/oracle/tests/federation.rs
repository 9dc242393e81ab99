//! Every search of the registry through the ordinary coordinator, every message encoded and decoded, on an oracle in closed
//! form: it finds a better prompt than it began with, whatever the number of workers, within the queries it announced.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_algo::{AggregationSettings, LocalWork, WorkError, server_step};
use antiphon_core::{ClientId, Purpose, Round, Stream};
use antiphon_oracle::ledger::{Ledger, Limits, Metered, Terms};
use antiphon_oracle::search::{self, Ground, Purse, Search, Seeker};
use antiphon_oracle::synthetic::{Synthetic, labels};
use antiphon_oracle::task::{Loss, Question};
use antiphon_oracle::{Access, EmbedOracle, Grant, Label, LogprobOracle, Soft, TextOracle};
use antiphon_protocol::Policy;
use antiphon_sim::{Config, Silent, SimError, Simulation, Start, VirtualClock, Workforce};

const CLIENTS: u64 = 4;
const VOCABULARY: u32 = 40;

/// Questions that a prompt can help with: their answer is not what the model likes best.
fn questions(oracle: &Synthetic, client: u64, access: Access) -> Arc<[Question]> {
    let mut s = Stream::keyed(7, Purpose::Test, None, Some(ClientId(client)), "");
    (0..10)
        .map(|_| {
            let prompt: Vec<u32> = (0..5).map(|_| 3 + s.below(u64::from(VOCABULARY) - 3) as u32).collect();
            let q = Question { prompt, labels: labels(3), answer: 0 };
            let scores = oracle.score(&[q.query(&[])]).unwrap().complete().unwrap();
            let answer = usize::from(scores[0][0].logprob > scores[0][1].logprob);
            if access > Access::Text {
                return Question { answer, ..q };
            }
            // what the model writes behind a prompt that the search does not know
            let words: Vec<String> = (0..VOCABULARY).map(|i| format!("w{i}")).collect();
            let said = oracle.generate(&[q.text_query(&[5, 11])]).unwrap().complete().unwrap().remove(0);
            let answer = words.iter().position(|w| *w == said).unwrap();
            Question { prompt: q.prompt, answer, labels: words.into_iter().map(Label::Text).collect() }
        })
        .collect()
}

struct Federation {
    oracle: Arc<Synthetic>,
    search: Arc<dyn Search>,
    ledger: Arc<Ledger>,
    crew: BTreeMap<ClientId, Seeker>,
    fraction: f64,
    access: Access,
}

struct Crew<'a>(&'a Federation);

impl Workforce for Crew<'_> {
    fn hire(&self, client: ClientId, _: usize) -> Result<Box<dyn LocalWork + '_>, WorkError> {
        self.0.crew.get(&client).map(|s| Box::new(s) as Box<dyn LocalWork + '_>).ok_or(WorkError::NoData)
    }
}

impl Federation {
    fn new(table: &str, fraction: f64, budget: Option<u64>) -> Self {
        let oracle = Arc::new(Synthetic::new(VOCABULARY as usize, 8, 5).unwrap());
        let method = search::build(&table.parse().unwrap()).unwrap();
        // sealed at what the method says it needs
        let access = method.need().access;
        let ground = Ground {
            origin: Soft::new(8, vec![0.0; 16]).unwrap(),
            embedding_std: Some(oracle.embedding_std()),
            vocabulary: VOCABULARY,
            candidates: (3..VOCABULARY).collect(),
            seed: 1,
        };
        let search = method.prepare(&ground).unwrap();
        let limits = Limits { examples: budget, ..Limits::NONE };
        let ledger = Arc::new(Ledger::in_memory(Terms { limits, ..Terms::FREE }).unwrap());
        let purse = Purse::default();
        let paid = Arc::new(Metered::new(Arc::clone(&oracle), Arc::clone(&ledger)));
        purse.set(Grant::Weights(paid).at_most(access)).unwrap();
        let seeker = |k| {
            let id = ClientId(k);
            let own = questions(&oracle, k, access);
            (id, Seeker::new(Arc::clone(&search), Arc::clone(&purse), own, id, 1).unwrap())
        };
        let crew = (0..CLIENTS).map(seeker).collect();
        Self { oracle, search, ledger, crew, fraction, access }
    }

    fn run(&self, rounds: u32, workers: usize) -> Result<(Vec<f32>, bool), SimError> {
        let (plan, server) = match self.search.server() {
            Some((plan, step)) => (plan.check(&self.search.schema().unwrap()).unwrap(), step),
            None => {
                let plan = AggregationSettings::default().plan().unwrap();
                let fedavg = server_step(&"id = 'fedavg'".parse().unwrap()).unwrap();
                (plan.check(&self.search.schema().unwrap()).unwrap(), fedavg)
            }
        };
        let config = Config {
            plan,
            policy: Policy {
                num_rounds: rounds,
                fraction: self.fraction,
                min_clients: 1,
                round_deadline_ms: None,
                join_deadline_ms: None,
                round_attempts: 1,
                history: 0,
            },
            roster: self.crew.keys().copied().collect(),
            seed: 1,
            workers,
            call_attempts: 1,
            restarts: 0,
            keep_updates: false,
        };
        let clock = VirtualClock::default();
        let mut simulation = Simulation { config, server, noise: None, clock: &clock, faults: None };
        let start = Start::fresh(self.search.start());
        let stop = AtomicBool::new(false);
        let end = simulation.run(start, &Crew(self), &mut Silent, &mut Vec::new(), &stop)?;
        Ok((end.theta, end.next.0 == rounds))
    }

    /// Mean loss over everybody's questions.
    fn loss(&self, state: &[f32]) -> f64 {
        let all: Vec<Question> =
            (0..CLIENTS).flat_map(|k| questions(&self.oracle, k, self.access).to_vec()).collect();
        let grant = Grant::Weights(Arc::clone(&self.oracle) as _).at_most(self.access);
        self.search.prompt(state).unwrap().fitness(&grant, &all, self.search.loss()).unwrap().loss
    }
}

const CASES: [(&str, &str, u32, f64); 9] = [
    // the perturbed fitness forbids prompts that act alike on every input, and in this model all do
    (
        "fedbpt",
        "id = 'fedbpt'\nintrinsic_dim = 6\nsigma = 0.5\nsigma_floor = 0.05\nperturb_rate = 0.0\nlocal_iter = 4\n\
         loss = 'cross_entropy'",
        6,
        1.0,
    ),
    (
        "fedbpt",
        "id = 'fedbpt'\nintrinsic_dim = 6\nsigma = 0.5\nsigma_floor = 0.05\nperturb_rate = 0.0\nlocal_iter = 4\n\
         rank_by = 'gain'\nloss = 'cross_entropy'",
        6,
        1.0,
    ),
    (
        "bdpl",
        "id = 'bdpl'\ncandidates = ''\nsamples = 12\nbatch_size = 5\nlearning_rate = 0.03\nloss = 'cross_entropy'",
        12,
        1.0,
    ),
    // FedOne: one client a round
    (
        "bdpl",
        "id = 'bdpl'\ncandidates = ''\nsamples = 12\nbatch_size = 5\nlearning_rate = 0.03\nloss = 'cross_entropy'",
        24,
        0.25,
    ),
    (
        "bdpl",
        "id = 'bdpl'\ncandidates = ''\nsamples = 12\nbatch_size = 5\nlearning_rate = 0.03\ntemperature = 1.0\n\
         loss = 'hinge'",
        16,
        1.0,
    ),
    (
        "bbt",
        "id = 'bbt'\nintrinsic_dim = 6\nsigma = 0.5\npopsize = 8\ncandidates = 40\nselect_every = 10\n\
         loss = 'cross_entropy'",
        3,
        1.0,
    ),
    (
        "token_edits",
        "id = 'token_edits'\ncandidates = ''\nedits = 4\nfillers = 4\nloss = 'cross_entropy'",
        6,
        1.0,
    ),
    // with texts for answers
    ("token_edits", "id = 'token_edits'\ncandidates = ''\nedits = 4\nfillers = 8\nloss = 'zero_one'", 8, 1.0),
    (
        "bdpl",
        "id = 'bdpl'\ncandidates = ''\nsamples = 12\nbatch_size = 5\nlearning_rate = 0.03\nloss = 'zero_one'",
        24,
        1.0,
    ),
];

#[test]
fn every_search_finds_a_better_prompt_within_the_queries_it_announced() {
    let mut seen: Vec<&str> = Vec::new();
    for (id, table, rounds, fraction) in CASES {
        seen.push(id);
        let federation = Federation::new(table, fraction, None);
        let (theta, done) = federation.run(rounds, 2).unwrap();
        assert!(done, "{id}");
        let before = federation.loss(&federation.search.start());
        let after = federation.loss(&theta);
        assert!(after < 0.9 * before, "{id} at {fraction}: {before} to {after}");
        let cohort = (fraction * CLIENTS as f64) as u64;
        let spent = federation.ledger.spent().examples;
        let most = u64::from(rounds) * cohort * federation.search.queries(10);
        assert!(spent > 0 && spent <= most, "{id}: {spent} of {most}");
        let again = Federation::new(table, fraction, None).run(rounds, 1).unwrap().0;
        assert_eq!(theta, again, "{id}: the number of workers changed the result");
    }
    for entry in search::METHODS {
        assert!(seen.contains(&entry.id), "{} has no case", entry.id);
    }
}

#[test]
fn needs_are_those_of_the_methods_and_less_is_refused() {
    assert_eq!(search::METHODS.len(), search::NEEDS.len());
    for (id, table, ..) in CASES {
        let method = search::build(&table.parse().unwrap()).unwrap();
        let (need, settings) = (method.need(), method.settings().unwrap());
        let most = search::NEEDS.iter().find(|n| n.method == id).unwrap().access;
        let by_text = settings["loss"].as_str() == Some("zero_one");
        assert!(need.method == id && need.access == if by_text { Access::Text } else { most }, "{id}");
        for access in Access::ALL {
            assert_eq!(method.check(access).is_ok(), access >= method.need().access, "{id} {access}");
        }
        let again = search::build(&method.settings().unwrap()).unwrap();
        assert_eq!(method.settings().unwrap(), again.settings().unwrap());
    }
    let fedbpt = search::build(&CASES[0].1.parse().unwrap()).unwrap();
    let refused = fedbpt.check(Access::Logprobs).unwrap_err().to_string();
    assert!(refused.ends_with("methods that would fit: bdpl, token_edits"), "{refused}");
    let refused = fedbpt.check(Access::Text).unwrap_err().to_string();
    assert!(
        refused.ends_with("bdpl with loss = \"zero_one\", token_edits with loss = \"zero_one\""),
        "{refused}"
    );
    let soft = CASES[0].1.replace("cross_entropy", "zero_one");
    let refused = search::build(&soft.parse().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("expected nll, cross_entropy or hinge"), "{refused}");
}

#[test]
fn settings_that_make_no_sense_name_the_key() {
    for (table, word) in [
        ("id = 'fedbtp'", "did you mean `fedbpt`"),
        ("id = 'fedbpt'\nintrinsic_dim = 0\nloss = 'nll'", "intrinsic_dim"),
        ("id = 'fedbpt'\nintrinsic_dim = 5\nloss = 'nll'\nperturb_rate = 2.0", "perturb_rate"),
        ("id = 'fedbpt'\nintrinsic_dim = 5\nloss = 'nll'\nlocal_popsize = 2", "local_popsize"),
        (
            "id = 'bdpl'\ncandidates = 'a b'\nbatch_size = 1\nlearning_rate = 0.0\nloss = 'nll'",
            "learning_rate",
        ),
        ("id = 'bbt'\nintrinsic_dim = 5\ncandidates = 10\nselect_on = 1.0\nloss = 'hinge'", "select_on"),
        ("id = 'bbt'\nintrinsic_dim = 5\ncandidates = 10\nselect_every = 0\nloss = 'hinge'", "select_every"),
        ("id = 'fedbpt'\nintrinsic_dim = 5\nloss = 'nll'\nlocal_popsize = 1000000000", "local_popsize"),
        (
            "id = 'bdpl'\ncandidates = 'a b'\nbatch_size = 1\nlearning_rate = 0.1\nloss = 'nll'\nlocal_epochs = 4000000000",
            "local_epochs",
        ),
        ("id = 'bbt'\nintrinsic_dim = 5\ncandidates = 10\npopsize = 1000000000\nloss = 'hinge'", "popsize"),
        ("id = 'token_edits'\ncandidates = 'a b'\nedits = 0\nfillers = 1\nloss = 'nll'", "edits"),
    ] {
        let refused = search::build(&table.parse().unwrap()).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }
}

/// What cannot be counted is more than every budget, and what cannot be held is refused before it is made.
#[test]
fn settings_beyond_all_measure_are_refused_or_counted_as_without_end() {
    let ground = |width: usize| Ground {
        origin: antiphon_oracle::Soft::new(width, vec![0.0; 3 * width]).unwrap(),
        embedding_std: Some(1.0),
        vocabulary: 9,
        candidates: vec![1, 2, 3],
        seed: 1,
    };
    let most = i64::MAX;
    for table in [
        format!("id = 'bbt'\nintrinsic_dim = 5\ncandidates = {most}\nloss = 'hinge'"),
        format!("id = 'token_edits'\ncandidates = 'a b'\nedits = 4000000000\nfillers = {most}\nloss = 'nll'"),
    ] {
        let search = search::build(&table.parse().unwrap()).unwrap().prepare(&ground(4)).unwrap();
        assert_eq!(search.queries(1000), u64::MAX, "{table}");
    }
    for (dim, width, fits) in [(12, 4, true), (13, 4, false), (13, 1, true), (100_000_000, 1, false)] {
        for rest in ["id = 'fedbpt'", "id = 'bbt'\ncandidates = 10"] {
            let table = format!("{rest}\nintrinsic_dim = {dim}\nloss = 'nll'");
            let prepared = search::build(&table.parse().unwrap()).unwrap().prepare(&ground(width));
            let said = prepared.map(|_| ()).map_err(|e| e.to_string());
            assert_eq!(said.is_ok(), fits, "{table} {said:?}");
            assert!(said.err().is_none_or(|e| e.contains("`intrinsic_dim`")));
        }
    }
}

#[test]
fn a_budget_that_runs_out_ends_the_rounds_and_is_never_passed() {
    let federation = Federation::new(CASES[0].1, 1.0, Some(2000));
    let ended = federation.run(6, 2);
    assert!(!matches!(ended, Ok((_, true))), "six rounds take more than the budget");
    let spent = federation.ledger.spent().examples;
    assert!(spent <= 2000 && spent > 1500, "{spent}");
    // counted where it was asked, not where it was promised: 40 questions were scored to make the data
    assert_eq!(federation.oracle.asked(), spent + 40);
}

/// Black-box tuning of one client: what comes out was best on examples that the search did not see, and the queries are as many as
/// announced, not fewer.
#[test]
fn bbt_chooses_on_examples_kept_aside() {
    let table = "id = 'bbt'\nintrinsic_dim = 6\nsigma = 0.5\npopsize = 8\ncandidates = 64\nselect_every = 1\nselect_on = 0.4\n\
                 loss = 'hinge'";
    let federation = Federation::new(table, 1.0, None);
    let (search, start) = (&federation.search, federation.search.start());
    let delta = (&mut &federation.crew[&ClientId(0)]).run(&start, Round(0)).unwrap().delta;
    assert_eq!(federation.ledger.spent().examples, search.queries(10));
    assert_eq!(search.queries(10), 64 * 6 + (64 + 1) * 4);
    let end: Vec<f32> = start.iter().zip(&delta).map(|(s, d)| s - d).collect();
    // the four kept aside, as the client chose them
    let own = questions(&federation.oracle, 0, federation.access);
    let mut order: Vec<&Question> = own.iter().collect();
    Stream::keyed(1, Purpose::Search, None, Some(ClientId(0)), "aside").shuffle(&mut order);
    let aside: Vec<Question> = order[..4].iter().map(|q| (*q).clone()).collect();
    let grant = Grant::Weights(Arc::clone(&federation.oracle) as _);
    let loss =
        |state: &[f32]| search.prompt(state).unwrap().fitness(&grant, &aside, Loss::Hinge).unwrap().loss;
    let (before, after) = (loss(&start), loss(&end));
    assert!(after < before, "{before} to {after}");
}

/// A client whose questions cannot be answered worse or better has gained nothing, however low its loss.
#[test]
fn ranking_by_gain_forgets_how_easy_a_clients_questions_are() {
    let reported = |rank: &str| {
        let table = format!(
            "id = 'fedbpt'\nintrinsic_dim = 6\nsigma = 0.5\nperturb_rate = 0.0\nlocal_iter = 2\nloss = 'cross_entropy'\n\
             rank_by = '{rank}'"
        );
        let federation = Federation::new(&table, 1.0, None);
        let start = federation.search.start();
        let grant = Grant::Weights(Arc::clone(&federation.oracle) as _);
        let fitness = |k: u64, state: &[f32]| {
            let prompt = federation.search.prompt(state).unwrap();
            prompt
                .fitness(&grant, &questions(&federation.oracle, k, Access::Logprobs), Loss::CrossEntropy)
                .unwrap()
                .loss
        };
        let own = |k: u64| {
            let delta = (&mut &federation.crew[&ClientId(k)]).run(&start, Round(0)).unwrap().delta;
            let end: Vec<f32> = start.iter().zip(&delta).map(|(s, d)| s - d).collect();
            // the state's places: the mean, the step size, the path, the fitness
            let told = -f64::from(*delta.last().unwrap());
            (told, fitness(k, &end), fitness(k, &start))
        };
        (0..CLIENTS).map(own).collect::<Vec<_>>()
    };
    for (told, end, _) in reported("loss") {
        assert!((told - end).abs() < 1e-5, "{told} {end}");
    }
    for (told, end, start) in reported("gain") {
        assert!((told - (end - start)).abs() < 1e-5, "{told} {end} {start}");
    }
}
