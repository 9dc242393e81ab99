//! A run that was stopped, killed, moved or cut short by a full disk ends with the bits of one that was left alone.
//!
//! `scripts/kill_test.sh N` kills N times instead of a few.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use antiphon_core::Digest;
use support::{Ended, Toy, snapshot};

const RUN_DIR: i32 = 6;
const STORAGE: i32 = 8;
const INTERRUPTED: i32 = 130;

/// Kinds of run whose state between rounds differs: their name, toy and overrides.
fn kinds() -> [(&'static str, Toy, Vec<&'static str>); 7] {
    let keep = "train.optimizer_state=keep";
    let sgdm = ["server.id=sgdm", "server.learning_rate=0.9", "server.momentum=0.8"];
    [
        ("reset", Toy::new(), vec!["run.durable=true"]),
        ("keep and sgdm", Toy::new(), [&[keep][..], &sgdm].concat()),
        ("keep and local heads", Toy::classifier(), vec![keep]),
        ("zeroth order and median", Toy::new(), [&ZEROTH_ORDER[..], &MEDIAN].concat()),
        // clients sit out rounds and have losses of their own to go on from
        (
            "personalised rates",
            Toy::new(),
            [&ZEROTH_ORDER[..], &["train.personalized_lr={spread=5e-3,rounds=2}"]].concat(),
        ),
        ("an emulator aligned every round", Toy::aligned(), vec![keep]),
        ("the best round", Toy::new(), BEST.to_vec()),
    ]
}

/// Directions are seeds, so a resumed run looks along the same ones.
const ZEROTH_ORDER: [&str; 4] =
    ["estimator.id=zeroth_order", "estimator.epsilon=1e-2", "optimizer.id=sgd", "train.max_grad_norm=0"];
const MEDIAN: [&str; 2] = ["aggregation.layers=[]", "aggregation.reducer.id=median"];

/// Steps so far that validation loss rises again.
const BEST: [&str; 3] = ["eval.select=best", "eval.every_rounds=1", "train.learning_rate=0.1"];

/// Enough rounds that a stop falls between them.
const LONGER: [&str; 2] = ["federation.num_rounds=10", "train.local_steps=6"];

/// What a run leaves that has to be the same: the adapter's bytes, and the digests of all state in the last checkpoint,
/// the clients' own included.
#[derive(Debug, PartialEq)]
struct Left {
    adapter: Digest,
    state: BTreeMap<String, serde_json::Value>,
}

fn left(toy: &Toy, run: &str) -> Left {
    let mut rounds: Vec<PathBuf> =
        std::fs::read_dir(toy.path(run).join("rounds")).unwrap().map(|e| e.unwrap().path()).collect();
    rounds.sort_unstable();
    let text = std::fs::read_to_string(rounds.last().unwrap().join("checkpoint.json")).unwrap();
    let mut state: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    // the log tells of stops
    state.remove("log").unwrap();
    Left { adapter: toy.adapter(run), state }
}

/// Starts `run.toml` into `out` and waits for the line of the round `done`.
fn start_until(toy: &Toy, out: &str, overrides: &[&str], done: u32) -> Child {
    let arguments = [&["run", "run.toml", "--out", out], overrides].concat();
    let mut child = toy.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.as_mut().unwrap());
    let wanted = format!("round {done:>3}/");
    assert!(lines.lines().any(|line| line.unwrap().starts_with(&wanted)), "no {wanted}");
    child
}

fn signal(child: &Child, name: &str) {
    let kill = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
}

#[test]
fn the_number_of_workers_does_not_matter() {
    for (kind, toy, overrides) in kinds() {
        let runs = ["1", "2", "4"].map(|n| {
            let workers = format!("run.workers={n}");
            toy.run(n, &[&overrides[..], &[workers.as_str()]].concat());
            left(&toy, n)
        });
        assert_eq!(runs[0], runs[1], "{kind}");
        assert_eq!(runs[0], runs[2], "{kind}");
        // and the test can fail
        toy.run("seed", &[&overrides[..], &["run.seed=8"]].concat());
        assert_ne!(left(&toy, "seed").adapter, runs[0].adapter, "{kind}");
    }
}

