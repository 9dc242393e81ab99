//! Runs whose model is behind HTTP: a server of the run's own, and servers that are down, slow, full, lying or another.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../oracle/tests/liar/mod.rs"]
mod liar;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use antiphon_oracle::ledger::{Ledger, Terms};
use liar::{Liar, Said, echo, models};
use serde_json::{Value, json};
use support::{Toy, labelled_rows};

const SETTINGS: i32 = 3;
const DATA: i32 = 4;
const RUN_DIR: i32 = 6;
const ORACLE: i32 = 9;

const RUN: &str = r#"[run]
seed = 7
workers = 2

[model]
base_model = "init:model/config.json"

[data]
path = "data.jsonl"
format = "prompt_completion"
sequence_len = 48

[data.columns]
field = "category"

[data.partition]
id = "field"

[data.split]
validation = 0.125
test = 0.125

[method]
id = "prompt"
num_virtual_tokens = 3
prompt_tuning_init = "random"

[search]
id = "bdpl"
candidates = "the cat sat on the mat and the dog"
samples = 4
batch_size = 3
learning_rate = 0.05
loss = "nll"

[oracle]
endpoint = "embedded"
access = "logprobs"

[federation]
num_rounds = 4
fraction = 0.67

[eval]
every_rounds = 2
"#;

fn toy() -> Toy {
    let toy = Toy::new();
    toy.write("run.toml", RUN);
    toy
}

/// The toy at the server `url`, without any weights.
fn toy_at(url: &str) -> Toy {
    let toy = toy();
    let at = format!(
        "endpoint = \"{url}\"\ndialect = \"completions\"\nmodel = \"m\"\nrequests_per_second = 10000\nretries = 1\ntimeout_s = 5"
    );
    toy.edit("run.toml", "endpoint = \"embedded\"", &at);
    toy.edit("run.toml", "base_model = \"init:model/config.json\"", "base_model = \"model\"");
    std::fs::remove_file(toy.path("model/config.json")).unwrap();
    toy
}

/// Answers become labels, each one token.
fn labelled(toy: &Toy) {
    toy.write("data.jsonl", labelled_rows(3, 24));
    toy.edit(
        "run.toml",
        "format = \"prompt_completion\"",
        "format = \"labelled\"\nverbalizer = { good = \"g\", bad = \"b\" }",
    );
    toy.edit("run.toml", "field = \"category\"", "field = \"domain\"");
}

/// An honest server, except that question number `n` of those after the probe is answered by `say(n, honest answer)`.
fn server(say: impl Fn(usize, Value) -> Said + Send + Sync + 'static) -> Liar {
    let count = AtomicUsize::new(0);
    Liar::start(move |_, asked| {
        if asked.path == "/v1/models" {
            return models();
        }
        let honest = echo(&asked.body);
        if asked.body["prompt"].as_str().is_some_and(|p| p.contains("quick brown fox")) {
            return Said::Json(honest);
        }
        say(count.fetch_add(1, Ordering::SeqCst), honest)
    })
}

fn summary(toy: &Toy, run: &str) -> Value {
    serde_json::from_str(&toy.read(&format!("{run}/summary.json"))).unwrap()
}

/// What has to be the same however often a run is stopped: the prompt, and every round's loss.
fn left(toy: &Toy, run: &str) -> (String, Vec<Value>) {
    let lines = toy.read(&format!("{run}/metrics.jsonl"));
    let losses = lines.lines().map(|l| {
        let record: Value = serde_json::from_str(l).unwrap();
        json!([record["train_loss"], record["eval"], record["gauge"]])
    });
    (toy.read(&format!("{run}/latest/prompt.json")), losses.collect())
}

