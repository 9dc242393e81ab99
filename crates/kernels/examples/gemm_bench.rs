//! Times the matrix product on the shapes of a training step.
//!
//!     cargo run --release -p antiphon-kernels --example gemm_bench -- [threads] [rounds] [avx512|avx2|portable]
//!     … gemm_bench -- THREADS serve        one line `m k n layout milliseconds` in, one line `best median` out
//!
//! A layout is `nt`, `nn` or `tn`: which operand lies transposed. The shapes are visited in turn, round after round, so
//! that a disturbance of the machine falls on all of them; `best` is what the code can do, `median` what it did.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use antiphon_kernels::Pool;
use antiphon_kernels::gemm::{Elems, Isa, Operand, gemm_on, measure_peak, packing_bytes, profile};

/// `m k n layout`, of models of 15M and 135M parameters with 1024 tokens in a step.
const SHAPES: [&str; 26] = [
    "2048 2048 2048 nt",
    "1024 288 288 nt",
    "1024 288 768 nt",
    "1024 768 288 nt",
    "1024 288 32000 nt",
    "1024 32000 288 nn",
    "256 288 32000 nt",
    "256 32000 288 nn",
    "1024 576 576 nt",
    "1024 576 192 nt",
    "1024 576 1536 nt",
    "1024 1536 576 nt",
    "1024 576 49152 nt",
    "1024 49152 576 nn",
    "576 1024 1536 tn",
    "1024 576 8 nt",
    "1024 8 576 nt",
    "1024 8 576 nn",
    "1024 576 8 nn",
    "8 1024 576 tn",
    "576 1024 8 tn",
    "1 288 768 nt",
    "1 576 1536 nt",
    "4 576 1536 nt",
    "8 576 1536 nt",
    "1 288 32000 nt",
];

struct Case {
    m: usize,
    k: usize,
    n: usize,
    layout: String,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Case {
    fn parse(words: &[&str]) -> Self {
        let [m, k, n, layout] = words else { panic!("expected `m k n layout`, found {words:?}") };
        let [m, k, n] = [m, k, n].map(|s| s.parse().expect("a size"));
        let values = |len: usize| (0..len).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        Self { m, k, n, layout: (*layout).to_owned(), a: values(m * k), b: values(k * n), c: values(m * n) }
    }

    fn once(&mut self, isa: Isa, pool: &Pool) -> Duration {
        let (m, n, k) = (self.m, self.n, self.k);
        let a = Operand { data: Elems::F32(&self.a), rs: k, cs: 1 };
        let a = if self.layout == "tn" { Operand { rs: 1, cs: m, ..a } } else { a };
        let b = Operand { data: Elems::F32(&self.b), rs: n, cs: 1 };
        let b = if self.layout == "nt" { Operand { rs: 1, cs: k, ..b } } else { b };
        let start = Instant::now();
        gemm_on(isa, pool, m, n, k, 1.0, a, b, false, &mut self.c, n);
        start.elapsed()
    }

    /// Repeats for `budget`, at least three times.
    fn times(&mut self, isa: Isa, pool: &Pool, budget: Duration) -> Vec<f64> {
        self.once(isa, pool);
        let start = Instant::now();
        let mut times = Vec::new();
        while times.len() < 3 || start.elapsed() < budget {
            times.push(self.once(isa, pool).as_secs_f64());
        }
        times
    }

    fn gflop(&self) -> f64 {
        2e-9 * (self.m * self.n * self.k) as f64
    }
}

/// Best and median.
fn summary(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

fn serve(pool: &Pool) {
    let mut case: Option<(String, Case)> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        let (ms, shape) = words.split_last().expect("`m k n layout milliseconds`");
        if case.as_ref().is_none_or(|(name, _)| *name != shape.join(" ")) {
            case = Some((shape.join(" "), Case::parse(shape)));
        }
        let budget = Duration::from_millis(ms.parse().expect("milliseconds"));
        let (best, median) = summary(&mut case.as_mut().unwrap().1.times(Isa::detect(), pool, budget));
        println!("{best:e} {median:e}");
        std::io::stdout().flush().expect("a reader");
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| args.get(i).map_or(default, |s: &String| s.parse().expect("a number"));
    let pool = Pool::new(number(0, 1));
    if args.get(1).is_some_and(|s| s == "serve") {
        return serve(&pool);
    }
    let isa = match args.get(2).map(String::as_str) {
        None => Isa::detect(),
        Some("avx512") => Isa::Avx512,
        Some("avx2") => Isa::Avx2,
        Some("portable") => Isa::Portable,
        Some(other) => panic!("no instruction set {other}; known: avx512, avx2, portable"),
    };
    let peak = measure_peak(&pool) / 1e9;
    println!("{} on {} threads, {peak:.0} GFLOP/s at most", profile(), pool.threads());
    let mut cases: Vec<_> = SHAPES.iter().map(|s| Case::parse(&s.split(' ').collect::<Vec<_>>())).collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for _ in 0..number(1, 5) {
        for (case, times) in cases.iter_mut().zip(&mut times) {
            times.extend(case.times(isa, &pool, Duration::from_millis(60)));
        }
    }
    for ((case, shape), times) in cases.iter().zip(SHAPES).zip(&mut times) {
        let (best, median) = summary(times);
        let (best, median) = (case.gflop() / best, case.gflop() / median);
        println!("{shape:20} best {best:6.1} ({:3.0} %)  median {median:6.1}", 100.0 * best / peak);
    }
    println!("{} KB of packing buffers", packing_bytes() / 1024);
}