#[test]
fn stopped_by_ctrl_c() {
    for (kind, toy, overrides) in kinds() {
        let overrides = [&overrides[..], &LONGER].concat();
        toy.run("whole", &overrides);
        let mut child = start_until(&toy, "stopped", &overrides, 2);
        signal(&child, "-INT");
        let mut message = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut message).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(INTERRUPTED), "{kind}: {message}");
        assert!(message.contains("nothing is lost: antiphon resume stopped"), "{kind}: {message}");
        assert!(!toy.path("stopped/latest").exists(), "{kind}: it was too late to stop");
        let ended = toy.antiphon(&["resume", "stopped"]);
        ended.says(0, &["continuing at round"]);
        assert_eq!(left(&toy, "stopped"), left(&toy, "whole"), "{kind}");
    }
}

/// Random numbers that are the same everywhere (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let share = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64;
        bound.mul_f64(share)
    }
}

#[test]
fn killed_at_random_moments() {
    let wanted: usize = std::env::var("ANTIPHON_KILLS").map_or(9, |n| n.parse().unwrap());
    let seed: u64 = std::env::var("ANTIPHON_KILL_SEED").map_or(1, |n| n.parse().unwrap());
    let mut random = Random(seed.max(1));
    let (mut kills, mut before_creation, mut runs) = (0, 0, 0);
    let kinds = kinds();
    let share = wanted.div_ceil(kinds.len());
    for (kind, toy, overrides) in kinds {
        let overrides = [&overrides[..], &LONGER].concat();
        let begun = Instant::now();
        toy.run("whole", &overrides);
        // a fresh process takes that long for everything, so that a kill hits each part of it
        let longest = begun.elapsed().mul_f64(0.9);
        let whole = left(&toy, "whole");
        let mut own = 0;
        while own < share {
            runs += 1;
            let out = format!("killed-{runs}");
            loop {
                let created = toy.path(&out).join("run.toml").exists();
                let resume = ["resume", out.as_str()];
                let run = [&["run", "run.toml", "--out", out.as_str()], &overrides[..]].concat();
                let arguments = if created { &resume[..] } else { &run[..] };
                if own == share {
                    let ended = toy.antiphon(arguments);
                    assert_eq!(ended.code, Some(0), "{kind}: {ended:?}");
                    break;
                }
                let mut child = toy.start(arguments);
                std::thread::sleep(random.below(longest));
                // without effect on one that has ended
                child.kill().unwrap();
                let ended = Ended::from(child.wait_with_output().unwrap());
                match ended.code {
                    None => {
                        own += 1;
                        before_creation += usize::from(!toy.path(&out).join("run.toml").exists());
                    }
                    Some(code) => {
                        assert_eq!(code, 0, "{kind}: {ended:?}");
                        break;
                    }
                }
            }
            assert_eq!(left(&toy, &out), whole, "{kind}, {out}");
            std::fs::remove_dir_all(toy.path(&out)).unwrap();
        }
        kills += own;
    }
    println!("{kills} kills in {runs} runs, {before_creation} of them before there was a run; seed {seed}");
}

