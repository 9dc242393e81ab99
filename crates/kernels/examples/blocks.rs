//! Milliseconds of every block at the shape of a 15M-parameter Llama: 1024 rows in sequences of 128, width 288, 6 heads
//! of 48, feed-forward 768. `cargo run --release -p antiphon-kernels --example blocks [threads] [name]` measures the blocks whose name contains
//! `name`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints, and stops where it cannot go on"
)]

use std::time::Instant;

use antiphon_kernels::cpu::CpuBuf;
use antiphon_kernels::{
    AdamW, AttnShape, Backend, Coef, Cpu, Dropout, Dst, Gelu, Layout, Linear, Mat, Segment, Src,
};

const ROWS: usize = 1024;
const SEQUENCE: usize = 128;
const WIDTH: usize = 288;
const HEADS: usize = 6;
const HEAD_DIM: usize = 48;
const INNER: usize = 768;
const VOCAB: usize = 32_000;

fn main() {
    let threads = std::env::args().nth(1).map_or(1, |a| a.parse().unwrap());
    let cpu = Cpu::threads(threads);
    let mut state = 1u32;
    let mut buf = |len: usize| {
        let mut b = cpu.alloc(len).unwrap();
        for v in b.values_mut() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *v = (state >> 8) as f32 / 8_388_608.0 - 1.0;
        }
        b
    };
    let [x, dy, q, k, v] = std::array::from_fn(|_| buf(ROWS * WIDTH));
    let [mut y, mut dx, mut dk, mut dv] = std::array::from_fn(|_| buf(ROWS * WIDTH));
    let (gate, up, dh) = (buf(ROWS * INNER), buf(ROWS * INNER), buf(ROWS * INNER));
    let (mut h, mut dup) = (buf(ROWS * INNER), buf(ROWS * INNER));
    let (w, b, mut dw, mut stats) = (buf(WIDTH), buf(WIDTH), buf(2 * WIDTH), buf(2 * ROWS));
    let (wide, table, mut lse) = (buf(WIDTH * INNER), buf(SEQUENCE * HEAD_DIM), buf(ROWS * HEADS));
    let head = buf(VOCAB * WIDTH);
    let mut scratch = buf(cpu.linear_cross_entropy_scratch(ROWS, VOCAB));
    let (mut m, mut m2) = (buf(WIDTH * INNER), buf(WIDTH * INNER));
    m2.values_mut().iter_mut().for_each(|v| *v = v.abs());
    let mut theta = buf(WIDTH * INNER);
    let positions: Vec<u32> = (0..ROWS as u32).map(|i| i % SEQUENCE as u32).collect();
    let ids: Vec<u32> = (0..ROWS as u32).map(|i| i * 31 % VOCAB as u32).collect();
    let segments: Vec<_> = (0..ROWS / SEQUENCE).map(|i| Segment::square(i * SEQUENCE, SEQUENCE)).collect();
    let shape = AttnShape {
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        scale: (HEAD_DIM as f32).powf(-0.5),
        causal: true,
        window: None,
    };

    let (c, r, wr) = (&cpu, all, all_mut);
    time("rms_norm", || c.rms_norm(r(&x), live(&w), WIDTH, 1e-5, wr(&mut y), Dst::new(&mut stats, 0, ROWS)));
    let inv = buf_of(&cpu, &stats.values()[..ROWS]);
    time("rms_norm_grad", || {
        c.rms_norm_grad(
            r(&x),
            live(&w),
            WIDTH,
            r(&inv),
            r(&dy),
            wr(&mut dx),
            true,
            Some(Dst::new(&mut dw, 0, WIDTH)),
        );
    });
    time("layer_norm", || c.layer_norm(r(&x), live(&w), live(&b), WIDTH, 1e-5, wr(&mut y), wr(&mut stats)));
    time("layer_norm_grad", || {
        c.layer_norm_grad(
            r(&x),
            live(&w),
            WIDTH,
            r(&stats),
            r(&dy),
            wr(&mut dx),
            true,
            Some((&mut dw, 0, WIDTH)),
        );
    });
    time("rope", || c.rope(wr(&mut y), HEADS, HEAD_DIM, &positions, r(&table), false));
    time("attention", || c.attention(r(&q), r(&k), r(&v), &segments, shape, wr(&mut y), wr(&mut lse)));
    time("attention_grad", || {
        let (a, b, d) = (wr(&mut dx), wr(&mut dk), wr(&mut dv));
        c.attention_grad(r(&q), r(&k), r(&v), r(&y), r(&lse), r(&dy), &segments, shape, a, b, d);
    });
    time("swiglu", || c.swiglu(r(&gate), r(&up), wr(&mut h)));
    let mut dgate = buf_of(&cpu, h.values());
    time("swiglu_grad", || c.swiglu_grad(r(&gate), r(&up), r(&dh), wr(&mut dgate), wr(&mut dup)));
    for kind in [Gelu::Tanh, Gelu::Erf] {
        time(&format!("gelu {kind:?}"), || c.gelu(kind, r(&gate), wr(&mut h)));
        time(&format!("gelu_grad {kind:?}"), || c.gelu_grad(kind, r(&gate), r(&up), wr(&mut h)));
    }
    let mask = Dropout { key: [1, 2], high: 3, p: 0.1 };
    time("dropout", || c.dropout(r(&x), mask, wr(&mut y), false));
    time("axpy", || c.axpy(0.5, r(&x), wr(&mut y), true));
    time("embedding", || c.embedding(&ids, live(&head), WIDTH, wr(&mut y), false));
    let mut dtable = buf_of(&cpu, head.values());
    time("embedding_grad", || c.embedding_grad(&ids, r(&dy), WIDTH, wr(&mut dtable)));
    let up_map = Linear { w: live(&wide), bias: None, d_in: WIDTH, d_out: INNER, layout: Layout::OutIn };
    time("linear 288 to 768", || c.linear(r(&x), up_map, wr(&mut h), false));
    time("linear_dx 288 to 768", || c.linear_dx(r(&dh), up_map, wr(&mut dx), false));
    let mut logits = buf_of(&cpu, &scratch.values()[..256 * VOCAB]);
    let labels = &ids[..256];
    time("cross_entropy 256 x 32000", || {
        c.cross_entropy(wr(&mut logits), VOCAB, labels, Coef::Uniform(1.0), true, None);
    });
    let map = Linear { w: live(&head), bias: None, d_in: WIDTH, d_out: VOCAB, layout: Layout::OutIn };
    time("linear_cross_entropy 1024", || {
        let to = Some(wr(&mut dx));
        c.linear_cross_entropy(r(&x), map, &ids, Coef::Uniform(1.0), wr(&mut scratch), to, None, None);
    });
    let hyper = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 7 };
    time("adamw 221k", || c.adamw(wr(&mut theta), r(&wide), wr(&mut m), wr(&mut m2), hyper));
    time("sum_squares 221k", || {
        c.sum_squares(r(&wide));
    });
}

fn all(b: &CpuBuf) -> Src<'_, CpuBuf> {
    Src::new(b, 0, b.values().len())
}

fn all_mut(b: &mut CpuBuf) -> Dst<'_, CpuBuf> {
    let len = b.values().len();
    Dst::new(b, 0, len)
}

fn live(b: &CpuBuf) -> Mat<'_, Cpu> {
    Mat::Live(all(b))
}

fn buf_of(cpu: &Cpu, values: &[f32]) -> CpuBuf {
    let mut b = cpu.alloc(values.len()).unwrap();
    b.values_mut().copy_from_slice(values);
    b
}

/// Prints the best of many runs: the machine is shared.
fn time(name: &str, mut f: impl FnMut()) {
    if std::env::args().nth(2).is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let mut best = f64::INFINITY;
    let start = Instant::now();
    for i in 0.. {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
        if i >= 5 && start.elapsed().as_secs_f64() > 0.25 {
            break;
        }
    }
    println!("{name:28} {:8.3} ms", best * 1e3);
}
