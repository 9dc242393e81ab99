//! Formats: every real data set of `../shared/data` that has one, and the refusals.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it inside test functions; these are their helpers"
)]

mod common;

use std::path::{Path, PathBuf};

use antiphon_data::format::{
    CharEncoding, Column, Container, LabelGroups, Layout, Named, Problem, Read, ReadOptions, Splitter, files,
    read,
};
use antiphon_data::template::Prompt;
use antiphon_data::{Kind, Role};
use common::dataset;

fn named(columns: &[(&'static str, Column)]) -> Named {
    columns.iter().cloned().collect()
}

fn name(n: &str) -> Column {
    Column::Name(n.to_owned())
}

fn auto(file: PathBuf) -> Read {
    read(&[file], &ReadOptions::default()).unwrap()
}

fn count(read: &Read, field: &str) -> usize {
    read.examples.iter().filter(|e| e.field.as_deref() == Some(field)).count()
}

#[test]
fn alpaca_demo() {
    let Some(dir) = dataset("alpaca-demo") else { return };
    let r = auto(dir.join("alpaca_en_demo.json"));
    assert_eq!(r.examples.len(), 999);
    assert_eq!((r.detected[0].container, r.detected[0].layout), (Container::Json, Layout::Alpaca));
    let Kind::Completion { prompt, completion } = &r.examples[0].kind else { panic!() };
    assert!(
        prompt.ends_with("### Instruction:\nDescribe a process of making crepes.\n\n### Response:\n"),
        "{prompt}"
    );
    assert!(completion.starts_with("Making crepes"));
    assert_eq!(auto(dir.join("identity.json")).examples.len(), 91);
    // both files of the folder, each remembered
    let both = read(&files(&[dir]).unwrap(), &ReadOptions::default()).unwrap();
    assert_eq!((both.examples.len(), both.examples[999].file), (1090, 1));
}

#[test]
fn dolly_by_category() {
    let Some(dir) = dataset("dolly-3k") else { return };
    let file = dir.join("sampled-databricks-dolly-15k.json");
    let options = ReadOptions { columns: named(&[("field", name("category"))]), ..Default::default() };
    let r = read(std::slice::from_ref(&file), &options).unwrap();
    assert_eq!((r.examples.len(), count(&r, "open_qa"), count(&r, "creative_writing")), (3003, 722, 142));
    let line = r.detected[0].to_string();
    assert!(line.contains("3003 rows of format alpaca") && line.contains("input = context"), "{line}");
    let template = Prompt::parse("{instruction}\n{context}\nAnswer: ").unwrap();
    let own =
        read(std::slice::from_ref(&file), &ReadOptions { prompt: Some(template), ..Default::default() })
            .unwrap();
    let Kind::Completion { prompt, .. } = &own.examples[0].kind else { panic!() };
    assert_eq!(prompt, "What are all the positions in hockey?\n\nAnswer: ");
    let chat = read(&[file], &ReadOptions { prompt: Some(Prompt::Chat), ..Default::default() }).unwrap();
    let Kind::Chat { messages } = &chat.examples[0].kind else { panic!() };
    assert_eq!(messages.iter().map(|m| m.role).collect::<Vec<_>>(), [Role::User, Role::Assistant]);
}

#[test]
fn gsm8k_says_that_words_would_run_together() {
    let Some(dir) = dataset("gsm8k") else { return };
    let r = auto(dir.join("train.jsonl"));
    assert_eq!((r.examples.len(), r.detected[0].layout), (7473, Layout::PromptCompletion));
    assert_eq!(r.detected[0].glued, 7473);
    assert!(r.detected[0].to_string().contains("no white space separates"));
    let prompt = Some(Prompt::parse("{question}\n").unwrap());
    let r = read(&[dir.join("test.jsonl")], &ReadOptions { prompt, ..Default::default() }).unwrap();
    assert_eq!((r.examples.len(), r.detected[0].glued), (1319, 0));
}

#[test]
fn t0_by_template() {
    let Some(dir) = dataset("t0-templates") else { return };
    let options = ReadOptions { columns: named(&[("field", name("template"))]), ..Default::default() };
    let r = read(&[dir.join("t0_sample.jsonl")], &options).unwrap();
    assert_eq!(r.detected[0].rows, 5523);
    let fields: std::collections::BTreeSet<_> =
        r.examples.iter().filter_map(|e| e.field.as_deref()).collect();
    assert_eq!(fields.len(), 283);
}

#[test]
fn clinc150_by_domain() {
    let Some(dir) = dataset("clinc150") else { return };
    let file = dir.join("data_full.json");
    let e = read(std::slice::from_ref(&file), &ReadOptions::default()).unwrap_err().to_string();
    assert!(e.contains("train (15000 rows)") && e.contains("`rows`"), "{e}");
    let options = ReadOptions {
        rows: Some("train".into()),
        columns: named(&[("text", Column::Index(0)), ("label", Column::Index(1))]),
        groups: Some(LabelGroups::read(&dir.join("domains.json")).unwrap()),
        ..Default::default()
    };
    let r = read(std::slice::from_ref(&file), &options).unwrap();
    assert_eq!((r.examples.len(), count(&r, "banking")), (15_000, 1500));
    let labels: std::collections::BTreeSet<_> = r.examples.iter().filter_map(|e| e.label()).collect();
    assert_eq!(labels.len(), 150);
    let oos = ReadOptions { rows: Some("oos_val".into()), ..options };
    let e = read(&[file], &oos).unwrap_err();
    assert!(matches!(&*e.problem, Problem::UngroupedLabel { label, .. } if label == "oos"), "{e}");
}

#[test]
fn sst2_with_other_headers_in_other_files() {
    let Some(dir) = dataset("sst2") else { return };
    let train = auto(dir.join("train.tsv"));
    assert_eq!((train.examples.len(), train.detected[0].header), (67_349, Some(true)));
    // `sentence` in one file and `content` in the others: positions serve all
    let options = ReadOptions {
        columns: named(&[("label", Column::Index(0)), ("text", Column::Index(1))]),
        ..Default::default()
    };
    let all = read(&["dev.tsv", "test.tsv"].map(|f| dir.join(f)), &options).unwrap();
    assert_eq!(all.examples.len(), 872 + 1821);
    let Kind::Labelled { text, label } = &all.examples[0].kind else { panic!() };
    assert_eq!((text.as_str(), label.as_str()), ("one long string of cliches .", "0"));
}

#[test]
fn trec_needs_its_encoding() {
    let Some(dir) = dataset("trec6") else { return };
    let train = [dir.join("TREC.train.all")];
    let e = read(&train, &ReadOptions::default()).unwrap_err().to_string();
    assert!(e.contains("0xf0 at offset 3173") && e.contains("latin-1"), "{e}");
    let r = read(&train, &ReadOptions { encoding: CharEncoding::Latin1, ..Default::default() }).unwrap();
    assert_eq!((r.examples.len(), r.detected[0].container), (5452, Container::Trec));
    let labels: std::collections::BTreeSet<_> = r.examples.iter().filter_map(|e| e.label()).collect();
    assert_eq!(labels.len(), 6);
    assert_eq!(auto(dir.join("TREC.test.all")).examples.len(), 500);
}

#[test]
fn uci_sentiment_is_a_table_whatever_its_ending() {
    let Some(dir) = dataset("uci-sentiment") else { return };
    let options = ReadOptions {
        columns: named(&[("text", Column::Index(0)), ("label", Column::Index(1))]),
        ..Default::default()
    };
    let files = ["amazon_cells", "imdb", "yelp"].map(|n| dir.join(format!("{n}_labelled.txt")));
    let r = read(&files, &options).unwrap();
    assert_eq!(r.examples.len(), 3000);
    for d in &r.detected {
        assert_eq!((d.container, d.header, d.rows), (Container::Tsv, Some(false), 1000), "{d}");
    }
    let positive = r.examples.iter().filter(|e| e.label() == Some("1")).count();
    assert_eq!(positive, 1500);
}

#[test]
fn tinyshakespeare_by_speaker() {
    let Some(dir) = dataset("tinyshakespeare") else { return };
    let file = [dir.join("input.txt")];
    let e = read(&file, &ReadOptions::default()).unwrap_err().to_string();
    assert!(e.contains("`splitter`: one of speaker"), "{e}");
    let r = read(&file, &ReadOptions { splitter: Some(Splitter::Speaker), ..Default::default() }).unwrap();
    let mut bytes = std::collections::BTreeMap::<&str, usize>::new();
    for e in &r.examples {
        *bytes.entry(e.field.as_deref().unwrap()).or_default() += e.bytes();
    }
    assert_eq!((bytes.len(), bytes.values().filter(|&&b| b >= 2000).count()), (308, 105));
    // nothing but blank lines is lost
    let squeeze = |s: &str| s.split_whitespace().map(str::len).sum::<usize>();
    let kept: usize = r.examples.iter().flat_map(|e| e.texts()).map(squeeze).sum();
    assert_eq!(kept, squeeze(&std::fs::read_to_string(&file[0]).unwrap()));
}

#[test]
fn tinystories() {
    let Some(dir) = dataset("tinystories-sample") else { return };
    let marker = Splitter::Marker("<|endoftext|>".into());
    let options = |splitter| ReadOptions { splitter: Some(splitter), ..Default::default() };
    let r = read(&[dir.join("cs336_tinystories_sample.txt")], &options(marker)).unwrap();
    assert_eq!(r.examples.len(), 5);
    let r = read(&[dir.join("tinystories.txt")], &options(Splitter::Paragraph)).unwrap();
    assert_eq!(r.examples.len(), 1230);
}

#[test]
fn preferences_are_refused_by_name_unless_forced() {
    let Some(dir) = dataset("llamafactory-pref") else { return };
    let dpo = [dir.join("dpo_en_demo.json")];
    let e = read(&dpo, &ReadOptions::default()).unwrap_err().to_string();
    assert!(e.contains("preference pairs (DPO)") && e.contains("conversations, chosen, rejected"), "{e}");
    let e = read(&[dir.join("kto_en_demo.json")], &ReadOptions::default()).unwrap_err().to_string();
    assert!(e.contains("KTO"), "{e}");
    let forced = ReadOptions { layout: Some(Layout::Messages), ..Default::default() };
    assert_eq!(read(&[dir.join("kto_en_demo.json")], &forced).unwrap().examples.len(), 300);
}

#[test]
fn compressed_files_say_so() {
    let Some(dir) = dataset("hh-rlhf-harmless-test") else { return };
    let e = read(&[dir.join("test.jsonl.gz")], &ReadOptions::default()).unwrap_err().to_string();
    assert!(e.contains("gzip"), "{e}");
}

// ---- small files of our own ------------------------------------------------------------------------

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn error(name: &str, content: &str, options: &ReadOptions) -> String {
    let dir = Files::new();
    read(&[dir.write(name, content)], options).unwrap_err().to_string()
}

#[test]
fn sharegpt_and_messages_become_the_same_conversation() {
    let dir = Files::new();
    let sharegpt = r#"{"system": "be kind", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#;
    let messages = r#"{"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let a = auto(dir.write("a.jsonl", sharegpt));
    let b = auto(dir.write("b.jsonl", messages));
    assert_eq!(a.examples[0].kind, b.examples[0].kind);
    assert_eq!(a.examples[0].key, b.examples[0].key);
}

#[test]
fn alpaca_history_needs_the_chat_template() {
    let row = r#"[{"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}]"#;
    let e = error("a.json", row, &ReadOptions::default());
    assert!(e.contains("`history`") && e.contains("template = \"chat\""), "{e}");
    let dir = Files::new();
    let options = ReadOptions { prompt: Some(Prompt::Chat), ..Default::default() };
    let r = read(&[dir.write("a.json", row)], &options).unwrap();
    let Kind::Chat { messages } = &r.examples[0].kind else { panic!() };
    assert_eq!(messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["s", "a", "b", "c", "d"]);
}

#[test]
fn bad_rows_name_file_row_and_cell() {
    let auto = ReadOptions::default();
    let e = error("a.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\"}\n", &auto);
    assert!(e.contains("a.jsonl: line 2: no cell `completion`; this row has prompt"), "{e}");
    let e = error("a.jsonl", "{\"text\": [1]}\n", &auto);
    assert!(e.contains("line 1: `text` should be a text, found a list"), "{e}");
    let e = error("a.json", r#"[{"messages": [{"role": "narrator", "content": "x"}]}]"#, &auto);
    assert!(e.contains("row 1") && e.contains("messages[0].role") && e.contains("narrator"), "{e}");
    for (name, empty) in [("a.json", "[]"), ("a.jsonl", ""), ("a.csv", "text,label\n"), ("a.json", "")] {
        let e = error(name, empty, &auto);
        assert!(e.contains("no example: 0 rows read") || e.contains("EOF"), "{name}: {e}");
    }
    let e = error("a.jsonl", "{\"text\": \"  \"}\n", &auto);
    assert!(e.contains("no example") && e.contains("1 rows read, 1 of them blank"), "{e}");
    let e = error("a.csv", "text,label\na,\n", &auto);
    assert!(e.contains("`label` should be a label, found nothing"), "{e}");
    let e = read(&[Path::new("/nowhere/a.json").to_owned()], &auto).unwrap_err().to_string();
    assert!(e.contains("/nowhere/a.json"), "{e}");
}

#[test]
fn templates_must_suit_the_layout_and_name_columns() {
    let row = "{\"text\": \"a\", \"label\": \"b\"}\n";
    let with = |t: &str| ReadOptions { prompt: Some(Prompt::parse(t).unwrap()), ..Default::default() };
    let e = error("a.jsonl", row, &with("chat"));
    assert!(e.contains("template `chat` does not apply to format labelled"), "{e}");
    let e = error("a.jsonl", row, &with("Review: {txt}"));
    assert!(e.contains("{txt}") && e.contains("did you mean `{text}`"), "{e}");
    let dir = Files::new();
    let r = read(&[dir.write("a.jsonl", row)], &with("Review: {text}\nSentiment:")).unwrap();
    assert_eq!(
        r.examples[0].kind,
        Kind::Labelled { text: "Review: a\nSentiment:".into(), label: "b".into() }
    );
}

#[test]
fn a_prefix_keeps_the_first_word_apart_from_the_prompt() {
    let dir = Files::new();
    let file = dir
        .write("a.jsonl", "{\"instruction\": \"Name it.\", \"input\": \"A saw.\", \"output\": \"tool\"}\n");
    let prompt = Some(Prompt::parse("{instruction} {input} Answer:").unwrap());
    let options = ReadOptions { prompt, completion_prefix: " ".into(), ..Default::default() };
    let r = read(std::slice::from_ref(&file), &options).unwrap();
    let expected = Kind::Completion { prompt: "Name it. A saw. Answer:".into(), completion: " tool".into() };
    assert_eq!((&r.examples[0].kind, r.detected[0].glued), (&expected, 0));
    let r = read(&[file], &ReadOptions { completion_prefix: String::new(), ..options }).unwrap();
    assert_eq!(r.detected[0].glued, 1);
}
