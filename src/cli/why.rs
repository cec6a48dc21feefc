use std::process::ExitCode;

use argh::FromArgs;
use serde_json::{Value, json};

use super::{admin::command, table::printable};

/// Say why something happened or did not, from what is stored.
#[derive(FromArgs)]
#[argh(subcommand, name = "why")]
pub(super) struct Why {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Join(Join),
    Push(Push),
    Send(Send),
}

command! {
    /// Why a user can or cannot join a room.
    Join "join" {
        /// the user, such as alice
        #[argh(positional)]
        user: String,
        /// the room's id or alias
        #[argh(positional)]
        room: String,
    }
}

command! {
    /// Why a user did or did not get a push notification of an event.
    Push "push" {
        /// the user, such as alice
        #[argh(positional)]
        user: String,
        /// the event's id; apps show it in the source of a message
        #[argh(positional)]
        event: String,
    }
}

command! {
    /// Why an event did or did not reach another server.
    Send "send" {
        /// the event's id; apps show it in the source of a message
        #[argh(positional)]
        event: String,
        /// the server's name, such as example.org
        #[argh(positional)]
        server: String,
    }
}

impl Why {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Join(command) => {
                let request = json!({ "user": command.user, "room": command.room });
                command.options().run("why/join", &request, show)
            }
            Command::Push(command) => {
                let request = json!({ "user": command.user, "event": command.event });
                command.options().run("why/push", &request, show)
            }
            Command::Send(command) => {
                let request = json!({ "event": command.event, "server": command.server });
                command.options().run("why/send", &request, show)
            }
        }
    }
}

/// A line for each sentence.
fn show(response: &Value) -> String {
    let sentences = response["story"].as_array().into_iter().flatten();
    let lines = sentences.filter_map(Value::as_str);
    lines.map(|line| format!("{}\n", printable(line))).collect()
}
