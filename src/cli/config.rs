use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    config::{Config, Settings},
    systemd,
};

/// Where the packages have the settings.
pub(super) const SYSTEM_FILE: &str = "/etc/hearth/hearth.toml";

/// The configuration of `file`, or the default. Prints what is wrong with it and returns the exit code
/// 2.
pub(super) fn load(file: Option<&Path>) -> Result<Config, ExitCode> {
    let credentials = systemd::credentials().or_else(|| credentials_beside(file?));
    Config::load(file, credentials.as_deref()).map_err(|error| print_error(file, &error))
}

/// Only the data directory of the settings in `file`: a command needs no secrets to find a running server.
pub(super) fn data_dir(file: Option<&Path>) -> Result<PathBuf, ExitCode> {
    Ok(settings(file)?.data_dir)
}

/// The same of the directory of the backups.
pub(super) fn backup_dir(file: Option<&Path>) -> Result<Option<PathBuf>, ExitCode> {
    Ok(settings(file)?.backup_dir)
}

fn settings(file: Option<&Path>) -> Result<Settings, ExitCode> {
    Settings::load(file).map_err(|error| print_error(file, &error))
}

/// The file with the settings of the server that a command is for: `given`, or that of the packages. Without
/// either, the server is the one of this directory.
pub(super) fn file_of_server(given: Option<PathBuf>) -> Option<PathBuf> {
    given.or_else(|| Some(PathBuf::from(SYSTEM_FILE)).filter(|file| file.exists()))
}

/// The secrets that the unit gives to the service, which a command has to read itself.
fn credentials_beside(file: &Path) -> Option<PathBuf> {
    let directory = file.with_file_name("credentials");
    directory.is_dir().then_some(directory)
}

fn print_error(file: Option<&Path>, error: &crate::config::Error) -> ExitCode {
    match file {
        Some(path) => eprintln!("hearth: {}: {error}", path.display()),
        None => eprintln!("hearth: {error}"),
    }
    ExitCode::from(2)
}
