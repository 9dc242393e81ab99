//! Bottleneck adapters as files: what AdapterHub's `adapters` wrote (`tests/golden/net/houlsby.py`), our own back again, and what is
//! refused.

#![allow(clippy::unwrap_used, reason = "test helpers outside of test functions")]

use std::path::{Path, PathBuf};

use antiphon_model::adapter::{self, About};
use antiphon_model::export::{Precision, write_model};
use antiphon_model::{Adapter, Base, Branch, Checkpoint, Task};
use safetensors::SafeTensors;
use serde_json::{Value, json};

fn llama() -> (PathBuf, Checkpoint) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/net/llama");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    (dir, checkpoint)
}

fn golden() -> (Adapter, Checkpoint) {
    let (dir, checkpoint) = llama();
    (adapter::read(&dir.join("houlsby-adapter"), checkpoint.spec()).unwrap(), checkpoint)
}

#[test]
fn what_adapters_wrote_is_read_tensor_by_tensor() {
    let (dir, _) = llama();
    let (adapter, _) = golden();
    let places: Vec<_> = adapter.wiring.bottlenecks.iter().map(|(&at, b)| (at, b.width)).collect();
    let both = |layer| [((layer, Branch::Attention), 5), ((layer, Branch::Mlp), 5)];
    assert_eq!(places, [both(0), both(1)].concat());
    let bytes = std::fs::read(dir.join("houlsby.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (tensor, range) in adapter.wiring.schema.iter() {
        let start = file.tensor(&format!("start.{}", tensor.name)).unwrap();
        let values: Vec<f32> =
            start.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(
            (start.shape(), &adapter.theta[range]),
            (&tensor.shape[..], &values[..]),
            "{}",
            tensor.name
        );
    }
    assert_eq!(adapter.about.task, Task::CausalLm);
}

#[test]
fn what_is_written_reads_back_and_has_the_settings_that_adapters_wrote() {
    let (adapter, checkpoint) = golden();
    let to = tempfile::tempdir().unwrap();
    let about = About { base_model: "somewhere".into(), task: Task::CausalLm, labels: Vec::new() };
    adapter::write(to.path(), checkpoint.spec(), &adapter.wiring, &adapter.theta, &about, None).unwrap();
    let again = adapter::read(to.path(), checkpoint.spec()).unwrap();
    assert_eq!((again.wiring, again.theta, again.about), (adapter.wiring, adapter.theta, about));
    let config = |dir: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
    };
    let (ours, theirs) = (config(to.path()), config(&llama().0.join("houlsby-adapter")));
    for (key, value) in ours["config"].as_object().unwrap() {
        let same = match (value.as_f64(), theirs["config"][key].as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => *value == theirs["config"][key],
        };
        assert!(same, "{key}: {value}, adapters wrote {}", theirs["config"][key]);
    }
    for key in ["hidden_size", "model_type", "model_class", "name", "version"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
}

#[test]
fn other_adapters_of_adapterhub_are_refused_with_the_key() {
    let (_, checkpoint) = llama();
    let from = llama().0.join("houlsby-adapter");
    let refused = |change: &dyn Fn(&mut Value)| {
        let to = tempfile::tempdir().unwrap();
        std::fs::copy(from.join("adapter.safetensors"), to.path().join("adapter.safetensors")).unwrap();
        let text = std::fs::read(from.join("adapter_config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        change(&mut config);
        std::fs::write(to.path().join("adapter_config.json"), config.to_string()).unwrap();
        adapter::read(to.path(), checkpoint.spec()).unwrap_err().to_string()
    };
    let swish = refused(&|c| c["config"]["non_linearity"] = json!("swish"));
    assert!(swish.contains("config.non_linearity") && swish.contains("gelu"), "{swish}");
    let gated = refused(&|c| c["config"]["use_gating"] = json!(true));
    assert!(gated.contains("config.use_gating"), "{gated}");
    let unsaid = refused(&|c| drop(c["config"].as_object_mut().unwrap().remove("non_linearity")));
    assert!(unsaid.contains("nothing"), "{unsaid}");
}

#[test]
fn a_model_of_another_width_and_a_merge_are_refused() {
    let (dir, _) = llama();
    let bert = Checkpoint::open(&dir.with_file_name("bert")).unwrap();
    let refused = adapter::read(&dir.join("houlsby-adapter"), bert.spec()).unwrap_err().to_string();
    assert!(refused.contains("bert.encoder.layer.0"), "{refused}");
    let (adapter, _) = golden();
    let base = Base::open(dir.to_str().unwrap(), 0).unwrap();
    let to = tempfile::tempdir().unwrap();
    let (wiring, theta) = (&adapter.wiring, &adapter.theta);
    let refused = write_model(to.path(), &base, wiring, theta, &adapter.about, Precision::F32).unwrap_err();
    assert!(refused.to_string().contains("cannot be merged"), "{refused}");
}
