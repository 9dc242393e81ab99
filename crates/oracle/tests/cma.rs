//! CMA-ES against pycma: constants, whole searches under the same normals, solutions from elsewhere; and what only a run
//! to the end can show.

#![allow(clippy::unwrap_used, reason = "a test")]

mod splitmix;

use antiphon_core::{Purpose, Stream};
use antiphon_oracle::cma::{Candidate, Cma, CmaError, CmaState, Constants, Covariance, Origin};
use antiphon_testkit::Golden;
use serde::Deserialize;
use splitmix::SplitMix;

#[derive(Deserialize)]
struct File {
    constants: Vec<ConstantsRow>,
    runs: Vec<Run>,
    injected: Injected,
}

#[derive(Deserialize)]
struct ConstantsRow {
    n: usize,
    lambda: usize,
    all_parents: bool,
    mirrored: usize,
    weights: Vec<f64>,
    mu: usize,
    mu_eff: f64,
    cc: f64,
    c1: f64,
    cmu: f64,
    cs: f64,
    damps: f64,
    chi: f64,
    eigen_gap: f64,
    cc_sep: f64,
    c1_sep: f64,
    cmu_sep: f64,
}

#[derive(Deserialize)]
struct Run {
    function: String,
    n: usize,
    lambda: usize,
    kind: Covariance,
    seed: u64,
    missing: bool,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    generation: u64,
    mean: Vec<f64>,
    sigma: f64,
    variances: Vec<f64>,
}

#[derive(Deserialize)]
struct Injected {
    n: usize,
    m: usize,
    rows: Vec<InjectedRow>,
}

#[derive(Deserialize)]
struct InjectedRow {
    solutions: Vec<Vec<f64>>,
    fitness: Vec<f64>,
    mean: Vec<f64>,
    sigma: f64,
    variances: Vec<f64>,
}

fn golden() -> File {
    Golden::of(env!("CARGO_MANIFEST_DIR")).json("cma/pycma.json").unwrap()
}

fn value(function: &str, x: &[f64]) -> f64 {
    let n = x.len();
    match function {
        "sphere" => x.iter().map(|x| x * x).sum(),
        "ellipsoid" => {
            x.iter().enumerate().map(|(i, x)| 10_f64.powf(6.0 * i as f64 / (n - 1) as f64) * x * x).sum()
        }
        "rosenbrock" => {
            x.windows(2).map(|w| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2)).sum()
        }
        other => panic!("no function {other}"),
    }
}

fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}: {got} instead of {want}");
}

fn all_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    got.iter()
        .zip(want)
        .enumerate()
        .for_each(|(i, (g, w))| close(&format!("{what}[{i}]"), *g, *w, tolerance));
}

#[test]
fn constants_are_those_of_pycma() {
    let rows = golden().constants;
    assert_eq!(rows.len(), 10);
    for row in rows {
        let make = if row.all_parents { Constants::all_parents } else { Constants::new };
        let c = make(row.n, row.lambda, Covariance::Full).unwrap();
        let what = format!("N={} λ={}", row.n, row.lambda);
        assert_eq!((c.mirrored, c.mu), (row.mirrored, row.mu), "{what}");
        all_close(&what, &c.weights, &row.weights, 1e-12);
        let got = [c.mu_eff, c.cc, c.c1, c.cmu, c.cs, c.damps, c.chi, c.eigen_gap];
        let want = [row.mu_eff, row.cc, row.c1, row.cmu, row.cs, row.damps, row.chi, row.eigen_gap];
        all_close(&what, &got, &want, 1e-12);
        let s = make(row.n, row.lambda, Covariance::Separable).unwrap();
        all_close(&what, &[s.cc, s.c1, s.cmu], &[row.cc_sep, row.c1_sep, row.cmu_sep], 1e-12);
    }
}

