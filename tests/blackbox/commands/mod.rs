//! The commands of the owner, on a running server and on a stopped one.

mod backup;
mod doctor;
mod federation;
mod invite;
mod media;
mod others;
mod room;
mod setup;
mod socket;
mod user;

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    common::{
        client_api::register,
        http::{Client, Response},
        server::{Server, command},
    },
    media::start_on_small_disk,
};

/// A data directory, and commands on it.
pub struct Owner {
    pub directory: TempDir,
}

impl Owner {
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn start(&self) -> Server {
        Server::start(self.path()).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command();
        let file = self.path().join("hearth.toml");
        command.args(arguments).arg("--config").arg(file);
        command
    }

    pub fn output(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    /// What a command prints that succeeds.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments, "");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same as JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&printed).unwrap()
    }

    /// What a command prints on standard error that fails with status 1.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments, "");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

pub fn client(port: u16, token: &str) -> Client {
    Client::connect(port, Some(&format!("Bearer {token}"))).unwrap()
}

pub fn log_in(port: u16, user: &str, password: &str) -> Response {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    });
    let mut client = Client::connect(port, None).unwrap();
    let login = client.request("POST", "/_matrix/client/v3/login", Some(&body));
    login.unwrap()
}

/// Status and `errcode` of `GET /sync` with an access token.
pub fn sync(port: u16, token: &str) -> (u16, Value) {
    let mut client = Client::connect(port, Some(&format!("Bearer {token}"))).unwrap();
    let response = client
        .request("GET", "/_matrix/client/v3/sync", None)
        .unwrap();
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    (response.status, body["errcode"].clone())
}

#[test]
fn commands_print_the_same_on_a_running_and_on_a_stopped_server() {
    let owner = Owner::new();
    let server = owner.start();
    register(server.port, "alice").unwrap();
    owner.run(&["user", "add", "bob", "--generate", "--name", "Bob"]);
    owner.run(&["user", "suspend", "bob"]);
    let commands: &[&[&str]] = &[
        &["user", "list"],
        &["user", "show", "bob"],
        &["user", "sessions", "alice"],
        &["media", "usage"],
        &["invite", "list"],
    ];
    let print_all = || -> Vec<_> {
        let print = |command: &&[&str]| (owner.run(command), owner.json(command));
        commands.iter().map(print).collect()
    };
    let running = print_all();
    assert!(server.stop(Signal::TERM).unwrap().success());
    assert_eq!(print_all(), running);
    let failures: &[&[&str]] = &[
        &["user", "show", "nobody"],
        &["user", "add", "no spaces"],
        &["user", "logout", "alice", "--device", "NONE"],
        &["media", "delete", "mxc://localhost/nothing"],
    ];
    let fail_all = || -> Vec<_> {
        failures
            .iter()
            .map(|command| owner.fails(command))
            .collect()
    };
    let stopped = fail_all();
    let server = owner.start();
    assert_eq!(fail_all(), stopped);
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure_unless_its_reader_is_gone() {
    let owner = Owner::new();
    let server = owner.start();
    let print_to = |arguments: &[&str], stdout: Stdio| {
        let mut command = owner.command(arguments);
        let output = command.stdin(Stdio::null()).stdout(stdout).output();
        let output = output.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error)
    };
    let full = || Stdio::from(File::create("/dev/full").unwrap());
    let (code, error) = print_to(&["status"], full());
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot be written"), "{error}");
    let (code, error) = print_to(&["user", "add", "alice"], full());
    assert_eq!(code, Some(1));
    assert!(
        error.contains("password of @alice:localhost was set")
            && error.contains("`hearth user password`"),
        "{error}"
    );
    let mut help = command();
    let help = help.arg("--help").stdout(full()).output().unwrap();
    assert_eq!(help.status.code(), Some(1), "{help:?}");

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let printed = print_to(&["user", "list"], writer.into());
    assert_eq!(printed, (Some(0), String::new()));
    drop(server);
}

#[cfg(target_os = "linux")]
#[test]
fn accounts_are_locked_and_get_passwords_while_the_disk_is_almost_full() {
    let owner = Owner::new();
    let Some(server) = start_on_small_disk(owner.path(), 96) else {
        return;
    };
    register(server.port, "alice").unwrap();
    // Where the data are in the mount namespace of the server.
    let data = format!("/proc/{}/root{}/data", server.pid(), owner.path().display());
    let settings = format!("server_name = \"localhost\"\ndata_dir = {data:?}\n");
    fs::write(owner.path().join("hearth.toml"), settings).unwrap();
    let mut fill = File::create(format!("{data}/fill")).unwrap();
    while fill.write_all(&[1; 64 << 10]).is_ok() {}
    fill.set_len(fill.metadata().unwrap().len() - (1 << 20))
        .unwrap();
    // The free space is checked only once in a while.
    let refusal = (0..)
        .map(|at| owner.output(&["user", "add", &format!("user{at}"), "--generate"], ""))
        .find(|output| !output.status.success())
        .unwrap();
    let error = String::from_utf8(refusal.stderr).unwrap();
    assert!(
        error.contains("almost full") && error.contains("`hearth media usage`"),
        "{error}"
    );
    for change in [
        &["user", "password", "alice", "--generate"][..],
        &["user", "lock", "alice"],
        &["user", "suspend", "alice"],
        &["user", "admin", "alice", "--remove"],
        &["user", "lock", "alice", "--release"],
        &["user", "deactivate", "alice", "--yes"],
    ] {
        owner.run(change);
    }
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn status_shows_memory_disk_and_counts() {
    let owner = Owner::new();
    let server = owner.start();
    register(server.port, "alice").unwrap();
    let check = |is_running: bool| {
        let status = owner.json(&["status"]);
        assert_eq!(status["server_name"], "localhost");
        assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(status["counts"]["accounts"], 1);
        // That of a command says nothing of the server.
        let resident = status["memory"]["resident"].as_u64();
        assert_eq!(
            resident.is_some_and(|bytes| bytes > 1 << 20),
            is_running,
            "{status}"
        );
        assert!(status["disk"]["database"].as_u64().unwrap() > 0, "{status}");
        let printed = owner.run(&["status"]);
        assert_eq!(printed.contains("Memory used"), is_running, "{printed}");
        assert!(printed.contains("Database"), "{printed}");
    };
    check(true);
    assert!(server.stop(Signal::TERM).unwrap().success());
    check(false);
}

#[test]
fn commands_without_a_database_say_how_to_get_one() {
    let owner = Owner::new();
    fs::write(owner.path().join("hearth.toml"), "data_dir = \"/nowhere\"").unwrap();
    let error = owner.fails(&["user", "list"]);
    assert!(
        error.contains("/nowhere (`data_dir`)")
            && error.contains("`hearth serve`")
            && error.contains("`--config`"),
        "{error}"
    );
}

#[test]
fn a_command_for_a_running_server_needs_no_secrets_of_the_settings() {
    let owner = Owner::new();
    let server = owner.start();
    let file = owner.path().join("hearth.toml");
    let settings = fs::read_to_string(&file).unwrap();
    // Incomplete: the service gets the token from systemd.
    fs::write(&file, settings.replace("\"open\"", "\"token\"")).unwrap();
    owner.run(&["user", "list"]);
    assert!(server.stop(Signal::TERM).unwrap().success());
    let output = owner.output(&["user", "list"], "");
    assert_eq!(output.status.code(), Some(2));
    // Where the unit finds it.
    let credentials = owner.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("registration_token"), "hush").unwrap();
    owner.run(&["user", "list"]);
}