#[test]
fn over_http_a_search_ends_as_it_does_in_process_and_resumes_bit_for_bit() {
    let toy = toy();
    let said = toy.run("whole", &[]);
    for words in ["logprobs access", "repeat exactly", "labels: ", "asked "] {
        assert!(said.err.contains(words), "{words}: {}", said.err);
    }
    let queries = &summary(&toy, "whole")["queries"];
    assert!(
        queries["examples"].as_u64().unwrap() > 0 && queries["oracle"] == "embedded embedded",
        "{queries}"
    );
    assert!(!summary(&toy, "whole")["baselines"]["random_search"]["curve"].as_array().unwrap().is_empty());
    // killed in the middle of a round: paid questions are not asked again, and nothing else is different
    let mut child = toy.start(&["run", "run.toml", "--out", "killed"]);
    let metrics = toy.path("killed/metrics.jsonl");
    while std::fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    toy.antiphon(&["resume", "killed"]).says(0, &["continuing at round"]);
    assert_eq!(left(&toy, "killed"), left(&toy, "whole"));
    // one worker, or no cache, or one request at a time
    for (name, key) in
        [("one", "run.workers=1"), ("fresh", "oracle.cache=false"), ("slow", "oracle.concurrency=1")]
    {
        toy.run(name, &[key]);
        assert_eq!(left(&toy, name), left(&toy, "whole"), "{key}");
    }
    toy.run("seed", &["run.seed=8"]);
    assert_ne!(left(&toy, "seed"), left(&toy, "whole"));
    // there is no model to open
    toy.antiphon(&["eval", "whole"]).says(5, &["prompt.json"]);
}

#[test]
fn soft_prompts_travel_over_http_too() {
    let toy = toy();
    let text = toy.read("run.toml");
    let (before, rest) = text.split_once("[search]").unwrap();
    let (_, after) = rest.split_once("[oracle]").unwrap();
    let search = "[search]\nid = \"fedbpt\"\nintrinsic_dim = 4\nlocal_iter = 1\nlocal_popsize = 3\nperturb_rate = 0.0\nloss = \"nll\"\n\n[oracle]";
    toy.write("run.toml", format!("{before}{search}{after}"));
    toy.antiphon(&["run", "run.toml", "--out", "less"]).says(SETTINGS, &["fedbpt", "embeddings", "bdpl"]);
    assert!(!toy.path("less").exists());
    toy.edit("run.toml", "access = \"logprobs\"", "access = \"embeddings\"");
    toy.run("out", &["federation.num_rounds=2"]);
    let prompt: Value = serde_json::from_str(&toy.read("out/latest/prompt.json")).unwrap();
    assert_eq!((&prompt["prompt"]["kind"], &prompt["prompt"]["width"]), (&json!("soft"), &json!(16)));
    // vLLM's way: the client looks its tokens up, and scores come from the next tokens instead of an echo
    toy.run("vllm", &["federation.num_rounds=2", "oracle.dialect=\"vllm\""]);
    let loss = |run: &str| summary(&toy, run)["federated"]["global"]["loss"].as_f64().unwrap();
    assert!((loss("vllm") - loss("out")).abs() < 1e-4, "{} and {}", loss("vllm"), loss("out"));
    let values = |run: &str| {
        let prompt: Value = serde_json::from_str(&toy.read(&format!("{run}/latest/prompt.json"))).unwrap();
        serde_json::from_value::<Vec<f64>>(prompt["prompt"]["values"].clone()).unwrap()
    };
    let apart = values("vllm").iter().zip(values("out")).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-3, "the same search, but {apart} apart");
}

