use std::process::ExitCode;

use argh::FromArgs;
use serde_json::{Value, json};

use super::{
    admin::command,
    table::{Column, age, fields, flags, list, table, text},
};

/// Show the rooms of the server, leave and block some.
#[derive(FromArgs)]
#[argh(subcommand, name = "room")]
pub(super) struct Room {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    List(List),
    Show(Show),
    Members(Members),
    Leave(Leave),
    Block(Block),
    Unblock(Unblock),
    Blocked(Blocked),
}

command! {
    /// List the rooms that the server is or was in, those with the most members first.
    List "list" {}
}

command! {
    /// Show a room.
    Show "show" {
        /// its id or alias
        #[argh(positional)]
        room: String,
    }
}

command! {
    /// List who is in a room, invited to it or banned from it.
    Members "members" {
        /// its id or alias
        #[argh(positional)]
        room: String,
    }
}

command! {
    /// Let all users of this server leave a room.
    Leave "leave" {
        /// its id or alias
        #[argh(positional)]
        room: String,
    }
}

command! {
    /// Let no user of this server enter a room, known here or not. Who is in it stays.
    Block "block" {
        /// its id or alias
        #[argh(positional)]
        room: String,
    }
}

command! {
    /// Let users of this server enter a room again.
    Unblock "unblock" {
        /// its id or alias
        #[argh(positional)]
        room: String,
    }
}

command! {
    /// List the blocked rooms.
    Blocked "blocked" {}
}

const LIST: &[Column] = &[
    text("MEMBERS", "/joined"),
    text("HERE", "/joined_here"),
    text("VERSION", "/version"),
    text("ROOM", "/room_id"),
    flags("STATE", &["encrypted"]),
    text("NAME", "/name"),
];

const SHOW: &[Column] = &[
    text("Room", "/room_id"),
    text("Name", "/name"),
    text("Topic", "/topic"),
    text("Type", "/type"),
    text("Version", "/version"),
    flags("State", &["encrypted", "blocked"]),
    text("Who may join", "/join_rule"),
    text("Members", "/joined"),
    text("Members of this server", "/joined_here"),
    list("Aliases of this server", "/aliases"),
    list("Other servers", "/servers"),
];

const BLOCKED: &[Column] = &[text("ROOM", "/room_id"), age("BLOCKED", "/blocked_ts")];

const MEMBERS: &[Column] = &[text("MEMBERSHIP", "/membership"), text("USER", "/user_id")];

impl Room {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::List(command) => {
                let show = |response: &Value| table(&response["rooms"], LIST);
                command.options().run("room/list", &json!({}), show)
            }
            Command::Show(command) => {
                let request = json!({ "room": command.room });
                let show = |response: &Value| fields(response, SHOW);
                command.options().run("room/show", &request, show)
            }
            Command::Members(command) => {
                let request = json!({ "room": command.room });
                let show = |response: &Value| table(&response["members"], MEMBERS);
                command.options().run("room/members", &request, show)
            }
            Command::Leave(command) => {
                let request = json!({ "room": command.room });
                let show = |response: &Value| format!("{} users left\n", response["left"]);
                command.options().run("room/leave", &request, show)
            }
            Command::Block(command) => {
                let request = json!({ "room": command.room });
                command.options().run("room/block", &request, show_block)
            }
            Command::Unblock(command) => {
                let request = json!({ "room": command.room });
                command.options().run("room/unblock", &request, show_block)
            }
            Command::Blocked(command) => {
                let show = |response: &Value| table(&response["rooms"], BLOCKED);
                command.options().run("room/blocked", &json!({}), show)
            }
        }
    }
}

fn show_block(response: &Value) -> String {
    let room = response["room_id"].as_str().unwrap_or_default();
    match response["blocked"].as_bool() {
        Some(true) => format!("{room} is blocked\n"),
        _ => format!("{room} is no longer blocked\n"),
    }
}
