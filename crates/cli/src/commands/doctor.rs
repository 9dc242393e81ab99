//! `antiphon doctor`: failure signatures of a run, finished or not.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use antiphon_report::doctor::{self, Run};
use antiphon_report::{RoundRecord, Summary, terminal};
use antiphon_store::{Layout, read_metrics};
use serde_json::json;

use crate::args::Doctor;
use crate::error::{Fail, Failure, Kind};

pub(super) fn run(a: &Doctor, json: bool) -> Result<(), Failure> {
    let layout = Layout::new(&a.run);
    if !layout.run_file().is_file() {
        return Err(Failure::new(
            Kind::RunDir,
            format_args!(
                "{} is no run directory: it has no run.toml; `antiphon run` makes one",
                a.run.display()
            ),
        ));
    }
    let rounds: Vec<RoundRecord> = match layout.metrics().is_file() {
        true => read_metrics(&layout.metrics()).fail(Kind::RunDir)?,
        false => Vec::new(),
    };
    let summary = summary(&layout)?;
    let findings = doctor::examine(&Run { rounds: &rounds, summary: summary.as_ref() });
    if json {
        let finished = summary.is_some();
        println!("{}", json!({ "rounds": rounds.len(), "finished": finished, "findings": findings }));
        return Ok(());
    }
    let state =
        if summary.is_some() { "finished" } else { "not finished: what needs its end is not looked for" };
    println!("{}: {} rounds, {state}", a.run.display(), rounds.len());
    print!("{}", terminal::findings(&findings));
    Ok(())
}

/// The summary of a run that has ended.
fn summary(layout: &Layout) -> Result<Option<Summary>, Failure> {
    let path = layout.summary();
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).fail_at(Kind::Storage, path.display())?;
    serde_json::from_str(&text).map(Some).fail_at(Kind::RunDir, path.display())
}
