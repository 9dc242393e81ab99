//! `antiphon compare`: a grid of tiny runs, stopped, killed, changed and taken up again.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::Toy;

const SETTINGS: i32 = 3;
const RUN_DIR: i32 = 6;
const FEDERATION: i32 = 7;
const INTERRUPTED: i32 = 130;

const STUDY: &str = r#"base = "run.toml"
seeds = [1, 2]
metrics = ["loss"]
forwards = [8, 16, 1000]

[set]
"federation.num_rounds" = 2
"eval.every_rounds" = 1
"eval.baselines" = ["zero_shot"]

[grid]
"train.learning_rate" = [1e-3, 1e-2]

[[arm]]
name = "LoRA"

[[arm]]
name = "all weights"
set = { method = { id = "full" } }
"#;

fn toy(study: &str) -> Toy {
    let toy = Toy::new();
    toy.write("study.toml", study);
    toy
}

fn study(toy: &Toy, out: &str) -> Value {
    serde_json::from_str(&toy.read(&format!("{out}/study.json"))).unwrap()
}

fn cells(study: &Value) -> Vec<&Value> {
    let variants = study["variants"].as_array().unwrap();
    variants.iter().flat_map(|v| v["cells"].as_array().unwrap()).collect()
}

#[test]
fn a_grid_of_two_arms_and_two_values() {
    let toy = toy(STUDY);
    toy.antiphon(&["compare", "study.toml", "--dry-run"]).says(0, &[]);
    assert!(!toy.path("runs").exists(), "a plan writes nothing");
    let ended = toy.antiphon(&["compare", "study.toml", "--jobs", "2"]);
    ended.says(0, &["8 runs = 4 variants x 2 seeds", "[8/8]", "2 divisions"]);
    let first = study(&toy, "runs/study");
    let cells = cells(&first);
    assert_eq!(cells.len(), 8);
    assert!(cells.iter().all(|c| c["status"] == "finished"));
    // the same data for every variant of a seed, another division for another seed
    let splits: Vec<&Value> = cells.iter().map(|c| &c["result"]["split"]).collect();
    assert!(splits.chunks(2).all(|pair| pair[0] == splits[0] && pair[1] == splits[1]), "{splits:?}");
    assert_ne!(splits[0], splits[1]);
    assert_eq!(&first["splits"][0]["digest"], splits[0]);
    // two clients of three a round, two rounds, two steps of two sequences
    assert!(cells.iter().all(|c| c["result"]["forwards"] == 16), "{cells:?}");
    assert!(cells.iter().all(|c| c["result"]["curve"].as_array().unwrap().len() == 2));
    // each is the run that `antiphon run` makes
    let summary: Value =
        serde_json::from_str(&toy.read("runs/study/lora-learning_rate-0.001/seed-1/summary.json")).unwrap();
    let overrides = ["run.seed=1", "train.learning_rate=0.001", "federation.num_rounds=2"];
    let alone = toy.run("alone", &overrides);
    let alone: Value =
        serde_json::from_str(&toy.read("alone/summary.json")).unwrap_or_else(|_| panic!("{alone:?}"));
    assert_eq!(summary["digest"], alone["digest"]);
    assert_eq!(cells[0]["result"]["test"]["loss"], alone["federated"]["global"]["loss"]);
    for (file, words) in [
        ("study.md", ["| LoRA, learning_rate = 0.001 |", "| base model, as it was |"]),
        ("study.csv", ["variant,seed,status,test loss,", "all weights, learning_rate = 0.01"]),
        ("study.html", ["At equal work", "From where on it pays"]),
    ] {
        let text = toy.read(&format!("runs/study/{file}"));
        assert!(words.iter().all(|w| text.contains(w)), "{file}: {text}");
    }
    // nothing is done twice
    let again = toy.antiphon(&["compare", "study.toml"]);
    again.says(0, &["nothing is left to run"]);
    assert!(!again.err.contains("begins"), "{}", again.err);
    assert_eq!(study(&toy, "runs/study"), first);
}

#[test]
fn stopped_killed_and_taken_up_again() {
    let longer = STUDY.replace("\"federation.num_rounds\" = 2", "\"federation.num_rounds\" = 8");
    let toy = toy(&longer);
    toy.antiphon(&["compare", "study.toml", "--out", "whole", "--jobs", "2"]).says(0, &[]);
    // stopped by Ctrl+C within its second run
    let mut child = toy.command(&["compare", "study.toml", "--out", "cut"]);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut begun = 0;
    let mut said = String::new();
    for line in lines.map_while(Result::ok) {
        said += &format!("{line}\n");
        begun += usize::from(line.ends_with(" begins"));
        if begun == 2 && line.ends_with(" begins") {
            assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(INTERRUPTED), "{said}");
    assert!(said.contains("nothing is lost: antiphon compare study.toml --out cut"), "{said}");
    assert!(cells(&study(&toy, "cut")).iter().any(|c| c["status"] == "waiting"));
    // a run that was killed in the middle of a round, where the study left none
    let dir = "cut/all-weights-learning_rate-0.01/seed-2";
    assert!(!toy.path(dir).exists());
    let overrides = [
        "method={ id = \"full\" }",
        "train.learning_rate=0.01",
        "federation.num_rounds=8",
        "eval.every_rounds=1",
        "eval.baselines=[\"zero_shot\"]",
        "run.seed=2",
        "run.name=x",
    ];
    let mut killed = toy.command(&[&["run", "run.toml", "--out", dir], &overrides[..]].concat());
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(killed.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|l| l.starts_with("round   3/")));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let ended = toy.antiphon(&["compare", "study.toml", "--out", "cut"]);
    ended.says(0, &["all weights, learning_rate = 0.01, seed 2 goes on"]);
    let [whole, cut] = ["whole", "cut"].map(|out| study(&toy, out));
    for (a, b) in cells(&whole).iter().zip(cells(&cut)) {
        assert_eq!(a["result"]["test"], b["result"]["test"]);
        assert_eq!(a["result"]["curve"], b["result"]["curve"]);
    }
}

