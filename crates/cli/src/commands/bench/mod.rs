//! `antiphon bench`: measurements of this machine and this program, always beside what they are compared with.

mod clients;
mod gemm;
mod round;
mod step;

use serde::Serialize;

use crate::args::{Bench, BenchWhat};
use crate::error::Failure;

pub(super) fn run(a: &Bench, json: bool) -> Result<(), Failure> {
    match &a.what {
        BenchWhat::Step(a) => show(&step::run(a)?, json),
        BenchWhat::Round(a) => show(&round::run(a)?, json),
        BenchWhat::Clients(a) => show(&clients::run(a)?, json),
        BenchWhat::Gemm(a) => {
            let report = gemm::run(a)?;
            if json {
                return show(&report, true);
            }
            gemm::show(&report);
            Ok(())
        }
    }
}

/// One line of JSON, or a key and value a line.
#[allow(clippy::print_stdout, reason = "the result of the command")]
fn show(report: &impl Serialize, json: bool) -> Result<(), Failure> {
    let value = serde_json::to_value(report).map_err(|e| Failure::new(crate::error::Kind::Internal, e))?;
    if json {
        println!("{value}");
    } else if let Some(fields) = value.as_object() {
        for (key, value) in fields {
            println!("{key:>20}  {value}");
        }
    }
    Ok(())
}
