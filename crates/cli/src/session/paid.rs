//! The ledger of a run that may have spent before.

use std::path::Path;

use antiphon_oracle::Usage;
use antiphon_oracle::ledger::{Ledger, Terms};
use antiphon_report::RoundRecord;
use antiphon_store::{Layout, read_metrics};

use crate::error::{Failure, Kind, oracle, store};

/// Opens the ledger at `path` for the run in `dir`, if it has one yet.
///
/// A run that has closed rounds has spent what they record. Where the ledger does not know of it, its budget would be spent
/// again: that is refused, before an empty ledger is left in the place of the lost one.
pub(crate) fn open_ledger(path: &Path, dir: Option<&Path>, terms: Terms) -> Result<Ledger, Failure> {
    let recorded = dir.map_or(Ok(0), recorded)?;
    let lost = |what: &str| {
        Failure::new(
            Kind::RunDir,
            format_args!(
                "the budget ledger `{}` {what}, but the rounds that are closed have asked {recorded} examples: restore it \
                 from a copy, or begin a new run; without it the budget would be spent again",
                path.display()
            ),
        )
    };
    if recorded > 0 && !path.exists() {
        return Err(lost("is gone"));
    }
    let durable = terms.durable;
    let ledger = Ledger::open(path, terms).map_err(|e| oracle(&Box::new(e).into(), Kind::RunDir))?;
    match ledger.spent() {
        spent if recorded > 0 && spent == Usage::ZERO => Err(lost("is empty")),
        // where it is not written through, a loss of power may have taken back its last lines
        spent if durable && spent.examples < recorded => {
            Err(lost(&format!("knows of {} examples only", spent.examples)))
        }
        _ => Ok(ledger),
    }
}

/// Examples that the closed rounds of the run in `dir` have asked.
fn recorded(dir: &Path) -> Result<u64, Failure> {
    let rounds: Vec<RoundRecord> = read_metrics(&Layout::new(dir).metrics()).map_err(|e| store(&e))?;
    let examples = rounds.iter().filter_map(|r| r.spent).map(|s| s.examples);
    Ok(examples.fold(0, u64::saturating_add))
}
