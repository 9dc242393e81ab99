//! One module per command.

mod audit;
mod bench;
mod common;
mod compare;
mod completions;
mod doctor;
mod eval;
mod export;
mod generate;
mod init;
mod logits;
mod plan;
mod run;
mod serve;

use crate::args::{Cli, Command};
use crate::error::Failure;

/// Runs the command of `cli`.
pub(crate) fn dispatch(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Init(a) => init::run(a, cli.quiet, cli.json),
        Command::Plan(a) => plan::run(a, cli.quiet, cli.json),
        Command::Run(a) => run::run(a, cli.quiet, cli.json),
        Command::Resume(a) => run::resume(a, cli.quiet, cli.json),
        Command::Compare(a) => compare::run(a, cli.quiet, cli.json),
        Command::Eval(a) => eval::run(a, cli.quiet, cli.json),
        Command::Export(a) => export::run(a, cli.json),
        Command::Logits(a) => logits::run(a, cli.json),
        Command::Generate(a) => generate::run(a, cli.json),
        Command::Serve(a) => serve::run(a, cli.quiet, cli.json),
        Command::Bench(a) => bench::run(a, cli.json),
        Command::Doctor(a) => doctor::run(a, cli.json),
        Command::Audit(a) => audit::run(a, cli.quiet, cli.json),
        Command::Completions(a) => {
            completions::run(a);
            Ok(())
        }
    }
}
