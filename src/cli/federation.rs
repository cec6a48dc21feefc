use std::process::ExitCode;

use argh::FromArgs;
use serde_json::{Value, json};

use super::{
    admin::command,
    table::{Column, age, fields, flags, list, table, text},
};

/// Show how it goes with other servers.
#[derive(FromArgs)]
#[argh(subcommand, name = "federation")]
pub(super) struct Federation {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Status(Status),
    Show(Show),
    Retry(Retry),
}

command! {
    /// List the servers that share rooms with this one, those that do not answer first.
    Status "status" {
        /// only those that do not answer
        #[argh(switch)]
        failing: bool,
    }
}

command! {
    /// Show what is known of a server.
    Show "show" {
        /// its name, such as example.org
        #[argh(positional)]
        server: String,
    }
}

command! {
    /// Look up a server again and send it what waits for it, without waiting for the next try.
    Retry "retry" {
        /// its name, such as example.org
        #[argh(positional)]
        server: String,
    }
}

const STATUS: &[Column] = &[
    text("SERVER", "/server"),
    text("ROOMS", "/rooms"),
    age("LAST SUCCESS", "/last_success_ts"),
    age("UNREACHABLE SINCE", "/unreachable_since_ts"),
    age("NEXT TRY", "/retry_at_ts"),
    text("QUEUED", "/queued_events"),
    text("ERROR", "/last_error"),
];

const SHOW: &[Column] = &[
    text("Server", "/server"),
    text("Rooms", "/rooms"),
    flags("State", &["allowed", "is_behind"]),
    age("Last success", "/last_success_ts"),
    age("Last failure", "/last_failure_ts"),
    text("Error", "/last_error"),
    age("Unreachable since", "/unreachable_since_ts"),
    age("Next try", "/retry_at_ts"),
    text("Events in its queue", "/queued_events"),
    text("Events that it lacks besides", "/backlog"),
    text("Delegates to", "/delegated"),
    list("Addresses", "/addresses"),
    age("Looked up again", "/resolved_until_ts"),
];

impl Federation {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Status(command) => {
                let request = json!({ "failing": command.failing });
                let options = command.options();
                options.run("federation/status", &request, show_status)
            }
            Command::Show(command) => {
                let request = json!({ "server": command.server });
                let show = |response: &Value| fields(response, SHOW);
                command.options().run("federation/show", &request, show)
            }
            Command::Retry(command) => {
                let request = json!({ "server": command.server });
                let show = |_: &Value| {
                    format!(
                        "{} is tried again; `hearth federation show` says how it went\n",
                        command.server
                    )
                };
                command.options().run("federation/retry", &request, show)
            }
        }
    }
}

fn show_status(response: &Value) -> String {
    let mut text = table(&response["servers"], STATUS);
    text += &format!(
        "{} servers, of which {} do not answer\n",
        response["total"], response["failing"]
    );
    text
}
