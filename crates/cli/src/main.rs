//! The `antiphon` binary: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    antiphon::run(antiphon::args::Cli::parse())
}
