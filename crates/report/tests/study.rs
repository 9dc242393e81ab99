//! The tables and the page of a study whose numbers are known.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use antiphon_core::Digest;
use antiphon_report::study::{Cell, Measured, Point, Status, Study, Variant};
use antiphon_report::{Metrics, html, study};

fn metrics(loss: f64) -> Metrics {
    Metrics { loss: Some(loss), examples: 50, tokens: 50, ..Metrics::default() }
}

fn measured(losses: [f64; 3], luck: Option<f64>) -> Box<Measured> {
    let point = |(i, loss): (usize, &f64)| Point {
        forwards: 100 << i,
        bytes: Some(1000 << i),
        metrics: metrics(*loss),
    };
    let mut lines = BTreeMap::from([("base model, as it was".to_owned(), [("loss".to_owned(), 2.0)].into())]);
    let mut line_curves = BTreeMap::from([(
        "base model, as it was".to_owned(),
        vec![Point { forwards: 0, bytes: None, metrics: metrics(2.0) }],
    )]);
    if let Some(luck) = luck {
        let name = "random search, as many queries".to_owned();
        lines.insert(name.clone(), [("loss".to_owned(), luck)].into());
        line_curves.insert(name, vec![Point { forwards: 50, bytes: None, metrics: metrics(luck) }]);
    }
    Box::new(Measured {
        test: Some(metrics(losses[2])),
        lines,
        bytes_up: 3000,
        bytes_down: 1000,
        forwards: Some(400),
        queries: luck.map(|_| 400),
        wall_seconds: 2.0,
        peak_rss_bytes: None,
        split: Some(Digest::of(b"split")),
        kernel_profile: "k".to_owned(),
        curve: losses.iter().enumerate().map(point).collect(),
        line_curves,
    })
}

fn variant(name: &str, cells: Vec<Status>) -> Variant {
    let cell = |(i, status): (usize, Status)| Cell { seed: i as u64 + 1, dir: format!("{name}/{i}"), status };
    let cells = cells.into_iter().enumerate().map(cell).collect();
    Variant { name: name.to_owned(), set: BTreeMap::new(), data: BTreeMap::new(), cells }
}

fn sample() -> Study {
    let done = |losses, luck| Status::Finished(measured(losses, luck));
    Study {
        schema: study::STUDY_SCHEMA,
        name: "a study".to_owned(),
        seeds: vec![1, 2],
        metrics: vec!["loss".to_owned()],
        forwards: vec![50, 100, 300],
        variants: vec![
            variant("lora", vec![done([1.9, 1.5, 1.0], None), done([2.1, 1.7, 1.4], None)]),
            variant(
                "search | \"x\"",
                vec![done([2.5, 1.9, 1.8], Some(1.85)), Status::Failed("<script>no".to_owned())],
            ),
        ],
        splits: Vec::new(),
    }
}

#[test]
fn the_tables_say_what_was_measured() {
    let s = sample();
    insta::assert_snapshot!("results", study::terminal(&study::results(&s)));
    let loss = study::measure("loss").unwrap();
    insta::assert_snapshot!("at_equal_work", study::terminal(&study::budgets(&s, &loss).unwrap()));
    insta::assert_snapshot!("pays", study::terminal(&study::pays(&s).unwrap()));
    insta::assert_snapshot!("csv", study::csv(&s));
    assert!(study::markdown(&study::results(&s)).contains("| search \\| \"x\" | 1.800 |"));
}

#[test]
fn no_string_of_anybody_becomes_markup() {
    let mut s = sample();
    s.name = "<script>name".to_owned();
    s.variants[0].name = "<b onload=x>".to_owned();
    let page = html::study(&s);
    assert!(!page.contains("<script") && !page.contains("<b onload"));
    assert!(page.contains("&lt;script&gt;no") && page.contains("3 of 4 runs have ended, 1 failed"));
    // both kinds of curve are drawn
    assert!(page.contains("example forwards") && page.contains("bytes, up and down"));
}

