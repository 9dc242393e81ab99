//! Real checkpoints from the shared folder: logits against `expected.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use antiphon_kernels::{Backend, Cpu, Dst};
use antiphon_model::{Checkpoint, Mode, Net, Shape, Task, Weights, Wiring};
use serde::Deserialize;

use crate::common::download;

#[derive(Deserialize)]
struct Expected {
    ids: Vec<u32>,
    last_logits: Vec<f32>,
}

/// The folder of a shared model, or a message and `None`.
pub(crate) fn model(name: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("ANTIPHON_SHARED") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let dir = root.join("data/models").join(name);
    if !dir.is_dir() {
        println!("skipped: no {} (ANTIPHON_SHARED names the shared folder)", dir.display());
        return None;
    }
    Some(dir)
}

/// The untuned model on one thread.
pub(crate) fn open(dir: &Path, max_len: usize) -> Net<Cpu> {
    let b = Cpu::serial();
    let checkpoint = Checkpoint::open(dir).unwrap();
    let weights = Weights::load(&b, checkpoint.spec(), Task::CausalLm, &checkpoint).unwrap();
    Net::new(&b, weights, Task::CausalLm, Arc::new(Wiring::default()), max_len).unwrap()
}

fn last_logits(net: &Net<Cpu>, ids: &[u32]) -> Vec<f32> {
    let b = Cpu::serial();
    let params = b.alloc(0).unwrap();
    let shape = Shape { tokens: ids.len(), segments: 1, labelled: 1 };
    let mut ws = net.workspace(&b, shape, Mode::Infer).unwrap();
    let mut batch = net.batch();
    batch.push_tokens(ids).unwrap();
    net.forward(&b, &params, &batch, &mut ws, None).unwrap();
    let mut out = b.alloc(net.spec().vocab).unwrap();
    let len = b.len(&out);
    net.logits(&b, &params, &batch, batch.last_rows(), &mut ws, Dst::new(&mut out, 0, len)).unwrap();
    download(&b, &out)
}

#[test]
fn logits_of_real_models_are_those_computed_in_binary64() {
    for name in ["stories260k-hf", "tinystories-656k"] {
        let Some(dir) = model(name) else { return };
        let expected: Expected =
            serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let logits = last_logits(&open(&dir, expected.ids.len()), &expected.ids);
        assert_eq!(logits.len(), expected.last_logits.len());
        let worst = logits.iter().zip(&expected.last_logits).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        println!("{name}: greatest difference {worst:e}");
        assert!(worst <= 1e-4, "{name}: {worst:e}");
    }
}

#[test]
fn an_untrained_model_with_an_untied_head_loads_and_runs() {
    let Some(dir) = model("llama-2m-fresh") else { return };
    let logits = last_logits(&open(&dir, 8), &[1, 5, 900, 7]);
    assert_eq!(logits.len(), 1024);
    assert!(logits.iter().all(|v| v.is_finite()) && logits.iter().any(|v| *v != 0.0));
}
