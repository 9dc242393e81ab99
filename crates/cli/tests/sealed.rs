//! Searches through a sealed encoder: classes asked of a model whose head was fitted once, through the binary.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test helpers, and a test says when it is skipped"
)]

mod support;

use std::path::{Path, PathBuf};

use antiphon_testkit::shared;
use serde_json::Value;
use support::{Toy, VOCAB, labelled_rows};

const RUN: &str = r#"[run]
seed = 7
workers = 2

[model]
base_model = "init:model"
head_shots = 3

[data]
path = "data.jsonl"
format = "labelled"
sequence_len = 48

[data.columns]
field = "domain"

[data.partition]
id = "field"

[data.split]
validation = 0.25
test = 0.25

[method]
id = "prompt"
num_virtual_tokens = 2
prompt_tuning_init = "sample_vocab"

[objective]
id = "classification"
pooling = "mean"

[search]
id = "fedbpt"
intrinsic_dim = 4
local_iter = 2
loss = "cross_entropy"

[federation]
num_rounds = 3
"#;

const WORDS: &str = "search={id=\"bdpl\",candidates=\"the cat sat on the mat\",samples=4,batch_size=4,learning_rate=0.1,\
                     loss=\"nll\"}";

/// Three clients with labelled texts and a random encoder.
fn encoder() -> Toy {
    let toy = Toy::new();
    let config = serde_json::json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "vocab_size": VOCAB,
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    });
    toy.write("model/config.json", config.to_string());
    toy.write("data.jsonl", labelled_rows(3, 16));
    toy.write("run.toml", RUN);
    toy
}

fn summary(toy: &Toy, run: &str) -> Value {
    serde_json::from_str(&toy.read(&format!("{run}/summary.json"))).unwrap()
}

fn loss(line: &Value) -> f64 {
    line["eval"]["global"]["loss"].as_f64().unwrap()
}

#[test]
fn rows_and_words_are_searched_through_a_sealed_encoder() {
    let toy = encoder();
    toy.run("soft", &[]);
    toy.run("words", &[WORDS, "oracle.access=logprobs", "federation.fraction=0.34"]);
    // the same head, trained from there: zero-shot is the same line
    let lora = "method={id=\"lora\",lora_r=2,lora_alpha=4,target_modules=[\"query\"]}";
    toy.edit(
        "run.toml",
        "[search]\nid = \"fedbpt\"\nintrinsic_dim = 4\nlocal_iter = 2\nloss = \"cross_entropy\"\n",
        "",
    );
    toy.run("lora", &[lora, "train={learning_rate=1e-3,micro_batch_size=2,local_steps=1}"]);
    let zero = loss(&summary(&toy, "lora")["baselines"]["zero_shot"]);
    for (run, access, oracle) in [("soft", "embeddings", "fedbpt"), ("words", "logprobs", "bdpl")] {
        let s = summary(&toy, run);
        let queries = &s["queries"];
        assert_eq!(queries["access"], access);
        assert_eq!(queries["oracle"], "sealed encoder init:model");
        assert!(queries["examples"].as_u64().unwrap() > 0);
        assert_eq!(s["run"]["method"], format!("prompt by {oracle}"));
        // rows of the prompt alone: the head is not trained
        assert_eq!(s["run"]["trainable"], 2 * 16);
        assert!((loss(&s["baselines"]["zero_shot"]) - zero).abs() < 1e-6, "{s}");
        assert!(loss(&s["baselines"]["random_search"]).is_finite());
        // the run's own model, read back from its adapter, is what it measured
        let back = toy.antiphon(&["eval", run, "--json", "-q"]);
        let evaluation: Value = serde_json::from_str(&back.out).unwrap_or_else(|e| panic!("{e}: {back:?}"));
        assert_eq!(evaluation["evaluation"]["global"], s["federated"]["global"]);
    }
    // 3 clients of 7 rows at most (16, less the shots, less half), two generations of five and the mean, three rounds
    let examples = summary(&toy, "soft")["queries"]["examples"].as_u64().unwrap();
    assert_eq!(examples % (11 * 3), 0);
}

#[test]
fn the_oracle_answers_as_the_model_is_evaluated() {
    let toy = encoder();
    // candidates so near to the mean that the loss of what was tried is that of the prompt
    let near = [
        "search.sigma=1e-4",
        "search.sigma_floor=0",
        "search.alpha=1e-4",
        "search.loss=nll",
        "federation.num_rounds=1",
    ];
    toy.run("near", &near);
    let line = toy.read("near/metrics.jsonl");
    let record: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let back = toy.antiphon(&["eval", "near", "--part", "train", "--json", "-q"]);
    let evaluation: Value = serde_json::from_str(&back.out).unwrap();
    for client in record["clients"].as_array().unwrap() {
        let tried = client["train_loss"].as_f64().unwrap();
        let id = client["client"].to_string();
        let own = evaluation["evaluation"]["per_client"][&id]["loss"].as_f64().unwrap();
        assert!((tried - own).abs() < 1e-3, "client {id}: tried {tried}, evaluated {own}");
    }
}

