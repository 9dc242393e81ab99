//! Layers chosen by what they do: measured once on public data, said by the plan, kept in the summary, and the same after a
//! resume or not resumed at all.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{Toy, VOCAB, config};

const EMULATOR: &str = "\n[emulator]\nadapter_bottom = 1\nadapter_top = 1\ndrop_rate = 0.25\nrule = { id = \"importance\" }\n\
                        public = { share = 0.25 }\n";

/// A checkpoint of six layers of which the fourth writes nothing back.
fn toy() -> Toy {
    let toy = Toy::new();
    let mut six = config(VOCAB);
    six["num_hidden_layers"] = json!(6);
    toy.write("model/config.json", six.to_string());
    toy.checkpoint(|tensors| {
        let idle = |n: &str| n.contains("layers.3.") && (n.contains("o_proj") || n.contains("down_proj"));
        let own = tensors.iter_mut().filter(|(name, _)| idle(name));
        own.for_each(|(_, (_, values))| values.fill(0.0));
    });
    let text = toy.read("run.toml");
    toy.write("run.toml", text + EMULATOR);
    toy
}

fn off_site(toy: &Toy, run: &str) -> Value {
    let summary: Value = serde_json::from_str(&toy.read(&format!("{run}/summary.json"))).unwrap();
    summary["off_site"].clone()
}

#[test]
fn the_layer_that_does_least_stays_with_the_owner() {
    let toy = toy();
    let plan: Value = serde_json::from_str(&toy.antiphon(&["plan", "run.toml", "--json"]).out).unwrap();
    let planned = &plan["off_site"];
    assert_eq!(planned["withheld"], json!([3]));
    let text = toy.antiphon(&["plan", "run.toml"]).out;
    assert!(text.contains("measured at the start") && text.contains("layer 3 0.000"), "{text}");
    toy.run("a", &[]);
    let o = off_site(&toy, "a");
    assert_eq!((&o["kept"], &o["rule"]), (&json!([0, 1, 2, 4, 5]), &json!("importance")));
    assert_eq!(o["influence"], planned["influence"]);
    assert_eq!(o["influence"].as_array().unwrap().len(), 6);
    // what it leaves out does nothing, so the emulator is the model
    assert_eq!(o["emulator_zero_shot"], o["zero_shot"]);
    assert_eq!(o["emulator_tuned"], o["plugged_in"]);
    // nothing of that without a rule that measures
    toy.run("other", &["emulator.rule.id=offsite_tuning"]);
    assert!(off_site(&toy, "other")["influence"].is_null());
}

#[test]
fn without_public_data_there_is_nothing_to_measure_on() {
    let toy = toy();
    let text = toy.read("run.toml");
    toy.write("run.toml", text.replace("public = { share = 0.25 }\n", ""));
    toy.antiphon(&["plan", "run.toml"])
        .says(3, &["[emulator.public]", "`offsite_tuning` and `federatedscope`"]);
}

#[test]
fn a_resumed_run_chooses_the_same_layers_or_does_not_begin() {
    let toy = toy();
    let rows = toy.read("data.jsonl");
    toy.write("public.jsonl", &rows);
    let overrides =
        ["emulator.public={path='public.jsonl'}", "federation.num_rounds=12", "train.local_steps=6"];
    toy.run("whole", &overrides);
    let mut child = toy.start(&[&["run", "run.toml", "--out", "killed"][..], &overrides].concat());
    while !toy.path("killed/rounds/00002/checkpoint.json").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!toy.path("killed/summary.json").exists(), "it was too late to kill");
    toy.write("public.jsonl", rows.lines().take(7).collect::<Vec<_>>().join("\n"));
    toy.antiphon(&["resume", "killed"]).says(6, &["influence was", "others would be left out"]);
    toy.write("public.jsonl", &rows);
    assert_eq!(toy.antiphon(&["resume", "killed"]).code, Some(0));
    assert_eq!(toy.adapter("killed"), toy.adapter("whole"));
    assert_eq!(off_site(&toy, "killed"), off_site(&toy, "whole"));
}
