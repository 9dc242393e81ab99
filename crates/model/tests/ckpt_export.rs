//! Merged and fully tuned models, written and opened again.

#![allow(clippy::unwrap_used, reason = "test helpers outside of test functions")]
mod ckpt_common;

use std::path::Path;

use antiphon_core::{Schema, TensorSpec};
use antiphon_kernels::{DType, FrozenData, Reference};
use antiphon_model::adapter::{self, About};
use antiphon_model::export::{ExportError, Precision, copy_companions, read_head, write_model};
use antiphon_model::{
    Adapter, Base, ChatTemplate, Checkpoint, HeadWiring, Pooling, PromptWiring, Task, Wiring, probe, tensors,
};
use serde_json::{Value, json};

const FAMILIES: [&str; 4] = ["llama", "qwen3", "gpt2", "bert"];

/// `init:` of a small model, in its own directory.
fn base(family: &str) -> (tempfile::TempDir, Base) {
    let dir = tempfile::tempdir().unwrap();
    let config = match family {
        "gpt2" => json!({ "model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 12,
            "n_positions": 32, "vocab_size": 20, "initializer_range": 0.5 }),
        "bert" => {
            json!({ "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 12, "vocab_size": 20, "max_position_embeddings": 32, "initializer_range": 0.5 })
        }
        _ => {
            json!({ "model_type": family, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "intermediate_size": 12, "vocab_size": 20, "max_position_embeddings": 32,
            "head_dim": 6, "initializer_range": 0.5 })
        }
    };
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    let base = Base::open(&format!("init:{}", dir.path().display()), 3).unwrap();
    (dir, base)
}

fn task(base: &Base) -> Task {
    if base.spec().causal { Task::CausalLm } else { Task::Classify { classes: 3, pooling: Pooling::Pooler } }
}

/// Everything trained: the base's values, each a little moved, and a head.
fn full(base: &Base, task: Task) -> Adapter {
    let mut wiring = Wiring::default();
    let (mut list, mut theta) = (Vec::new(), Vec::new());
    for t in tensors(base.spec(), task) {
        let from = theta.len();
        let values = match base.source().get(&t.name) {
            Some((FrozenData::Owned(v), _)) => v.iter().map(|x| x * 1.1 + 0.01).collect(),
            _ => (0..t.shape.iter().product()).map(|i| i as f32 * 0.1 - 0.7).collect::<Vec<_>>(),
        };
        theta.extend(values);
        let range = from..theta.len();
        match t.role {
            antiphon_model::Role::ClassHead(antiphon_model::Part::Weight) => {
                wiring.head = Some(HeadWiring { weight: range, bias: None });
            }
            antiphon_model::Role::ClassHead(_) => wiring.head.as_mut().unwrap().bias = Some(range),
            _ => drop(wiring.live.insert(t.name.clone(), range)),
        }
        list.push(TensorSpec { name: t.name, shape: t.shape });
    }
    wiring.schema = Schema::new(list).unwrap();
    let about = About { base_model: "init".into(), task, labels: Vec::new() };
    Adapter { wiring, theta, about, lora: None }
}

fn write(out: &Path, base: &Base, a: &Adapter, precision: Precision) -> Result<(), ExportError> {
    write_model(out, base, &a.wiring, &a.theta, &a.about, precision)
}

fn open(dir: &Path) -> (Base, Option<Adapter>) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let head = read_head(&checkpoint).unwrap();
    (Base::Checkpoint(Box::new(checkpoint)), head)
}

const IDS: [u32; 6] = [3, 7, 1, 19, 4, 4];

#[test]
fn a_fully_tuned_model_is_a_checkpoint_with_the_same_answer() {
    for family in FAMILIES {
        let (_dir, base) = base(family);
        let tuned = full(&base, task(&base));
        let out = tempfile::tempdir().unwrap();
        write(out.path(), &base, &tuned, Precision::F32).unwrap();
        assert!(out.path().join("tokenizer_config.json").is_file());
        let (again, head) = open(out.path());
        let logits =
            |base: &Base, a: Option<&Adapter>| probe::last_logits(&Reference, base, a, &IDS).unwrap();
        let expected = logits(&base, Some(&tuned));
        assert_eq!(logits(&again, head.as_ref()), expected, "{family}");
        if base.spec().causal {
            assert_ne!(logits(&base, None), expected, "{family}: training changed nothing");
        }
    }
}

#[test]
fn a_merged_adapter_gives_the_answer_of_the_overlay() {
    for name in ["llama_lora", "gpt2_rslora_cls", "bert_lora_cls"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft").join(name);
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(golden.join("base.json"), dir.path().join("config.json")).unwrap();
        let base = Base::open(&format!("init:{}", dir.path().display()), 3).unwrap();
        let mut a = adapter::read(&golden, base.spec()).unwrap();
        // the golden values grow with the rank of their key
        a.theta.iter_mut().for_each(|v| *v = (*v * 37.0).sin() * 0.2);
        a.about.labels = match a.about.task {
            Task::Classify { classes, .. } => (0..classes).map(|i| format!("class {i}")).collect(),
            Task::CausalLm => Vec::new(),
        };
        let out = tempfile::tempdir().unwrap();
        write(out.path(), &base, &a, Precision::F32).unwrap();
        let (again, head) = open(out.path());
        let expected = probe::last_logits(&Reference, &base, Some(&a), &IDS).unwrap();
        let found = probe::last_logits(&Reference, &again, head.as_ref(), &IDS).unwrap();
        for (f, e) in found.iter().zip(&expected) {
            assert!((f - e).abs() < 1e-5, "{name}: {found:?}, expected {expected:?}");
        }
        if let Some(head) = head {
            assert_eq!(head.about.labels, a.about.labels);
        }
    }
}

#[test]
fn kept_precision_keeps_types_and_rounds_what_was_trained() {
    let (_dir, base) = base("llama");
    let mut tuned = full(&base, Task::CausalLm);
    let out = tempfile::tempdir().unwrap();
    write(out.path(), &base, &tuned, Precision::F32).unwrap();
    // the same file in bf16, by hand: widen-and-cut is exact for the header, values follow
    let path = out.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    for (_, t) in header.as_object_mut().unwrap().iter_mut().filter(|(k, _)| *k != "__metadata__") {
        t["dtype"] = json!("BF16");
        for i in 0..2 {
            t["data_offsets"][i] = json!(t["data_offsets"][i].as_u64().unwrap() / 2);
        }
    }
    // the high halves of the little-endian values
    let data: Vec<u8> = bytes[8 + n..].chunks_exact(4).flat_map(|c| [c[2], c[3]]).collect();
    std::fs::write(&path, ckpt_common::file(&header.to_string(), &data)).unwrap();
    let (half, _) = open(out.path());
    tuned.wiring.live.retain(|name, _| name == "model.norm.weight");
    let range = tuned.wiring.live["model.norm.weight"].clone();
    let exact = tuned.theta[range].to_vec();
    for (precision, dtype) in [(Precision::Keep, DType::Bf16), (Precision::F32, DType::F32)] {
        let again = tempfile::tempdir().unwrap();
        write(again.path(), &half, &tuned, precision).unwrap();
        let c = Checkpoint::open(again.path()).unwrap();
        let (data, _) = c.get("model.norm.weight").unwrap();
        assert!(matches!(&data, FrozenData::Mapped { dtype: d, .. } if *d == dtype));
        let mut found = vec![0.0; data.len()];
        data.widen(0, &mut found);
        match dtype {
            DType::F32 => assert_eq!(found, exact),
            _ => assert!(found.iter().zip(&exact).all(|(f, e)| (f - e).abs() <= e.abs() / 256.0)),
        }
        // what was not trained is untouched
        let (untouched, _) = c.get("model.embed_tokens.weight").unwrap();
        let (original, _) = half.source().get("model.embed_tokens.weight").unwrap();
        let widened = |d: &FrozenData| {
            let mut v = vec![0.0; d.len()];
            d.widen(0, &mut v);
            v
        };
        assert_eq!(widened(&untouched), widened(&original));
    }
}

#[test]
fn the_configuration_names_the_class_and_the_labels() {
    let (_dir, base) = base("bert");
    let mut tuned = full(&base, task(&base));
    tuned.about.labels = ["no", "yes", "maybe"].map(str::to_owned).to_vec();
    tuned.about.task = Task::Classify { classes: 3, pooling: Pooling::Mean };
    let out = tempfile::tempdir().unwrap();
    write(out.path(), &base, &tuned, Precision::F32).unwrap();
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(out.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(json["architectures"], json!(["BertForSequenceClassification"]));
    assert_eq!(json["id2label"], json!({ "0": "no", "1": "yes", "2": "maybe" }));
    assert_eq!(json["label2id"]["maybe"], 2);
    let (_, head) = open(out.path());
    let about = head.unwrap().about;
    assert_eq!(about.task, tuned.about.task, "the pooling stands beside the model");
    assert_eq!(about.labels, tuned.about.labels);
}

#[test]
fn a_prompt_cannot_be_merged_and_a_chosen_template_travels() {
    let (dir, base) = base("llama");
    let schema =
        Schema::new(vec![TensorSpec { name: "prompt_embeddings".into(), shape: vec![4, 8] }]).unwrap();
    let prompt = Some(PromptWiring { range: 0..32, tokens: 4 });
    let wiring = Wiring { schema, prompt, ..Wiring::default() };
    let about = About { base_model: String::new(), task: Task::CausalLm, labels: Vec::new() };
    let out = tempfile::tempdir().unwrap();
    let error = write_model(out.path(), &base, &wiring, &[0.0; 32], &about, Precision::F32).unwrap_err();
    assert!(error.to_string().contains("soft prompt of 4 tokens"), "{error}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    let template = ChatTemplate::named("chatml").unwrap();
    copy_companions(dir.path(), out.path(), Some(&template)).unwrap();
    let copied = std::fs::read_to_string(out.path().join("chat_template.jinja")).unwrap();
    assert_eq!(copied, template.source());
}
