//! From a `[data]` section to sequences: the real data sets in the divisions they are used in, and the bad cases.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it inside test functions; these are their helpers"
)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use antiphon_core::Digest;
use antiphon_data::encode::Task;
use antiphon_data::{EncodedFederation, Example, Federation, Settings};
use common::{Bytes, dataset};

fn settings(text: &str) -> Settings {
    toml::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn load(text: &str, base: &Path, seed: u64) -> Federation {
    Federation::load(&settings(text), base, seed).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn encode(f: &Federation, text: &str, classify: bool) -> EncodedFederation {
    let policy = f.policy(&settings(text), classify, &Bytes).unwrap();
    f.encode(&policy, &Bytes).unwrap_or_else(|e| panic!("{e}"))
}

fn keys(examples: &[Example]) -> BTreeSet<Digest> {
    examples.iter().map(|e| e.key).collect()
}

/// No content is trained on by one client and looked at by any.
fn no_leak(f: &Federation) {
    let train: BTreeSet<Digest> = f.clients.iter().flat_map(|c| keys(&c.train)).collect();
    let held =
        f.clients.iter().flat_map(|c| c.validation.iter().chain(&c.test)).chain(&f.validation).chain(&f.test);
    for e in held {
        assert!(!train.contains(&e.key), "trained on and held out: {:?}", e.kind);
    }
}

fn same(a: &Federation, b: &Federation) {
    assert_eq!(a.clients, b.clients);
    assert_eq!((&a.validation, &a.test), (&b.validation, &b.test));
}

#[test]
fn tinyshakespeare_one_speaker_a_client() {
    let Some(dir) = dataset("tinyshakespeare") else { return };
    let text = "path = 'input.txt'\nsplitter = 'speaker'\nsequence_len = 256\n\
                partition = { id = 'field', min_bytes = 2000, top = 12 }\nsplit = { validation = 0.1, test = 0.2 }";
    let f = load(text, &dir, 1);
    assert_eq!(f.clients.len(), 12);
    assert!(f.clients.iter().any(|c| c.name == "GLOUCESTER"));
    assert!(f.heterogeneity.left_why.contains("of 308 values"));
    no_leak(&f);
    same(&f, &load(text, &dir, 1));
    let e = encode(&f, text, false);
    let r = e.report();
    assert_eq!((r.examples, r.truncated, r.tokens_lost), (r.kept, 0, 0));
    // bytes are tokens here, and each text ends with one more; pieces repeat one
    assert_eq!(r.label_bytes + r.kept, r.label_tokens);
    let bytes: usize = f.heterogeneity.clients.iter().map(|c| c.bytes).sum();
    assert_eq!(r.label_bytes, bytes);
    assert!(e.clients.iter().flat_map(|c| c.train.sequences()).all(|s| s.len() <= 256));
    // speakers differ in words, and are apart by definition in the field
    let words = f.heterogeneity.divergences.iter().find(|d| d.over == "words").unwrap();
    assert!(words.js_mean > 0.02 && words.js_max < 1.0, "{words:?}");
    assert!((f.heterogeneity.divergences[0].js_mean - 1.0).abs() < 1e-9);
}

#[test]
fn dolly_by_category() {
    let Some(dir) = dataset("dolly-3k") else { return };
    let text = "path = 'sampled-databricks-dolly-15k.json'\nsequence_len = 512\ncolumns = { field = 'category' }\n\
                template = \"{instruction}\\n{context}\\n\"\npartition = { id = 'field', clients = 8 }\nsplit = { test = 0.2 }";
    let f = load(text, &dir, 3);
    let sizes: usize = f.clients.iter().map(|c| c.train.len() + c.test.len()).sum();
    assert_eq!((f.clients.len(), sizes, f.clients[0].name.as_str()), (8, 3003, "brainstorming"));
    no_leak(&f);
    let r = encode(&f, text, false).report();
    // long contexts lose their beginning, long answers their end
    assert!(r.truncated > 100 && r.dropped_all_masked == 0 && r.label_tokens_lost > 0, "{r:?}");
    assert_eq!(r.examples, 3003);
}

#[test]
fn clinc150_by_domain_with_its_own_test_set() {
    let Some(dir) = dataset("clinc150") else { return };
    let common = "path = 'data_full.json'\nrows = 'train'\nvalidation_rows = 'val'\ntest_rows = 'test'\n\
                  columns = { text = 0, label = 1 }\nlabel_groups = 'domains.json'\nsequence_len = 32\n";
    let text = format!("{common}partition = {{ id = 'field', clients = 10 }}");
    let f = load(&text, &dir, 0);
    // every held-out row lies with the client of its domain, and nowhere else
    assert_eq!((f.validation.len(), f.test.len()), (0, 0));
    let shapes = &f.heterogeneity.clients;
    assert!(shapes.iter().all(|c| (c.validation, c.test, c.labels.len()) == (300, 450, 15)));
    // 15,000 rows; those that also stand in val or test are not trained on
    let train: usize = f.clients.iter().map(|c| c.train.len()).sum();
    assert_eq!(train + f.held_out_elsewhere, 15_000);
    no_leak(&f);
    let e = encode(&f, &text, true);
    let policy = f.policy(&settings(&text), true, &Bytes).unwrap();
    let Task::Classes(set) = &policy.task else { panic!() };
    assert_eq!(set.names().len(), 150);
    assert_eq!(e.union_test().map(|t| t.sequences().len()).sum::<usize>(), 4500);
    assert!(e.clients[0].train.sequences().iter().all(|s| s.class.is_some() && s.len() <= 32));

    for alpha in [0.1, 1.0, 10.0] {
        let text =
            format!("{common}partition = {{ id = 'dirichlet_client', clients = 10, alpha = {alpha} }}");
        let f = load(&text, &dir, 0);
        let label = &f.heterogeneity.divergences[0];
        println!(
            "clinc150, dirichlet_client {alpha}: JS mean {:.3}, TV mean {:.3}",
            label.js_mean, label.tv_mean
        );
        assert!(label.js_mean > 0.1, "{label:?}");
    }
    // out-of-scope rows are no class of training
    let text = format!("{common}partition = {{ id = 'iid', clients = 2 }}").replace("'test'", "'oos_test'");
    let text = text.replace("label_groups = 'domains.json'\n", "");
    let f = load(&text, &dir, 0);
    let policy = f.policy(&settings(&text), true, &Bytes).unwrap();
    let e = f.encode(&policy, &Bytes).unwrap_err().to_string();
    assert!(e.contains("test_path: label `oos` does not occur in training data"), "{e}");
}

#[test]
fn uci_sentiment_one_file_a_client() {
    let Some(dir) = dataset("uci-sentiment") else { return };
    let text = "path = ['amazon_cells_labelled.txt', 'imdb_labelled.txt', 'yelp_labelled.txt']\n\
                columns = { text = 0, label = 1 }\ntemplate = \"Review: {text}\\nIt was\"\n\
                verbalizer = { 0 = ' bad', 1 = ' good' }\npartition = { id = 'files' }\n\
                split = { validation = 0.1, test = 0.2 }";
    let f = load(text, &dir, 5);
    let names: Vec<&str> = f.clients.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["amazon_cells_labelled", "imdb_labelled", "yelp_labelled"]);
    assert!(
        f.clients.iter().all(|c| c.test.len().abs_diff(200) <= 3 && c.validation.len().abs_diff(100) <= 3)
    );
    no_leak(&f);
    let e = encode(&f, text, false);
    let says_good = |s: &&antiphon_data::Sequence| {
        let word: Vec<u32> = s.labels().map(|(_, id)| id).filter(|&id| id < 256).collect();
        word.iter().copied().eq(b" good".map(u32::from))
    };
    let good = e.clients[0].train.sequences().iter().filter(says_good).count();
    let positive = f.clients[0].train.iter().filter(|e| e.label() == Some("1")).count();
    assert_eq!(good, positive);
    // shift of words, not of labels
    let d = &f.heterogeneity.divergences;
    assert!(
        d[0].over == "label" && d[0].js_max < 0.01 && d[1].over == "words" && d[1].js_mean > 0.05,
        "{d:?}"
    );
}

#[test]
fn trec_and_sst2_by_dirichlet() {
    if let Some(dir) = dataset("trec6") {
        let text = "path = 'TREC.train.all'\ntest_path = 'TREC.test.all'\nencoding = 'latin-1'\n\
                    partition = { id = 'dirichlet_class', clients = 10, alpha = 0.5, min_examples = 10 }";
        let f = load(text, &dir, 2);
        assert_eq!((f.clients.len(), f.test.len()), (10, 500));
        assert!(f.held_out_elsewhere > 0, "some questions stand in both files");
        no_leak(&f);
    }
    if let Some(dir) = dataset("sst2") {
        let text = "path = 'train.tsv'\nvalidation_path = 'dev.tsv'\ntest_path = 'test.tsv'\n\
                    columns = { label = 0, text = 1 }\nmax_examples = 5000\n\
                    partition = { id = 'dirichlet_balanced', clients = 10, alpha = 1.0 }";
        let f = load(text, &dir, 2);
        let train: usize = f.clients.iter().map(|c| c.train.len()).sum();
        assert_eq!((train, f.validation.len(), f.test.len()), (5000, 872, 1821));
        no_leak(&f);
    }
}

#[test]
fn the_other_sets_end_to_end() {
    for (name, text) in [
        (
            "alpaca-demo",
            "path = 'alpaca_en_demo.json'\npartition = { id = 'quantity', clients = 4, sigma = 0.8 }",
        ),
        (
            "gsm8k",
            "path = 'train.jsonl'\ntest_path = 'test.jsonl'\ntemplate = \"{question}\\n\"\n\
                   partition = { id = 'iid', clients = 3 }",
        ),
        (
            "t0-templates",
            "path = 't0_sample.jsonl'\ncolumns = { field = 'template' }\n\
                          partition = { id = 'field', min_examples = 20, top = 50 }\nsplit = { test = 0.2 }",
        ),
        (
            "t0-templates",
            "path = 't0_sample.jsonl'\ncolumns = { field = 'template' }\nmax_examples = 2000\n\
                          partition = { id = 'shards', clients = 8, shards_per_client = 2 }",
        ),
        (
            "tinystories-sample",
            "path = 'tinystories.txt'\nsplitter = 'paragraph'\n\
                                partition = { id = 'clusters', clients = 4 }\nsplit = { validation = 0.1, test = 0.1 }",
        ),
        (
            "tinystories-sample",
            "path = 'tinystories.txt'\nsplitter = 'paragraph'\n\
                                partition = { id = 'dirichlet_flasc', clients = 4, alpha = 0.3, over = { clusters = 6 } }",
        ),
    ] {
        let Some(dir) = dataset(name) else { continue };
        let f = load(text, &dir, 4);
        no_leak(&f);
        let r = encode(&f, text, false).report();
        assert!(r.kept > 500 && r.label_tokens > 10_000, "{name}: {r:?}");
    }
}

// ---- bad data ------------------------------------------------------------------------------------

fn refused(rows: &str, text: &str, classify: bool) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.jsonl"), rows).unwrap();
    std::fs::write(dir.path().join("t.jsonl"), "{\"text\": \"q\", \"label\": \"new\"}\n").unwrap();
    let settings = settings(&format!("path = 'a.jsonl'\n{text}"));
    let f = match Federation::load(&settings, dir.path(), 0) {
        Ok(f) => f,
        Err(e) => return e.to_string(),
    };
    let policy = match f.policy(&settings, classify, &Bytes) {
        Ok(p) => p,
        Err(e) => return e.to_string(),
    };
    f.encode(&policy, &Bytes).unwrap_err().to_string()
}