#[test]
fn cells_of_other_settings_or_data_are_refused() {
    let small = "base = \"run.toml\"\nseeds = [1]\n[set]\n\"federation.num_rounds\" = 1\n[grid]\n\"train.learning_rate\" = [1e-3]\n";
    let toy = toy(small);
    let ended = toy.antiphon(&["compare", "study.toml"]);
    ended.says(0, &["known after the first run"]);
    // of one seed there is no spread
    assert!(ended.out.contains("One seed: there is no spread") && !ended.out.contains('±'), "{}", ended.out);
    // what has no influence on a result may change
    toy.edit("run.toml", "workers = 2", "workers = 1");
    toy.antiphon(&["compare", "study.toml"]).says(0, &["nothing is left"]);
    toy.edit("run.toml", "local_steps = 2", "local_steps = 3");
    let words = ["other settings", "train.local_steps: 2 -> 3", "remove this folder"];
    toy.antiphon(&["compare", "study.toml"]).says(RUN_DIR, &words);
    toy.edit("run.toml", "local_steps = 3", "local_steps = 2");
    let data = toy.read("data.jsonl");
    toy.write("data.jsonl", data.replacen("what do cats do, 0", "what did cats do, 0", 1));
    toy.antiphon(&["compare", "study.toml"]).says(RUN_DIR, &["the data have changed"]);
}

#[test]
fn a_cell_with_a_damaged_file_is_not_compared() {
    let small = "base = \"run.toml\"\nseeds = [1]\n[set]\n\"federation.num_rounds\" = 2\n[grid]\n\"train.learning_rate\" = [1e-3]\n";
    let toy = toy(small);
    let compare = || toy.antiphon(&["compare", "study.toml", "--out", "s"]);
    compare().says(0, &[]);
    let dir =
        std::fs::read_dir(toy.path("s")).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    let cell = format!("s/{}/seed-1", dir.file_name().unwrap().to_string_lossy());
    let (metrics, summary) = (format!("{cell}/metrics.jsonl"), format!("{cell}/summary.json"));
    let whole = toy.read(&metrics);
    let first = whole.find('\n').unwrap() + 1;
    for damaged in ["", &whole[..first], &whole[first..]] {
        toy.write(&metrics, damaged);
        compare().says(RUN_DIR, &["seed 1", &metrics, "line ", "remove"]);
    }
    std::fs::remove_file(toy.path(&metrics)).unwrap();
    compare().says(RUN_DIR, &[&metrics, "line 1: nothing"]);
    toy.write(&metrics, &whole);
    toy.write(&summary, "{");
    compare().says(RUN_DIR, &[&summary, &format!("antiphon resume {cell}")]);
    toy.antiphon(&["resume", &cell]).says(0, &["written again"]);
    compare().says(0, &["nothing is left"]);
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_runs() {
    let head = "base = \"run.toml\"\nseeds = [1]\n";
    for (rest, words) in [
        (
            "[grid]\n\"train.learning_rat\" = [1e-3]\n",
            vec!["study.toml:4:1", "learning_rat", "did you mean `learning_rate`"],
        ),
        (
            "[[arm]]\nname = \"a\"\n[[arm]]\nname = \"b\"\nset = { \"method.lora_q\" = 2 }\n",
            vec!["study.toml:7:9", "variant `b`", "lora_q"],
        ),
        (
            "[[arm]]\nname = \"a\"\n[[arm]]\nname = \"b\"\nset = { \"data.split.test\" = 0.25 }\n",
            vec!["`b` and `a` would be compared on different data", "[grid]"],
        ),
        ("[[arm]]\nname = \"a\"\nbase = \"rum.toml\"\n", vec!["rum.toml", "did you mean `run.toml`"]),
    ] {
        let toy = toy(&format!("{head}{rest}"));
        toy.antiphon(&["compare", "study.toml"]).says(SETTINGS, &words);
        assert!(!toy.path("runs").exists());
    }
}

#[test]
fn one_failed_run_does_not_stop_the_others() {
    let text = "base = \"run.toml\"\nseeds = [1]\n[set]\n\"federation.num_rounds\" = 1\n\
                [[arm]]\nname = \"mild\"\n[[arm]]\nname = \"wild\"\nset = { \"train.learning_rate\" = 1e30 }\n";
    let toy = toy(text);
    let ended = toy.antiphon(&["compare", "study.toml"]);
    ended.says(FEDERATION, &["1 of 2 runs failed", "wild, seed 1: round 1 of 1 failed"]);
    assert!(ended.out.contains("1 of 1") && ended.out.contains("0 of 1"), "{}", ended.out);
    let study = study(&toy, "runs/study");
    let cells = cells(&study);
    assert_eq!((&cells[0]["status"], &cells[1]["status"]), (&"finished".into(), &"failed".into()));
}
