use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    admin::command,
    table::{Column, fields, size, text},
};

command! {
    /// Show what the server holds, and how much memory and disk it uses.
    Status "status" {}
}

const STATUS: &[Column] = &[
    text("Server", "/server_name"),
    text("Version", "/version"),
    size("Memory used", "/memory/resident"),
    size("  at most so far", "/memory/peak"),
    size("  of", "/memory/budget"),
    size("Database", "/disk/database"),
    size("Uploads", "/disk/uploads"),
    size("Cached media", "/disk/cached_media"),
    size("Free on the disk", "/disk/free"),
    text("Accounts", "/counts/accounts"),
    text("Rooms", "/counts/rooms"),
    text("Events", "/counts/events"),
    text("Pushers", "/counts/pushers"),
    text("Events that wait for others", "/counts/waiting_events"),
    text("Servers that do not answer", "/counts/unreachable_servers"),
    text("Reports", "/counts/reports"),
];

impl Status {
    pub(super) fn run(self) -> ExitCode {
        let show = |response: &Value| fields(response, STATUS);
        self.options().run("status", &json!({}), show)
    }
}
