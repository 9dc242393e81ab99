//! One module per command.

mod bench;
mod run;

use crate::args::{Cli, Command};
use crate::error::{Failure, Kind};

/// Runs the command of `cli`.
pub(crate) fn dispatch(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Run(a) => run::run(a, cli.quiet, cli.json),
        Command::Resume(a) => run::resume(a, cli.quiet, cli.json),
        Command::Bench(a) => bench::run(a, cli.json),
        _ => Err(Failure::new(Kind::Usage, "not yet")),
    }
}
