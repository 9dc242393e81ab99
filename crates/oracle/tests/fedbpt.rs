//! FedBPT against NVFlare's loop with real pycma objects, its isotropic halves against the whole, and on an oracle.

#![allow(clippy::unwrap_used, reason = "a test")]

mod splitmix;

use std::convert::Infallible;
use std::sync::Arc;

use antiphon_algo::{Plan, Reducer, ServerStep};
use antiphon_core::{ClientId, Payload, Purpose, Round, Stream};
use antiphon_oracle::cma::Covariance;
use antiphon_oracle::fedbpt::{Places, Ranked, Report, Server, Settings, Steps, search};
use antiphon_oracle::projection::{Projection, Scale};
use antiphon_oracle::synthetic::{Synthetic, labels};
use antiphon_oracle::task::{Loss, Question, soft_fitness};
use antiphon_oracle::{EmbedOracle, Soft};
use antiphon_testkit::Golden;
use serde::Deserialize;
use splitmix::SplitMix;

#[derive(Deserialize)]
struct File {
    dim: usize,
    generations: u32,
    population: usize,
    sigma: f64,
    floor: f64,
    rounds: Vec<RoundRow>,
}

#[derive(Deserialize)]
struct RoundRow {
    means: Vec<Vec<f64>>,
    fitness: Vec<f64>,
    squares: Vec<f64>,
    mean: Vec<f64>,
    broadcast: f64,
    variances: Vec<f64>,
}

fn sphere(client: usize, x: &[f64]) -> Result<f64, Infallible> {
    Ok(1.0 + x.iter().map(|x| (x - 0.5 * client as f64).powi(2)).sum::<f64>())
}

fn all_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}: {g} instead of {w}");
    }
}

#[test]
fn server_and_clients_are_those_of_nvflare() {
    let file: File = Golden::of(env!("CARGO_MANIFEST_DIR")).json("cma/fedbpt.json").unwrap();
    let settings = Settings {
        dim: file.dim,
        sigma: file.sigma,
        generations: file.generations,
        population: file.population,
        floor: file.floor,
        decay: 1.0,
        covariance: Covariance::Full,
    };
    let clients = file.rounds[0].means.len();
    let mut server = Server::new(settings, clients).unwrap();
    assert_eq!(file.rounds.len(), 4);
    for (r, row) in file.rounds.iter().enumerate() {
        let broadcast = server.broadcast();
        let reports: Vec<Report> = (0..clients)
            .map(|k| {
                let job = broadcast.job(&settings).unwrap();
                search(job, &mut SplitMix((1000 * r + k) as u64), |x| sphere(k, x)).unwrap()
            })
            .collect();
        for (k, report) in reports.iter().enumerate() {
            all_close("client mean", &report.mean, &row.means[k], 1e-8);
            all_close("client", &[report.fitness, report.squares], &[row.fitness[k], row.squares[k]], 1e-8);
        }
        server.close(&reports).unwrap();
        all_close("mean", server.cma().mean(), &row.mean, 1e-8);
        all_close("variances", &server.cma().variances(), &row.variances, 1e-8);
        all_close("sigma", &[server.broadcast().sigma], &[row.broadcast], 1e-8);
    }
}

fn isotropic(dim: usize) -> Settings {
    Settings {
        dim,
        sigma: 1.0,
        generations: 4,
        population: 5,
        floor: 0.3,
        decay: 1.0,
        covariance: Covariance::Isotropic,
    }
}

#[test]
fn reducer_and_step_are_the_whole_server() {
    let plain = halves(isotropic(8));
    let decayed = halves(Settings { decay: 0.9, ..isotropic(8) });
    // the first round is the same search, and the decay all that differs behind it
    all_close("decay", &[decayed[1]], &[0.9 * plain[1]], 1e-5);
    assert!(decayed[11] < plain[11]);
}

