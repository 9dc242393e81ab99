//! Off-site tuning through the binary: what clients train, what the owner gets, and what never leaves the owner.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{ALIGNED, Tensor, Toy, VOCAB, codes, config, distinct, occurs, safetensors, snapshot};

const EMULATOR: &str = "\n[emulator]\nadapter_bottom = 1\nadapter_top = 1\ndrop_rate = 0.5\nrule = { id = \"offsite_tuning\" }\n";
/// Of six layers, those that the owner keeps back.
const WITHHELD: [usize; 2] = [2, 3];

/// A checkpoint of six layers, three clients, an emulator of four layers.
fn toy(change: impl Fn(&mut BTreeMap<String, Tensor>)) -> Toy {
    let toy = Toy::new();
    let mut config = config(VOCAB);
    config["num_hidden_layers"] = json!(6);
    toy.write("model/config.json", config.to_string());
    toy.checkpoint(|tensors| {
        distinct(tensors);
        change(tensors);
    });
    let text = toy.read("run.toml");
    toy.write("run.toml", text + EMULATOR);
    toy
}

fn withheld(name: &str) -> bool {
    WITHHELD.iter().any(|l| name.starts_with(&format!("model.layers.{l}.")))
}

fn summary(toy: &Toy, run: &str) -> Value {
    serde_json::from_str(&toy.read(&format!("{run}/summary.json"))).unwrap()
}

const FIVE: [&str; 5] = ["zero_shot", "emulator_zero_shot", "emulator_tuned", "plugged_in", "full"];

#[test]
fn five_numbers_together_and_the_adapter_loads_on_the_whole_model() {
    let toy = toy(|_| ());
    let ended = toy.run("a", &[]);
    for label in
        ["emulator, as it was", "emulator, tuned", "federated, plugged in", "whole model, all layers tuned"]
    {
        assert!(ended.out.contains(label), "{label}: {}", ended.out);
    }
    let summary = summary(&toy, "a");
    let o = &summary["off_site"];
    for number in FIVE {
        assert!(o[number]["loss"].as_f64().is_some_and(f64::is_finite), "{number}: {o}");
    }
    assert_eq!((&o["kept"], &o["adapter"], &o["layers"]), (&json!([0, 1, 4, 5]), &json!([0, 5]), &json!(6)));
    assert_eq!(summary["federated"]["global"], o["plugged_in"]);
    assert!(toy.read("a/report.html").contains("federated, plugged in"));
    let config: Value = serde_json::from_str(&toy.read("a/latest/adapter_config.json")).unwrap();
    assert_eq!(config["layers_to_transform"], json!([0, 5]), "{config}");
    let modules = config["target_modules"].as_array().unwrap();
    assert!(
        modules.len() == 7 && modules.iter().all(|m| !m.as_str().unwrap().contains("layers")),
        "{config}"
    );
    // the run's checkpoint and its adapter, on the whole model
    for arguments in [&["eval", "a", "--json"][..], &["eval", "a", "--adapter", "a/latest", "--json"]] {
        let eval: Value = serde_json::from_str(&toy.antiphon(arguments).out).unwrap();
        assert_eq!(eval["evaluation"]["global"], o["plugged_in"], "{arguments:?}");
    }
}

#[test]
fn drop_zero_is_the_model() {
    let toy = toy(|_| ());
    toy.run("emulated", &["emulator.drop_rate=0.0"]);
    let o = &summary(&toy, "emulated")["off_site"];
    assert_eq!(o["emulator_zero_shot"], o["zero_shot"]);
    assert_eq!(o["emulator_tuned"], o["plugged_in"]);
    assert_eq!((&o["held"], &o["kept"]), (&o["whole"], &json!([0, 1, 2, 3, 4, 5])));
    // and the adapter is that of a run that never heard of emulators, bit for bit
    let text = toy.read("run.toml").replace(EMULATOR, "");
    toy.write("run.toml", text);
    toy.run("plain", &["method.layers_to_transform=[0, 5]"]);
    assert_eq!(toy.adapter("emulated"), toy.adapter("plain"));
    assert_eq!(summary(&toy, "plain")["federated"]["global"], o["plugged_in"]);
}

