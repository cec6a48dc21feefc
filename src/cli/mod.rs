//! The command line: one file per command, each a struct with `run`.

mod config;
mod media;
mod rotate_key;
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
    Media(media::Media),
    RotateKey(rotate_key::RotateKey),
    Version(version::Version),
}

/// Runs the command of the process's arguments. Ends the process if they are invalid or ask for help.
pub fn main() -> ExitCode {
    match argh::from_env::<Hearth>().command {
        Command::Serve(command) => command.run(),
        Command::Media(command) => command.run(),
        Command::RotateKey(command) => command.run(),
        Command::Version(command) => command.run(),
    }
}
