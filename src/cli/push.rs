use std::process::ExitCode;

use argh::FromArgs;
use serde_json::{Value, json};

use super::{
    admin::command,
    table::{Column, age, flags, table, text},
};

/// Show and try the push notifications of a user.
#[derive(FromArgs)]
#[argh(subcommand, name = "push")]
pub(super) struct Push {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Show(Show),
    Test(Test),
}

command! {
    /// Show the apps that get push notifications, and what their push gateways answered last.
    Show "show" {
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Send the number of unread rooms to each push gateway of a user, and show what it answers.
    Test "test" {
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

const SHOW: &[Column] = &[
    text("APP", "/app"),
    text("DEVICE", "/device"),
    text("GATEWAY", "/gateway"),
    age("TOOK ONE", "/success_ts"),
    age("FAILS SINCE", "/failing_since_ts"),
    text("LAST ANSWER", "/answer"),
];

const TEST: &[Column] = &[
    text("APP", "/app"),
    text("DEVICE", "/device"),
    text("GATEWAY", "/gateway"),
    flags("RESULT", &["works"]),
    text("ERROR", "/error"),
];

impl Push {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Show(command) => {
                let request = json!({ "user": command.user });
                let show = |response: &Value| table(&response["pushers"], SHOW);
                command.options().run("push/show", &request, show)
            }
            Command::Test(command) => {
                let request = json!({ "user": command.user });
                let show = |response: &Value| table(&response["pushers"], TEST);
                command.options().run("push/test", &request, show)
            }
        }
    }
}
