//! One module per command.

mod bench;

use crate::args::{Cli, Command};
use crate::error::{Failure, Kind};

/// Runs the command of `cli`.
pub fn dispatch(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Bench(a) => bench::run(a, cli.json),
        _ => Err(Failure::new(Kind::Usage, "not yet")),
    }
}