#[test]
fn searches_are_those_of_pycma() {
    let runs = golden().runs;
    assert_eq!(runs.len(), 10);
    for run in runs {
        let what = format!("{} N={} λ={} {:?}", run.function, run.n, run.lambda, run.kind);
        let constants = Constants::new(run.n, run.lambda, run.kind).unwrap();
        let mut cma = Cma::new(vec![0.5; run.n], 0.3, constants).unwrap();
        let mut noise = SplitMix(run.seed);
        for row in &run.rows {
            while cma.generation() < row.generation {
                let xs = cma.ask(&mut noise).unwrap();
                let mut fitness: Vec<f64> = xs.iter().map(|c| value(&run.function, &c.x)).collect();
                if run.missing && cma.generation() % 3 == 1 {
                    fitness[1] = f64::NAN;
                }
                cma.tell(xs, &fitness).unwrap();
            }
            let what = format!("{what} t={}", row.generation);
            all_close(&what, cma.mean(), &row.mean, 1e-8);
            close(&what, cma.sigma(), row.sigma, 1e-8);
            all_close(&what, &cma.variances(), &row.variances, 1e-7);
        }
    }
}

#[test]
fn solutions_from_elsewhere_are_pulled_in_as_in_pycma() {
    let Injected { n, m, rows } = golden().injected;
    let constants = Constants::all_parents(n, m, Covariance::Full).unwrap();
    let mut cma = Cma::new(vec![0.0; n], 1.0, constants).unwrap();
    for row in rows {
        cma.set_sigma(0.9).unwrap();
        let foreign = row.solutions.into_iter().map(Candidate::foreign).collect();
        cma.tell(foreign, &row.fitness).unwrap();
        all_close("mean", cma.mean(), &row.mean, 1e-10);
        close("sigma", cma.sigma(), row.sigma, 1e-10);
        all_close("variances", &cma.variances(), &row.variances, 1e-10);
    }
}

/// Generations until the best value seen is below `1e-9`.
fn solve(function: &str, n: usize, lambda: usize, kind: Covariance, most: u64) -> Option<u64> {
    let constants = Constants::new(n, lambda, kind).unwrap();
    let mut cma = Cma::new(vec![0.5; n], 0.3, constants).unwrap();
    let mut noise = Stream::new(1, Purpose::Test);
    while cma.generation() < most {
        let xs = cma.ask(&mut noise).unwrap();
        let fitness: Vec<f64> = xs.iter().map(|c| value(function, &c.x)).collect();
        if fitness.iter().any(|f| *f < 1e-9) {
            return Some(cma.generation());
        }
        cma.tell(xs, &fitness).unwrap();
    }
    None
}

#[test]
fn ten_dimensions_are_solved_to_1e_9() {
    let sphere = solve("sphere", 10, 10, Covariance::Full, 300).unwrap();
    let isotropic = solve("sphere", 10, 10, Covariance::Isotropic, 300).unwrap();
    assert!(sphere.abs_diff(isotropic) < 60, "{sphere} {isotropic}");
    solve("ellipsoid", 10, 10, Covariance::Full, 900).unwrap();
    solve("rosenbrock", 10, 10, Covariance::Full, 1200).unwrap();
    // along the axes the diagonal is enough, and quicker; one step size for a condition of 1e6 is not
    let separable = solve("ellipsoid", 10, 10, Covariance::Separable, 400).unwrap();
    assert!(separable < 400);
    assert_eq!(solve("ellipsoid", 10, 10, Covariance::Isotropic, 900), None);
    // the local searches of FedBPT
    solve("sphere", 10, 5, Covariance::Separable, 600).unwrap();
}

/// The reason why FedBPT's full covariance, 1 MB a broadcast, is left out by default: within its budgets nothing is learnt.
#[test]
fn at_500_dimensions_the_full_covariance_is_inert() {
    const N: usize = 500;
    // 40 generations of BBT's population: the curves of full and isotropic search are the same to three digits
    let curve = |kind| {
        let constants = Constants::new(N, 20, kind).unwrap();
        let mut cma = Cma::new(vec![0.5; N], 1.0, constants).unwrap();
        let mut noise = Stream::new(3, Purpose::Test);
        let mut last = 0.0;
        for _ in 0..40 {
            let xs = cma.ask(&mut noise).unwrap();
            let fitness: Vec<f64> = xs.iter().map(|c| value("ellipsoid", &c.x)).collect();
            last = value("ellipsoid", cma.mean());
            cma.tell(xs, &fitness).unwrap();
        }
        (cma.variances(), cma.sigma(), last)
    };
    let (variances, sigma, end) = curve(Covariance::Full);
    let (_, sigma_isotropic, end_isotropic) = curve(Covariance::Isotropic);
    let change = variances.iter().map(|v| (v - 1.0).abs()).fold(0.0, f64::max);
    assert!(change < 0.02, "a variance changed by {change}");
    assert!((sigma / sigma_isotropic - 1.0).abs() < 0.01, "{sigma} {sigma_isotropic}");
    assert!((end / end_isotropic - 1.0).abs() < 0.02, "{end} {end_isotropic}");
    // and a client's 8 generations of 5 never even reach an eigendecomposition
    assert!(Constants::new(N, 5, Covariance::Full).unwrap().eigen_gap > 8.0);
}