#[test]
fn a_plan_sends_nothing_and_refuses_a_budget_that_cannot_do() {
    let server = server(|_, honest| Said::Json(honest));
    let toy = toy_at(&server.url);
    let price = "oracle.prices.per_million_prompt_tokens=2.5";
    let plan = toy.antiphon(&["plan", "run.toml", price]);
    for words in ["queries", "requests", "tokens", "money", "nothing has been sent"] {
        assert!(plan.out.contains(words), "{words}: {}", plan.out);
    }
    for (key, words) in [
        ("oracle.budget.examples=20", "oracle.budget.examples = 20, but this run may need"),
        ("oracle.budget.calls=20", "oracle.budget.calls"),
        ("oracle.budget.money=0.0001", "oracle.budget.money"),
        ("oracle.dialect=chat-text", "but the oracle gives text"),
        ("oracle.allow_hosts=[\"https://elsewhere\"]", "not among the endpoints"),
        ("oracle.allow_hosts=[\"garbage\"]", "origins"),
        ("oracle.endpoint=http://127.0.0.1:99999/v1", "its port is none"),
        ("oracle.timeout_s=9223372036854775807", "oracle.timeout_s"),
        ("oracle.requests_per_second=1e-300", "oracle.requests_per_second"),
        ("oracle.endpoint=http://me:sk-secret@127.0.0.1/v1", "user name"),
        ("oracle.api_key_file=nothing", "nothing"),
    ] {
        let refused = toy.antiphon(&["run", "run.toml", "--out", "out", price, key]);
        assert_eq!(refused.code, Some(SETTINGS), "{key}: {refused:?}");
        assert!(refused.err.contains(words) && !refused.err.contains("sk-secret"), "{key}: {}", refused.err);
        assert!(!toy.path("out").exists(), "{key}");
    }
    assert_eq!(server.asked.lock().unwrap().len(), 0, "nothing was sent");
}

#[test]
fn a_loss_of_labels_is_refused_where_there_is_one() {
    let toy = toy();
    toy.write("inside.toml", RUN.replace("endpoint = \"embedded\"\n", ""));
    for file in ["run.toml", "inside.toml"] {
        for loss in ["cross_entropy", "hinge"] {
            let key = format!("search.loss=\"{loss}\"");
            for args in [&["plan", file, &key][..], &["run", file, "--out", "no", &key]] {
                toy.antiphon(args).says(SETTINGS, &[loss, "`verbalizer`", "loss = \"nll\""]);
                assert!(!toy.path("no").exists());
            }
        }
    }
}

#[test]
fn a_run_whose_ledger_is_lost_does_not_spend_its_budget_again() {
    let toy = toy();
    toy.write("inside.toml", RUN.replace("endpoint = \"embedded\"\n", ""));
    for (file, out) in [("run.toml", "over"), ("inside.toml", "inside")] {
        let mut child = toy.start(&["run", file, "--out", out, "oracle.budget.examples=100000"]);
        let metrics = toy.path(&format!("{out}/metrics.jsonl"));
        while std::fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let ledger = toy.path(&format!("{out}/ledger.sqlite"));
        let aside = |name: &str| toy.path(&format!("{out}/{name}"));
        // with what was not yet written back to it
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::rename(aside(&format!("ledger.sqlite{end}")), aside(&format!("kept{end}")));
        }
        toy.antiphon(&["resume", out]).says(RUN_DIR, &["ledger.sqlite", "is gone", "begin a new run"]);
        assert!(!ledger.exists(), "no empty one in its place");
        std::fs::write(&ledger, "").unwrap();
        toy.antiphon(&["resume", out]).says(RUN_DIR, &["is empty", "restore it"]);
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(aside(&format!("ledger.sqlite{end}")));
        }
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::rename(aside(&format!("kept{end}")), aside(&format!("ledger.sqlite{end}")));
        }
        toy.antiphon(&["resume", out]).says(0, &[]);
    }
}