#[test]
fn a_head_is_where_training_begins() {
    let toy = encoder();
    toy.edit(
        "run.toml",
        "[search]\nid = \"fedbpt\"\nintrinsic_dim = 4\nlocal_iter = 2\nloss = \"cross_entropy\"\n",
        "",
    );
    let train = "train={learning_rate=1e-3,micro_batch_size=2,local_steps=1}";
    for (run, more) in [("fitted", None), ("random", Some("eval.every_rounds=0"))] {
        if more.is_some() {
            toy.edit("run.toml", "head_shots = 3\n", "");
        }
        toy.run(run, &[train, "method={id=\"full\"}", "federation.num_rounds=1"]);
    }
    let zero = |run| loss(&summary(&toy, run)["baselines"]["zero_shot"]);
    assert!(zero("fitted") < zero("random"), "{} and {}", zero("fitted"), zero("random"));
}

#[test]
fn what_cannot_be_sealed_is_refused() {
    let toy = encoder();
    let plan = |overrides: &[&str]| toy.antiphon(&[&["plan", "run.toml"], overrides].concat());
    assert_eq!(plan(&[]).code, Some(0), "{:?}", plan(&[]));
    // 24 rows of each class
    plan(&["model.head_shots=25"]).says(4, &["model.head_shots", "class `bad` has 24", "25 of every class"]);
    plan(&["data.labels=[\"bad\",\"good\",\"fair\"]"]).says(4, &["class `fair` has 0", "3 of every class"]);
    plan(&["model.head_shots=0"]).says(3, &["model.head_shots = 0", "at least 1"]);
    plan(&["objective={id=\"sft\"}"]).says(3, &["model.head_shots = 3", "objective.id = \"classification\""]);
    plan(&["model.head=local"]).says(3, &["model.head = \"local\""]);
    plan(&["method.id=lora"]).says(3, &["method"]);
    toy.edit("run.toml", "head_shots = 3\n", "");
    plan(&[]).says(3, &["model.head_shots = 16"]);
    // a language model that classifies
    toy.write("model/config.json", support::config(VOCAB).to_string());
    toy.edit("run.toml", "base_model = \"init:model\"\n", "base_model = \"init:model\"\nhead_shots = 3\n");
    plan(&["objective.pooling=last"]).says(3, &["objective.id = \"sft\"", "encoder"]);
}

/// The encoder that is no part of the shared data: beside them, or where the examples look for it.
fn minilm() -> Option<(PathBuf, PathBuf)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/minilm");
    let model = shared("data/models/minilm").or_else(|| Some(here).filter(|p| p.exists()));
    let found = model.zip(shared("data/datasets/sst2"));
    if found.is_none() {
        println!("skipped: models/minilm or ../shared/data/datasets/sst2 is not there");
    }
    found
}

#[test]
fn sentiment_through_a_sealed_minilm() {
    let Some((model, data)) = minilm() else { return };
    let toy = encoder();
    let path = |p: &Path, name: &str| p.join(name).canonicalize().unwrap().display().to_string();
    let run = RUN
        .replace("init:model", &path(&model, ""))
        .replace("data.jsonl", &path(&data, "train.tsv"))
        .replace(
            "format = \"labelled\"\n",
            &format!("test_path = {:?}\nmax_examples = 24\n", path(&data, "dev.tsv")),
        )
        .replace("field = \"domain\"", "text = 1\nlabel = 0")
        .replace("id = \"field\"", "id = \"iid\"\nclients = 2")
        .replace("validation = 0.25\ntest = 0.25", "validation = 0")
        .replace("head_shots = 3", "head_shots = 16")
        .replace("num_rounds = 3", "num_rounds = 1");
    toy.write("run.toml", run);
    toy.run("out", &["eval.random_search=false"]);
    let s = summary(&toy, "out");
    let zero = s["baselines"]["zero_shot"]["eval"]["global"]["accuracy"].as_f64().unwrap();
    // sixteen shots a class of frozen sentence embeddings: chance is 0.5, 0.56 to 0.72 over draws, a probe on thousands of rows 0.79
    assert!((0.52..0.8).contains(&zero), "{zero}");
    // two generations of five and the mean, on 24 texts and on their perturbed form
    assert_eq!(s["queries"]["examples"], 2 * 11 * 24);
}