#[test]
fn a_search_saved_and_loaded_continues_with_the_same_bits() {
    for (kind, lambda) in [(Covariance::Full, 5), (Covariance::Separable, 8), (Covariance::Isotropic, 5)] {
        let constants = Constants::new(7, lambda, kind).unwrap();
        let mut a = Cma::new(vec![0.5; 7], 0.3, constants.clone()).unwrap();
        let mut noise = SplitMix(4);
        let step = |cma: &mut Cma, noise: &mut SplitMix| {
            let xs = cma.ask(noise).unwrap();
            let fitness: Vec<f64> = xs.iter().map(|c| value("rosenbrock", &c.x)).collect();
            cma.tell(xs, &fitness).unwrap();
        };
        for _ in 0..5 {
            step(&mut a, &mut noise);
        }
        let text = serde_json::to_string(&a.state()).unwrap();
        let mut b = Cma::load(serde_json::from_str::<CmaState>(&text).unwrap(), constants).unwrap();
        let mut again = SplitMix(noise.0);
        for _ in 0..5 {
            step(&mut a, &mut noise);
            step(&mut b, &mut again);
        }
        assert_eq!(a, b, "{kind:?}");
    }
}

#[test]
fn bad_states_and_bad_generations_change_nothing() {
    let constants = Constants::new(3, 4, Covariance::Full).unwrap();
    let mut cma = Cma::new(vec![0.0; 3], 1.0, constants.clone()).unwrap();
    let mut noise = SplitMix(1);
    let xs = cma.ask(&mut noise).unwrap();
    assert!(xs.iter().all(|c| c.origin == Origin::Sampled && c.x.len() == 3) && xs.len() == 4);
    let before = cma.clone();
    assert_eq!(cma.tell(xs.clone(), &[f64::NAN; 4]), Err(CmaError::AllMissing));
    assert!(matches!(cma.tell(xs.clone(), &[1.0; 3]), Err(CmaError::Length { .. })));
    assert!(matches!(cma.tell(xs[..1].to_vec(), &[1.0]), Err(CmaError::Few { expected: 2, found: 1 })));
    let astray = vec![Candidate::foreign(vec![f64::NAN; 3]); 4];
    assert!(matches!(cma.tell(astray, &[1.0, 2.0, 3.0, 4.0]), Err(CmaError::NotFinite { .. })));
    assert_eq!(cma, before);
    // an infinite fitness is a value: the worst
    cma.tell(xs, &[1.0, f64::INFINITY, 2.0, 3.0]).unwrap();

    let good = cma.state();
    for bad in [
        CmaState { sigma: 0.0, ..good.clone() },
        CmaState { mean: vec![0.0; 2], ..good.clone() },
        CmaState { ps: vec![f64::NAN; 3], ..good.clone() },
        CmaState { mirrors: vec![vec![0.0; 4]], ..good.clone() },
    ] {
        assert!(Cma::load(bad, constants.clone()).is_err());
    }
    assert!(Cma::load(good, constants).is_ok());
    assert_eq!(Constants::new(0, 4, Covariance::Full), Err(CmaError::NoDimensions));
    assert_eq!(Constants::new(3, 1, Covariance::Full), Err(CmaError::Population { found: 1 }));
    assert!(Constants::all_parents(3, 1, Covariance::Isotropic).is_ok());
}
