use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    admin::{Admin, command},
    table::{Column, age, fields, size, table, text},
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
    text("Connections", "/connections/used"),
    text("  of", "/connections/max"),
    size("Database", "/disk/database"),
    size("Uploads", "/disk/uploads"),
    size("Cached media", "/disk/cached_media"),
    size("Free on the disk", "/disk/free"),
    age("Last backup", "/backup/success/started_ts"),
    text("  in", "/backup/success/path"),
    size("  database", "/backup/success/database_bytes"),
    size("  media", "/backup/success/media_bytes"),
    age("Backup failed", "/backup/failure/ts"),
    text("  because", "/backup/failure/message"),
    text("Accounts", "/counts/accounts"),
    text("Rooms", "/counts/rooms"),
    text("Events", "/counts/events"),
    text("Pushers", "/counts/pushers"),
    text("Events that wait for others", "/counts/waiting_events"),
    text("Servers in the rooms", "/counts/servers"),
    text("Servers that do not answer", "/counts/unreachable_servers"),
    text("Reports", "/counts/reports"),
];

const CONSUMERS: &[Column] = &[
    text("MEMORY FOR", "/name"),
    size("USED", "/used"),
    size("LIMIT", "/max"),
];

const QUEUES: &[Column] = &[text("QUEUE", "/name"), text("WAITING", "/used")];

const CERTIFICATES: &[Column] = &[
    text("CERTIFICATE", "/name"),
    age("EXPIRES", "/expires_ms"),
    text("LAST FAILURE", "/failure"),
];

impl Status {
    pub(super) fn run(self) -> ExitCode {
        let request = async |admin: &Admin<'_>| {
            let mut status = admin.request("status", &json!({})).await?;
            if matches!(admin, Admin::Offline(_)) {
                // It would be that of this command.
                status["memory"]["resident"] = Value::Null;
                status["memory"]["peak"] = Value::Null;
                status["memory"]["consumers"] = Value::Null;
                status["queues"] = Value::Null;
            }
            Ok(status)
        };
        self.options().run_with(request, show)
    }
}

fn show(status: &Value) -> String {
    let mut text = fields(status, STATUS);
    let tables = [
        (&status["memory"]["consumers"], CONSUMERS),
        (&status["queues"], QUEUES),
        (&status["certificates"], CERTIFICATES),
    ];
    for (rows, columns) in tables {
        if rows.is_array() {
            text += "\n";
            text += &table(rows, columns);
        }
    }
    text
}
