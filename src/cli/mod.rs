//! The command line: one file per command, each a struct with `run`.

mod media;
mod rotate_key;
mod serve;
mod version;

use std::{path::Path, process::ExitCode};

use argh::FromArgs;

use crate::{config::Config, systemd};

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

/// Reads the arguments of the process and does what they say. Ends the process if they make no
/// sense or ask for help.
pub fn main() -> ExitCode {
    match argh::from_env::<Hearth>().command {
        Command::Serve(command) => command.run(),
        Command::Media(command) => command.run(),
        Command::RotateKey(command) => command.run(),
        Command::Version(command) => command.run(),
    }
}

/// The settings of `file`, or those without one. If they make no sense, it is said why, and how the
/// process is to end.
fn config(file: Option<&Path>) -> Result<Config, ExitCode> {
    let credentials = systemd::credentials();
    Config::load(file, credentials.as_deref()).map_err(|error| {
        match file {
            Some(path) => eprintln!("hearth: {}: {error}", path.display()),
            None => eprintln!("hearth: {error}"),
        }
        ExitCode::from(2)
    })
}
