//! `listen` with a Unix socket.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener, net::UnixStream},
    path::Path,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{
    client_api::register,
    server::{Server, command, free_port},
};

/// The server listens on a port too, which `Server` needs.
fn start(directory: &Path, settings: &str) -> std::io::Result<Server> {
    let port = free_port()?;
    fs::write(
        directory.join("hearth.toml"),
        format!(
            "data_dir = {:?}\nregistration = \"open\"\nrate_limits = false\n\
             listen = [\"127.0.0.1:{port}\", \"unix:{}\"]\n{settings}",
            directory.join("data"),
            directory.join("proxy.sock").display()
        ),
    )?;
    Server::start_as_is(command(), directory, port)
}

fn request(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// The address that the server has for a client which makes a room through a proxy at the socket.
fn address_of_client(directory: &Path, server: &Server) -> String {
    let token = register(server.port, "alice").unwrap();
    let head = format!(
        "POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nX-Forwarded-For: 192.0.2.7\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    let response = request(&directory.join("proxy.sock"), &head);
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let mut command = command();
    command.args(["user", "sessions", "alice", "--json", "--config"]);
    let output = command.arg(directory.join("hearth.toml")).output().unwrap();
    let sessions: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    sessions["sessions"][0]["last_seen_ip"].to_string()
}

#[test]
fn a_unix_socket_serves_everybody_and_is_gone_when_the_server_stops() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("proxy.sock");
    let server = start(directory.path(), "").unwrap();
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    let get =
        "GET /_matrix/client/versions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(request(&socket, get).starts_with("HTTP/1.1 200"));
    assert!(server.stop(Signal::TERM).unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn a_unix_socket_that_a_killed_server_left_is_replaced() {
    let directory = TempDir::new().unwrap();
    start(directory.path(), "").unwrap().kill().unwrap();
    assert!(directory.path().join("proxy.sock").exists());
    let server = start(directory.path(), "").unwrap();
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn a_socket_in_use_and_a_file_that_is_no_socket_are_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("proxy.sock");
    let other = UnixListener::bind(&path).unwrap();
    let error = start(directory.path(), "").err().unwrap().to_string();
    assert!(error.contains("another program does"), "{error}");
    assert!(UnixStream::connect(&path).is_ok());
    drop(other);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    let error = start(directory.path(), "").err().unwrap().to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_proxy_at_a_unix_socket_is_trusted_as_one_at_the_loopback_address() {
    for (settings, expected) in [
        ("", "\"192.0.2.7\""),
        ("trusted_proxies = [\"10.0.0.1\"]", "\"127.0.0.1\""),
    ] {
        let directory = TempDir::new().unwrap();
        let server = start(directory.path(), settings).unwrap();
        assert_eq!(address_of_client(directory.path(), &server), expected);
    }
}
