//! Runs of `[scalars]` through the binary: what travels, that a run goes on and is exported like any other, and its audit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::Toy;

const ZEROTH: &str = "\n[estimator]\nid = \"zeroth_order\"\nepsilon = 1e-3\n";

/// The toy federation with `[scalars]` instead of vectors.
fn toy(scalars: &str, estimator: &str) -> Toy {
    let toy = Toy::new();
    toy.edit("run.toml", "local_steps = 2", "local_steps = 2\nmax_grad_norm = 0");
    let text = toy.read("run.toml");
    let sgd = if text.contains("[optimizer]") { "" } else { "\n[optimizer]\nid = \"sgd\"\n" };
    toy.write("run.toml", format!("{text}\n[scalars]\n{scalars}\n{estimator}{sgd}"));
    toy
}

trait Succeeds {
    fn ok(self) -> Self;
}

impl Succeeds for support::Ended {
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

fn rounds(toy: &Toy, run: &str) -> Vec<Value> {
    toy.read(&format!("{run}/metrics.jsonl")).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn summary(toy: &Toy, run: &str) -> Value {
    serde_json::from_str(&toy.read(&format!("{run}/summary.json"))).unwrap()
}

const FERRET: &str = "id = \"ferret\"\ncoordinates = 200";

#[test]
fn every_method_runs_is_evaluated_exported_and_audited() {
    for (scalars, estimator) in [
        ("id = \"fedkseed\"\nseeds = 64", ZEROTH),
        ("id = \"fedkseed_pro\"\nseeds = 64", ZEROTH),
        ("id = \"decomfl\"", ZEROTH),
        (FERRET, ""),
    ] {
        let toy = toy(scalars, estimator);
        let plan = toy.antiphon(&["plan", "run.toml"]).ok();
        assert!(plan.out.contains("instead of the vector"), "{scalars}: {}", plan.out);
        toy.run("a", &[]);
        let s = summary(&toy, "a");
        assert!(s["weights"].is_string() && s["federated"]["global"]["loss"].is_number(), "{s}");
        for row in s["predicted"].as_array().unwrap().iter().take(2) {
            let (most, found) = (row["predicted"].as_f64().unwrap(), row["measured"].as_f64().unwrap());
            assert!(found <= most && row["exact"] == false, "{scalars}: {row}");
        }
        toy.antiphon(&["eval", "a"]).ok();
        toy.antiphon(&["export", "a", "--to", "peft", "--out", "adapter"]).ok();
        toy.antiphon(&["doctor", "a"]).ok();
        let audit = toy.antiphon(&["audit", "a"]).ok();
        assert!(audit.out.contains("OK") && audit.out.contains("latest/"), "{}", audit.out);
    }
}

/// The payload of one client in one round, as it was counted on the wire: 20 bytes up for DeComFL's five slopes, and less than
/// 18 kB up and down for FedKSeed at the paper's size.
#[test]
fn scalars_on_the_wire_are_as_few_as_promised() {
    let five = format!("{ZEROTH}directions = 5\n");
    let toy_ = toy("id = \"decomfl\"", &five);
    let one = [
        "train.local_steps=1",
        "aggregation.layers=[]",
        "aggregation.reducer={id=\"median\"}",
        "federation.num_rounds=3",
    ];
    toy_.run("a", &one);
    for round in rounds(&toy_, "a") {
        let counted = round["cohort"].as_array().unwrap().len() as u64;
        assert_eq!(round["traffic"]["payload_up"], 20 * counted, "{round}");
    }
    let toy_ = toy("id = \"fedkseed\"\nseeds = 4096", ZEROTH);
    toy_.run(
        "a",
        &[
            "train.local_steps=200",
            "train.micro_batch_size=1",
            "federation.num_rounds=2",
            "federation.fraction=1",
        ],
    );
    for round in rounds(&toy_, "a") {
        let clients = round["cohort"].as_array().unwrap().len() as u64;
        let traffic = |key: &str| round["traffic"][key].as_u64().unwrap();
        let payload = (traffic("payload_up") + traffic("payload_down")) / clients;
        let envelope = (traffic("up") + traffic("down")) / clients - payload;
        println!(
            "FedKSeed, K = 4096, 200 steps: {payload} bytes of payload, {envelope} of envelope a client and round"
        );
        assert!(payload <= 18_000 && payload > 800, "{round}");
        // the index of the places is part of it
        assert!(envelope < 2000, "{envelope}");
    }
    // the second round is told as what changed
    assert!(
        rounds(&toy_, "a")[1]["traffic"]["payload_down"].as_u64()
            < rounds(&toy_, "a")[0]["traffic"]["payload_down"].as_u64()
    );
}

/// A stopped and resumed run ends with the bits of one that was not, and can be audited from its first round.
#[test]
fn a_resumed_run_is_the_same_run() {
    let toy = toy("id = \"decomfl\"", ZEROTH);
    toy.run("whole", &[]);
    toy.run("part", &[]);
    // as a kill in the middle of the last round leaves it: its deliveries are there and its closing is not
    let kept = std::fs::read(toy.path("part/deliveries.bin")).unwrap();
    std::fs::write(toy.path("part/deliveries.bin"), [&kept[..], &kept[..30]].concat()).unwrap();
    toy.antiphon(&["resume", "part"]).ok();
    assert_eq!(summary(&toy, "part")["weights"], summary(&toy, "whole")["weights"]);
    toy.antiphon(&["audit", "part"]).ok();
}

#[test]
fn one_flipped_scalar_fails_the_audit() {
    let toy = toy("id = \"fedkseed\"\nseeds = 64", ZEROTH);
    toy.run("a", &[]);
    let good = std::fs::read(toy.path("a/deliveries.bin")).unwrap();
    let mut bad = good.clone();
    let last = bad.len() - 6;
    bad[last] ^= 1;
    toy.write("a/deliveries.bin", &bad);
    let ended = toy.antiphon(&["audit", "a"]);
    assert_eq!(ended.code, Some(10), "{ended:?}");
    assert!(ended.err.contains("round") && ended.err.contains("client"), "{}", ended.err);
    // an adapter that was exchanged after the run
    toy.write("a/deliveries.bin", &good);
    let path = "a/latest/adapter_model.safetensors";
    let mut adapter = std::fs::read(toy.path(path)).unwrap();
    let last = adapter.len() - 3;
    adapter[last] ^= 1;
    toy.write(path, &adapter);
    let ended = toy.antiphon(&["audit", "a"]);
    assert!(ended.code == Some(10) && ended.err.contains("latest/"), "{ended:?}");
    std::fs::remove_file(toy.path("a/deliveries.bin")).unwrap();
    assert!(toy.antiphon(&["audit", "a"]).err.contains("deliveries.bin"));
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let toy = toy("id = \"fedkseed\"", "");
    let ended = toy.antiphon(&["plan", "run.toml"]);
    assert!(ended.code == Some(3) && ended.err.contains("zeroth_order"), "{ended:?}");
    let ended = toy.antiphon(&["plan", "run.toml", "scalars.id=fedkseeds"]);
    assert!(ended.err.contains("did you mean `fedkseed`"), "{ended:?}");
    let plain = Toy::new();
    plain.run("a", &[]);
    let ended = plain.antiphon(&["audit", "a"]);
    assert!(ended.code == Some(2) && ended.err.contains("[scalars]"), "{ended:?}");
}
