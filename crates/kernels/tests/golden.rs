//! Both backends against PyTorch, transformers and peft (`golden/blocks.py`), forward and all gradients.

#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

mod suite;

use std::collections::BTreeSet;

use antiphon_kernels::{AdamW, AttnShape, Backend, Coef, Cpu, Gelu, Layout, Linear, Reference, Segment, Sgd};
use serde_json::Value;
use suite::{Bench, View, relative};

/// One case of the file on one backend.
struct Golden<'a, B: Backend> {
    t: Bench<'a, B>,
    name: &'a str,
    case: &'a Value,
    tolerance: f64,
    /// Outputs not yet compared.
    left: BTreeSet<&'a str>,
}

impl<'a, B: Backend> Golden<'a, B> {
    fn input(&self, name: &str) -> View<B> {
        self.t.put(&numbers::<f32>(&self.case["in"][name], |v| v as f32))
    }
    fn zeros(&self, like: &str) -> View<B> {
        self.t.put(&vec![0.0; self.case["out"][like].as_array().unwrap().len()])
    }
    fn dim(&self, name: &str) -> usize {
        self.case["dims"][name].as_u64().unwrap() as usize
    }
    fn real(&self, name: &str) -> f32 {
        self.case["dims"][name].as_f64().unwrap() as f32
    }
    fn indices(&self, name: &str) -> Vec<u32> {
        numbers(&self.case["dims"][name], |v| v as u32)
    }
    fn expect(&mut self, output: &'a str, found: &View<B>) {
        self.expect_values(output, &self.t.read(found));
    }
    fn expect_values(&mut self, output: &'a str, found: &[f64]) {
        let error = relative(found, &numbers(&self.case["out"][output], |v| v));
        assert!(error <= self.tolerance, "{} {} {output}: {error:e}", self.t.b.name(), self.name);
        assert!(self.left.remove(output), "{output} compared twice");
    }
}

fn numbers<T>(v: &Value, f: impl Fn(f64) -> T) -> Vec<T> {
    v.as_array().unwrap().iter().map(|v| f(v.as_f64().unwrap())).collect()
}

