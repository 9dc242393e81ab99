//! Adapters against files that real peft wrote (`tests/golden/peft`, made by the script there), and adapters that must
//! be refused.

#![allow(clippy::unwrap_used, reason = "test helpers outside of test functions")]
mod ckpt_common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use antiphon_model::adapter::{self, About, LoraSettings, Targets};
use antiphon_model::{Adapter, Config, LoraPair, Pooling, Proj, Spec, Task, Wiring, module_path};
use serde_json::{Value, json};

const GOLDEN: [&str; 5] =
    ["llama_lora", "gpt2_rslora_cls", "bert_lora_cls", "llama_prompt", "bert_prompt_cls"];

fn golden(name: &str) -> (PathBuf, Spec) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/peft").join(name);
    let spec = Config::read(&dir.join("base.json")).unwrap().spec;
    (dir, spec)
}

fn keys(dir: &Path) -> BTreeMap<String, Vec<usize>> {
    let bytes = std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
    let (_, meta) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(meta.metadata().as_ref().unwrap()["format"], "pt");
    meta.tensors().into_iter().map(|(name, info)| (name, info.shape.clone())).collect()
}

#[test]
fn what_peft_wrote_is_read_tensor_by_tensor() {
    for name in GOLDEN {
        let (dir, spec) = golden(name);
        let adapter = adapter::read(&dir, &spec).unwrap();
        let sorted: Vec<String> = keys(&dir).into_keys().collect();
        assert_eq!(sorted.len(), adapter.wiring.schema.tensors().len(), "{name}");
        for (tensor, range) in adapter.wiring.schema.iter() {
            // the script wrote i * 0.001 + rank of the key
            let rank = sorted.iter().position(|k| k.ends_with(&tensor.name)).unwrap();
            for (i, &v) in adapter.theta[range].iter().enumerate() {
                assert_eq!(v, (i as f64 * 0.001 + rank as f64) as f32, "{name} {} [{i}]", tensor.name);
            }
        }
    }
}

#[test]
fn ranks_and_scales_are_those_that_peft_gives() {
    let (dir, spec) = golden("llama_lora");
    let lora = adapter::read(&dir, &spec).unwrap().wiring.lora;
    let seen: Vec<_> = lora.iter().map(|(&site, p)| (site, p.rank, p.scale)).collect();
    assert_eq!(
        seen,
        [
            ((0, Proj::Q), 3, 7.0 / 3.0),
            ((0, Proj::V), 3, 5.0 / 3.0),
            ((0, Proj::Down), 4, 5.0 / 4.0),
            ((1, Proj::Q), 3, 7.0 / 3.0),
            ((1, Proj::V), 2, 5.0 / 2.0),
            ((1, Proj::Down), 4, 5.0 / 4.0),
        ]
    );
    assert!(lora.values().all(|p| p.dropout == 0.1));
    let (dir, spec) = golden("gpt2_rslora_cls");
    let adapter = adapter::read(&dir, &spec).unwrap();
    assert_eq!(adapter.wiring.lora[&(1, Proj::Qkv)].scale, (3.0 / 2.0_f64.sqrt()) as f32);
    assert_eq!(adapter.about.task, Task::Classify { classes: 3, pooling: Pooling::Last });
    assert!(adapter.wiring.head.unwrap().bias.is_none());
    let (dir, spec) = golden("bert_lora_cls");
    let adapter = adapter::read(&dir, &spec).unwrap();
    assert_eq!(adapter.about.task, Task::Classify { classes: 5, pooling: Pooling::Pooler });
    assert_eq!(adapter.wiring.head.unwrap().bias.unwrap().len(), 5);
}

#[test]
fn an_adapter_survives_the_way_out_and_in_with_the_keys_of_peft() {
    for name in GOLDEN {
        let (dir, spec) = golden(name);
        let first = adapter::read(&dir, &spec).unwrap();
        for settings in [first.lora.as_ref(), None] {
            let out = tempfile::tempdir().unwrap();
            adapter::write(out.path(), &spec, &first.wiring, &first.theta, &first.about, settings).unwrap();
            assert_eq!(keys(out.path()), keys(&dir), "{name}");
            let again = adapter::read(out.path(), &spec).unwrap();
            assert_eq!(
                (&again.wiring, &again.theta, &again.about),
                (&first.wiring, &first.theta, &first.about)
            );
        }
    }
}

#[test]
fn the_configuration_has_the_keys_of_peft_in_its_types() {
    for name in GOLDEN {
        let (dir, spec) = golden(name);
        let read = |dir: &Path| -> BTreeMap<String, Value> {
            serde_json::from_str(&std::fs::read_to_string(dir.join("adapter_config.json")).unwrap()).unwrap()
        };
        let theirs = read(&dir);
        let first = adapter::read(&dir, &spec).unwrap();
        let out = tempfile::tempdir().unwrap();
        adapter::write(out.path(), &spec, &first.wiring, &first.theta, &first.about, first.lora.as_ref())
            .unwrap();
        for (key, ours) in read(out.path()) {
            let theirs = theirs.get(&key).unwrap_or_else(|| panic!("{name}: peft has no `{key}`"));
            let same = match key.as_str() {
                // peft lists the heads of every family, and some twice
                "modules_to_save" => theirs.is_null() == ours.is_null(),
                "base_model_name_or_path" => true,
                _ => *theirs == ours,
            };
            assert!(same, "{name}: `{key}` is {ours}, peft wrote {theirs}");
        }
    }
}