/// What clients send depends on nothing that was kept back, so no function of it is in any message.
#[test]
fn nothing_that_clients_do_depends_on_what_is_withheld() {
    let first = toy(|_| ());
    let second = toy(|tensors| {
        let own = tensors.iter_mut().filter(|(name, _)| withheld(name) && name.ends_with("proj.weight"));
        own.for_each(|(_, (_, values))| values.iter_mut().for_each(|v| *v *= -0.75));
    });
    let [a, b] = [&first, &second].map(|toy| {
        toy.run("run", &[]);
        (toy.adapter("run"), summary(toy, "run")["off_site"].clone())
    });
    assert_eq!(a.0, b.0);
    assert_eq!(a.1["emulator_tuned"], b.1["emulator_tuned"]);
    assert_eq!(a.1["emulator_zero_shot"], b.1["emulator_zero_shot"]);
    assert_ne!(a.1["zero_shot"], b.1["zero_shot"]);
    assert_ne!(a.1["plugged_in"], b.1["plugged_in"]);
}

#[test]
fn no_withheld_tensor_is_in_any_file_of_a_run() {
    for toy in [toy(|_| ()), fedbiot()] {
        // durable: updates lie on disk as they were sent
        toy.run("run", &["run.durable=true"]);
        let files = snapshot(&toy.path("run"));
        assert!(files.values().any(|bytes| !bytes.is_empty()));
        let mut looked = 0;
        for (name, (_, values)) in toy.tensors(distinct) {
            if !withheld(&name) || name.contains("norm") {
                continue;
            }
            for (code, needle) in codes(&values) {
                for (path, bytes) in &files {
                    assert!(!occurs(bytes, &needle), "{name} as {code} in {}", path.display());
                    looked += 1;
                }
            }
        }
        assert!(looked > 500, "{looked}");
    }
}

#[test]
fn plan_says_who_has_what() {
    let toy = toy(|_| ());
    let plan: Value = serde_json::from_str(&toy.antiphon(&["plan", "run.toml", "--json"]).out).unwrap();
    let o = &plan["off_site"];
    assert_eq!(o["withheld"], json!(WITHHELD));
    let (held, whole) = (o["held"].as_f64().unwrap(), o["whole"].as_f64().unwrap());
    assert_eq!(whole, plan["prediction"]["parameters"].as_f64().unwrap());
    assert!((o["share"].as_f64().unwrap() - held / whole).abs() < 1e-12 && held < whole);
    let text = toy.antiphon(&["plan", "run.toml"]).out;
    assert!(text.contains("clients hold") && text.contains("layers 2, 3 stay with the owner"), "{text}");
}

#[test]
fn what_makes_no_emulator_is_refused() {
    let toy = toy(|_| ());
    let refused = |overrides: &[&str], words: &[&str]| {
        toy.antiphon(&[&["run", "run.toml", "--out", "never"], overrides].concat()).says(3, words);
        assert!(!toy.path("never").exists());
    };
    refused(&["emulator.adapter_top=5"], &["1 + 5 blocks in a model of 6", "at most 5 fit"]);
    refused(&["emulator.adapter_bottom=0", "emulator.adapter_top=0"], &["both 0"]);
    refused(&["emulator.drop_rate=1.0"], &["below 1"]);
    refused(&["emulator.drop_rate=0.9"], &["keeps none of the 4", "0.75 keeps 1"]);
    refused(&["emulator.rule.id=offsite"], &["did you mean `offsite_tuning`", "federatedscope"]);
    refused(&["method.layers_to_transform=[0]"], &["[emulator] says which layers"]);
    let prompt = r#"method={id="prompt", num_virtual_tokens=2, prompt_tuning_init="random"}"#;
    refused(&[prompt], &["`prompt` has no `layers_to_transform`", "`full`, `lora` and `houlsby` can"]);
    let inside = r#"method.target_modules=["model.layers.1.self_attn.q_proj", "up_proj"]"#;
    refused(&[inside], &["layer 1 is not the adapter's"]);
}

/// A run whose emulator is distilled and aligned.
fn fedbiot() -> Toy {
    let toy = toy(|_| ());
    let text = toy.read("run.toml");
    toy.write("run.toml", text.replace(EMULATOR, ALIGNED));
    toy
}

