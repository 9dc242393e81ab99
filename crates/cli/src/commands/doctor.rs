//! `antiphon doctor`: failure signatures of a run, finished or not.
#![allow(clippy::print_stdout, reason = "the result of the command")]

use antiphon_report::doctor::{self, Run};
use antiphon_report::{RoundRecord, terminal};
use antiphon_store::{Layout, Snapshot, read_rounds};
use serde_json::json;

use super::common;
use crate::args::Doctor;
use crate::error::{Failure, Kind, store};

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
    // first what is closed, then the records, since the run may be under way
    let closed = Snapshot::read(&a.run).map_err(|e| store(&e))?.closed;
    let rounds: Vec<RoundRecord> = read_rounds(&layout.metrics(), closed).map_err(|e| store(&e))?;
    let summary = common::summary(&layout)?;
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