/// A wiring of these sites, all of one rank.
fn wired(spec: &Spec, sites: &[(usize, Proj)]) -> (Wiring, Vec<f32>) {
    let (mut list, mut lora, mut at) = (Vec::new(), BTreeMap::new(), 0);
    for &(layer, proj) in sites {
        let (d_out, d_in) = spec.proj_shape(proj).unwrap();
        let path = module_path(spec, layer, proj).unwrap();
        let mut push = |name: &str, shape: [usize; 2]| {
            list.push(antiphon_core::TensorSpec {
                name: format!("{path}.{name}.weight"),
                shape: shape.to_vec(),
            });
            at += shape[0] * shape[1];
            at - shape[0] * shape[1]..at
        };
        let pair = LoraPair {
            a: push("lora_A", [3, d_in]),
            b: push("lora_B", [d_out, 3]),
            rank: 3,
            scale: (16.0_f64 / 3.0) as f32,
            dropout: 0.05,
        };
        lora.insert((layer, proj), pair);
    }
    let schema = antiphon_core::Schema::new(list).unwrap();
    let theta = (0..schema.dim()).map(|i| i as f32).collect();
    (Wiring { schema, lora, ..Wiring::default() }, theta)
}

#[test]
fn derived_settings_name_the_modules_shortly_and_exactly() {
    let names = |spec: &Spec, sites: &[(usize, Proj)]| {
        let s = LoraSettings::derive(spec, &wired(spec, sites).0);
        assert_eq!((s.r, s.lora_alpha, s.lora_dropout), (3, 16.0, 0.05));
        match s.target_modules {
            Targets::Names(list) => list,
            Targets::Text(text) => panic!("{text}"),
        }
    };
    let all = |proj| [(0, proj), (1, proj)];
    let (_, llama) = golden("llama_lora");
    assert_eq!(names(&llama, &[all(Proj::Q), all(Proj::V)].concat()), ["q_proj", "v_proj"]);
    // of one layer, by its number beside the name
    assert_eq!(names(&llama, &[(1, Proj::Q)]), ["q_proj"]);
    let layers = |sites: &[_]| LoraSettings::derive(&llama, &wired(&llama, sites).0).layers_to_transform;
    assert_eq!(layers(&[(1, Proj::Q), (1, Proj::V)]), Some(vec![1]));
    // unless the layers have different modules
    assert_eq!(layers(&[(0, Proj::Q), (1, Proj::V)]), None);
    assert_eq!(layers(&all(Proj::Q)), None);
    let (_, gpt2) = golden("gpt2_rslora_cls");
    assert_eq!(names(&gpt2, &all(Proj::O)), ["attn.c_proj"]);
    assert_eq!(names(&gpt2, &[all(Proj::O), all(Proj::Down)].concat()), ["c_proj"]);
    // `dense` and `output.dense` also name other maps of BERT
    let (_, bert) = golden("bert_lora_cls");
    assert_eq!(names(&bert, &all(Proj::O)), ["attention.output.dense"]);
    assert_eq!(
        names(&bert, &all(Proj::Down)),
        ["bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"]
    );
}

#[test]
fn settings_that_would_mislead_peft_are_refused() {
    let (dir, spec) = golden("llama_lora");
    let Adapter { wiring, theta, about, lora } = adapter::read(&dir, &spec).unwrap();
    let lora = lora.unwrap();
    let cases: [(&str, LoraSettings); 4] = [
        ("scale", LoraSettings { lora_alpha: 6.0, ..lora.clone() }),
        ("rank", LoraSettings { r: 4, ..lora.clone() }),
        ("no target", LoraSettings { target_modules: Targets::Names(vec!["q_proj".into()]), ..lora.clone() }),
        (
            "without a pair",
            LoraSettings { target_modules: Targets::Text("all-linear".into()), ..lora.clone() },
        ),
    ];
    for (what, settings) in cases {
        let out = tempfile::tempdir().unwrap();
        let error = adapter::write(out.path(), &spec, &wiring, &theta, &about, Some(&settings)).unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "half-written after {what}");
    }
    let short = adapter::write(&dir.join("never"), &spec, &wiring, &theta[1..], &about, None).unwrap_err();
    assert!(short.to_string().contains("for a schema of"), "{short}");
}

#[test]
fn labels_and_pooling_travel_beside_what_peft_reads() {
    let (dir, spec) = golden("bert_lora_cls");
    let mut adapter = adapter::read(&dir, &spec).unwrap();
    let labels: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    adapter.about =
        About { task: Task::Classify { classes: 5, pooling: Pooling::Mean }, labels, ..adapter.about };
    let out = tempfile::tempdir().unwrap();
    adapter::write(out.path(), &spec, &adapter.wiring, &adapter.theta, &adapter.about, None).unwrap();
    assert_eq!(adapter::read(out.path(), &spec).unwrap().about, adapter.about);
}

