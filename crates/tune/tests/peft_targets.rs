//! Modules, ranks and scales that real peft chooses (`golden/peft_targets.py`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use antiphon_model::Task;
use antiphon_model::names;
use antiphon_tune::method;
use common::{CLASSIFY, bert, gpt2, llama};
use serde_json::Value;

#[test]
fn lora_makes_the_tensors_that_peft_makes() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/peft_targets.json")).unwrap();
    for case in &cases {
        let mut table = toml::Table::try_from(&case["settings"]).unwrap();
        table.insert("id".into(), "lora".into());
        table.insert("lora_r".into(), 2.into());
        table.insert("lora_alpha".into(), 3.into());
        let (spec, task) = match case["model"].as_str().unwrap() {
            "llama" => (llama(), Task::CausalLm),
            "gpt2" => (gpt2(), Task::CausalLm),
            _ => (bert(), CLASSIFY),
        };
        let wiring = method::build(&table).unwrap().wire(&spec, task).unwrap();
        let ours: Vec<_> =
            wiring.schema.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let theirs: Vec<(String, Vec<usize>)> = serde_json::from_value(case["tensors"].clone()).unwrap();
        assert_eq!(ours, theirs, "{}", case["settings"]);
        let scales = case["scales"].as_object().unwrap();
        assert_eq!(scales.len(), wiring.lora.len());
        for (&(layer, proj), pair) in &wiring.lora {
            let path = names::module_path(&spec, layer, proj).unwrap();
            assert_eq!(pair.scale, scales[&path].as_f64().unwrap() as f32, "{} {path}", case["settings"]);
        }
    }
    assert_eq!(cases.len(), 20);
}
