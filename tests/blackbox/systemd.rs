//! What systemd hands over, and what it is told.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixDatagram},
    },
    process::{Command, Stdio},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    common::{
        http::Client,
        server::{Server, command, free_port},
    },
    refusal,
};

#[test]
fn systemd_is_told_that_the_server_opens_serves_lives_and_stops() {
    let directory = TempDir::new().unwrap();
    let name = directory.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let heard = || {
        let mut text = [0; 200];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let mut command = command();
    command.env("NOTIFY_SOCKET", name);
    command.env("WATCHDOG_USEC", "200000");
    let server = Server::start_with(command, directory.path(), free_port().unwrap(), "").unwrap();
    assert_eq!(heard(), "STATUS=opening the database");
    assert_eq!(heard(), "EXTEND_TIMEOUT_USEC=60000000");
    assert_eq!(heard(), "READY=1\nSTATUS=serving localhost");
    assert_eq!(heard(), "WATCHDOG=1");
    assert_eq!(heard(), "WATCHDOG=1");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let last = std::iter::repeat_with(heard).find(|text| text != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1\nSTATUS=stopping"));
}

#[test]
fn who_comes_while_the_server_restarts_is_answered_if_systemd_listens() {
    let directory = TempDir::new().unwrap();
    let (socket, port) = listen();
    for _ in 0..2 {
        // Nobody accepts yet, or any more.
        let mut client = Client::connect(port, None).unwrap();
        client
            .send("GET", "/_matrix/client/versions", None)
            .unwrap();
        let server = Server::start_with(activated(&socket), directory.path(), port, "").unwrap();
        assert!(client.answer().is_ok());
        assert!(server.stop(Signal::TERM).unwrap().success());
    }
}

#[test]
fn a_socket_that_the_settings_do_not_name_is_refused() {
    let directory = TempDir::new().unwrap();
    let (socket, port) = listen();
    let config = directory.path().join("hearth.toml");
    fs::write(&config, "listen = [\"127.0.0.1:0\"]").unwrap();
    let mut command = activated(&socket);
    command.args(["serve", "--config"]).arg(config);
    let said = refusal(&command.current_dir(&directory).output().unwrap(), 1);
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
}

#[test]
fn a_secret_that_is_handed_over_is_read() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("hearth_registration_token"), "a").unwrap();
    let config = directory.path().join("hearth.toml");
    fs::write(&config, "registration_token = \"b\"").unwrap();
    let mut command = command();
    command.args(["serve", "--config"]).arg(config);
    command.env("CREDENTIALS_DIRECTORY", directory.path());
    let said = refusal(&command.output().unwrap(), 2);
    assert!(said.contains("hearth_registration_token"), "{said}");
}

#[test]
fn the_journal_gets_one_line_for_a_start() {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("log");
    let journal = File::create(&log).unwrap().metadata().unwrap();
    let mut command = command();
    command.env(
        "JOURNAL_STREAM",
        format!("{}:{}", journal.dev(), journal.ino()),
    );
    let server = Server::start_with(command, directory.path(), free_port().unwrap(), "").unwrap();
    let said = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.starts_with("<6>hearth::")),
        "{said}"
    );
    assert!(server.stop(Signal::TERM).unwrap().success());
}

fn listen() -> (TcpListener, u16) {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// The binary with a socket at the place where systemd puts it.
fn activated(socket: &TcpListener) -> Command {
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh"])
        .arg(command().get_program());
    shell.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    shell
}
