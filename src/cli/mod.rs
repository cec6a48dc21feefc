//! The command line: one file per command, each a struct with `run`.

mod serve;
mod version;

use std::process::ExitCode;

use argh::FromArgs;

/// A Matrix homeserver for the smallest computers that people own.
#[derive(FromArgs)]
struct Hearth {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Serve(serve::Serve),
    Version(version::Version),
}

/// Reads the arguments of the process and does what they say. Ends the process if they make no
/// sense or ask for help.
pub fn main() -> ExitCode {
    match argh::from_env::<Hearth>().command {
        Command::Serve(command) => command.run(),
        Command::Version(command) => command.run(),
    }
}