/// Killed after its best round, a run still ends with it: in this process, and at an endpoint.
#[test]
fn the_best_round_outlives_the_process_that_saw_it() {
    let served = [
        "eval.select=best",
        "eval.every_rounds=1",
        "method={id=\"prompt\",num_virtual_tokens=3,prompt_tuning_init=\"random\"}",
        "search={id=\"bdpl\",candidates=\"the cat sat on the mat and the dog\",samples=4,batch_size=3,learning_rate=0.05,\
         loss=\"nll\"}",
        "oracle={endpoint=\"embedded\",access=\"logprobs\"}",
    ];
    for kind in [&BEST[..], &served] {
        let toy = Toy::new();
        let overrides = [kind, &["federation.num_rounds=8"]].concat();
        let seed = toy.run_past_its_best("whole", &overrides, 2);
        let overrides = [&overrides[..], &[seed.as_str()]].concat();
        let (best, loss) = toy.best_round("whole");
        let mut child = start_until(&toy, "killed", &overrides, best as u32 + 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!toy.path("killed/latest").exists(), "it was too late to kill");
        toy.antiphon(&["resume", "killed"]).says(0, &["continuing at round"]);
        assert_eq!(snapshot(&toy.path("killed/latest")), snapshot(&toy.path("whole/latest")), "{kind:?}");
        let (whole, killed) = (toy.summary("whole"), toy.summary("killed"));
        assert_eq!(killed["run"]["chosen"], serde_json::json!({ "round": best, "loss": loss }), "{kind:?}");
        for key in ["digest", "federated"] {
            assert_eq!(killed[key], whole[key], "{kind:?}, {key}");
        }
    }
}

/// Questions that a kill undid were spent, but are no work of the run: neither on its axis nor in its line of random search.
#[test]
fn a_round_done_again_asks_no_more() {
    let search = [
        "method={id=\"prompt\",num_virtual_tokens=3,prompt_tuning_init=\"random\"}",
        "search={id=\"bdpl\",candidates=\"the cat sat on the mat and the dog\",samples=4,batch_size=3,learning_rate=0.05,\
         loss=\"nll\"}",
        "federation.num_rounds=8",
    ];
    for endpoint in [&[][..], &["oracle={endpoint=\"embedded\",access=\"logprobs\"}"]] {
        let toy = Toy::new();
        let overrides = [&search, endpoint].concat();
        toy.run("whole", &overrides);
        let mut child = start_until(&toy, "killed", &overrides, 4);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!toy.path("killed/latest").exists(), "it was too late to kill");
        // closed, and done again
        let rounds = std::fs::read_dir(toy.path("killed/rounds")).unwrap().map(|e| e.unwrap().path());
        std::fs::remove_dir_all(rounds.max().unwrap()).unwrap();
        toy.antiphon(&["resume", "killed"]).says(0, &["is done again"]);
        let asked = |run: &str| -> Vec<u64> {
            let lines = toy.read(&format!("{run}/metrics.jsonl"));
            let spent = |line: &str| {
                let record: serde_json::Value = serde_json::from_str(line).unwrap();
                let number = |key: &str| record["spent"][key].as_u64().unwrap();
                number("examples") + number("cache_hits")
            };
            lines.lines().map(spent).collect()
        };
        assert_eq!(asked("killed"), asked("whole"), "{endpoint:?}");
        let queries = |run: &str| {
            let q = &toy.summary(run)["queries"];
            q["examples"].as_u64().unwrap() + q["cache_hits"].as_u64().unwrap()
        };
        assert!(queries("killed") > queries("whole"), "nothing was undone: {endpoint:?}");
        let luck = |run: &str| {
            let mut line = toy.summary(run)["baselines"]["random_search"].clone();
            line.as_object_mut().unwrap().remove("seconds").unwrap();
            line
        };
        assert_eq!(luck("killed"), luck("whole"), "{endpoint:?}");
    }
}

/// What clients learnt in an attempt that did not count is in no checkpoint, so a run that goes on must not know it
/// either.
#[test]
fn attempts_that_failed_leave_nothing() {
    let toy = Toy::new();
    toy.let_the_rich_diverge();
    toy.write("data.jsonl", support::rows_of([("cats", 2), ("dogs", 2), ("frogs", 2), ("mice", 8)]));
    let pairs = ["federation.fraction=0.5", "federation.min_clients=2", "federation.num_rounds=8"];
    // half of all pairs fail, and a run ends when three in a row do: not with every seed
    let seed = (1..100).map(|n| format!("run.seed={n}")).find(|seed| {
        let _ = std::fs::remove_dir_all(toy.path("whole"));
        let ended = toy.antiphon(&[&["run", "run.toml", "--out", "whole", seed][..], &pairs].concat());
        ended.code == Some(0) && ended.err.matches("failed at attempt").count() > 3
    });
    let seed = seed.unwrap();
    let overrides = [&pairs[..], &[seed.as_str()]].concat();
    for rounds in 1..8 {
        let mut child = start_until(&toy, "a", &overrides, rounds);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(toy.antiphon(&["resume", "a"]).code, Some(0));
        assert_eq!(left(&toy, "a"), left(&toy, "whole"), "killed after round {rounds}");
        std::fs::remove_dir_all(toy.path("a")).unwrap();
    }
}

