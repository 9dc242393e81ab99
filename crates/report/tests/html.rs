//! The page: complete, closed to injection and to the network, calm about what was not measured.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod sample;

use antiphon_report::doctor::{Finding, Run, examine};
use antiphon_report::html::{Report, page};
use antiphon_report::{Baselines, Metrics, RoundRecord, Summary};
use sample::{RUN_TOML, Sample, Sick, run};
use serde_json::Value;

fn of(s: &Sample) -> String {
    let findings = examine(&Run { rounds: &s.rounds, summary: Some(&s.summary) });
    of_parts(&s.summary, &s.rounds, &findings, RUN_TOML)
}

fn of_parts(summary: &Summary, rounds: &[RoundRecord], findings: &[Finding], run_toml: &str) -> String {
    page(&Report { summary, rounds, findings, run_toml })
}

/// The page's text, one line an element, without styles.
fn text(page: &str) -> String {
    let body = page.split_once("<main>").unwrap().1;
    let mut out = String::new();
    for part in body.split('<') {
        let (tag, text) = part.split_once('>').unwrap_or(("", part));
        if text.trim().is_empty() {
            continue;
        }
        // inline elements do not break a line
        let inline = ["b", "/b", "strong", "/strong", "code", "/code", "small", "i", "/i"];
        if !inline.contains(&tag.split(' ').next().unwrap()) && !out.is_empty() {
            out.push('\n');
        }
        out.push_str(text.trim_end());
    }
    out.replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
}

/// Every element that is opened is closed, in order.
fn check_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in page.split('<').skip(1) {
        let tag = part.split_once('>').unwrap().0;
        let name = tag.split([' ', '\n']).next().unwrap();
        match name {
            "!doctype" | "meta" | "br" | "col" => {}
            _ if name.starts_with('/') => assert_eq!(open.pop(), Some(&name[1..]), "at <{tag}>"),
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn every_kind_of_run_makes_a_well_formed_page() {
    for sick in [Sick::No, Sick::Exploding, Sick::NotFinite, Sick::Truncation] {
        for (clients, rounds) in [(10, 24), (2, 1), (120, 50)] {
            check_well_formed(&of(&run(sick, clients, rounds, 1)));
        }
    }
}

#[test]
fn the_page_needs_no_network_and_runs_no_code() {
    let page = of(&run(Sick::Exploding, 10, 24, 1));
    for forbidden in
        ["http:", "https:", "//www", "<script", "<link", "<img", "src=", "href=", "@import", "url("]
    {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.contains("default-src 'none'"));
}

/// The words of a healthy run's page. Tooltips of the charts are left out: they repeat the numbers.
#[test]
fn what_the_page_says() {
    let page = of(&run(Sick::No, 4, 6, 1));
    let text = text(&page);
    let lines: Vec<&str> =
        text.lines().filter(|l| !l.starts_with("round ") && !l.starts_with("bytes sent ")).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// Replaces every string that a user or a peer may have chosen.
fn poison(value: &mut Value, key: &str) {
    const OURS: [&str; 3] = ["digest", "split", "status"];
    match value {
        Value::String(s) if !OURS.contains(&key) => s.push_str("\"'><script>alert(1)</script><b onload=x>&"),
        Value::Array(items) => items.iter_mut().for_each(|v| poison(v, key)),
        Value::Object(map) => {
            let versions = key == "versions" || key == "divergence";
            for (k, v) in map.iter_mut() {
                poison(v, k);
            }
            if versions {
                let first = map.values().next().unwrap().clone();
                map.insert("<script>key</script>".to_owned(), first);
            }
        }
        _ => {}
    }
}

#[test]
fn no_string_of_anybody_becomes_markup() {
    let mut s = run(Sick::Absent, 10, 24, 1);
    let clean = of(&s);
    let mut summary = serde_json::to_value(&s.summary).unwrap();
    poison(&mut summary, "");
    s.summary = serde_json::from_value(summary).unwrap();
    let mut rounds = serde_json::to_value(&s.rounds).unwrap();
    let failed = serde_json::json!({"client": 5, "status": "failed", "reason": "<script>why</script>"});
    rounds[0]["clients"].as_array_mut().unwrap().push(failed);
    s.rounds = serde_json::from_value(rounds).unwrap();
    let mut findings = examine(&Run { rounds: &s.rounds, summary: Some(&s.summary) });
    findings[0].evidence.push("<script>evidence</script>".to_owned());
    let page = of_parts(&s.summary, &s.rounds, &findings, "a = '</code></pre><script>toml</script>'");
    check_well_formed(&page);
    assert!(!page.contains("<script") && !page.contains("<b onload"));
    let escaped = page.matches("&lt;script&gt;").count();
    // names of ten clients, twelve values, run facts, predictions, versions, the four above
    assert!(escaped > 60, "only {escaped} poisoned strings reached the page");
    assert!(!clean.contains("&lt;script&gt;alert"));
}

#[test]
fn what_was_not_measured_is_left_out() {
    let mut s = run(Sick::No, 3, 2, 1);
    s.summary.federated = None;
    s.summary.baselines = Baselines::default();
    s.summary.data = None;
    s.summary.truncation = None;
    s.summary.predicted.clear();
    s.summary.peak_rss_bytes = None;
    s.summary.run.rounds_done = 0;
    let page = of_parts(&s.summary, &[], &[], "");
    check_well_formed(&page);
    let text = text(&page);
    assert!(text.contains("Stopped after 0 of 2 rounds"));
    for absent in ["Result", "Over the rounds", "Each client", "Data", "Predicted", "NaN", "inf"] {
        assert!(!text.lines().any(|l| l.starts_with(absent)), "{absent} in {text}");
    }
}

/// No test answer was among the tokens that an endpoint names.
#[test]
fn a_result_without_any_figure_is_a_page_too() {
    let mut s = run(Sick::No, 3, 2, 1);
    s.summary.federated.as_mut().unwrap().global = Metrics { examples: 9, tokens: 9, ..Metrics::default() };
    let page = of(&s);
    check_well_formed(&page);
    assert!(text(&page).contains("No figure: "));
    let shown = antiphon_report::terminal::summary(&s.summary, &[]);
    assert!(shown.contains("9 examples"), "{shown}");
}

#[test]
fn a_language_model_is_judged_by_perplexity() {
    let mut s = run(Sick::No, 3, 6, 1);
    let language = |m: &mut Metrics| {
        m.accuracy = None;
        m.perplexity = m.loss.map(f64::exp);
        m.bits_per_byte = m.loss.map(|l| l / 2.9);
        m.tokens = 40 * m.examples;
    };
    let federated = s.summary.federated.as_mut().unwrap();
    language(&mut federated.global);
    federated.per_client.values_mut().for_each(language);
    for eval in s.rounds.iter_mut().filter_map(|r| r.eval.as_mut()) {
        language(&mut eval.global);
        eval.per_client.values_mut().for_each(language);
    }
    let text = text(&of(&s));
    assert!(text.contains("The federated model has a test perplexity of2.667"), "{text}");
    for title in ["Perplexity", "Bits per byte"] {
        assert!(text.lines().any(|l| l == title), "no chart of {title}");
    }
    assert!(!text.lines().any(|l| l == "Accuracy"));
}
