//! The end of a run as a user sees it.

mod sample;

use antiphon_report::doctor::{Run, examine};
use antiphon_report::{ChosenRound, Metrics, terminal};
use sample::{Sick, run};

#[test]
fn the_end_of_a_healthy_run() {
    let s = run(Sick::No, 10, 24, 1);
    insta::assert_snapshot!(terminal::summary(&s.summary, &[]));
}

#[test]
fn the_end_of_a_sick_run_that_was_stopped_and_compared_with_nothing() {
    let mut s = run(Sick::Absent, 10, 24, 1);
    s.summary.run.rounds_done = 11;
    s.summary.baselines = Default::default();
    s.summary.peak_rss_bytes = None;
    let federated = s.summary.federated.as_mut().unwrap();
    federated.global = Metrics {
        loss: Some(1.2345),
        perplexity: Some(3.4367),
        bits_per_byte: Some(0.7123),
        accuracy: None,
        examples: 120,
        tokens: 5_321,
    };
    let findings = examine(&Run { rounds: &s.rounds, summary: Some(&s.summary) });
    insta::assert_snapshot!(terminal::summary(&s.summary, &findings));
}

#[test]
fn the_round_that_was_kept_is_named() {
    let mut s = run(Sick::No, 10, 24, 1);
    let kept = |s: &antiphon_report::Summary| {
        let text = terminal::summary(s, &[]);
        text.lines().find_map(|l| l.strip_prefix("kept").map(|l| l.trim().to_owned()))
    };
    assert_eq!(kept(&s.summary), None);
    s.summary.run.chosen = Some(ChosenRound { round: 7, loss: Some(0.593_24), accuracy: None });
    let best = "the model is that of round 7, the best on validation data (loss 0.593)";
    assert_eq!(kept(&s.summary).as_deref(), Some(best));
    s.summary.run.chosen = Some(ChosenRound { round: 7, loss: None, accuracy: Some(0.75) });
    let best = "the model is that of round 7, the best on validation data (accuracy 75.0 %)";
    assert_eq!(kept(&s.summary).as_deref(), Some(best));
    s.summary.run.chosen = Some(ChosenRound { round: 24, loss: None, accuracy: None });
    let last = "the model is that of round 24, the last: no round has a loss on validation data";
    assert_eq!(kept(&s.summary).as_deref(), Some(last));
}

#[test]
fn the_five_numbers_of_off_site_tuning_stand_together() {
    let s = run(Sick::PluggedIn, 10, 24, 1);
    let text = terminal::summary(&s.summary, &[]);
    let at = |label: &str| text.find(label).unwrap_or_else(|| panic!("no `{label}` in:\n{text}"));
    let rows = [
        "base model, as it was",
        "emulator, as it was",
        "emulator, tuned",
        "federated, plugged in",
        "whole model, all layers tuned",
    ];
    assert!(rows.windows(2).all(|w| at(w[0]) < at(w[1])), "{text}");
    assert!(text.contains("plugged in is -1.8 % on the base model"), "{text}");
    assert!(text.contains("all layers tuned is +8.8 % on that"), "{text}");
    assert_eq!(s.summary.off_site.unwrap().gaps(|m| m.loss, false).map(|g| g.0 < 0.0), Some(true));
}
