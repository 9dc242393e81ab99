//! From a model and a text to an exported adapter, command after command, through the binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says when it is skipped")]

use std::path::{Path, PathBuf};
use std::process::Command;

use antiphon_testkit::shared;
use serde_json::Value;

fn antiphon(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_antiphon")).args(args).arg("-q").output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {stderr}");
    String::from_utf8(out.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.push("--json");
    let text = antiphon(&all);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
}

fn logits(args: &[&str]) -> Vec<f64> {
    let all = [&["logits"], args, &["--ids", "1 5 7 30 99"]].concat();
    json(&all)["logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Model and play, where they are.
fn material() -> Option<(PathBuf, PathBuf)> {
    let found = shared("data/models/stories260k-hf").zip(shared("data/datasets/tinyshakespeare/input.txt"));
    if found.is_none() {
        println!("skipped: ../shared/data is not there");
    }
    found
}

#[test]
fn a_run_from_init_to_export() {
    let Some((model, play)) = material() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (file, run) = (at("run.toml"), at("run"));

    // what init writes, plan accepts
    let init = json(&["init", text(&model), text(&play), "--out", text(&file)]);
    let plan = json(&["plan", text(&file)]);
    assert_eq!(init["prediction"]["bytes_up_per_round"], plan["prediction"]["bytes_up_per_round"]);
    let proposed = std::fs::read_to_string(&file).unwrap();
    assert!(proposed.contains("splitter = \"speaker\"") && proposed.contains("id = \"field\""), "{proposed}");
    let readable = antiphon(&["plan", text(&file)]);
    for word in ["trained", "up", "activations", "memory", "FLOP", "partition", "JULIET"] {
        assert!(readable.contains(word), "no `{word}` in: {readable}");
    }

    let small =
        ["federation.num_rounds=2", "train.local_steps=2", "data.sequence_len=48", "eval.baselines=[]"];
    let summary = json(&[&["run", text(&file)], &small[..], &["--out", text(&run)]].concat());
    assert_eq!(summary["run"]["rounds_done"], 2);

    // eval of the run's checkpoint gives what the run itself measured; of its adapter too
    let of_run = json(&["eval", text(&run)]);
    let latest = run.join("latest");
    let of_adapter = json(&["eval", text(&run), "--adapter", text(&latest)]);
    assert_eq!(of_run["evaluation"], summary["federated"]);
    assert_eq!(of_adapter["evaluation"]["global"], summary["federated"]["global"]);
    let validation = json(&["eval", text(&run), "--part", "validation"]);
    assert_eq!(validation["evaluation"]["split"], "validation");

    let doctor = json(&["doctor", text(&run)]);
    assert_eq!((&doctor["rounds"], &doctor["finished"]), (&Value::from(2), &Value::from(true)));
    std::fs::remove_file(run.join("summary.json")).unwrap();
    assert_eq!(json(&["doctor", text(&run)])["finished"], false);

    // every export answers as the run does; the adapter changes something
    let of_base = logits(&[text(&model)]);
    let tuned = logits(&[text(&model), "--adapter", text(&latest)]);
    assert_eq!(tuned, logits(&[text(&run)]));
    assert!(difference(&of_base, &tuned) > 1e-3);
    for (name, args, bound) in [
        ("peft", &["--to", "peft"][..], 0.0),
        ("f32", &["--to", "merged"], 1e-3),
        ("f16", &["--dtype", "f16"], 0.1),
        ("bf16", &["--dtype", "bf16"], 1.0),
    ] {
        let out = at(name);
        antiphon(&[&["export", text(&run), "--out", text(&out)], args].concat());
        let found = match name {
            "peft" => logits(&[text(&model), "--adapter", text(&out)]),
            _ => logits(&[text(&out)]),
        };
        let worst = difference(&found, &tuned);
        assert!(worst <= bound, "{name}: {worst}");
        let config = out.join("config.json");
        if name != "peft" {
            let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
            let dtype = config.get("dtype").or_else(|| config.get("torch_dtype")).unwrap();
            assert_eq!(
                *dtype,
                ["float32", "float16", "bfloat16"]
                    [["f32", "f16", "bf16"].iter().position(|n| *n == name).unwrap()]
            );
        }
        let again = Command::new(env!("CARGO_BIN_EXE_antiphon"))
            .args(["export", text(&run), "--out", text(&out)])
            .output()
            .unwrap();
        assert_eq!(again.status.code(), Some(2), "an export overwrote {name}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with(".tmp-")), "{left:?}");

    let answer = json(&["generate", text(&run), "-p", "ROMEO:", "--max-new-tokens", "12"]);
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 12);
    assert_eq!(answer["finish"], "length");
    let streamed = antiphon(&["generate", text(&run), "-p", "ROMEO:", "--max-new-tokens", "12"]);
    assert_eq!(streamed.trim_end_matches('\n'), answer["text"].as_str().unwrap().trim_end_matches('\n'));
}

#[test]
fn a_round_without_work_is_timed() {
    let dir = tempfile::tempdir().unwrap();
    for durable in [false, true] {
        let mut args = vec!["bench", "round", "--clients", "3", "--megabytes", "0.04", "--rounds", "4"];
        args.extend(["--dir", text(dir.path())]);
        args.extend(durable.then_some("--durable"));
        let report = json(&args);
        assert_eq!(report["scalars"], 10_000);
        assert_eq!(report["rounds"], 4);
        // three clients, both ways, and what frames add
        let bytes = report["bytes_per_round"].as_u64().unwrap();
        assert!((240_000..245_000).contains(&bytes), "{bytes}");
        assert_eq!(report.get("sync_floor_ms").is_some(), durable);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the folder is cleared");
}