const LABELLED: &str = "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": \"y\"}\n";
const IID: &str = "partition = { id = 'iid', clients = 2 }";

#[test]
fn bad_data_says_what_is_wrong_and_where() {
    let e = refused("", IID, false);
    assert!(e.contains("a.jsonl") && e.contains("no example: 0 rows read"), "empty data set: {e}");
    let e = refused(LABELLED, "partition = { id = 'iid', clients = 3 }", true);
    assert!(e.contains("3 clients") && e.contains("at most 2"), "empty client: {e}");
    let e = refused(LABELLED, &format!("test_path = 't.jsonl'\n{IID}"), true);
    assert!(e.contains("label `new` does not occur in training data; labels: x, y"), "unseen label: {e}");
    let e = refused(LABELLED, &format!("labels = ['x', 'z']\n{IID}"), true);
    assert!(e.starts_with("client ") && e.contains(", train: label `y` does not occur"), "{e}");
    let pairs = "{\"prompt\": \"long prompt\", \"completion\": \"c\"}\n".replace("long", "a")
        + "{\"prompt\": \"b\", \"completion\": \"d\"}\n";
    let e = refused(&pairs, &format!("sequence_len = 4\ntruncation = 'tail'\n{IID}"), false);
    assert!(
        e.contains("none of 1 examples has a token to learn from") && e.contains("prompt_left"),
        "all masked: {e}"
    );
    let e = refused(LABELLED, &format!("test_path = 'a.jsonl'\n{IID}"), true);
    assert!(e.contains("all 2 training examples also occur"), "{e}");
    let e = refused("{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": \"x\"}\n", IID, true);
    assert!(e.contains("at least two labels, found 1: x"), "{e}");
    let e = refused(LABELLED, "partition = { id = 'dirichlet', clients = 2 }", true);
    assert!(e.contains("data.partition: unknown partitioner `dirichlet` (did you mean"), "{e}");
    let e = refused(LABELLED, &format!("split = {{ test = 0.1 }}\n{IID}"), true);
    assert!(e.contains("gives no client a test example"), "{e}");
}

#[test]
fn held_out_examples_of_one_client_may_all_be_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let row =
        |i: usize, n: usize| format!("{{\"prompt\": \"{i}{}\", \"completion\": \"c\"}}\n", "p".repeat(n));
    std::fs::write(dir.path().join("short.jsonl"), (0..10).map(|i| row(i, 1)).collect::<String>()).unwrap();
    // one of the long client's prompts is short enough to train on
    std::fs::write(
        dir.path().join("long.jsonl"),
        (10..20).map(|i| row(i, if i < 18 { 1 } else { 9 })).collect::<String>(),
    )
    .unwrap();
    let text = "path = ['short.jsonl', 'long.jsonl']\nsequence_len = 6\ntruncation = 'drop'\n\
                partition = { id = 'files' }\nsplit = { test = 0.1 }";
    let all_dropped = (0..40).any(|seed| {
        let e = encode(&load(text, dir.path(), seed), text, false);
        let test = &e.clients[1].test;
        assert_eq!(test.report.examples, 1);
        assert_eq!(test.sequences().len() + test.report.dropped_too_long, 1);
        test.sequences().is_empty()
    });
    assert!(all_dropped, "in 40 seeds a long prompt is held out at least once");
}