#[test]
fn a_study_survives_json() {
    let s = sample();
    let again: Study = serde_json::from_str(&serde_json::to_string(&s).unwrap()).unwrap();
    assert_eq!(s, again);
}

#[test]
fn lines_that_every_variant_has_of_its_own_are_a_table() {
    let mut s = sample();
    s.seeds = vec![1];
    let emulated = |name: &str, before: f64, after: f64| {
        let mut m = measured([1.0, 1.0, after], None);
        m.lines.insert("emulator, as it was".to_owned(), [("loss".to_owned(), before)].into());
        m.lines.insert("whole model, all layers tuned".to_owned(), [("loss".to_owned(), 0.5)].into());
        variant(name, vec![Status::Finished(m)])
    };
    s.variants = vec![emulated("drop 0.1", 2.1, 1.0), emulated("drop 0.5", 2.6, 1.2)];
    let loss = study::measure("loss").unwrap();
    assert_eq!(study::beside(&s, &loss), None, "two are rows");
    s.variants.push(emulated("drop 0.8", 3.7, 1.9));
    let table = study::beside(&s, &loss).unwrap();
    assert_eq!(table.head, ["", "base model, as it was", "emulator, as it was", "result"]);
    let cells: Vec<Vec<&str>> =
        table.rows.iter().map(|r| r.cells.iter().map(|c| c.as_deref().unwrap()).collect()).collect();
    assert_eq!(
        cells,
        [["2.000", "2.100", "1.000"], ["2.000", "2.600", "1.200"], ["2.000", "3.700", "1.900"]]
    );
    let rows: Vec<String> = study::results(&s).rows.into_iter().map(|r| r.name).collect();
    let expected =
        ["base model, as it was", "whole model, all layers tuned", "drop 0.1", "drop 0.5", "drop 0.8"];
    assert_eq!(rows, expected);
    // a fourth with another ceiling: neither line is named after all of its variants
    let mut other = emulated("full elsewhere", 2.1, 1.0);
    if let Status::Finished(m) = &mut other.cells[0].status {
        m.lines.insert("whole model, all layers tuned".to_owned(), [("loss".to_owned(), 0.6)].into());
    }
    s.variants.push(other);
    let rows: Vec<String> = study::results(&s).rows.into_iter().map(|r| r.name).collect();
    assert_eq!(rows[1], "whole model, all layers tuned, beside drop 0.1 and 2 others");
    assert_eq!(rows[2], "whole model, all layers tuned, beside full elsewhere");
}

#[test]
fn a_number_of_the_grid_is_an_axis() {
    let mut s = sample();
    s.seeds = vec![1];
    let at = |arm: &str, drop: &str, loss: f64| {
        let mut v = variant(
            &format!("{arm}, drop_rate = {drop}"),
            vec![Status::Finished(measured([1.0, 1.0, loss], None))],
        );
        v.set.insert("emulator.drop_rate".to_owned(), drop.to_owned());
        v.set.insert("train.steps".to_owned(), "10".to_owned());
        v
    };
    s.variants = vec![
        at("A", "0.5", 1.0),
        at("A", "0.1", 0.9),
        at("A", "0.8", 1.2),
        at("B", "0.1", 0.7),
        at("B", "0.5", 0.8),
    ];
    let loss = study::measure("loss").unwrap();
    let sweeps = study::sweeps(&s);
    let told: Vec<_> = sweeps.iter().map(|w| (w.key, w.name.as_str())).collect();
    assert_eq!(told, [("drop_rate", "A"), ("drop_rate", "B")]);
    let traces = sweeps[0].traces(&loss);
    let (name, points) = traces.last().unwrap();
    let points: Vec<_> = points.iter().map(|(x, s)| (*x, s.mean)).collect();
    assert_eq!((name.as_str(), points), ("result", vec![(0.1, 0.9), (0.5, 1.0), (0.8, 1.2)]));
    assert_eq!(traces[0].0, "base model, as it was");
    assert!(html::study(&s).contains("Against a setting"));
    s.variants.truncate(2);
    assert!(study::sweeps(&s).is_empty(), "two numbers are no axis");
}