/// Compares the two over twelve rounds; the step sizes broadcast.
fn halves(settings: Settings) -> Vec<f64> {
    let mut sigmas = Vec::new();
    let places = Places::new(8);
    let parents = settings.client_constants().unwrap().mu;
    let mut whole = Server::new(settings, 3).unwrap();
    let mut theta = places.start(settings.sigma);
    let mut step = Steps::new(&settings);
    let plan = Plan { layers: vec![], reducer: Box::new(Ranked::new(8, parents)) };
    let checked = plan.check(&places.schema().unwrap()).unwrap();
    assert_eq!(checked.schema().dim(), theta.len());
    let mut noise = Stream::new(2, Purpose::Test);
    for round in 0..12 {
        let (mean, sigma) = places.read(&theta).unwrap();
        all_close("mean", &mean, whole.cma().mean(), 1e-5);
        all_close("sigma", &[sigma], &[whole.broadcast().sigma], 1e-5);
        sigmas.push(sigma);
        let reports: Vec<Report> = (0..3)
            .map(|k| {
                // in one round a client is far astray, and both pull it in alike
                let job = whole.broadcast().job(&settings).unwrap();
                let mut report = search(job, &mut noise, |x| sphere(k, x)).unwrap();
                if round == 5 && k == 1 {
                    report.mean.iter_mut().for_each(|m| *m *= 40.0);
                    report.fitness = 0.5;
                }
                report
            })
            .collect();
        let reducer = Ranked::new(8, parents);
        let contract = antiphon_algo::Contract {
            carrier: antiphon_algo::Carrier::Real,
            len: places.len(),
            summable: true,
            l2: None,
            view: antiphon_algo::View::PerClient,
            weighted: false,
        };
        let mut rows = reducer.start(&contract);
        for report in &reports {
            rows.add(Payload::Real(places.delta(&theta, report))).unwrap();
        }
        let delta = rows.finish(1).unwrap().into_real().unwrap();
        step.step(&mut theta, &delta, 1).unwrap();
        // saved and loaded in between, as by a checkpoint
        let state = step.state();
        step = Steps::new(&settings);
        step.load(state).unwrap();
        whole.close(&reports).unwrap();
    }
    assert!(whole.broadcast().sigma < 1.0, "the step size never moved");
    sigmas
}

/// Examples of a task that a prompt can help: the answer is what the synthetic model likes least.
pub(crate) fn questions(oracle: &Synthetic, n: u32, stream: &mut Stream) -> Vec<Question> {
    let labels = labels(3);
    (0..n)
        .map(|_| {
            let prompt: Vec<u32> = (0..6).map(|_| 3 + stream.below(37) as u32).collect();
            let q = Question { prompt, labels: Arc::clone(&labels), answer: 0 };
            let scores =
                antiphon_oracle::LogprobOracle::score(oracle, &[q.query(&[])]).unwrap().complete().unwrap();
            let worst =
                (0..3).fold(0, |w, c| if scores[0][c].logprob < scores[0][w].logprob { c } else { w });
            Question { answer: if worst == 2 { 1 } else { worst }, ..q }
        })
        .collect()
}

/// The plain loss is the fitness here: in the synthetic model a prompt acts alike on every input, and dividing by the loss on
/// perturbed inputs is meant to forbid just that.
#[test]
fn a_federation_of_prompts_learns_what_no_client_was_told() {
    let oracle = Synthetic::new(40, 8, 5).unwrap();
    let mut stream = Stream::new(9, Purpose::Test);
    let data: Vec<Vec<Question>> = (0..4).map(|_| questions(&oracle, 12, &mut stream)).collect();
    let settings = Settings { sigma: 0.5, floor: 0.05, ..isotropic(6) };
    let origin = Soft::new(8, vec![0.0; 16]).unwrap();
    let scale = Scale { dim: 6, alpha: 1.0, sigma: 0.5, embedding_std: oracle.embedding_std() };
    let projection = Projection::new(&origin, &scale, 1);
    let loss = |x: &[f64], questions: &[Question]| {
        let soft = projection.prompt(x).unwrap();
        soft_fitness(&oracle, &soft, questions, Loss::CrossEntropy).map(|f| f.loss)
    };
    let total = |x: &[f64]| data.iter().map(|d| loss(x, d).unwrap()).sum::<f64>() / 4.0;
    let mut server = Server::new(settings, 4).unwrap();
    let before = total(server.cma().mean());
    let asked = oracle.asked();
    for round in 0..6 {
        let broadcast = server.broadcast();
        let reports: Vec<Report> = data
            .iter()
            .enumerate()
            .map(|(k, own)| {
                let mut noise =
                    Stream::keyed(1, Purpose::Test, Some(Round(round)), Some(ClientId(k as u64)), "");
                let job = broadcast.job(&settings).unwrap();
                search(job, &mut noise, |x| loss(x, own)).unwrap()
            })
            .collect();
        server.close(&reports).unwrap();
    }
    // 6 rounds × 4 clients × (4 generations × 5 + 1) candidates × 12 examples
    assert_eq!(oracle.asked() - asked, 6 * 4 * settings.queries(12, false));
    let after = total(server.cma().mean());
    assert!(after < 0.9 * before, "{before} to {after}");
}
