use std::{path::Path, process::ExitCode};

use crate::{config::Config, systemd};

/// The configuration of `file`, or the default. Prints what is wrong with it and returns the exit code
/// 2.
pub(super) fn load(file: Option<&Path>) -> Result<Config, ExitCode> {
    let credentials = systemd::credentials();
    Config::load(file, credentials.as_deref()).map_err(|error| {
        match file {
            Some(path) => eprintln!("hearth: {}: {error}", path.display()),
            None => eprintln!("hearth: {error}"),
        }
        ExitCode::from(2)
    })
}