/// What a plan says is asked at most, and is asked where nothing is remembered: batches of a search that do not fill a request,
/// pieces of an evaluation, candidates of random search, the probe.
#[test]
fn a_plan_bounds_what_a_run_asks_and_is_close() {
    let toy = toy();
    let cases: [(&str, &[&str]); 5] = [
        ("cached", &[]),
        ("bare", &["oracle.cache=false"]),
        ("few", &["oracle.cache=false", "oracle.prompts_per_request=2"]),
        ("unlucky", &["oracle.cache=false", "eval.random_search=false", "search.batch_size=4"]),
        // fewer examples than random search needs for one candidate
        (
            "short",
            &["oracle.cache=false", "federation.num_rounds=1", "federation.fraction=0.1", "search.samples=2"],
        ),
    ];
    for (name, keys) in cases {
        let plan = toy.antiphon(&[&["plan", "run.toml", "--json"], keys].concat());
        let plan: Value = serde_json::from_str(&plan.out).unwrap();
        toy.run(name, keys);
        let spent = &summary(&toy, name)["queries"];
        let number = |v: &Value, key: &str| v["queries"][key].as_u64().unwrap();
        let examples: u64 =
            ["search", "evaluation", "random_search", "probe"].iter().map(|k| number(&plan, k)).sum();
        for (what, bound, asked) in
            [("examples", examples, &spent["examples"]), ("calls", number(&plan, "calls"), &spent["calls"])]
        {
            let asked = asked.as_u64().unwrap();
            assert!(asked <= bound, "{name}: {asked} {what} where at most {bound} were planned");
            assert!(name == "cached" || 4 * bound <= 5 * asked, "{name}: {asked} {what} of {bound} planned");
        }
    }
}

/// A client's scale and biases are fitted to what was asked in any case: ledger, prompt and rounds are those of a run without.
#[test]
fn labels_are_calibrated_without_a_further_question() {
    let toy = toy();
    labelled(&toy);
    toy.edit("run.toml", "loss = \"nll\"", "loss = \"cross_entropy\"");
    let calibrate = "eval.calibrate=0.05";
    toy.run("plain", &["oracle.cache=false"]);
    toy.run("own", &["oracle.cache=false", calibrate]);
    let (plain, own) = (summary(&toy, "plain"), summary(&toy, "own"));
    assert_eq!(plain["queries"], own["queries"], "not one question more");
    assert_eq!(left(&toy, "plain"), left(&toy, "own"));
    assert!(plain.get("calibrated").is_none());
    // nor for the prompt of the best round, whose questions were asked rounds ago
    let best = ["oracle.cache=false", "eval.select=best", "eval.every_rounds=1"];
    let seed = toy.run_past_its_best("best", &best, 1);
    let best = [&best[..], &[seed.as_str(), calibrate]].concat();
    toy.run("own-best", &best);
    assert_eq!(
        summary(&toy, "best")["queries"],
        summary(&toy, "own-best")["queries"],
        "not one question more"
    );
    let c = &summary(&toy, "own-best");
    assert_eq!(
        c["calibrated"]["plain"]["global"]["accuracy"], c["federated"]["global"]["accuracy"],
        "of the same prompt"
    );
    let c = &own["calibrated"];
    assert_eq!(c["clients"].as_object().unwrap().len(), 3, "{c}");
    for (_, fitted) in c["clients"].as_object().unwrap() {
        assert!(fitted["examples"] == 3 && fitted["scale"] != 1.0, "{c}");
        assert_eq!(fitted["bias"].as_array().unwrap().len(), 2, "{c}");
    }
    let loss = |which: &str| c[which]["global"]["loss"].as_f64().unwrap();
    assert!(loss("plain") != loss("calibrated"), "{c}");
    assert_eq!(c["plain"]["global"]["examples"], own["federated"]["global"]["examples"]);
    assert_eq!(c["plain"]["global"]["accuracy"], own["federated"]["global"]["accuracy"]);
    // in process the same model says the same
    let inside = toy.read("run.toml").replace("endpoint = \"embedded\"\n", "");
    toy.write("inside.toml", inside);
    let said = toy.antiphon(&["run", "inside.toml", "--out", "inside", calibrate]);
    assert!(said.code == Some(0) && said.out.contains("labels  calibrated by each client"), "{said:?}");
    let within = summary(&toy, "inside")["calibrated"]["calibrated"]["global"]["loss"].as_f64().unwrap();
    assert!((within - loss("calibrated")).abs() < 1e-4, "{within} {}", loss("calibrated"));
    for (key, word) in [
        ("eval.calibrate=0", "1e-6 or more"),
        ("eval.calibrate=1e-300", "1e-6 or more"),
        ("data.split.validation=0", "data.split.validation"),
        ("data.verbalizer={}", "verbalizer"),
    ] {
        let refused = toy.antiphon(&["run", "run.toml", "--out", "no", calibrate, key]);
        assert!(refused.code != Some(0) && refused.err.contains(word), "{key}: {refused:?}");
        assert!(!toy.path("no").exists(), "{key}");
    }
}

