use std::{io, process::ExitCode};

use argh::FromArgs;
use serde_json::{Value, json};

use super::{
    admin::{Admin as Server, command},
    table::{Column, age, fields, flags, table, text},
    terminal,
};

/// Show and change the accounts of the server.
#[derive(FromArgs)]
#[argh(subcommand, name = "user")]
pub(super) struct User {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    List(List),
    Show(Show),
    Add(Add),
    Password(Password),
    Rescue(Rescue),
    Lock(Lock),
    Suspend(Suspend),
    Admin(Admin),
    Deactivate(Deactivate),
    Sessions(Sessions),
    Logout(Logout),
}

command! {
    /// List all accounts.
    List "list" {}
}

command! {
    /// Show one account.
    Show "show" {
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Make an account. Its password is asked for, or made up and printed once.
    Add "add" {
        /// make an administrator (the first account is one anyway)
        #[argh(switch)]
        admin: bool,
        /// the display name
        #[argh(option)]
        name: Option<String>,
        /// make up a password, without asking
        #[argh(switch)]
        generate: bool,
        /// take the first line of the standard input as the password
        #[argh(switch)]
        password_stdin: bool,
        /// the new user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Set the password of an account. It is asked for, or made up and printed once.
    Password "password" {
        /// log out all devices
        #[argh(switch)]
        logout: bool,
        /// make up a password, without asking
        #[argh(switch)]
        generate: bool,
        /// take the first line of the standard input as the password
        #[argh(switch)]
        password_stdin: bool,
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Help somebody who has lost the password: make up a new one and say what can be had back with it.
    Rescue "rescue" {
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Lock an account: its devices stay logged in, but cannot do anything.
    Lock "lock" {
        /// end this
        #[argh(switch)]
        release: bool,
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Suspend an account: its user can read, but not write.
    Suspend "suspend" {
        /// end this
        #[argh(switch)]
        release: bool,
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Make an account an administrator, who can lock and suspend accounts from an app.
    Admin "admin" {
        /// end this
        #[argh(switch)]
        remove: bool,
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Deactivate an account for ever. It leaves its rooms, and its name stays taken.
    Deactivate "deactivate" {
        /// also remove its profile and uploads, and hide its messages from those who join later
        #[argh(switch)]
        erase: bool,
        /// do not ask
        #[argh(switch)]
        yes: bool,
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// List the devices on which a user is logged in.
    Sessions "sessions" {
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

command! {
    /// Log out all devices of a user, or one.
    Logout "logout" {
        /// the id of the device
        #[argh(option)]
        device: Option<String>,
        /// the user, such as alice
        #[argh(positional)]
        user: String,
    }
}

const STATES: &[&str] = &["admin", "locked", "suspended", "deactivated", "erased"];

const LIST: &[Column] = &[
    text("USER", "/user_id"),
    text("DEVICES", "/devices"),
    age("LAST SEEN", "/last_seen_ts"),
    age("MADE", "/created_ts"),
    flags("STATE", STATES),
];

const SHOW: &[Column] = &[
    text("User", "/user_id"),
    text("Display name", "/display_name"),
    flags("State", STATES),
    age("Made", "/created_ts"),
    age("Last seen", "/last_seen_ts"),
    text("Devices", "/devices"),
    text("Rooms", "/rooms"),
    text("Keys in the backup", "/backed_up_keys"),
];

const SESSIONS: &[Column] = &[
    text("DEVICE", "/device_id"),
    age("LAST SEEN", "/last_seen_ts"),
    text("ADDRESS", "/last_seen_ip"),
    text("NAME", "/display_name"),
];

impl User {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::List(command) => {
                let show = |response: &Value| table(&response["users"], LIST);
                command.options().run("user/list", &json!({}), show)
            }
            Command::Show(command) => {
                let request = json!({ "user": command.user });
                let show = |response: &Value| fields(response, SHOW);
                command.options().run("user/show", &request, show)
            }
            Command::Add(command) => {
                if !command.generate {
                    let name = json!({ "username": command.user });
                    let check =
                        async |server: &Server<'_>| server.request("user/check", &name).await;
                    if let Err(code) = command.options().perform(check) {
                        return code;
                    }
                }
                let password = match password(command.generate, command.password_stdin) {
                    Ok(password) => password,
                    Err(code) => return code,
                };
                let request = json!({
                    "username": command.user,
                    "password": password,
                    "display_name": command.name,
                    "admin": command.admin,
                });
                command.options().run("user/add", &request, show_password)
            }
            Command::Password(command) => {
                let password = match password(command.generate, command.password_stdin) {
                    Ok(password) => password,
                    Err(code) => return code,
                };
                let request = json!({
                    "user": command.user,
                    "password": password,
                    "logout": command.logout,
                });
                let options = command.options();
                options.run("user/password", &request, show_password)
            }
            Command::Rescue(command) => {
                let request = json!({ "user": command.user });
                command.options().run("user/rescue", &request, show_rescue)
            }
            Command::Lock(command) => {
                let request = json!({ "user": command.user, "is_set": !command.release });
                command.options().run("user/lock", &request, show_state)
            }
            Command::Suspend(command) => {
                let request = json!({ "user": command.user, "is_set": !command.release });
                command.options().run("user/suspend", &request, show_state)
            }
            Command::Admin(command) => {
                let request = json!({ "user": command.user, "is_set": !command.remove });
                command.options().run("user/admin", &request, show_state)
            }
            Command::Deactivate(command) => {
                let question = format!("{} can never be used again. Go on?", command.user);
                if !command.yes && !terminal::confirm(&question, "--yes") {
                    return ExitCode::FAILURE;
                }
                let request = json!({ "user": command.user, "erase": command.erase });
                let options = command.options();
                options.run("user/deactivate", &request, show_state)
            }
            Command::Sessions(command) => {
                let request = json!({ "user": command.user });
                let show = |response: &Value| table(&response["sessions"], SESSIONS);
                command.options().run("user/sessions", &request, show)
            }
            Command::Logout(command) => {
                let request = json!({ "user": command.user, "device": command.device });
                let show = |response: &Value| {
                    format!("{} devices were logged out\n", response["logged_out"])
                };
                command.options().run("user/logout", &request, show)
            }
        }
    }
}

/// The password to set; `None` if the server makes one up.
pub(super) fn password(generate: bool, from_stdin: bool) -> Result<Option<String>, ExitCode> {
    let password = match (generate, from_stdin) {
        (true, true) => Err(io::Error::other(
            "give --generate or --password-stdin, not both",
        )),
        (true, false) => Ok(None),
        (false, true) => terminal::read_line().map(Some),
        (false, false) => terminal::prompt_password(),
    };
    password.map_err(|error| {
        eprintln!("hearth: no password: {error}");
        ExitCode::FAILURE
    })
}

fn show_password(response: &Value) -> String {
    let user = response["user_id"].as_str().unwrap_or_default();
    match response["password"].as_str() {
        Some(password) => format!("The password of {user} is {password}\n"),
        None => format!("The password of {user} is set\n"),
    }
}

fn show_rescue(response: &Value) -> String {
    let mut text = show_password(response);
    text += "It replaces the old one. The user logs in with it in any app, and then chooses another there.\n";
    text += &match response["devices"].as_u64() {
        Some(0) | None => "No device is logged in.\n".to_owned(),
        Some(1) => "1 device is still logged in: it can verify the new one, which then reads \
                    encrypted messages.\n"
            .to_owned(),
        Some(devices) => format!(
            "{devices} devices are still logged in: each can verify the new one, which then reads \
             encrypted messages.\n"
        ),
    };
    text += &match response["backed_up_keys"].as_u64() {
        Some(keys) => format!(
            "The key backup has {keys} keys: with the recovery key, a new device reads encrypted messages.\n"
        ),
        None => {
            "There is no key backup: without another device, earlier encrypted messages cannot \
                 be read.\n"
                .to_owned()
        }
    };
    text
}

fn show_state(response: &Value) -> String {
    let user = response["user_id"].as_str().unwrap_or_default();
    let mut text = String::new();
    for (name, words) in [
        ("admin", "an administrator"),
        ("locked", "locked"),
        ("suspended", "suspended"),
        ("deactivated", "deactivated"),
        ("erased", "erased"),
    ] {
        match response[name].as_bool() {
            Some(true) => text += &format!("{user} is {words}\n"),
            Some(false) if name != "erased" => text += &format!("{user} is not {words}\n"),
            _ => {}
        }
    }
    text
}
