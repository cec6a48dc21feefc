use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use argh::FromArgs;

use super::{backup::Steps, config, output::finish, setup::replace_file, table::printable};
use crate::{
    backup::{self, FoundBackup},
    logging,
    server::{self, Restored},
    store,
};

/// Of the settings: a service with a user of its own reads them as anybody can.
const MAX_MODE: u32 = 0o644;

/// Put a backup in the place of the data. The server must not run meanwhile.
#[derive(FromArgs)]
#[argh(subcommand, name = "restore")]
pub(super) struct Restore {
    /// the file with the settings (default: /etc/hearth/hearth.toml); if there is none, that of the backup becomes it
    #[argh(option)]
    config: Option<PathBuf>,
    /// move a database that is there aside
    #[argh(switch)]
    force: bool,
    /// the directory of the backups, of which the last is restored, or that of one of them
    #[argh(positional)]
    directory: PathBuf,
}

impl Restore {
    pub(super) fn run(self) -> ExitCode {
        let file = self.config.unwrap_or_else(|| config::SYSTEM_FILE.into());
        let has_written = match write_settings(&self.directory, &file) {
            Ok(has_written) => has_written,
            Err(error) => return fail(&error),
        };
        let config = match config::load(Some(&file)) {
            Ok(config) => config,
            Err(code) => return code,
        };
        logging::start(config.log);
        let steps = Steps::default().show();
        match server::restore(&config, &self.directory, self.force, steps) {
            Ok(restored) => finish(&show(&restored, has_written.then_some(&file))),
            Err(error) => fail(&error),
        }
    }
}

/// Writes the settings of the backup to `file`, if it does not exist; whether it did.
fn write_settings(directory: &Path, file: &Path) -> Result<bool, Box<dyn std::error::Error>> {
    if file.exists() {
        return Ok(false);
    }
    let backup = FoundBackup::open(directory)?;
    let Some(mode) = backup.manifest.config_mode else {
        return Ok(false);
    };
    let file_of_backup = backup::open_file(&backup.path.join(backup::CONFIG))?;
    let settings = io::read_to_string(file_of_backup)?;
    let explain = |error| format!("cannot write to {}: {error}", file.display());
    replace_file(file, &settings, mode & MAX_MODE).map_err(explain)?;
    Ok(true)
}

fn show(restored: &Restored, settings: Option<&PathBuf>) -> String {
    let manifest = &restored.backup.manifest;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(manifest.started_ts);
    let mut text = format!(
        "{} is as it was at {}.\nWhat was sent since comes back where other servers have it. What only this server \
         knew is lost: messages of rooms without other servers, new accounts, and sessions that have begun since. \
         Passwords, devices that were logged out and accounts that were deactivated are as they were then.\n",
        manifest.server_name,
        humantime::format_rfc3339_seconds(time)
    );
    if let Some(file) = settings {
        text += &format!("The settings of then are {} now.\n", file.display());
    }
    match restored.missing_media {
        0 => text += "All files that people uploaded are there.\n",
        missing => text += &format!("{missing} files that people uploaded are missing.\n"),
    }
    for id in &restored.missing_files {
        text += &format!("The backup has no whole file {}.\n", store::hex(id));
    }
    if let Some(directory) = &restored.moved_to {
        text += &format!("What was here before is in {}.\n", directory.display());
    }
    text + "Start the server now (`systemctl start hearth`).\n"
}

fn fail(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("hearth: {}", printable(&error.to_string()));
    ExitCode::FAILURE
}
