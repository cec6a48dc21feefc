//! The socket in the data directory.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt, chown},
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    thread,
};

use rustix::process::{Signal, geteuid};
use serde_json::Value;

use super::Owner;
use crate::common::{
    http::Client,
    server::{Server, command, free_port},
};

const NOBODY: u32 = 65534;

/// Sends bytes to the socket and reads the response: its status and its body.
fn send(data: &Path, request: &[u8]) -> (u16, Value) {
    let mut stream = UnixStream::connect(data.join("hearth.sock")).unwrap();
    stream.write_all(request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn post(data: &Path, operation: &str, body: &[u8]) -> (u16, Value) {
    let head = format!(
        "POST /_hearth/admin/v1/{operation} HTTP/1.1\r\nHost: hearth\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    send(data, &[head.as_bytes(), body].concat())
}

#[test]
fn the_socket_is_for_the_user_of_the_server_and_gone_when_it_stops() {
    let owner = Owner::new();
    let server = owner.start();
    let socket = owner.path().join("data/hearth.sock");
    let metadata = fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(server.stop(Signal::TERM).unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn a_socket_that_a_killed_server_left_is_replaced() {
    let owner = Owner::new();
    owner.start().kill().unwrap();
    assert!(owner.path().join("data/hearth.sock").exists());
    // No server listens: the command opens the database itself.
    owner.run(&["user", "list"]);
    let server = owner.start();
    owner.run(&["user", "list"]);
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn who_may_have_the_database_is_named_where_nobody_answers() {
    let owner = Owner::new();
    let server = owner.start();
    fs::remove_file(owner.path().join("data/hearth.sock")).unwrap();
    let error = owner.fails(&["user", "list"]);
    assert!(error.contains("in use by hearth"), "{error}");
    assert!(error.contains("another of its commands"), "{error}");
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn of_a_request_that_is_cut_off_it_is_not_known_what_became() {
    let owner = Owner::new();
    assert!(owner.start().stop(Signal::TERM).unwrap().success());
    let listener = UnixListener::bind(owner.path().join("data/hearth.sock")).unwrap();
    // One connection after the other, until one brings a request.
    let server = thread::spawn(move || {
        let mut request = [0; 1024];
        while listener.accept().unwrap().0.read(&mut request).unwrap() == 0 {}
    });
    let error = owner.fails(&["user", "list"]);
    assert!(error.contains("not known whether it has done"), "{error}");
    server.join().unwrap();
}

/// Runs as root only: nobody else can become another user.
#[test]
fn other_users_are_refused_even_where_they_can_open_the_socket() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can run a command as another user");
        return;
    }
    let owner = Owner::new();
    let server = owner.start();
    let binary = owner.path().join("hearth");
    fs::copy(command().get_program(), &binary).unwrap();
    let as_nobody = || {
        let mut command = Command::new(&binary);
        command
            .args(["user", "add", "mallory", "--generate", "--config"])
            .arg(owner.path().join("hearth.toml"))
            .uid(NOBODY)
            .gid(NOBODY)
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let (data, socket) = (
        owner.path().join("data"),
        owner.path().join("data/hearth.sock"),
    );
    let allow =
        |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    allow(owner.path(), 0o755);
    let error = as_nobody();
    assert!(error.contains("run this command as root"), "{error}");
    allow(&data, 0o755);
    let error = as_nobody();
    assert!(error.contains("run this command as root"), "{error}");
    allow(&socket, 0o666);
    let error = as_nobody();
    assert!(error.contains("did not answer"), "{error}");
    let users = owner.json(&["user", "list"]);
    assert_eq!(users["users"], Value::Array(Vec::new()));
    assert!(server.stop(Signal::TERM).unwrap().success());
}

/// Runs as root only.
#[test]
fn a_command_sends_nothing_to_a_socket_of_another_user() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can run a server as another user");
        return;
    }
    let owner = Owner::new();
    owner.start().stop(Signal::TERM).unwrap();
    let other = Owner::new();
    let binary = other.path().join("hearth");
    fs::copy(command().get_program(), &binary).unwrap();
    chown(other.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let mut as_nobody = Command::new(&binary);
    as_nobody.uid(NOBODY).gid(NOBODY);
    let port = free_port().unwrap();
    let server = Server::start_with(as_nobody, other.path(), port, "").unwrap();
    // It is the server's user whose data it has.
    other.run(&["user", "add", "alice", "--generate"]);
    fs::rename(
        other.path().join("data/hearth.sock"),
        owner.path().join("data/hearth.sock"),
    )
    .unwrap();
    let error = owner.fails(&["user", "add", "bob", "--generate"]);
    assert!(error.contains("a socket of another user"), "{error}");
    drop(server);
}

#[test]
fn other_users_lose_the_permission_to_write_to_the_data_directory() {
    let owner = Owner::new();
    let data = owner.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o777)).unwrap();
    let server = owner.start();
    let mode = fs::metadata(&data).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let log = fs::read_to_string(owner.path().join("log")).unwrap();
    assert!(log.contains("other users could write"), "{log}");
    drop(server);
}

#[test]
fn a_data_directory_whose_path_is_too_long_for_the_socket_is_named_in_the_log() {
    let owner = Owner::new();
    let directory = owner.path().join("long".repeat(30));
    fs::create_dir(&directory).unwrap();
    let server = Server::start(&directory).unwrap();
    let log = fs::read_to_string(directory.join("log")).unwrap();
    assert!(log.contains("can have 107 bytes"), "{log}");
    drop(server);
}

#[test]
fn operations_are_only_at_the_socket_and_the_socket_has_nothing_else() {
    let owner = Owner::new();
    let server = owner.start();
    let mut client = Client::connect(server.port, None).unwrap();
    for operation in ["status", "user/list", "user/add", "media/usage"] {
        let path = format!("/_hearth/admin/v1/{operation}");
        let response = client.request("POST", &path, Some(&serde_json::json!({})));
        assert_eq!(response.unwrap().status, 404, "{operation}");
        let (status, _) = post(&owner.path().join("data"), operation, b"{}");
        assert!(status == 200 || operation == "user/add", "{operation}");
    }
    let request = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(send(&owner.path().join("data"), request).0, 404);
}

#[test]
fn invalid_requests_to_the_socket_get_errors() {
    let owner = Owner::new();
    let server = owner.start();
    let data = owner.path().join("data");
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let long = format!("{{\"user\":\"{}\"}}", "a".repeat(100_000));
    for (operation, body, expected) in [
        ("user/show", "", 400),
        ("user/show", "{", 400),
        ("user/show", "[]", 400),
        ("user/show", "[\"alice\"]", 400),
        ("user/show", "{\"user\":7}", 400),
        ("user/show", "{\"user\":\"alice\",\"other\":1}", 400),
        ("user/show", &deep, 400),
        ("user/show", "{\"user\":\"\\u0000\"}", 404),
        ("user/show", "{\"user\":\"@:localhost\"}", 404),
        ("user/show", "{\"user\":\"@root:other.example\"}", 404),
        ("user/show", &long, 404),
        ("user/add", "{\"username\":\"_reserved\"}", 400),
        ("user/check", "{\"username\":\"_reserved\"}", 400),
        (
            "user/add",
            "{\"username\":\"alice\",\"password\":\"\"}",
            400,
        ),
        ("user/logout", "{\"user\":\"alice\",\"device\":\"\"}", 404),
        ("media/delete", "{\"file\":\"../../hearth.redb\"}", 400),
        ("media/quarantine", "{\"file\":\"mxc://a/b\"}", 400),
        ("user/nothing", "{}", 404),
        ("../v1/status", "{}", 404),
    ] {
        let (status, response) = post(&data, operation, body.as_bytes());
        assert_eq!(status, expected, "{operation} {body:.100} {response}");
        assert!(response["errcode"].is_string(), "{operation} {response}");
    }
    let get = b"GET /_hearth/admin/v1/status HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(send(&data, get).0, 405);
    let too_large = vec![b' '; 300 << 10];
    assert_eq!(post(&data, "status", &too_large).0, 413);
    assert_eq!(post(&data, "status", b"{}").0, 200);
    assert!(server.stop(Signal::TERM).unwrap().success());
}