/// Copies a golden adapter, lets `change` spoil it, and returns the error of reading it.
fn spoiled(
    name: &str,
    change: impl FnOnce(&mut serde_json::Map<String, Value>, &mut BTreeMap<String, (Vec<usize>, Vec<f32>)>),
) -> String {
    let (dir, spec) = golden(name);
    let mut config =
        serde_json::from_str(&std::fs::read_to_string(dir.join("adapter_config.json")).unwrap()).unwrap();
    let mut tensors = keys(&dir)
        .into_iter()
        .map(|(k, shape)| (k, (shape.clone(), vec![0.5; shape.iter().product()])))
        .collect();
    change(&mut config, &mut tensors);
    let out = tempfile::tempdir().unwrap();
    std::fs::write(out.path().join("adapter_config.json"), Value::Object(config).to_string()).unwrap();
    std::fs::write(out.path().join("adapter_model.safetensors"), ckpt_common::safetensors(&tensors)).unwrap();
    adapter::read(out.path(), &spec).unwrap_err().to_string()
}

#[test]
fn adapters_that_do_not_fit_are_refused_with_the_place() {
    const Q0: &str = "base_model.model.model.layers.0.self_attn.q_proj";
    let set = |key: &'static str, value: Value| {
        spoiled("llama_lora", move |c, _| drop(c.insert(key.into(), value)))
    };
    let cases = [
        ("`use_dora` = true", set("use_dora", json!(true))),
        ("`bias` = \"all\"", set("bias", json!("all"))),
        ("`peft_type` = \"IA3\"", set("peft_type", json!("IA3"))),
        ("`task_type` = \"FEATURE_EXTRACTION\"", set("task_type", json!("FEATURE_EXTRACTION"))),
        ("`some_new_method` = 1", set("some_new_method", json!(1))),
        ("`r` = 0", set("r", json!(0))),
        ("expected [4, 8]", set("r", json!(4))),
        ("layers from 0 to 1", set("layers_to_transform", json!([2]))),
        ("is no target", set("target_modules", json!(["q_proj", "v_proj"]))),
        ("without a pair", set("target_modules", json!(["q_proj", "v_proj", "down_proj", "k_proj"]))),
        ("no regular expression", set("rank_pattern", json!({ "(": 3 }))),
        ("score.weight` is missing, though task_type is SEQ_CLS", set("task_type", json!("SEQ_CLS"))),
        (
            "lora_A.weight` is missing, though its partner lora_B is there",
            spoiled("llama_lora", |_, t| drop(t.remove(&format!("{Q0}.lora_A.weight")))),
        ),
        (
            "has shape [3, 9], expected [3, 8]",
            spoiled("llama_lora", |_, t| {
                drop(t.insert(format!("{Q0}.lora_A.weight"), (vec![3, 9], vec![0.0; 27])));
            }),
        ),
        (
            "the adapter's name must not be part of a key",
            spoiled("llama_lora", |_, t| {
                drop(t.insert(format!("{Q0}.lora_A.default.weight"), (vec![3, 8], vec![0.0; 24])));
            }),
        ),
        (
            "belongs to nothing in this model; expected names such as",
            spoiled("llama_lora", |_, t| {
                drop(t.insert("lm_head.lora_A.weight".into(), (vec![1], vec![0.0])))
            }),
        ),
        (
            "holds NaN at element 7",
            spoiled("llama_lora", |_, t| t.get_mut(&format!("{Q0}.lora_B.weight")).unwrap().1[7] = f32::NAN),
        ),
        (
            "`prompt_embeddings` has shape [4, 9]",
            spoiled("llama_prompt", |_, t| {
                drop(t.insert("prompt_embeddings".into(), (vec![4, 9], vec![0.0; 36])))
            }),
        ),
        (
            "classifier.bias` has shape [4], expected [5]",
            spoiled("bert_lora_cls", |_, t| {
                drop(t.insert("base_model.model.classifier.bias".into(), (vec![4], vec![0.0; 4])));
            }),
        ),
    ];
    for (expected, found) in &cases {
        assert!(found.contains(expected), "expected `{expected}` in: {found}");
    }
}

#[test]
fn a_directory_that_is_no_adapter_says_what_it_is() {
    let (_, spec) = golden("llama_lora");
    let dir = tempfile::tempdir().unwrap();
    let error = || adapter::read(dir.path(), &spec).unwrap_err().to_string();
    assert!(error().contains("adapter_config.json: no such file"), "{}", error());
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert!(error().contains("holds a whole model"), "{}", error());
    std::fs::write(
        dir.path().join("adapter_config.json"),
        r#"{"peft_type":"LORA","target_modules":["q_proj"]}"#,
    )
    .unwrap();
    std::fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    assert!(error().contains("can run code"), "{}", error());
}
