//! `eval.select = "best"`: a run ends with the round that was best on validation data, whatever it trains or searches.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{Toy, VOCAB, config, rows, snapshot};

const SETTINGS: i32 = 3;

/// Every round is evaluated.
const EVERY: [&str; 2] = ["eval.every_rounds=1", "federation.num_rounds=6"];
const BEST: &str = "eval.select=best";

/// Steps so far that validation loss rises again.
const FAR: &str = "train.learning_rate=0.1";
const PROMPT: &str = "method={id=\"prompt\",num_virtual_tokens=3,prompt_tuning_init=\"random\"}";
const WORDS: &str = "search={id=\"bdpl\",candidates=\"the cat sat on the mat and the dog\",samples=4,batch_size=3,\
                     learning_rate=0.05,loss=\"nll\"}";
const FEDBPT: &str = "search={id=\"fedbpt\",intrinsic_dim=4,local_iter=1,local_popsize=4,perturb_rate=0.0,alpha=8.0,sigma_floor=1.0,\
                      loss=\"nll\"}";
/// It chooses among a client's candidates by examples of its own, in every round.
const BBT: &str =
    "search={id=\"bbt\",intrinsic_dim=4,popsize=4,candidates=8,select_every=4,alpha=8.0,loss=\"nll\"}";

/// What was written is what a run writes that stops after the chosen round, and so are the numbers; `evaluates`: `antiphon eval`
/// can ask the model.
#[track_caller]
fn ends_with_its_best(toy: &Toy, kind: &[&str], evaluates: bool) {
    let overrides = [&EVERY[..], kind].concat();
    let seed = toy.run_past_its_best("last", &overrides, 1);
    let overrides = [&overrides[..], &[seed.as_str()]].concat();
    let said = toy.run("best", &[&overrides[..], &[BEST]].concat());
    let (round, loss) = toy.best_round("last");
    toy.run("cut", &[&overrides[..], &[&*format!("federation.num_rounds={round}")]].concat());

    let (last, best, cut) = (toy.summary("last"), toy.summary("best"), toy.summary("cut"));
    assert_eq!(best["run"]["chosen"], json!({ "round": round, "loss": loss }), "{kind:?}");
    assert_eq!(last["run"].get("chosen"), None);
    for key in ["digest", "federated"] {
        assert_eq!(best[key], cut[key], "{kind:?}: {key}");
        assert_ne!(best[key], last[key], "{kind:?}: {key}, or the test shows nothing");
    }
    assert_eq!(snapshot(&toy.path("best/latest")), snapshot(&toy.path("cut/latest")), "{kind:?}");
    assert_ne!(snapshot(&toy.path("best/latest")), snapshot(&toy.path("last/latest")), "{kind:?}");
    // the rounds themselves are the same
    assert_eq!(toy.losses("best"), toy.losses("last"), "{kind:?}");
    assert_eq!(best["run"]["rounds_done"], 6);
    let words = format!("the model is that of round {round}, the best on validation data (loss {loss:.3})");
    assert!(said.out.contains(&words), "{words}: {}", said.out);
    assert!(toy.read("best/report.html").contains(&words), "{words}");
    if evaluates {
        let evaluation = |part: &str| -> Value {
            let eval = toy.antiphon(&["eval", "best", "--part", part, "--json", "-q"]);
            serde_json::from_str(&eval.out).unwrap_or_else(|e| panic!("{e}: {eval:?}"))
        };
        assert_eq!(evaluation("test")["evaluation"]["global"], best["federated"]["global"], "{kind:?}");
        let validation = evaluation("validation");
        assert_eq!(validation["evaluation"]["global"]["loss"], loss, "{kind:?}");
        assert_eq!(validation["model"], format!("best after round {round}, the best on validation data"));
    }
}

#[test]
fn training_ends_with_its_best_round() {
    ends_with_its_best(&Toy::new(), &[FAR], true);
    // the server's momentum and the optimisers' go on from the last round, not from the best
    let kept = ["train.optimizer_state=keep", "server={id=\"sgdm\",learning_rate=0.9,momentum=0.8}"];
    ends_with_its_best(&Toy::new(), &[&[FAR, "method={id=\"full\"}"], &kept[..]].concat(), true);
}

#[test]
fn a_search_ends_with_its_best_prompt() {
    for search in [WORDS, FEDBPT, BBT] {
        ends_with_its_best(&Toy::new(), &[PROMPT, search, "oracle.access=embeddings"], true);
    }
}

#[test]
fn a_search_at_an_endpoint_ends_with_its_best_prompt() {
    let toy = Toy::new();
    // of nobody in particular, which is evaluated as well
    toy.write("held.jsonl", rows(2, 3));
    let held = ["data.split.validation=0", "data.validation_path=held.jsonl"];
    let served = [PROMPT, WORDS, "oracle={endpoint=\"embedded\",access=\"logprobs\"}"];
    ends_with_its_best(&toy, &[&served[..], &held].concat(), false);
}

#[test]
fn an_emulator_that_stays_as_it_is_ends_with_its_best_adapter() {
    let toy = Toy::new();
    let mut six = config(VOCAB);
    six["num_hidden_layers"] = json!(6);
    toy.write("model/config.json", six.to_string());
    let emulator = "emulator={adapter_bottom=1,adapter_top=1,drop_rate=0.5,rule={id=\"offsite_tuning\"}}";
    ends_with_its_best(&toy, &[FAR, emulator], true);
    let best = toy.summary("best");
    assert_eq!(best["off_site"]["plugged_in"], best["federated"]["global"]);
}

#[test]
fn what_cannot_end_with_its_best_round_is_refused() {
    let refused = |toy: &Toy, overrides: &[&str], words: &[&str]| {
        let words = [&["eval.select = \"best\""], words].concat();
        for command in [&["run", "run.toml", "--out", "none"][..], &["plan", "run.toml"]] {
            toy.antiphon(&[command, &[BEST, "eval.every_rounds=1"], overrides].concat())
                .says(SETTINGS, &words);
        }
        assert!(!toy.path("none").exists());
    };
    let toy = Toy::new();
    let served = [PROMPT, WORDS, "oracle={endpoint=\"embedded\",access=\"logprobs\"}"];
    refused(&toy, &["data.split.validation=0"], &["no validation data", "data.split.validation = 0.1"]);
    refused(&toy, &[&served[..], &["data.split.validation=0"]].concat(), &["no validation data"]);
    for every in ["eval.every_rounds=0", "eval.every_rounds=4", "eval.every_rounds=9"] {
        refused(&toy, &[every], &["of 4 rounds only the last", "set it to 1"]);
    }
    refused(&toy, &["scalars={id=\"fedkseed\",seeds=8}"], &["[scalars]", "leave eval.select out"]);
    refused(&Toy::aligned(), &[], &["[emulator.align]", "leave one of them out"]);
    refused(&Toy::classifier(), &[], &["model.head = \"local\"", "leave one of them out"]);
    // of one round there is nothing to choose, and nothing to refuse
    toy.run("one", &[BEST, "federation.num_rounds=1"]);
    assert_eq!(toy.summary("one")["run"]["chosen"]["round"], 1);
    assert_eq!(toy.antiphon(&["run", "run.toml", "eval.select=first"]).code, Some(SETTINGS));
}
