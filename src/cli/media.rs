use std::process::ExitCode;

use argh::FromArgs;
use serde_json::{Value, json};

use super::{
    admin::command,
    table::{Column, size, table, text},
};

/// Show how much space media use, delete, quarantine or protect some.
#[derive(FromArgs)]
#[argh(subcommand, name = "media")]
pub(super) struct Media {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Usage(Usage),
    Delete(Delete),
    Quarantine(Quarantine),
    Protect(Protect),
}

command! {
    /// Show how much space the media of each user use.
    Usage "usage" {}
}

command! {
    /// Delete a file and all its media IDs.
    Delete "delete" {
        /// its mxc:// URI, or the SHA-256 of its content
        #[argh(positional)]
        file: String,
    }
}

command! {
    /// Do not serve a file any more, and refuse uploads of it.
    Quarantine "quarantine" {
        /// end the quarantine
        #[argh(switch)]
        release: bool,
        /// its mxc:// URI, or the SHA-256 of its content
        #[argh(positional)]
        file: String,
    }
}

command! {
    /// Keep a file: refuse to quarantine it, and do not delete it with a redacted message or from the cache.
    Protect "protect" {
        /// end the protection
        #[argh(switch)]
        release: bool,
        /// its mxc:// URI, or the SHA-256 of its content
        #[argh(positional)]
        file: String,
    }
}

const USAGE: &[Column] = &[
    size("SIZE", "/bytes"),
    text("FILES", "/files"),
    text("OWNER", "/user_id"),
];

impl Media {
    pub(super) fn run(self) -> ExitCode {
        let done = |_: &Value| "done\n".to_owned();
        match self.command {
            Command::Usage(command) => command.options().run("media/usage", &json!({}), show_usage),
            Command::Delete(command) => {
                let request = json!({ "file": command.file });
                command.options().run("media/delete", &request, done)
            }
            Command::Quarantine(command) => {
                let request = json!({ "file": command.file, "is_set": !command.release });
                command.options().run("media/quarantine", &request, done)
            }
            Command::Protect(command) => {
                let request = json!({ "file": command.file, "is_set": !command.release });
                command.options().run("media/protect", &request, done)
            }
        }
    }
}

fn show_usage(response: &Value) -> String {
    let mut rows = response["users"].as_array().cloned().unwrap_or_default();
    let mut cached = response["cached"].clone();
    cached["user_id"] = "remote media and thumbnails".into();
    rows.push(cached);
    let mut text = table(&rows.into(), USAGE);
    for state in ["quarantined", "protected"] {
        let files = &response[format!("{state}_files")];
        if *files != 0 {
            text += &format!("{files} {state}\n");
        }
    }
    text
}