#[test]
fn without_weights_and_budget_used_up_the_run_can_be_resumed() {
    // every third request fails once, and retries were not planned for
    let server =
        server(|n, honest| if n % 3 == 2 { Said::Status(503, "", json!({})) } else { Said::Json(honest) });
    let toy = toy_at(&server.url);
    let plan: Value = serde_json::from_str(&toy.antiphon(&["plan", "run.toml", "--json"]).out).unwrap();
    let calls = plan["queries"]["calls"].as_u64().unwrap();
    let limit = format!("oracle.budget.calls={calls}");
    let args = [
        "run",
        "run.toml",
        "--out",
        "out",
        "oracle.cache=false",
        "oracle.retries=4",
        "oracle.concurrency=1",
        &limit,
    ];
    toy.antiphon(&args).says(ORACLE, &["calls", "raise the budget", "antiphon resume out"]);
    assert!(server.count("/v1/completions") as u64 <= calls, "never overspent");
    // what changes results is refused, a larger budget is not
    toy.antiphon(&["resume", "out", "search.samples=9"]).says(2, &["search.samples"]);
    toy.antiphon(&["resume", "out"]).says(ORACLE, &["calls"]);
    toy.antiphon(&["resume", "out", "oracle.budget.calls=100000"]).says(0, &[]);
    let queries = &summary(&toy, "out")["queries"];
    assert!(queries["retries"].as_u64().unwrap() > 0 && queries["calls"].as_u64().unwrap() > 0, "{queries}");
    assert!(toy.read("out/latest/prompt.json").contains("\"text\""));
}

