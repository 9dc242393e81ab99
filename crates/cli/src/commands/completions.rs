//! `antiphon completions`: a completion script on standard output.

use clap::CommandFactory;

use crate::args::{Cli, Completions};

pub(super) fn run(a: &Completions) {
    clap_complete::generate(a.shell, &mut Cli::command(), "antiphon", &mut std::io::stdout());
}
