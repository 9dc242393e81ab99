//! Writes reports of synthetic runs, to look at: `sample_report DIR`.

#![allow(clippy::print_stdout, reason = "an example prints")]

#[path = "../tests/sample/mod.rs"]
mod sample;

use std::path::Path;

use antiphon_report::doctor::{Run, examine};
use antiphon_report::html::{Report, page};
use sample::{RUN_TOML, Sick, run};

fn main() -> std::io::Result<()> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    for (name, sick, clients, rounds) in
        [("healthy", Sick::No, 10, 24), ("sick", Sick::Exploding, 10, 24), ("many", Sick::No, 120, 200)]
    {
        let s = run(sick, clients, rounds, 1);
        let findings = examine(&Run { rounds: &s.rounds, summary: Some(&s.summary) });
        let report =
            Report { summary: &s.summary, rounds: &s.rounds, findings: &findings, run_toml: RUN_TOML };
        let path = Path::new(&directory).join(format!("{name}.html"));
        std::fs::write(&path, page(&report))?;
        println!("{}", path.display());
    }
    Ok(())
}