/// Runs every case of the file. `tolerance` is relative, in the Euclidean norm of an output.
fn all<B: Backend>(b: &B, tolerance: f64) {
    let file: Value = serde_json::from_str(include_str!("golden/blocks.json")).unwrap();
    let cases = file["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 20);
    for (name, case) in cases {
        let left = case["out"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut g = Golden { t: Bench { b }, name, case, tolerance, left };
        match name.as_str() {
            "tanh" | "gelu_erf" | "gelu_tanh" | "swiglu" => pointwise(&mut g),
            "rms_norm" | "layer_norm" => norm(&mut g),
            "embedding" => embedding(&mut g),
            "linear" => linear(&mut g, Layout::OutIn),
            "linear_conv1d" => linear(&mut g, Layout::InOut),
            "lora" => lora(&mut g),
            "rope" => rope(&mut g),
            "cross_entropy" => cross_entropy(&mut g),
            "linear_cross_entropy" => linear_cross_entropy(&mut g),
            "adamw" | "sgd" => optimiser(&mut g),
            other if other.starts_with("attention_") => attention(&mut g),
            other => panic!("no code for the case {other}"),
        }
        assert!(g.left.is_empty(), "{name}: {:?} not compared", g.left);
    }
}

fn pointwise<B: Backend>(g: &mut Golden<'_, B>) {
    let (b, mut y, dy) = (g.t.b, g.zeros("y"), g.input("dy"));
    if g.name == "swiglu" {
        let (gate, up) = (g.input("gate"), g.input("up"));
        let (mut dgate, mut dup) = (g.zeros("y"), g.zeros("y"));
        b.swiglu(gate.src(), up.src(), y.dst());
        b.swiglu_grad(gate.src(), up.src(), dy.src(), dgate.dst(), dup.dst());
        g.expect("dgate", &dgate);
        g.expect("dup", &dup);
        return g.expect("y", &y);
    }
    let (x, mut dx) = (g.input("x"), g.zeros("y"));
    if g.name == "tanh" {
        b.tanh(x.src(), y.dst());
        b.tanh_grad(y.src(), dy.src(), dx.dst(), false);
    } else {
        let kind = if g.name == "gelu_erf" { Gelu::Erf } else { Gelu::Tanh };
        b.gelu(kind, x.src(), y.dst());
        b.gelu_grad(kind, x.src(), dy.src(), dx.dst());
    }
    g.expect("y", &y);
    g.expect("dx", &dx);
}

fn norm<B: Backend>(g: &mut Golden<'_, B>) {
    let (b, width) = (g.t.b, g.dim("width"));
    let (x, w, dy) = (g.input("x"), g.input("w"), g.input("dy"));
    let (mut y, mut dx, mut dw) = (g.zeros("y"), g.zeros("dx"), g.zeros("dw"));
    if g.name == "rms_norm" {
        let mut inv = g.t.put(&[0.0; 3]);
        b.rms_norm(x.src(), w.live(), width, 1e-5, y.dst(), inv.dst());
        b.rms_norm_grad(x.src(), w.live(), width, inv.src(), dy.src(), dx.dst(), false, Some(dw.dst()));
        g.expect("dw", &dw);
    } else {
        let (bias, mut stats, mut grads) = (g.input("b"), g.t.put(&[0.0; 6]), g.t.put(&vec![0.0; 2 * width]));
        b.layer_norm(x.src(), w.live(), bias.live(), width, 1e-5, y.dst(), stats.dst());
        let (buf, at) = grads.buf();
        let to = Some((buf, at, at + width));
        b.layer_norm_grad(x.src(), w.live(), width, stats.src(), dy.src(), dx.dst(), false, to);
        let both = g.t.read(&grads);
        g.expect_values("dw", &both[..width]);
        g.expect_values("db", &both[width..]);
    }
    g.expect("y", &y);
    g.expect("dx", &dx);
}

fn embedding<B: Backend>(g: &mut Golden<'_, B>) {
    let (b, width, ids) = (g.t.b, g.dim("width"), g.indices("ids"));
    let (table, dy) = (g.input("table"), g.input("dy"));
    let (mut y, mut dtable) = (g.zeros("y"), g.zeros("dtable"));
    b.embedding(&ids, table.live(), width, y.dst(), false);
    b.embedding_grad(&ids, dy.src(), width, dtable.dst());
    g.expect("y", &y);
    g.expect("dtable", &dtable);
}

fn linear<B: Backend>(g: &mut Golden<'_, B>, layout: Layout) {
    let (b, d_in, d_out) = (g.t.b, g.dim("d_in"), g.dim("d_out"));
    let (x, w, bias, dy) = (g.input("x"), g.input("w"), g.input("b"), g.input("dy"));
    let map = Linear { w: w.live(), bias: Some(bias.live()), d_in, d_out, layout };
    let (mut y, mut dx, mut dw, mut db) = (g.zeros("y"), g.zeros("dx"), g.zeros("dw"), g.zeros("db"));
    b.linear(x.src(), map, y.dst(), false);
    b.linear_dx(dy.src(), map, dx.dst(), false);
    b.linear_dw(x.src(), dy.src(), d_in, d_out, layout, dw.dst());
    b.bias_grad(dy.src(), d_out, db.dst());
    for (name, view) in [("y", &y), ("dx", &dx), ("dw", &dw), ("db", &db)] {
        g.expect(name, view);
    }
}

fn lora<B: Backend>(g: &mut Golden<'_, B>) {
    let (b, d_in, d_out) = (g.t.b, g.dim("d_in"), g.dim("d_out"));
    let (rank, scale) = (g.dim("rank"), g.real("scale"));
    let [x, w, a, up, dy] = ["x", "w", "a", "b", "dy"].map(|n| g.input(n));
    let map = Linear { w: w.live(), bias: None, d_in, d_out, layout: Layout::OutIn };
    let (mut y, mut dx) = (g.zeros("y"), g.zeros("dx"));
    let [mut xa, mut dxa] = [(); 2].map(|()| g.t.put(&vec![0.0; 4 * rank]));
    b.linear(x.src(), map, y.dst(), false);
    b.lora(x.src(), a.src(), up.src(), rank, scale, xa.dst(), y.dst());
    b.linear_dx(dy.src(), map, dx.dst(), false);
    let mut grads = g.t.put(&vec![0.0; rank * (d_in + d_out)]);
    let (buf, at) = grads.buf();
    let (a_at, b_at) = (at, at + rank * d_in);
    let (xs, ds, to) = (xa.src(), dxa.dst(), Some(dx.dst()));
    b.lora_grad(x.src(), xs, dy.src(), a.src(), up.src(), rank, scale, ds, buf, a_at, b_at, to);
    let both = g.t.read(&grads);
    g.expect("y", &y);
    g.expect("dx", &dx);
    g.expect_values("da", &both[..rank * d_in]);
    g.expect_values("db", &both[rank * d_in..]);
}

fn rope<B: Backend>(g: &mut Golden<'_, B>) {
    let (b, heads, head_dim) = (g.t.b, g.dim("heads"), g.dim("head_dim"));
    let table = g.t.put(&numbers(&g.case["dims"]["table"], |v| v as f32));
    let (mut x, mut dy) = (g.input("x"), g.input("dy"));
    b.rope(x.dst(), heads, head_dim, &g.indices("positions"), table.src(), false);
    b.rope(dy.dst(), heads, head_dim, &g.indices("positions"), table.src(), true);
    g.expect("y", &x);
    g.expect("dx", &dy);
}

fn attention<B: Backend>(g: &mut Golden<'_, B>) {
    let dims = &g.case["dims"];
    let segments: Vec<Segment> = dims["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| numbers(s, |v| v as usize))
        .map(|s| Segment { q_at: s[0], q_len: s[1], k_at: s[2], k_len: s[3] })
        .collect();
    let head_dim = g.dim("head_dim");
    let shape = AttnShape {
        heads: g.dim("heads"),
        kv_heads: g.dim("kv_heads"),
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        causal: dims["causal"].as_bool().unwrap(),
        window: dims["window"].as_u64().map(|w| w as usize),
    };
    let [q, k, v, dy] = ["q", "k", "v", "dy"].map(|n| g.input(n));
    let [mut y, mut dq, mut dk, mut dv] = ["y", "dq", "dk", "dv"].map(|n| g.zeros(n));
    let mut lse = g.t.put(&vec![0.0; g.t.read(&y).len() / head_dim]);
    let (qs, ks, vs) = (q.src(), k.src(), v.src());
    g.t.b.attention(qs, ks, vs, &segments, shape, y.dst(), lse.dst());
    let (a, b, c) = (dq.dst(), dk.dst(), dv.dst());
    g.t.b.attention_grad(qs, ks, vs, y.src(), lse.src(), dy.src(), &segments, shape, a, b, c);
    for (name, view) in [("y", &y), ("dq", &dq), ("dk", &dk), ("dv", &dv)] {
        g.expect(name, view);
    }
}

fn cross_entropy<B: Backend>(g: &mut Golden<'_, B>) {
    let (labels, mut logits) = (g.indices("labels"), g.input("logits"));
    let coef: Vec<f32> = numbers(&g.case["in"]["dy"], |v| v as f32);
    let mut nll = vec![0.0; labels.len()];
    let to = Some(nll.as_mut_slice());
    g.t.b.cross_entropy(logits.dst(), g.dim("classes"), &labels, Coef::PerRow(&coef), true, to);
    g.expect_values("y", &nll.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    g.expect("dlogits", &logits);
}

fn linear_cross_entropy<B: Backend>(g: &mut Golden<'_, B>) {
    let (b, labels, d_in, d_out) = (g.t.b, g.indices("labels"), g.dim("d_in"), g.dim("classes"));
    let coef: Vec<f32> = numbers(&g.case["in"]["dy"], |v| v as f32);
    let (h, w) = (g.input("h"), g.input("w"));
    let head = Linear { w: w.live(), bias: None, d_in, d_out, layout: Layout::OutIn };
    let mut scratch = g.t.put(&vec![0.0; b.linear_cross_entropy_scratch(labels.len(), d_out)]);
    let (mut dh, mut dw, mut nll) = (g.zeros("dh"), g.zeros("dw"), vec![0.0; labels.len()]);
    let (to_h, to_w, to) = (Some(dh.dst()), Some(dw.dst()), Some(nll.as_mut_slice()));
    b.linear_cross_entropy(h.src(), head, &labels, Coef::PerRow(&coef), scratch.dst(), to_h, to_w, to);
    g.expect_values("y", &nll.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    g.expect("dh", &dh);
    g.expect("dw", &dw);
}

fn optimiser<B: Backend>(g: &mut Golden<'_, B>) {
    let (b, mut theta) = (g.t.b, g.input("theta"));
    let grads: Vec<f32> = numbers(&g.case["in"]["grads"], |v| v as f32);
    let [mut m, mut v] = [(); 2].map(|()| g.zeros("theta"));
    // PyTorch's own numbers are rounded to binary32 at each of ten steps
    g.tolerance = 1e-6;
    let (lr, weight_decay) = (g.real("lr"), g.real("weight_decay"));
    for (step, grad) in (1..).zip(grads.chunks_exact(grads.len() / 10)) {
        let grad = g.t.put(grad);
        if g.name == "adamw" {
            let (beta1, beta2, eps) = (g.real("beta1"), g.real("beta2"), g.real("eps"));
            let hyper = AdamW { lr, beta1, beta2, eps, weight_decay, step };
            b.adamw(theta.dst(), grad.src(), m.dst(), v.dst(), hyper);
        } else {
            let hyper = Sgd { lr, momentum: g.real("momentum"), weight_decay };
            b.sgd(theta.dst(), grad.src(), Some((m.dst(), step == 1)), hyper);
        }
    }
    g.expect("theta", &theta);
    if g.name == "adamw" {
        g.expect("m", &m);
        g.expect("v", &v);
    } else {
        g.expect("b", &m);
    }
}

#[test]
fn reference_agrees_with_pytorch() {
    all(&Reference, 1e-7);
}

#[test]
fn cpu_agrees_with_pytorch() {
    all(&Cpu::serial(), 2e-6);
}
