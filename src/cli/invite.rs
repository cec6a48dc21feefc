use std::{process::ExitCode, str::FromStr, time::Duration};

use argh::FromArgs;
use serde_json::{Value, json};

use super::{
    admin::command,
    table::{Column, age, table, text},
};
use crate::clock::as_ms;

/// Invite people to make accounts.
#[derive(FromArgs)]
#[argh(subcommand, name = "invite")]
pub(super) struct Invite {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    New(New),
    List(List),
    Revoke(Revoke),
}

command! {
    /// Make a registration token, with which people make accounts in an app.
    New "new" {
        /// for whom or what it is, to be shown in the list
        #[argh(option)]
        name: Option<String>,
        /// how many accounts can be made with it, or any (default: 1)
        #[argh(option, default = "Uses(Some(1))")]
        uses: Uses,
        /// how long it can be used, such as 12h or 30d, or ever (default: 7d)
        #[argh(option, long = "for", default = "Lifetime(Some(WEEK))")]
        lifetime: Lifetime,
        /// the id or alias of a room that the new users join; may be repeated
        #[argh(option)]
        room: Vec<String>,
        /// the user in whose name they are invited to rooms that are not public
        #[argh(option)]
        by: Option<String>,
    }
}

command! {
    /// List all registration tokens.
    List "list" {}
}

command! {
    /// Make a registration token invalid.
    Revoke "revoke" {
        /// the token
        #[argh(positional)]
        token: String,
    }
}

const WEEK: Duration = Duration::from_hours(7 * 24);

/// `None`: any number.
struct Uses(Option<u32>);

impl FromStr for Uses {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "any" => Ok(Self(None)),
            number => number
                .parse()
                .map(|uses| Self(Some(uses)))
                .map_err(|_| "a number, or any"),
        }
    }
}

/// `None`: for ever.
struct Lifetime(Option<Duration>);

impl FromStr for Lifetime {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ever" => Ok(Self(None)),
            duration => humantime::parse_duration(duration).map(|lifetime| Self(Some(lifetime))),
        }
    }
}

const LIST: &[Column] = &[
    text("TOKEN", "/token"),
    text("STATE", "/state"),
    text("USED", "/uses"),
    text("OF", "/max_uses"),
    age("ENDS", "/expires_ts"),
    text("NAME", "/name"),
];

impl Invite {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::New(command) => {
                let request = json!({
                    "name": command.name,
                    "uses": command.uses.0,
                    "lifetime_ms": command.lifetime.0.map(as_ms),
                    "rooms": command.room,
                    "by": command.by,
                });
                command.options().run("invite/new", &request, show)
            }
            Command::List(command) => {
                let show = |response: &Value| table(&response["invites"], LIST);
                command.options().run("invite/list", &json!({}), show)
            }
            Command::Revoke(command) => {
                let request = json!({ "token": command.token });
                let show = |_: &Value| "revoked\n".to_owned();
                command.options().run("invite/revoke", &request, show)
            }
        }
    }
}

fn show(response: &Value) -> String {
    let field = |name: &str| response[name].as_str().unwrap_or_default();
    format!(
        "{}\nIn an app, choose the homeserver {}, make an account, and enter this as the registration token.\n",
        field("token"),
        field("homeserver"),
    )
}
