use std::process::ExitCode;

use argh::FromArgs;

use super::output::finish;

/// Print the version of this program.
#[derive(FromArgs)]
#[argh(subcommand, name = "version")]
pub(super) struct Version {}

impl Version {
    pub(super) fn run(self) -> ExitCode {
        finish(concat!("hearth ", env!("CARGO_PKG_VERSION"), "\n"))
    }
}
