use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    admin::command,
    table::{Column, age, table, text},
};

command! {
    /// List what users have reported of messages, rooms and users, the newest first.
    Reports "reports" {}
}

const REPORTS: &[Column] = &[
    age("WHEN", "/ts"),
    text("REPORTED BY", "/reporter"),
    text("WHAT", "/what"),
    text("REASON", "/reason"),
];

impl Reports {
    pub(super) fn run(self) -> ExitCode {
        let show = |response: &Value| table(&response["reports"], REPORTS);
        self.options().run("reports", &json!({}), show)
    }
}
