//! systemd: notifications, socket activation, credentials and the journal.

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
    failed_output,
};

#[test]
fn sd_notify_reports_startup_readiness_watchdog_and_stop() {
    let directory = TempDir::new().unwrap();
    let name = directory.path().join("notify");
    let socket = UnixDatagram::bind(&name).unwrap();
    let notification = || {
        let mut text = [0; 200];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let mut command = command();
    command.env("NOTIFY_SOCKET", name);
    command.env("WATCHDOG_USEC", "200000");
    let server = Server::start_with(command, directory.path(), free_port().unwrap(), "").unwrap();
    assert_eq!(notification(), "STATUS=opening the database");
    assert_eq!(notification(), "EXTEND_TIMEOUT_USEC=60000000");
    assert_eq!(notification(), "READY=1\nSTATUS=serving localhost");
    assert_eq!(notification(), "WATCHDOG=1");
    assert_eq!(notification(), "WATCHDOG=1");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let last = std::iter::repeat_with(notification).find(|text| text != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1\nSTATUS=stopping"));
}

#[test]
fn connections_survive_a_restart_with_socket_activation() {
    let directory = TempDir::new().unwrap();
    let (socket, port) = listen();
    for _ in 0..2 {
        // No process accepts connections yet, or any more.
        let mut client = Client::connect(port, None).unwrap();
        client
            .send("GET", "/_matrix/client/versions", None)
            .unwrap();
        let server = Server::start_with(activated(&socket), directory.path(), port, "").unwrap();
        assert!(client.read_response().is_ok());
        assert!(server.stop(Signal::TERM).unwrap().success());
    }
}

#[test]
fn activation_socket_that_is_not_in_listen_is_rejected() {
    let directory = TempDir::new().unwrap();
    let (socket, port) = listen();
    let config = directory.path().join("hearth.toml");
    fs::write(&config, "listen = [\"127.0.0.1:0\"]").unwrap();
    let mut command = activated(&socket);
    command.args(["serve", "--config"]).arg(config);
    let error = failed_output(&command.current_dir(&directory).output().unwrap(), 1);
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[test]
fn systemd_credential_is_read() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("hearth_registration_token"), "a").unwrap();
    let config = directory.path().join("hearth.toml");
    fs::write(&config, "registration_token = \"b\"").unwrap();
    let mut command = command();
    command.args(["serve", "--config"]).arg(config);
    command.env("CREDENTIALS_DIRECTORY", directory.path());
    let error = failed_output(&command.output().unwrap(), 2);
    assert!(error.contains("hearth_registration_token"), "{error}");
}

#[test]
fn startup_writes_one_line_to_the_journal() {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("log");
    let metadata = File::create(&log).unwrap().metadata().unwrap();
    let mut command = command();
    command.env(
        "JOURNAL_STREAM",
        format!("{}:{}", metadata.dev(), metadata.ino()),
    );
    let server = Server::start_with(command, directory.path(), free_port().unwrap(), "").unwrap();
    let journal = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = journal.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.starts_with("<6>hearth::")),
        "{journal}"
    );
    assert!(server.stop(Signal::TERM).unwrap().success());
}

fn listen() -> (TcpListener, u16) {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// The binary with `socket` as file descriptor 3, as systemd passes it.
fn activated(socket: &TcpListener) -> Command {
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh"])
        .arg(command().get_program());
    shell.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    shell
}
