use std::process::ExitCode;

use argh::FromArgs;

/// Print the version of this program.
#[derive(FromArgs)]
#[argh(subcommand, name = "version")]
pub(super) struct Version {}

impl Version {
    pub(super) fn run(self) -> ExitCode {
        println!("hearth {}", env!("CARGO_PKG_VERSION"));
        ExitCode::SUCCESS
    }
}
