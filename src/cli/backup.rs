use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf, absolute},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{
    admin::{Admin, Error, command},
    config,
    output::finish,
    table::{Column, age, fields, printable, size, text},
};
use crate::{backup, server};

command! {
    /// Make a backup of everything that cannot be had again, or check one. The server may run meanwhile.
    Backup "backup" {
        /// only read the last backup there, or the one that DIR is, and check that it is whole
        #[argh(switch)]
        verify: bool,
        /// how many backups to keep (default: 7); older ones are removed
        #[argh(option)]
        keep: Option<usize>,
        /// the directory of the backups (default: backup_dir in the settings)
        #[argh(positional)]
        directory: Option<PathBuf>,
    }
}

const BACKUP: &[Column] = &[
    text("Made", "/path"),
    size("Database", "/database_bytes"),
    text("Files of media", "/media_files"),
    size("  of", "/media_bytes"),
];

const VERIFIED: &[Column] = &[
    text("Whole", "/path"),
    text("Server", "/server_name"),
    age("As of", "/started_ts"),
    size("Database", "/database_bytes"),
    text("Files of media", "/media_files"),
    size("  of", "/media_bytes"),
    text("  missing when it was made", "/missing_media"),
];

impl Backup {
    pub(super) fn run(self) -> ExitCode {
        if self.verify {
            return self.verify();
        }
        let directory = match self.directory.as_deref().map(absolute).transpose() {
            Ok(directory) => directory,
            Err(error) => return fail(&error),
        };
        let request = json!({ "directory": directory, "keep": self.keep });
        let make = async |admin: &Admin<'_>| {
            let made = make(admin, request).await?;
            if let (Admin::Offline(_), Some(path)) = (admin, made["path"].as_str())
                && let Some(directory) = Path::new(path).parent()
            {
                // The next backup may be the server's.
                server::give_files_to_owner(directory);
            }
            Ok(made)
        };
        self.options().run_with(make, show)
    }

    fn verify(self) -> ExitCode {
        let file = config::file_of_server(self.config.clone());
        let directory = match self.directory {
            Some(directory) => directory,
            None => match config::backup_dir(file.as_deref()) {
                Ok(Some(directory)) => directory,
                Ok(None) => return fail(&backup::Error::NoDirectory),
                Err(code) => return code,
            },
        };
        let backup = match backup::verify(&directory, Steps::default().show()) {
            Ok(backup) => backup,
            Err(error) => return fail(&error),
        };
        let manifest = &backup.manifest;
        let verified = json!({
            "path": backup.path,
            "server_name": manifest.server_name,
            "started_ts": manifest.started_ts,
            "database_bytes": manifest.database_bytes,
            "media_files": manifest.media.files,
            "media_bytes": manifest.media.bytes,
            "missing_media": manifest.media.missing,
        });
        finish(&match self.json {
            true => format!("{verified:#}\n"),
            false => fields(&verified, VERIFIED),
        })
    }
}

async fn make(admin: &Admin<'_>, mut request: Value) -> Result<Value, Error> {
    let mut steps = Steps::default();
    loop {
        let mut response = admin.request("backup", &request).await?;
        if response["backup"].is_object() {
            return Ok(response["backup"].take());
        }
        request = json!({ "run": response["run"] });
        let waiting_for = response["waiting_for"].as_array().into_iter().flatten();
        let waiting_for: Vec<_> = waiting_for.filter_map(Value::as_str).collect();
        steps.print(&waiting_for.join(", "));
    }
}

fn show(backup: &Value) -> String {
    let mut text = fields(backup, BACKUP);
    if backup["missing_media"] != 0 {
        text += &format!(
            "{} files of media are not on the disk, or damaged, and so not in the backup\n",
            backup["missing_media"]
        );
    }
    text
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("hearth: {}", printable(&error.to_string()));
    ExitCode::FAILURE
}

/// What is being done, for somebody at a terminal.
#[derive(Default)]
pub(super) struct Steps(String);

impl Steps {
    pub(super) fn print(&mut self, step: &str) {
        if io::stderr().is_terminal() && self.0 != step {
            eprintln!("{} …", printable(step));
            step.clone_into(&mut self.0);
        }
    }

    /// The same for what is done at once: a line a second.
    pub(super) fn show(mut self) -> impl FnMut(String) {
        let mut last = std::time::Instant::now();
        move |step| {
            if last.elapsed().as_secs() >= 1 {
                last = std::time::Instant::now();
                self.print(&step);
            }
        }
    }
}
