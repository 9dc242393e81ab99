//! A block that has run once allocates nothing when it runs again. Alone in its binary, because it counts the
//! allocations of the process.

#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

mod suite;

use antiphon_kernels::counting::{Counting, allocations};
use antiphon_kernels::{
    AdamW, AttnShape, Backend, Coef, Cpu, DType, Dropout, Gelu, Layout, Linear, Mat, Segment, Sgd,
};
use suite::{Bench, below};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_block_allocates_after_its_first_use() {
    let cpu = Cpu::serial();
    let (b, t) = (&cpu, Bench { b: &cpu });
    let (n, heads, kv_heads, head_dim, inner, vocab, rank) = (70, 4, 2, 20, 96, 50, 4);
    let (width, narrow) = (heads * head_dim, kv_heads * head_dim);
    let [x, dy, q] = ["x", "dy", "q"].map(|name| t.random(name, n * width));
    let [k, v] = ["k", "v"].map(|name| t.random(name, n * narrow));
    let [mut y, mut dx, mut dq] = ["y", "dx", "dq"].map(|name| t.random(name, n * width));
    let [mut dk, mut dv] = ["dk", "dv"].map(|name| t.random(name, n * narrow));
    let (mut stats, mut lse) = (t.random("stats", 2 * n), t.random("lse", n * heads));
    let w = t.freeze(&suite::normal("w", width), DType::Bf16, 3);
    let mut dwb = t.random("dwb", 2 * width);
    let wide = t.freeze(&suite::normal("wide", inner * width), DType::F16, 1);
    let (mut h, mut dwide) = (t.random("h", n * inner), t.random("dwide", inner * width));
    let head = t.random("head", vocab * width);
    let mut dhead = t.random("dhead", vocab * width);
    let mut scratch = t.random("scratch", b.linear_cross_entropy_scratch(n, vocab));
    let (la, lb) = (t.random("la", rank * width), t.random("lb", width * rank));
    let [mut xa, mut dxa] = ["xa", "dxa"].map(|name| t.random(name, n * rank));
    let mut lgrads = t.random("lgrads", 2 * rank * width);
    let [mut theta, mut m, mut m2] = ["theta", "m", "m2"].map(|name| t.random(name, n * width));
    let table = t.random("table", 80 * head_dim);
    let positions: Vec<u32> = (0..n as u32).collect();
    let ids = below("ids", n, vocab as u64);
    let mut nll = vec![0.0; n];
    let segments = [Segment::square(0, 33), Segment::square(33, 30)];
    let shape = AttnShape { heads, kv_heads, head_dim, scale: 0.2, causal: true, window: Some(40) };
    let map = Linear { w: Mat::Frozen(&wide), bias: None, d_in: width, d_out: inner, layout: Layout::OutIn };
    let to_logits = Linear { w: head.live(), bias: None, d_in: width, d_out: vocab, layout: Layout::OutIn };
    let mask = Dropout { key: [1, 2], high: 3, p: 0.1 };
    let adamw = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, step: 3 };
    let sgd = Sgd { lr: 1e-3, momentum: 0.9, weight_decay: 0.0 };
    let w = Mat::<Cpu>::Frozen(&w);

    let mut every_block = || {
        b.embedding(&ids, head.live(), width, y.dst(), false);
        b.embedding_grad(&ids, dy.src(), width, dhead.dst());
        b.layer_norm(x.src(), w, w, width, 1e-5, y.dst(), stats.dst());
        let (buf, at) = dwb.buf();
        b.layer_norm_grad(
            x.src(),
            w,
            width,
            stats.src(),
            dy.src(),
            dx.dst(),
            true,
            Some((buf, at, at + width)),
        );
        b.rope(y.dst(), heads, head_dim, &positions, table.src(), false);
        b.attention(q.src(), k.src(), v.src(), &segments, shape, y.dst(), lse.dst());
        let (ys, ls, ds) = (y.src(), lse.src(), dy.src());
        let (gq, gk, gv) = (dq.dst(), dk.dst(), dv.dst());
        b.attention_grad(q.src(), k.src(), v.src(), ys, ls, ds, &segments, shape, gq, gk, gv);
        b.linear(x.src(), map, h.dst(), false);
        b.linear_dx(h.src(), map, dx.dst(), true);
        b.linear_dw(x.src(), h.src(), width, inner, Layout::OutIn, dwide.dst());
        b.lora(x.src(), la.src(), lb.src(), rank, 2.0, xa.dst(), y.dst());
        let (buf, at) = lgrads.buf();
        let (gx, gxa) = (Some(dx.dst()), dxa.dst());
        let (xs, as_, bs) = (x.src(), la.src(), lb.src());
        b.lora_grad(xs, xa.src(), dy.src(), as_, bs, rank, 2.0, gxa, buf, at, at + rank * width, gx);
        b.gelu(Gelu::Erf, x.src(), y.dst());
        b.gelu_grad(Gelu::Tanh, x.src(), dy.src(), dx.dst());
        b.swiglu(x.src(), dy.src(), y.dst());
        b.tanh(x.src(), y.dst());
        b.dropout(x.src(), mask, y.dst(), false);
        b.axpy(0.5, x.src(), y.dst(), true);
        b.mean_pool(x.src(), &segments, width, theta.dst_of(2 * width));
        let (s, to_h, to_w) = (scratch.dst(), Some(dx.dst()), Some(dhead.dst()));
        let coef = Coef::Uniform(0.1);
        b.linear_cross_entropy(x.src(), to_logits, &ids, coef, s, to_h, to_w, Some(&mut nll));
        b.adamw(theta.dst(), x.src(), m.dst(), m2.dst(), adamw);
        b.sgd(theta.dst(), x.src(), Some((m.dst(), false)), sgd);
        b.sum_squares(x.src())
    };
    every_block();
    every_block();
    let before = allocations();
    every_block();
    assert_eq!(allocations() - before, 0);
}
