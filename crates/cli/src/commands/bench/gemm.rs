//! `antiphon bench gemm`: matrix products of a training step, beside the rate at which this machine multiplies and adds.

use std::time::{Duration, Instant};

use antiphon_core::{Purpose, Stream};
use antiphon_kernels::Pool;
use antiphon_kernels::gemm::{Elems, Operand, gemm, measure_peak, profile};
use serde::Serialize;

use crate::args::BenchGemm;
use crate::error::{Failure, Kind};

/// Which operand lies transposed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Layout {
    /// `A Bᵀ`: a linear map forward.
    Nt,
    /// `A B`: the gradient of its input.
    Nn,
    /// `Aᵀ B`: the gradient of its weight.
    Tn,
}

/// `what`, `m`, `k`, `n`.
type Case = (&'static str, usize, usize, usize, Layout);

/// Products of models of 15 M (S) and 135 M (M) parameters with 1024 tokens in a step.
const SHAPES: [Case; 14] = [
    ("square", 2048, 2048, 2048, Layout::Nt),
    ("S attention", 1024, 288, 288, Layout::Nt),
    ("S gate, up", 1024, 288, 768, Layout::Nt),
    ("S down", 1024, 768, 288, Layout::Nt),
    ("S head, 256 rows", 256, 288, 32_000, Layout::Nt),
    ("S head backward", 256, 32_000, 288, Layout::Nn),
    ("M query", 1024, 576, 576, Layout::Nt),
    ("M key, value", 1024, 576, 192, Layout::Nt),
    ("M gate, up", 1024, 576, 1536, Layout::Nt),
    ("M down", 1024, 1536, 576, Layout::Nt),
    ("M down weight", 576, 1024, 1536, Layout::Tn),
    ("LoRA in", 1024, 576, 8, Layout::Nt),
    ("LoRA out", 1024, 8, 576, Layout::Nt),
    ("M down, one token", 1, 1536, 576, Layout::Nt),
];

/// Passes over all shapes, so that a disturbance of the machine falls on all of them.
const PASSES: usize = 4;
/// Time of one shape in one pass.
const BUDGET: Duration = Duration::from_millis(60);

/// What is printed.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    threads: usize,
    kernel_profile: String,
    peak_gflops: f64,
    shapes: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    what: &'static str,
    m: usize,
    k: usize,
    n: usize,
    layout: Layout,
    best_gflops: f64,
    median_gflops: f64,
    /// Of the best.
    peak_fraction: f64,
}

/// One product with its operands.
pub(super) struct Product {
    m: usize,
    k: usize,
    n: usize,
    layout: Layout,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Product {
    /// `A Bᵀ` of the shape of a small model's feed-forward map, for loops of nothing else.
    pub(super) fn typical() -> Self {
        Self::new(1024, 288, 768, Layout::Nt)
    }

    fn new(m: usize, k: usize, n: usize, layout: Layout) -> Self {
        let mut stream = Stream::new(0, Purpose::Synthesis);
        let mut values = |len: usize| (0..len).map(|_| stream.uniform_f32() - 0.5).collect();
        Self { m, k, n, layout, a: values(m * k), b: values(k * n), c: vec![0.0; m * n] }
    }

    /// Floating point operations, two to a multiply-add.
    pub(super) fn flop(&self) -> f64 {
        2.0 * (self.m * self.k * self.n) as f64
    }

    /// Multiplies once; gives the seconds.
    pub(super) fn once(&mut self, pool: &Pool) -> f64 {
        let (m, k, n) = (self.m, self.k, self.n);
        let (a, b) = (Elems::F32(&self.a), Elems::F32(&self.b));
        let a = match self.layout {
            Layout::Tn => Operand { data: a, rs: 1, cs: m },
            _ => Operand { data: a, rs: k, cs: 1 },
        };
        let b = match self.layout {
            Layout::Nt => Operand { data: b, rs: 1, cs: k },
            _ => Operand { data: b, rs: n, cs: 1 },
        };
        let start = Instant::now();
        gemm(pool, m, n, k, 1.0, a, b, false, &mut self.c, n);
        start.elapsed().as_secs_f64()
    }
}

pub(super) fn run(a: &BenchGemm) -> Result<Report, Failure> {
    if a.threads == 0 {
        return Err(Failure::new(Kind::Usage, "--threads 0: expected 1 or more"));
    }
    let pool = Pool::new(a.threads);
    let mut cases: Vec<(Product, Vec<f64>)> =
        SHAPES.iter().map(|&(_, m, k, n, layout)| (Product::new(m, k, n, layout), Vec::new())).collect();
    let mut peak = 0.0_f64;
    for _ in 0..PASSES {
        peak = peak.max(measure_peak(&pool));
        for (product, times) in &mut cases {
            product.once(&pool);
            let (begun, before) = (Instant::now(), times.len());
            while times.len() < before + 3 || begun.elapsed() < BUDGET {
                times.push(product.once(&pool));
            }
        }
    }
    let line = |((what, ..), (p, times)): (&Case, &mut (Product, Vec<f64>))| {
        times.sort_by(f64::total_cmp);
        let (best, median) = (p.flop() / times[0], p.flop() / times[times.len() / 2]);
        Line {
            what,
            m: p.m,
            k: p.k,
            n: p.n,
            layout: p.layout,
            best_gflops: best / 1e9,
            median_gflops: median / 1e9,
            peak_fraction: best / peak,
        }
    };
    let shapes = SHAPES.iter().zip(&mut cases).map(line).collect();
    Ok(Report { threads: a.threads, kernel_profile: profile(), peak_gflops: peak / 1e9, shapes })
}

/// A line a shape.
#[allow(clippy::print_stdout, reason = "the result of the command")]
pub(super) fn show(r: &Report) {
    println!(
        "{} on {} threads; multiply-adds alone: {:.0} GFLOP/s",
        r.kernel_profile, r.threads, r.peak_gflops
    );
    println!(
        "{:<18} {:>6} {:>6} {:>6}     {:>8} {:>8} {:>7}",
        "", "m", "k", "n", "best", "median", "of peak"
    );
    for l in &r.shapes {
        println!(
            "{:<18} {:>6} {:>6} {:>6} {} {:>8.1} {:>8.1} {:>6.0} %",
            l.what,
            l.m,
            l.k,
            l.n,
            format!("{:?}", l.layout).to_lowercase(),
            l.best_gflops,
            l.median_gflops,
            100.0 * l.peak_fraction
        );
    }
}
