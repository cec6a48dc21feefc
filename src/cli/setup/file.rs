//! The file with the settings.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::Value;

use super::answers::{Answers, Registration};
use crate::{
    cli::config,
    config::{Config, Settings},
};

/// Whether there is a file at `path` with more than comments. The package's has all settings commented out.
pub(super) fn has_settings(path: &Path) -> bool {
    match fs::read_to_string(path) {
        Ok(text) => text
            .parse::<toml::Table>()
            .map_or(true, |table| !table.is_empty()),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Checks the settings, and writes them to `path`: the registration token to a file of its own beside it, as
/// everybody can read `path`.
pub(super) fn write(answers: &Answers, path: &Path, data_dir: &Path) -> Result<Config, ExitCode> {
    let data_dir = std::path::absolute(data_dir).map_err(|error| print_error(data_dir, &error))?;
    let text = text(answers, &data_dir);
    // Without the token, which is in no file yet.
    let checked = Settings::parse(&text).and_then(|mut settings| {
        if let Registration::Token(token) = &answers.registration {
            settings.registration_token = Some(crate::config::Secret::new(token));
        }
        Config::try_from(settings)
    });
    if let Err(error) = checked {
        eprintln!("hearth: {error}. Nothing was written");
        return Err(ExitCode::from(2));
    }
    let credentials = path.with_file_name("credentials");
    let token = credentials.join("registration_token");
    if let Registration::Token(text) = &answers.registration {
        let written = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&credentials);
        let written = written.and_then(|()| replace_file(&token, text, 0o600));
        written.map_err(|error| print_error(&token, &error))?;
    } else {
        // One of an earlier run would contradict the settings.
        match fs::remove_file(&token) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(print_error(&token, &error));
            }
            _ => {}
        }
    }
    if let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        fs::create_dir_all(directory).map_err(|error| print_error(directory, &error))?;
    }
    replace_file(path, &text, 0o644).map_err(|error| print_error(path, &error))?;
    config::load(Some(path))
}

fn text(answers: &Answers, data_dir: &Path) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text = "# The settings of this server. The others, each with its explanation, are in\n\
                    # /usr/share/doc/hearth/examples/hearth.toml.\n\n\
                    # The end of every user id. It can never be changed.\n"
        .to_owned();
    let mut set = |key: &str, value: &str| text += &format!("{key} = {}\n", quoted(value));
    set("server_name", answers.name.as_str());
    set("data_dir", &data_dir.to_string_lossy());
    if let Some(url) = &answers.url {
        text += "\n# Where apps and other servers are sent that know only the name.\n";
        text += &format!("public_url = {}\n", quoted(url));
    }
    text += "\n";
    match &answers.acme {
        Some(contact) => {
            text +=
                "# hearth gets its certificate from Let's Encrypt, which writes to this address.\n";
            text += &format!("acme = {}\n", quoted(contact));
        }
        None => {
            text += "# A reverse proxy on this computer connects here, and has the certificate.\n\
                     # (Without one, nobody else reaches hearth: see `acme` and `tls_listen` in the example.)\n\
                     #listen = [\"127.0.0.1:8008\"]\n";
        }
    }
    text += match &answers.registration {
        Registration::Closed => {
            "\n# Only who is invited with `hearth invite new` can make an account.\nregistration = \"closed\"\n"
        }
        Registration::Token(_) => {
            "\n# Who knows the token in credentials/registration_token can make an account.\n\
             registration = \"token\"\n"
        }
        Registration::Open => {
            "\n# Everybody on this computer can make an account.\nregistration = \"open\"\n"
        }
    };
    text += "\n# The target for the whole process.\n";
    text += &format!("memory = {}\n", quoted(&answers.memory));
    if let Some(disk) = &answers.disk {
        text += "# With more than this, cached pictures of other servers are deleted.\n";
        text += &format!("disk = {}\n", quoted(disk));
    }
    if !answers.others.is_empty() {
        text += "\n";
        for line in &answers.others {
            text += &format!("{line}\n");
        }
    }
    text
}

/// Who reads the file gets the old or the new one, never a part.
pub(in crate::cli) fn replace_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new: PathBuf = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

fn print_error(path: &Path, error: &io::Error) -> ExitCode {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ". Run this as root, or name another place with --config and --data-dir"
        }
        _ => "",
    };
    eprintln!("hearth: cannot write {}: {error}{advice}", path.display());
    ExitCode::FAILURE
}