/// Each block of the documentation behind the name of a method, in a run file of a model that is deep enough.
#[test]
fn the_published_methods_are_settings_that_plan() {
    let docs = include_str!("../../../docs/off-site.md");
    let toy = toy(|_| ());
    let mut twelve = config(VOCAB);
    twelve["num_hidden_layers"] = json!(12);
    toy.write("model/config.json", twelve.to_string());
    toy.write("model/model.safetensors", safetensors(&toy.tensors(distinct)));
    let text = toy.read("run.toml").replace(EMULATOR, "\n");
    toy.write("public.jsonl", toy.read("data.jsonl"));
    let planned = |name: &str| -> Value {
        let (_, rest) = docs.split_once(&format!("**{name}.**")).unwrap();
        let (_, rest) = rest.split_once("```toml\n").unwrap();
        toy.write("run.toml", format!("{text}{}", rest.split_once("```").unwrap().0));
        let plan = toy.antiphon(&["plan", "run.toml", "--json", "federation.num_rounds=3"]);
        assert_eq!(plan.code, Some(0), "{name}: {plan:?}");
        serde_json::from_str::<Value>(&plan.out).unwrap()["off_site"].clone()
    };
    let steps = |o: &Value| {
        let a = &o["alignment"];
        ["distill_steps", "align_steps", "changes"].map(|key| a[key].as_u64().unwrap())
    };
    let one = planned("Offsite-Tuning");
    assert_eq!((&one["adapter"], &one["withheld"]), (&json!([0, 1, 10, 11]), &json!([3, 5, 6, 8])));
    assert_eq!(steps(&one), [2000, 0, 0]);
    let many = planned("FedOT");
    assert_eq!((&many["withheld"], steps(&many)), (&json!([3, 5, 7, 8]), [500, 0, 0]));
    let again = planned("FedBiOT");
    assert_eq!((&again["adapter"], steps(&again)), (&json!([8, 9, 10, 11]), [500, 10, 2]));
    // every step and every look at a distance is a forward pass of both models
    let a = &again["alignment"];
    let public = [a["public"].as_u64().unwrap(), a["held_out"].as_u64().unwrap()];
    let looks = 2 * public[1] + public[0];
    let batch = public[0].min(8);
    assert_eq!(a["forwards"].as_u64(), Some((500 + 2 * 10) * batch + 3 * looks));
    let change = a["bytes_per_change"].as_u64().unwrap();
    assert_eq!(a["bytes_per_round"].as_u64(), Some(2 * change));
}

