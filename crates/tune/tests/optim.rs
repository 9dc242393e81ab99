//! Trajectories of torch's optimisers and transformers' schedules (`golden/optim.py`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use antiphon_kernels::{Backend, Cpu, Dst, Reference, Src};
use antiphon_tune::optim::{self, OPTIMIZERS, Vectors, clip_global_norm};
use antiphon_tune::schedule::{self, Position};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/optim.json")).unwrap()
}

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn table(id: &Value, settings: &Value) -> toml::Table {
    let mut t = toml::Table::try_from(settings).unwrap();
    t.insert("id".into(), id.as_str().unwrap().into());
    t
}

fn trajectories<B: Backend>(b: &B, tolerance: f32) {
    let g = golden();
    let start = floats(&g["start"]);
    let n = start.len();
    let cases = g["optimizers"].as_array().unwrap();
    for case in cases {
        let rule = optim::build(&table(&case["id"], &case["settings"])).unwrap();
        let mut vectors = Vectors::new(b, n, rule.slots().len()).unwrap();
        b.upload(&start, Dst::new(&mut vectors.theta, 0, n)).unwrap();
        let mut theta = vec![0.0; n];
        let mut norms = case["norms"].as_array().unwrap().iter();
        for (i, grad) in g["grads"].as_array().unwrap().iter().enumerate() {
            b.upload(&floats(grad), Dst::new(&mut vectors.grad, 0, n)).unwrap();
            let max = case["max_norm"].as_f64().map(|m| m as f32);
            let norm = clip_global_norm(b, &mut vectors.grad, n, max);
            if let Some(theirs) = norms.next() {
                let theirs = theirs.as_f64().unwrap();
                assert!((norm / theirs - 1.0).abs() < 1e-6, "{norm} {theirs}");
            }
            let lr = g["lrs"][i].as_f64().unwrap() as f32;
            vectors.step(b, &*rule, lr, i as u64 + 1);
            b.download(Src::new(&vectors.theta, 0, n), &mut theta).unwrap();
            for (ours, theirs) in theta.iter().zip(floats(&case["theta"][i])) {
                let scale = theirs.abs().max(1.0);
                assert!((ours - theirs).abs() <= tolerance * scale, "{case} step {i}: {ours} {theirs}");
            }
        }
    }
    assert_eq!(cases.len(), 5);
}

#[test]
fn optimisers_follow_torch() {
    trajectories(&Cpu::serial(), 2e-6);
    trajectories(&Reference, 2e-6);
}

#[test]
fn schedules_follow_transformers_after_the_warm_up() {
    let g = golden();
    for case in g["schedules"].as_array().unwrap() {
        let (total, w) = (case["total"].as_u64().unwrap() as u32, case["warmup"].as_u64().unwrap() as u32);
        let build = |warmup: u32| {
            let mut t: toml::Table = format!("over = 'round'\nwarmup_steps = {warmup}").parse().unwrap();
            t.insert("id".into(), case["id"].as_str().unwrap().into());
            if let Some(floor) = case["min_ratio"].as_f64() {
                t.insert("min_ratio".into(), floor.into());
            }
            schedule::build(&t).unwrap()
        };
        let at = |step| Position { round: 0, rounds: 1, step, steps: total };
        let theirs = floats(&case["factor"]);
        let (same, shifted) = (build(w), build(w - 1));
        for step in 0..total {
            let ours = if step < w {
                // their ramp is ours one step later, of a warm-up one shorter
                if step == 0 { 0.0 } else { shifted.factor(at(step - 1)) }
            } else {
                same.factor(at(step))
            };
            assert!((ours as f32 - theirs[step as usize]).abs() < 1e-6, "{case} step {step}: {ours}");
        }
    }
}

/// Laws over the registry.
#[test]
fn a_zero_gradient_on_zero_state_changes_nothing_and_state_decides_the_rest() {
    let b = Cpu::serial();
    let start = [0.5f32, -1.25, 2.0, 8.0, -0.125];
    let n = start.len();
    for entry in OPTIMIZERS {
        let mut t = toml::Table::new();
        t.insert("id".into(), entry.id.into());
        let rule = optim::build(&t).unwrap();
        assert_eq!(rule.id(), entry.id);
        let again = optim::build(&rule.settings().unwrap()).unwrap();
        assert_eq!(again.settings().unwrap(), rule.settings().unwrap());

        let read = |v: &Vectors<Cpu>| {
            let mut out = vec![0.0; n];
            b.download(Src::new(&v.theta, 0, n), &mut out).unwrap();
            out
        };
        let mut a = Vectors::new(&b, n, rule.slots().len()).unwrap();
        b.upload(&start, Dst::new(&mut a.theta, 0, n)).unwrap();
        a.step(&b, &*rule, 0.1, 1);
        assert_eq!(read(&a), start, "{}", entry.id);

        // half-way state moved to other vectors continues with the same bits
        let grad = [0.3f32, -0.1, 0.7, 2.0, -5.0];
        b.upload(&grad, Dst::new(&mut a.grad, 0, n)).unwrap();
        a.step(&b, &*rule, 0.1, 2);
        let state = a.state(&b, 2).unwrap();
        let mut c = Vectors::new(&b, n, rule.slots().len()).unwrap();
        c.set_state(&b, Some(&state)).unwrap();
        b.upload(&read(&a), Dst::new(&mut c.theta, 0, n)).unwrap();
        b.upload(&grad, Dst::new(&mut c.grad, 0, n)).unwrap();
        a.step(&b, &*rule, 0.05, 3);
        c.step(&b, &*again, 0.05, 3);
        assert_eq!(read(&a), read(&c), "{}", entry.id);
        assert_ne!(read(&a), start);
    }
}
