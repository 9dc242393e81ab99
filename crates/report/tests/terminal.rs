//! The end of a run as a user sees it.

mod sample;

use antiphon_report::doctor::{Run, examine};
use antiphon_report::{Metrics, terminal};
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