fn lines(toy: &Toy, run: &str) -> Vec<Value> {
    toy.read(&format!("{run}/metrics.jsonl")).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn what_alignment_did_and_sent_is_said() {
    let toy = fedbiot();
    let plan: Value = serde_json::from_str(&toy.antiphon(&["plan", "run.toml", "--json"]).out).unwrap();
    let planned = &plan["off_site"]["alignment"];
    let text = toy.antiphon(&["plan", "run.toml"]).out;
    assert!(text.contains("6 steps before the first round, 3 times 3 steps between rounds"), "{text}");
    let ended = toy.run("a", &[]);
    assert!(
        ended.err.contains("distilled: hidden states ")
            && ended.err.contains("emulator to model: hidden states ")
    );
    assert!(ended.out.contains("on 1 public sequence never trained on"), "{}", ended.out);
    let page = toy.read("a/report.html");
    for shown in [
        "Emulator and model",
        "before distillation",
        "Emulator: KL to the model",
        "3 alignments between rounds",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    let o = &summary(&toy, "a")["off_site"];
    for number in FIVE {
        assert!(o[number]["loss"].as_f64().is_some_and(f64::is_finite), "{number}: {o}");
    }
    let a = &o["aligned"];
    let scalars = a["scalars"].as_u64().unwrap();
    assert_eq!(
        (planned["scalars"].as_u64(), planned["public"].as_u64()),
        (Some(scalars), a["public"].as_u64())
    );
    // four rounds have three pauses; all of a quarter of 24 rows is public, a fifth of it measured on
    assert_eq!(
        (&a["alignments"], &a["public"], &a["held_out"], &a["overlap"]),
        (&json!(3), &json!(5), &json!(1), &json!(0))
    );
    assert_eq!(a["distilled"]["steps"], json!(6));
    assert_eq!(o["sent_once"], plan["off_site"]["sent_once"]);
    // a byte a scalar, four for each 256, and 132 around them, once for each client that takes part later
    let change = scalars + 4 * scalars.div_ceil(256) + 132;
    assert_eq!(planned["bytes_per_change"].as_u64(), Some(change));
    let rounds = lines(&toy, "a");
    assert_eq!(rounds.iter().filter(|r| r["alignment"].is_object()).count(), 3);
    let mut has = BTreeMap::<u64, u64>::new();
    let mut sent = 0;
    for (made, round) in rounds.iter().enumerate() {
        let mut here = 0;
        for client in round["cohort"].as_array().unwrap() {
            let had = has.insert(client.as_u64().unwrap(), made as u64).unwrap_or(0);
            here += ((made as u64 - had) * change).min(4 * scalars + 132);
        }
        assert_eq!(round["emulator_down"].as_u64().unwrap_or(0), here, "{round}");
        sent += here;
    }
    assert_eq!(o["sent_changes"].as_u64(), Some(sent));
    assert!(sent > 0);
}

/// The adapter stands beside the model's tensors, in the emulator and in the model that the emulator follows.
#[test]
fn bottlenecks_are_aligned_with_too() {
    let toy = fedbiot();
    let text = toy.read("run.toml");
    let lora = "id = \"lora\"\nlora_r = 2\nlora_alpha = 4\ntarget_modules = \"all-linear\"";
    assert!(text.contains(lora), "{text}");
    toy.write("run.toml", text.replace(lora, "id = \"houlsby\"\nbottleneck_size = 4"));
    toy.run("a", &["emulator.align.steps=20"]);
    let o = &summary(&toy, "a")["off_site"];
    for number in FIVE {
        assert!(o[number]["loss"].as_f64().is_some_and(f64::is_finite), "{number}: {o}");
    }
    let hidden = |d: &Value| d["hidden"].as_f64().unwrap();
    let rounds = lines(&toy, "a");
    let aligned: Vec<&Value> = rounds.iter().map(|r| &r["alignment"]).filter(|a| a.is_object()).collect();
    assert_eq!(aligned.len(), 3);
    // what it is trained on comes nearer, with the adapter of the round
    assert!(
        aligned.iter().all(|a| hidden(&a["trained_on"]) > 0.0 && hidden(&a["before"]) != hidden(&a["after"]))
    );
    assert!(hidden(&o["aligned"]["last"]) < hidden(&o["aligned"]["distilled"]["before"]), "{o}");
}

/// A real run and no made-up records: an emulator distilled closely on a few sequences is fitted to them, the adapter that follows
/// outruns it, and what the adapter learns there is worth nothing in the model.
#[test]
fn the_doctor_knows_an_alignment_that_failed() {
    let toy = fedbiot();
    toy.write("public.jsonl", toy.read("data.jsonl"));
    let signatures = ["fails_plugged_in", "drifted_emulator", "overfitted_alignment"];
    let said = |run: &str, overrides: &[&str]| {
        toy.run(run, &[&["emulator.align_every=100"], overrides].concat());
        toy.antiphon(&["doctor", run]).out
    };
    let close = "emulator.distill={steps=60, learning_rate=1e-2, micro_batch_size=8, hidden=3.0, kl=1.0}";
    let public = "emulator.public={path='public.jsonl'}";
    let failed = said("failed", &[close, public, "train.learning_rate=3e-3", "train.local_steps=10"]);
    assert!(signatures.iter().all(|s| failed.contains(s)), "{failed}");
    assert!(failed.contains("after the distillation") && failed.contains("19 public sequences to align on"));
    let gentle = said("gentle", &["train.learning_rate=1e-5"]);
    assert!(!signatures.iter().any(|s| gentle.contains(s)), "{gentle}");
}

#[test]
fn one_client_off_site_is_tuning_the_emulator_in_one_place() {
    let toy = fedbiot();
    toy.write("data.jsonl", support::rows(1, 16));
    let plan = toy.antiphon(&["plan", "run.toml", "federation.fraction=1", "--json"]).out;
    let plan: Value = serde_json::from_str(&plan).unwrap();
    // every step sees all examples, since the baseline walks through them in an order of its own
    let all = format!("train.micro_batch_size={}", plan["data"]["clients"][0]["train"]);
    let baselines = "eval.baselines=[\"centralised\", \"local_only\"]";
    // aligned before the first round and never between, so that all train on the same emulator
    let never = "emulator.align_every=100";
    toy.run("a", &["federation.fraction=1", "train.optimizer_state=keep", &all, baselines, never]);
    let s = summary(&toy, "a");
    let loss = |v: &Value| v["loss"].as_f64().unwrap();
    let federated = loss(&s["federated"]["global"]);
    assert_eq!(federated, loss(&s["baselines"]["local_only"]["on_union"]["0"]));
    let centralised = loss(&s["baselines"]["centralised"]["eval"]["global"]);
    assert!((federated - centralised).abs() < 1e-5 * centralised, "{federated} {centralised}");
    assert!((federated - loss(&s["off_site"]["zero_shot"])).abs() > 1e-4 * federated);
}

#[test]
fn without_a_drop_nothing_is_aligned() {
    let toy = fedbiot();
    toy.run("aligned", &["emulator.drop_rate=0.0"]);
    let o = &summary(&toy, "aligned")["off_site"];
    assert_eq!((&o["aligned"], &o["sent_changes"]), (&Value::Null, &json!(0)));
    assert_eq!(o["emulator_tuned"], o["plugged_in"]);
    assert!(lines(&toy, "aligned").iter().all(|r| r["alignment"].is_null()));
}

#[test]
fn bad_public_data_and_alignments_are_refused() {
    let toy = fedbiot();
    let refused = |overrides: &[&str], code: i32, words: &[&str]| {
        toy.antiphon(&[&["run", "run.toml", "--out", "never"], overrides].concat()).says(code, words);
        assert!(!toy.path("never").exists());
    };
    toy.write("none.txt", "");
    toy.write("text.txt", "the cat sat\n\non the mat\n\nand the dog\n\nsat on the log\n\nso did the cat");
    refused(
        &["emulator.public={share=0.01}"],
        3,
        &["emulator.public", "0 public sequences", "larger `share`"],
    );
    refused(
        &["emulator.public={share=0.9999}"],
        3,
        &["emulator.public", "`share` = 0.9999", "smaller share"],
    );
    let most = ["emulator.public={share=0.25, validation=0.999}"];
    refused(&most, 3, &["emulator.public", "`validation` = 0.999", "smaller share"]);
    refused(&["emulator.public={share=1.5}"], 3, &["share = 1.5", "below 1"]);
    refused(&["emulator.public={}"], 3, &["needs `path` or `share`"]);
    refused(&["emulator.public={path='a', share=0.1}"], 3, &["both `path` and `share`"]);
    refused(&["emulator.public={path='texx.txt'}"], 4, &["texx.txt", "text.txt"]);
    refused(&["emulator.public={path='none.txt', data={format='text', container='text'}}"], 4, &["none.txt"]);
    refused(&["emulator.align_every=0"], 3, &["align_every = 0"]);
    refused(&["emulator.distill.hidden=0", "emulator.distill.language_model=0"], 3, &["nothing to minimise"]);
    refused(&["emulator.send=int4"], 3, &["int4", "int8"]);
    let text = toy.read("run.toml");
    toy.write("run.toml", text.replace("public = { share = 0.25 }\n", ""));
    refused(&[], 3, &["need [emulator.public]"]);
    toy.write("run.toml", text.replace("align_every = 1\n", ""));
    refused(&[], 3, &["needs `emulator.align_every`"]);
}

#[test]
fn an_alignment_that_diverges_is_blamed_on_its_own_rate() {
    let toy = fedbiot();
    for (n, key) in ["distill", "align"].iter().enumerate() {
        for rate in ["1e300", "1e30"] {
            let out = format!("{n}-{rate}");
            let rate = format!("emulator.{key}.learning_rate={rate}");
            let words =
                ["the alignment of the emulator diverged", &format!("emulator.{key}.learning_rate = 1e")];
            toy.antiphon(&["run", "run.toml", "--out", &out, &rate]).says(7, &words);
        }
    }
}

#[test]
fn a_batch_larger_than_the_public_data_is_all_of_them() {
    let toy = fedbiot();
    toy.run("all", &["emulator.distill.micro_batch_size=1000000000"]);
    toy.run("some", &["emulator.distill.micro_batch_size=1000"]);
    assert_eq!(toy.adapter("all"), toy.adapter("some"));
}

#[test]
fn public_data_that_clients_have_too_are_counted() {
    let toy = fedbiot();
    // the very rows of the clients
    toy.write("public.jsonl", toy.read("data.jsonl"));
    let overrides = ["emulator.public={path='public.jsonl'}"];
    let ended = toy.run("a", &overrides);
    assert!(ended.err.contains("24 of 24 public sequences are also some client's"), "{}", ended.err);
    assert_eq!(summary(&toy, "a")["off_site"]["aligned"]["overlap"], json!(24));
}

/// The fully tuned federation takes as long as the run: a kill in the middle of it costs a round, not all of them.
#[test]
fn the_comparison_goes_on_where_it_was_killed() {
    let toy = toy(|_| ());
    let longer = ["federation.num_rounds=12", "train.local_steps=6", "train.optimizer_state=keep"];
    toy.run("whole", &longer);
    let mut child = toy.start(&[&["run", "run.toml", "--out", "killed"][..], &longer].concat());
    let begun = |name: &str| toy.path("killed/full").join(name).exists();
    while !begun("rounds/00002/checkpoint.json") && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!begun("summary.json"), "it was too late to kill");
    assert_eq!(toy.antiphon(&["resume", "killed"]).code, Some(0));
    assert_eq!(summary(&toy, "killed")["off_site"], summary(&toy, "whole")["off_site"]);
    // each round once, and no model left behind
    assert_eq!(toy.read("killed/full/metrics.jsonl").lines().count(), 12);
    assert!(begun("summary.json") && !begun("blobs") && !begun("rounds"));
}

#[test]
fn a_quantised_emulator_is_the_model_but_for_rounding_and_takes_fewer_bytes() {
    let toy = toy(|_| ());
    let whole = "emulator.drop_rate=0.0";
    let planned = |dtype: &[&str]| -> f64 {
        let plan = toy.antiphon(&[&["plan", "run.toml", "--json", whole], dtype].concat());
        let plan: Value = serde_json::from_str(&plan.out).unwrap();
        plan["off_site"]["sent_once"].as_f64().unwrap()
    };
    let stored = planned(&[]);
    for (dtype, most) in [("int8", 0.7), ("nf4", 0.6)] {
        let set = format!("emulator.dtype={dtype}");
        toy.run(dtype, &[whole, &set]);
        let o = &summary(&toy, dtype)["off_site"];
        let [base, emulator] = ["zero_shot", "emulator_zero_shot"].map(|n| o[n]["loss"].as_f64().unwrap());
        assert!(base != emulator && (base - emulator).abs() < 0.05 * base, "{dtype}: {base} {emulator}");
        // the maps of four of six layers are in codes, and the embeddings are not
        let bytes = planned(&[&set]);
        assert!(bytes < most * stored, "{dtype}: {bytes} of {stored}");
    }
}

#[test]
fn a_dtype_that_is_none_or_has_nothing_frozen_is_refused() {
    let toy = toy(|_| ());
    let refused = |set: &[&str], words: &[&str]| {
        toy.antiphon(&[&["plan", "run.toml"], set].concat()).says(3, words);
    };
    refused(&["emulator.dtype=int4"], &["int4", "int8", "nf4"]);
    let distill = "emulator.distill={steps=1,learning_rate=1e-3,micro_batch_size=1,hidden=1.0}";
    let public = "emulator.public={share=0.2}";
    refused(
        &["emulator.dtype=int8", distill, public],
        &["emulator.dtype", "emulator.distill", "emulator.send"],
    );
}
