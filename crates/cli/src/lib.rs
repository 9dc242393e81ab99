//! The command line of antiphon: arguments → typed settings → one function per command.
//!
//! A library so that tests and the generated references reach it; nothing outside this workspace should.

pub mod args;
pub mod catalogue;
mod commands;
pub mod error;
mod machine;
pub mod oracle;
pub mod place;
mod prediction;
mod progress;
mod remote;
pub mod runfile;
mod secret;
mod session;
mod study;

use std::process::ExitCode;

/// Runs one command and turns its failure into a message and an exit code.
#[must_use]
#[allow(clippy::print_stderr, reason = "the terminal is the binary's")]
pub fn run(cli: args::Cli) -> ExitCode {
    match commands::dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("antiphon: {}", error::printable(&failure.to_string()));
            failure.exit()
        }
    }
}