#[test]
fn killed_again_and_again_a_run_never_overspends() {
    let server = server(|_, honest| Said::After(Duration::from_millis(2), Box::new(Said::Json(honest))));
    let toy = toy_at(&server.url);
    let plan: Value = serde_json::from_str(&toy.antiphon(&["plan", "run.toml", "--json"]).out).unwrap();
    let calls = plan["queries"]["calls"].as_u64().unwrap() + 40;
    let limit = format!("oracle.budget.calls={calls}");
    let mut child = toy.start(&["run", "run.toml", "--out", "out", "oracle.retries=0", &limit]);
    let mut fresh = 1;
    for round in 0..5_u64 {
        std::thread::sleep(Duration::from_millis(120 + 60 * round));
        let _ = child.kill();
        child.wait().unwrap();
        let asked =
            server.asked.lock().unwrap().iter().filter(|a| a.path == "/v1/completions").count() as u64;
        // a start without a run directory has no ledger to be booked in: what it asks is a budget of its own, of ten questions
        assert!(asked <= calls + 10 * fresh, "{asked} of {calls}");
        if !toy.path("out/run.toml").exists() {
            child = toy.start(&["run", "run.toml", "--out", "out", "oracle.retries=0", &limit]);
            fresh += 1;
            continue;
        }
        if toy.path("out/ledger.sqlite").exists() {
            let spent = Ledger::open(&toy.path("out/ledger.sqlite"), Terms::FREE).unwrap().spent();
            assert!(spent.calls <= calls, "{spent:?}");
        }
        child = toy.start(&["resume", "out"]);
    }
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn two_runs_cannot_spend_one_ledger() {
    let toy = toy();
    let held = Ledger::open(&toy.path("site.sqlite"), Terms::FREE).unwrap();
    let args = ["run", "run.toml", "--out", "out", "oracle.ledger=site.sqlite"];
    toy.antiphon(&args).says(RUN_DIR, &["site.sqlite", "in use by process", "give each"]);
    // nothing was asked, so that nothing is left
    assert!(!toy.path("out").exists());
    drop(held);
    toy.antiphon(&args).says(0, &[]);
    let spent = Ledger::open(&toy.path("site.sqlite"), Terms::FREE).unwrap().spent();
    assert_eq!(summary(&toy, "out")["queries"]["examples"], spent.examples);
}

#[test]
fn an_endpoint_that_fails_ends_the_run_and_another_goes_on() {
    let nobody = toy_at("http://127.0.0.1:9/v1");
    nobody.antiphon(&["run", "run.toml", "--out", "out"]).says(ORACLE, &["no answer"]);
    assert!(!nobody.path("out").exists());

    type Fail = fn(Value) -> Said;
    let failures: [(&str, Fail); 7] = [
        // which may hold what was asked
        ("not shown", |v| Said::Status(400, "", json!({ "error": { "message": v } }))),
        ("(307)", |_| Said::Status(307, "Location: http://127.0.0.1:1/\r\n", json!({}))),
        ("status 500", |_| Said::Status(500, "", json!({}))),
        ("asks to wait", |_| Said::Status(429, "Retry-After: 3600\r\n", json!({}))),
        ("above 0", |mut v| {
            *v["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap().last_mut().unwrap() =
                json!(0.5);
            Said::Json(v)
        }),
        ("cannot be used", |mut v| {
            v["choices"][0]["logprobs"] = json!({ "tokens": [], "token_logprobs": [] });
            Said::Json(v)
        }),
        ("no answer", |v| Said::Cut(v.to_string(), 50)),
    ];
    for (words, fail) in failures {
        let ill = Arc::new(AtomicUsize::new(0));
        let state = Arc::clone(&ill);
        let server = server(move |n, honest| {
            if n > 60 && state.load(Ordering::SeqCst) == 0 { fail(honest) } else { Said::Json(honest) }
        });
        let toy = toy_at(&server.url);
        let ended = toy.antiphon(&["run", "run.toml", "--out", "out"]);
        ended.says(ORACLE, &["in a row", words, "antiphon resume out"]);
        assert!(!ended.err.contains("token_logprobs"), "{}", ended.err);
        ill.store(1, Ordering::SeqCst);
        toy.antiphon(&["resume", "out"]).says(0, &[]);
        assert!(toy.path("out/report.html").exists(), "{words}");
    }
}

#[test]
fn another_model_after_a_restart_is_refused() {
    let shift = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&shift);
    let server = Liar::start(move |_, asked| match asked.path.as_str() {
        "/v1/models" => models(),
        _ => {
            let mut v = echo(&asked.body);
            if now.load(Ordering::SeqCst) > 0 {
                let scores = v["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap();
                let last = scores.last_mut().unwrap();
                *last = json!(last.as_f64().unwrap() - 0.25);
            }
            Said::Json(v)
        }
    });
    let toy = toy_at(&server.url);
    let mut child = toy.start(&["run", "run.toml", "--out", "out"]);
    while std::fs::metadata(toy.path("out/metrics.jsonl")).map_or(0, |m| m.len()) == 0 {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    shift.store(1, Ordering::SeqCst);
    toy.antiphon(&["resume", "out"]).says(RUN_DIR, &["another model is behind the endpoint"]);
    shift.store(0, Ordering::SeqCst);
    toy.antiphon(&["resume", "out"]).says(0, &[]);
}

#[test]
fn what_does_not_fit_the_endpoint_is_refused_before_the_first_round() {
    let short = Liar::start(|_, asked| match asked.path.as_str() {
        "/v1/models" => Said::Json(json!({ "data": [{ "id": "m", "max_model_len": 12 }] })),
        _ => Said::Json(echo(&asked.body)),
    });
    toy_at(&short.url)
        .antiphon(&["run", "run.toml", "--out", "out"])
        .says(DATA, &["reads 12", "sequence_len"]);

    // a chat endpoint names single tokens; these answers are sentences
    let chat = Liar::start(|_, asked| match asked.path.as_str() {
        "/v1/models" => models(),
        _ => Said::Json(json!({ "model": "m", "usage": { "prompt_tokens": 9, "completion_tokens": 1 },
            "choices": [{ "message": { "content": "a" }, "logprobs": { "content":
                [{ "token": "a", "logprob": -1.0, "top_logprobs": [{ "token": "a", "logprob": -1.0 }] }] } }] })),
    });
    toy_at(&chat.url)
        .antiphon(&["run", "run.toml", "--out", "out", "oracle.dialect=chat"])
        .says(ORACLE, &["labels of the first question", "not one token"]);

    // answers that vary by more than a step of the search moves them
    let noisy = AtomicUsize::new(0);
    let noise = Liar::start(move |_, asked| match asked.path.as_str() {
        "/v1/models" => models(),
        _ => {
            let mut v = echo(&asked.body);
            let scores = v["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap();
            let more = noisy.fetch_add(1, Ordering::SeqCst) % 2;
            if asked.body["prompt"].as_str().is_some_and(|p| p.contains("quick brown fox")) {
                *scores.last_mut().unwrap() = json!(-1.0 - 0.5 * more as f64);
            }
            Said::Json(v)
        }
    });
    toy_at(&noise.url)
        .antiphon(&["run", "run.toml", "--out", "out"])
        .says(SETTINGS, &["follow noise", "sigma"]);
}

/// A chat endpoint without scores: it answers rightly where its prompt begins with `the`, and else `G.` whatever is asked.
fn talker() -> Liar {
    Liar::start(|_, asked| {
        if asked.path == "/v1/models" {
            return models();
        }
        assert!(asked.path == "/v1/chat/completions" && asked.body.get("logprobs").is_none(), "{asked:?}");
        let said = asked.body["messages"][0]["content"].as_str().unwrap();
        let ill = said.contains("ill");
        let text = if said.trim_start().starts_with("the") && ill { "It is B." } else { "G." };
        Said::Json(json!({ "model": "m", "usage": { "prompt_tokens": 9, "completion_tokens": 3 },
            "choices": [{ "message": { "content": text } }] }))
    })
}

/// The toy with labels and a search that needs texts alone.
fn by_text(toy: &Toy) {
    labelled(toy);
    toy.edit("run.toml", "id = \"bdpl\"", "id = \"token_edits\"");
    toy.edit(
        "run.toml",
        "samples = 4\nbatch_size = 3\nlearning_rate = 0.05\nloss = \"nll\"",
        "edits = 3\nfillers = 6\nloss = \"zero_one\"",
    );
    toy.edit("run.toml", "access = \"logprobs\"", "access = \"text\"");
    toy.edit("run.toml", "num_rounds = 4", "num_rounds = 2");
    toy.edit("run.toml", "every_rounds = 2", "every_rounds = 1");
}

#[test]
fn an_endpoint_that_only_writes_is_enough_for_a_search_of_right_answers() {
    let server = talker();
    let toy = toy_at(&server.url);
    by_text(&toy);
    toy.edit("run.toml", "dialect = \"completions\"", "dialect = \"chat-text\"");
    let plan = toy.antiphon(&["plan", "run.toml", "--json"]);
    let plan: Value = serde_json::from_str(&plan.out).unwrap();
    assert_eq!(server.count("/v1/chat/completions"), 0);
    let said = toy.run("out", &["oracle.cache=false"]);
    for words in ["text access", "the first question, without a prompt: `g` for"] {
        assert!(said.err.contains(words), "{words}: {}", said.err);
    }
    let s = summary(&toy, "out");
    assert_eq!(s["queries"]["access"], "text");
    assert_eq!(s["federated"]["global"]["accuracy"], 1.0, "{s}");
    assert!(s["baselines"]["zero_shot"]["eval"]["global"]["accuracy"].as_f64().unwrap() < 0.8, "{s}");
    // a text has no probability, and no number stands for it
    assert!(s["federated"]["global"].get("loss").is_none_or(Value::is_null), "{s}");
    let prompt: Value = serde_json::from_str(&toy.read("out/latest/prompt.json")).unwrap();
    assert!(prompt["prompt"]["text"].as_str().unwrap().trim_start().starts_with("the"), "{prompt}");
    for (what, key) in [("calls", "calls"), ("completion_tokens", "completion_tokens")] {
        let (asked, bound) = (&s["queries"][what], plan["queries"][key].as_u64().unwrap());
        assert!(asked.as_u64().unwrap() <= bound, "{asked} {what} where at most {bound} were planned");
    }
    // there is no loss to choose a round by: the first of the greatest accuracy
    let chosen = toy.run("best", &["eval.select=best", "federation.num_rounds=4"]);
    let accuracies: Vec<f64> =
        left(&toy, "best").1.iter().map(|r| r[1]["global"]["accuracy"].as_f64().unwrap()).collect();
    let most = accuracies.iter().copied().fold(0.0, f64::max);
    let first = 1 + accuracies.iter().position(|a| *a == most).unwrap();
    assert_eq!(summary(&toy, "best")["run"]["chosen"], json!({ "round": first, "accuracy": most }));
    assert!(
        chosen.out.contains(&format!("of round {first}, the best on validation data (accuracy")),
        "{chosen:?}"
    );
    let doctor = toy.antiphon(&["doctor", "out"]);
    assert!(!doctor.out.contains("NaN"), "{}", doctor.out);
    // cached, killed and resumed: the same bits
    let mut child = toy.start(&["run", "run.toml", "--out", "killed"]);
    let metrics = toy.path("killed/metrics.jsonl");
    while std::fs::metadata(&metrics).map_or(0, |m| m.len()) == 0 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    toy.antiphon(&["resume", "killed"]).says(0, &["continuing at round"]);
    assert_eq!(left(&toy, "killed"), left(&toy, "out"));
    for (key, words) in [
        ("search.loss=\"cross_entropy\"", "token_edits with loss = \"zero_one\""),
        ("eval.calibrate=0.1", "text access does not give"),
    ] {
        toy.antiphon(&["run", "run.toml", "--out", "no", key]).says(SETTINGS, &[words]);
        assert!(!toy.path("no").exists(), "{key}");
    }
}

#[test]
fn texts_are_asked_of_the_runs_own_server_and_in_process_alike() {
    let toy = toy();
    by_text(&toy);
    toy.edit("run.toml", "edits = 3\nfillers = 6", "edits = 1\nfillers = 2");
    toy.edit("run.toml", "[eval]", "[eval]\nrandom_search = false");
    toy.run("ids", &[]);
    let said = toy.run(
        "words",
        &["oracle.dialect=\"completions\"", "train={learning_rate=0.1,micro_batch_size=2,local_steps=1}"],
    );
    assert!(said.err.contains("`[train]` is not used"), "{}", said.err);
    let prompt = |run: &str| toy.read(&format!("{run}/latest/prompt.json"));
    assert_eq!(prompt("ids"), prompt("words"));
    let inside = toy.read("run.toml").replace("endpoint = \"embedded\"\n", "");
    toy.write("inside.toml", inside);
    toy.antiphon(&["run", "inside.toml", "--out", "inside"]).says(0, &[]);
    let accuracy = |run: &str| summary(&toy, run)["federated"]["global"]["accuracy"].as_f64();
    assert!(accuracy("ids").is_some() && accuracy("inside").is_some());
    // with scores the wrong choices among labels are counted, and a single label is no choice
    toy.run("scores", &["oracle.access=\"logprobs\""]);
    let single = self::toy();
    let refused = single.antiphon(&["run", "run.toml", "--out", "no", "search.loss=\"zero_one\""]);
    refused.says(SETTINGS, &["`verbalizer`", "oracle.access = \"text\""]);
}