#[test]
fn a_finished_run_is_left_alone() {
    let toy = Toy::new();
    toy.run("a", &[]);
    let content = || {
        let mut files = snapshot(&toy.path("a"));
        // says who looked last
        files.remove(Path::new("run.lock"));
        files
    };
    let before = content();
    let ended = toy.antiphon(&["resume", "a"]);
    ended.says(0, &["a is finished", "4 rounds", "nothing was changed"]);
    assert!(ended.out.contains("a/report.html"), "{ended:?}");
    let ended = toy.antiphon(&["resume", "a", "--json", "--quiet"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    let summary: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(summary, serde_json::from_str::<serde_json::Value>(&toy.read("a/summary.json")).unwrap());
    assert_eq!(content(), before);

    // a part of the results is gone: they are made again, the same
    let adapter = toy.adapter("a");
    std::fs::remove_dir_all(toy.path("a/latest")).unwrap();
    toy.antiphon(&["resume", "a"]).says(0, &["writing the model"]);
    assert_eq!(toy.adapter("a"), adapter);
}

#[test]
fn what_a_finished_run_has_lost_is_written_again() {
    let toy = Toy::new();
    toy.run("a", &[]);
    let (latest, summary) = (snapshot(&toy.path("a/latest")), toy.summary("a"));
    let export = |to: &str| toy.antiphon(&["export", "a", "--to", "peft", "--out", to]);
    let again = |words: &[&str]| {
        toy.antiphon(&["resume", "a"]).says(0, words);
        assert_eq!(snapshot(&toy.path("a/latest")), latest);
        let now = toy.summary("a");
        for key in ["digest", "federated", "baselines", "traffic"] {
            let strip = |mut v: serde_json::Value| {
                v.get_mut("zero_shot").and_then(|z| z.as_object_mut()).map(|z| z.remove("seconds"));
                v
            };
            assert_eq!(strip(now[key].clone()), strip(summary[key].clone()), "{key}");
        }
        toy.antiphon(&["resume", "a"]).says(0, &["nothing was changed"]);
    };
    // weights that are not the run's
    let path = toy.path("a/latest/adapter_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let words = ["adapter_model.safetensors` is not what the run wrote", "antiphon resume a", "--adapter"];
    export("x").says(RUN_DIR, &words);
    let generate =
        |with: &[&str]| toy.antiphon(&[&["generate", "a", "--prompt", "the cat"][..], with].concat());
    generate(&[]).says(RUN_DIR, &words);
    generate(&["--adapter", "a/latest"]).says(0, &[]);
    again(&["is not what the run wrote", "written again"]);
    // nothing at all
    std::fs::remove_dir_all(toy.path("a/latest")).unwrap();
    std::fs::create_dir(toy.path("a/latest")).unwrap();
    export("x").says(RUN_DIR, &["` is gone", "antiphon resume a"]);
    again(&["` is gone", "written again"]);
    // half a summary
    let text = toy.read("a/summary.json");
    toy.write("a/summary.json", &text[..text.len() / 2]);
    toy.antiphon(&["doctor", "a"]).says(RUN_DIR, &["a/summary.json", "antiphon resume a"]);
    again(&["summary.json", "written again"]);
    // none
    std::fs::remove_file(toy.path("a/summary.json")).unwrap();
    again(&[]);
    export("x").says(0, &[]);
}

#[test]
fn a_damaged_history_is_refused_by_its_line() {
    let toy = Toy::new();
    toy.run("whole", &LONGER);
    let mut child = start_until(&toy, "a", &LONGER, 4);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!toy.path("a/latest").exists(), "it was too late to kill");
    let text = toy.read("a/metrics.jsonl");
    let first = text.find('\n').unwrap() + 1;
    let before = snapshot(&toy.path("a/rounds"));
    for (damaged, line) in [
        (text[first..].to_owned(), "line 1: the record of round 1"),
        (format!("garbage\n{}", &text[first..]), "line 1: no record"),
        (String::new(), "line 1: nothing"),
    ] {
        toy.write("a/metrics.jsonl", damaged);
        for command in ["resume", "doctor"] {
            toy.antiphon(&[command, "a"]).says(RUN_DIR, &["metrics.jsonl", line, "round 0 must be"]);
        }
        assert_eq!(snapshot(&toy.path("a/rounds")), before);
    }
    // what a kill leaves of a round that is not closed is none
    toy.write("a/metrics.jsonl", format!("{text}{{\"round\":"));
    toy.antiphon(&["resume", "a"]).says(0, &["continuing at round"]);
    assert_eq!(left(&toy, "a"), left(&toy, "whole"));
    // twice the same
    let text = toy.read("a/metrics.jsonl");
    toy.write("a/metrics.jsonl", text.repeat(2));
    toy.antiphon(&["doctor", "a"]).says(RUN_DIR, &["line 11: the record of round 0"]);
    // the way out that the message names
    toy.write("a/metrics.jsonl", &text[first..]);
    toy.antiphon(&["resume", "a"]).says(RUN_DIR, &["from 00000 on in `rounds`"]);
    std::fs::remove_dir_all(toy.path("a/rounds")).unwrap();
    std::fs::create_dir(toy.path("a/rounds")).unwrap();
    toy.antiphon(&["resume", "a"]).says(0, &["is done again"]);
    assert_eq!(left(&toy, "a"), left(&toy, "whole"));
}

/// An older checkpoint is not taken for the newest without a word.
#[test]
fn evaluating_an_older_checkpoint_is_said() {
    let toy = Toy::new();
    toy.run("a", &[]);
    assert!(toy.antiphon(&["eval", "a"]).out.starts_with("a after round 4\n"));
    let newest = std::fs::read_dir(toy.path("a/rounds")).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    std::fs::write(newest.join("checkpoint.json"), "{").unwrap();
    let ended = toy.antiphon(&["eval", "a"]);
    ended.says(0, &["round 3 is left out", "checkpoint.json"]);
    assert!(ended.out.starts_with("a after round 3\n"), "{ended:?}");
}

#[test]
fn a_changed_run_file_is_shown() {
    let toy = Toy::new();
    let mut child = start_until(&toy, "a", &LONGER, 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let text = toy.read("run.toml");
    let started =
        text.replace("num_rounds = 4", "num_rounds = 10").replace("local_steps = 2", "local_steps = 6");
    toy.write("other.toml", started.replace("lora_r = 2", "lora_r = 4").replace("[server]", ""));
    let changed = toy.antiphon(&["resume", "a", "--file", "other.toml"]);
    changed.says(RUN_DIR, &["other.toml differs", "method.lora_r: 2 -> 4", "without --file"]);
    assert!(!changed.err.contains("run.name"), "{changed:?}");

    // the copy inside the run
    let own = toy.read("a/run.toml");
    toy.edit("a/run.toml", "num_rounds = 10", "num_rounds = 20");
    toy.antiphon(&["resume", "a"])
        .says(RUN_DIR, &["a/run.toml", "was changed", "federation.num_rounds: 10 -> 20"]);
    toy.write("a/run.toml", own);

    // the same settings otherwise laid out, in a file of another name
    toy.write("other.toml", format!("# a note\n{started}"));
    toy.antiphon(&["resume", "a", "--file", "other.toml"]).says(0, &["continuing"]);

    // the base model is not the one that was trained
    let mut child = start_until(&toy, "b", &LONGER, 1);
    child.kill().unwrap();
    child.wait().unwrap();
    toy.edit("model/config.json", "\"intermediate_size\":24", "\"intermediate_size\":32");
    toy.antiphon(&["resume", "b"]).says(RUN_DIR, &["the base model has changed"]);
}

#[test]
fn one_process_at_a_time() {
    let toy = Toy::new();
    let mut child = start_until(&toy, "a", &["federation.num_rounds=100000"], 1);
    let holder = format!("process {}", child.id());
    let second = toy.antiphon(&["resume", "a"]);
    let again = toy.antiphon(&["run", "run.toml", "--out", "a"]);
    child.kill().unwrap();
    child.wait().unwrap();
    second.says(RUN_DIR, &["`a` is in use", &holder]);
    again.says(RUN_DIR, &["a holds a run already"]);
}

#[test]
fn moved_and_damaged() {
    let toy = Toy::new();
    toy.run("whole", &LONGER);
    let mut child = start_until(&toy, "a", &LONGER, 4);
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::create_dir(toy.path("elsewhere")).unwrap();
    std::fs::rename(toy.path("a"), toy.path("elsewhere/b")).unwrap();
    // the newest checkpoint that counts is cut short
    let rounds = toy.path("elsewhere/b/rounds");
    let path = rounds.join("00003/checkpoint.json");
    let newest = std::fs::read_dir(&rounds).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let damaged = newest.join("checkpoint.json");
    let damaged = if damaged.exists() { damaged } else { path };
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    // from another folder, too
    let mut command = toy.command(&["resume", "."]);
    let ended = Ended::from(command.current_dir(toy.path("elsewhere/b")).output().unwrap());
    ended.says(0, &["is done again", "continuing at round"]);
    assert_eq!(left(&toy, "elsewhere/b"), left(&toy, "whole"));
}

/// The program under a limit on the size of files: what a full disk is to it, without a disk to fill.
fn limited(toy: &Toy, kilobytes: u32, arguments: &str) -> Ended {
    let binary = env!("CARGO_BIN_EXE_antiphon");
    let script = format!("trap '' XFSZ; ulimit -f {}; exec {binary} {arguments}", 2 * kilobytes);
    let output = Command::new("sh").args(["-c", &script]).current_dir(toy.dir.path()).output().unwrap();
    Ended::from(output)
}

#[test]
fn no_room_for_files() {
    let toy = Toy::new();
    toy.run("whole", &LONGER);
    // not even for a beginning
    let ended = limited(&toy, 1, "run run.toml --out none");
    ended.says(STORAGE, &["none/"]);
    assert!(!toy.path("none").exists());
    // for some rounds: the log grows over it
    let run = format!("run run.toml --out some {}", LONGER.join(" "));
    let ended = limited(&toy, 32, &run);
    ended.says(STORAGE, &["some/"]);
    assert!(toy.path("some/run.toml").exists());
    toy.antiphon(&["resume", "some"]).says(0, &["continuing at round"]);
    assert_eq!(left(&toy, "some"), left(&toy, "whole"));
}

#[test]
fn a_full_disk() {
    let toy = Toy::new();
    let binary = env!("CARGO_BIN_EXE_antiphon");
    let inside = |size: &str, command: &str| {
        let script = format!("mkdir -p full && mount -t tmpfs -o size={size} none full && {command}");
        let mut unshare = Command::new("unshare");
        unshare.args(["-rm", "sh", "-c", &script]).current_dir(toy.dir.path()).output()
    };
    match inside("64k", "echo mounted") {
        Ok(output) if output.stdout == b"mounted\n" => {}
        other => {
            println!("skipped: no file system can be mounted here: {other:?}");
            return;
        }
    }
    // `test` looks before the file system goes
    let begin = format!("{binary} run run.toml --out full/a; code=$?; test -e full/a && exit 99; exit $code");
    Ended::from(inside("8k", &begin).unwrap()).says(STORAGE, &["disk is full", "full/a"]);
    let on = format!("{binary} run run.toml --out full/a federation.num_rounds=200");
    Ended::from(inside("256k", &on).unwrap()).says(STORAGE, &["disk is full", "full/a", "resume"]);
}
