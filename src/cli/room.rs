use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::{Duration, Instant},
};

use argh::FromArgs;
use serde_json::{Value, json};
use smol::Timer;

use super::{
    admin::{Admin, Error, command},
    table::{Column, age, fields, flags, list, table, text},
};

/// When somebody at a terminal learns how far a deletion is.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Show the rooms of the server, leave, delete and block some.
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
    Delete(Delete),
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
    /// Let all users of this server leave a room, and delete everything that the server has of it. Other servers in
    /// the room keep what they have.
    Delete "delete" {
        /// let no user of this server enter the room again
        #[argh(switch)]
        block: bool,
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
    flags("STATE", &["encrypted", "being_deleted"]),
    text("NAME", "/name"),
];

const SHOW: &[Column] = &[
    text("Room", "/room_id"),
    text("Name", "/name"),
    text("Topic", "/topic"),
    text("Type", "/type"),
    text("Version", "/version"),
    flags("State", &["encrypted", "blocked", "being_deleted"]),
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
            Command::Delete(command) => {
                let request = json!({ "room": command.room, "block": command.block });
                let delete = async |admin: &Admin<'_>| delete(admin, &request).await;
                command.options().run_with(delete, show_deletion)
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

/// Starts the deletion and follows it, unless the server has to run for it.
async fn delete(admin: &Admin<'_>, request: &Value) -> Result<Value, Error> {
    let started = admin.request("room/delete", request).await?;
    let of_room = json!({ "room_id": started["room_id"] });
    let (since, mut printed) = (Instant::now(), Value::Null);
    let phase = loop {
        let progress = admin.request("room/deletion", &of_room).await?;
        let phase = &progress["phase"];
        let waits_for_server = phase == "sending" && matches!(admin, Admin::Offline(_));
        if phase == "done" || waits_for_server {
            break phase.clone();
        }
        if since.elapsed() > PROGRESS_AFTER && progress != printed && io::stderr().is_terminal() {
            eprintln!("{}", show_progress(&progress));
            printed = progress;
        }
        Timer::after(PROGRESS_INTERVAL).await;
    };
    Ok(json!({
        "room_id": started["room_id"],
        "deleted": phase == "done",
        "blocked": started["block"],
    }))
}

fn show_progress(progress: &Value) -> String {
    match progress["phase"].as_str() {
        Some("leaving") => format!("{} users have left …", progress["left"]),
        Some("sending") => {
            "sending the leaves to the other servers; the server goes on with it also without this command …"
                .to_owned()
        }
        _ => format!("{} events are deleted …", progress["events"]),
    }
}

fn show_deletion(response: &Value) -> String {
    let room = response["room_id"].as_str().unwrap_or_default();
    match response["deleted"].as_bool() {
        Some(true) => format!("{room} is deleted\n"),
        _ => format!(
            "the users of this server have left {room}; the rest is deleted when the server runs, \
             since other servers get the leaves first\n"
        ),
    }
}

fn show_block(response: &Value) -> String {
    let room = response["room_id"].as_str().unwrap_or_default();
    match response["blocked"].as_bool() {
        Some(true) => format!("{room} is blocked\n"),
        _ => format!("{room} is no longer blocked\n"),
    }
}
