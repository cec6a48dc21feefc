//! The binary as a process: commands, signals, configuration and crashes.

#[path = "blackbox/commands/mod.rs"]
mod commands;
mod common;
#[path = "blackbox/media.rs"]
mod media;
#[path = "blackbox/memory.rs"]
mod memory;
#[path = "blackbox/metrics.rs"]
mod metrics;
#[path = "blackbox/one_time_keys.rs"]
mod one_time_keys;
#[path = "blackbox/push.rs"]
mod push;
#[path = "blackbox/shares.rs"]
mod shares;
#[path = "blackbox/sliding_sync.rs"]
mod sliding_sync;
#[path = "blackbox/systemd.rs"]
mod systemd;
#[path = "blackbox/typing.rs"]
mod typing;
#[path = "blackbox/unix_socket.rs"]
mod unix_socket;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{Ipv4Addr, TcpListener},
    process::Output,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::{
    client_api::{create_public_room, join, register, send_text},
    http::Client,
    server::{Server, command, free_port},
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn version_and_help_are_printed_as_by_other_programs() {
    for argument in ["version", "--version", "-V"] {
        let output = command().arg(argument).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed, format!("hearth {}\n", env!("CARGO_PKG_VERSION")));
    }
    for arguments in [&["-h"][..], &["--help"], &["serve", "-h"]] {
        let output = command().args(arguments).output().unwrap();
        assert!(output.status.success());
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.starts_with("Usage: hearth"), "{printed}");
    }
    let output = command().arg("--nonsense").output().unwrap();
    assert!(failed_output(&output, 1).contains("--help"));
}

#[test]
fn output_that_is_no_longer_read_is_no_error() {
    for argument in ["--help", "--version"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command().arg(argument).stdout(writer).output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
fn startup_logs_the_address_and_sigterm_and_sigint_stop_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = TempDir::new().unwrap();
        let server = Server::start(directory.path()).unwrap();
        let address = format!("http://127.0.0.1:{}", server.port);
        assert!(server.stop(signal).unwrap().success());
        let printed = fs::read_to_string(directory.path().join("log")).unwrap();
        assert!(printed.contains(&address), "{printed}");
    }
}

#[test]
fn sighup_does_not_stop_the_server() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let process = i32::try_from(server.pid()).ok().and_then(Pid::from_raw);
    kill_process(process.unwrap(), Signal::HUP).unwrap();
    // By default, SIGHUP ends a process without success.
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn the_allocator_returns_freed_memory_at_once() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let environment = fs::read(format!("/proc/{}/environ", server.pid())).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    assert!(variables.any(|variable| variable == b"MIMALLOC_PURGE_DELAY=0"));
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn without_configuration_it_listens_on_localhost_port_8008() {
    // The start must fail because the port is in use, by this listener or by another process.
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8008));
    let directory = TempDir::new().unwrap();
    let output = command().arg("serve").current_dir(&directory).output();
    let error = failed_output(&output.unwrap(), 1);
    assert!(error.contains("127.0.0.1:8008"), "{error}");
}

#[test]
fn invalid_settings_exit_with_status_2_and_a_hint() {
    let error = failed_start("server_name = \"example.org\"\nregistration = \"open\"", 2);
    assert!(error.contains("`registration = \"token\"`"), "{error}");

    let error = failed_start("servername = \"example.org\"", 2);
    assert!(error.contains("did you mean `server_name`?"), "{error}");

    let error = failed_start("memory = 128", 2);
    assert!(error.contains("`memory` has to be an amount"), "{error}");

    let error = failed_start(
        "tls_listen = [\"127.0.0.1:0\"]\ntls_certificate = \"/nowhere.pem\"\ntls_key = \"/k.pem\"",
        1,
    );
    assert!(error.contains("/nowhere.pem"), "{error}");

    let output = command()
        .args(["serve", "--config", "/nowhere.toml"])
        .output();
    let error = failed_output(&output.unwrap(), 2);
    assert!(error.contains("/nowhere.toml"), "{error}");
}

#[test]
fn a_damaged_database_file_is_left_alone_and_the_start_fails_with_status_2_and_a_hint() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    register(server.port, "alice").unwrap();
    assert!(server.stop(Signal::TERM).unwrap().success());
    let file = directory.path().join("data/hearth.redb");
    let sound = fs::read(&file).unwrap();
    let mut overwritten = sound.clone();
    overwritten[4096..].fill(0xA5);
    let mut zeroed = sound.clone();
    zeroed[4096..].fill(0);
    for damaged in [
        Vec::new(),
        b"this is not a database\n".repeat(1000),
        sound[..100].to_vec(),
        sound[..sound.len() / 2].to_vec(),
        overwritten,
        zeroed,
    ] {
        fs::write(&file, &damaged).unwrap();
        let output = command()
            .args(["serve", "--config"])
            .arg(directory.path().join("hearth.toml"))
            .output()
            .unwrap();
        let printed = failed_output(&output, 2);
        let hint = "the file hearth.redb is damaged";
        assert!(printed.contains(hint), "{} bytes: {printed}", damaged.len());
        assert!(
            fs::read(&file).unwrap() == damaged,
            "{} bytes",
            damaged.len()
        );
    }
    fs::write(&file, sound).unwrap();
    let server = Server::start(directory.path()).unwrap();
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn second_start_on_the_same_data_directory_fails() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let data = directory.path().join("data");
    let error = failed_start(&format!("data_dir = {data:?}"), 1);
    assert!(error.contains(data.to_str().unwrap()), "{error}");
    assert!(error.contains("hearth is running"), "{error}");
    let same_port = failed_start_on(server.port, &format!("data_dir = {data:?}"), 1);
    assert!(same_port.contains("hearth is running with"), "{same_port}");
    register(server.port, "still-there").unwrap();
}

#[test]
fn start_on_an_address_in_use_asks_whether_hearth_is_running() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let error = failed_start_on(server.port, "server_name = \"localhost\"", 1);
    let expected = format!("cannot listen on 127.0.0.1:{}", server.port);
    assert!(error.contains(&expected), "{error}");
    assert!(error.contains("hearth is running"), "{error}");
}

#[test]
fn start_without_the_certificate_names_the_setting() {
    let settings = "server_name = \"localhost\"\ntls_listen = [\"127.0.0.1:0\"]\ntls_certificate = \"/absent\"\ntls_key = \"/absent\"";
    let error = failed_start(settings, 1);
    assert!(error.contains("tls_certificate = \"/absent\""), "{error}");
    let key = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/http/tests/localhost.key.pem"
    );
    let settings = format!(
        "server_name = \"localhost\"\ntls_listen = [\"127.0.0.1:0\"]\ntls_certificate = {key:?}\ntls_key = {key:?}"
    );
    let error = failed_start(&settings, 1);
    assert!(
        error.contains(&format!("tls_certificate = {key:?}")),
        "{error}"
    );
}

#[test]
fn rotate_key_publishes_the_old_key_in_old_verify_keys() {
    let directory = TempDir::new().unwrap();
    let rotate = || {
        let config = directory.path().join("hearth.toml");
        let rotate = command()
            .args(["rotate-key", "--config"])
            .arg(config)
            .output();
        rotate.unwrap()
    };
    let keys = |server: &Server| -> ServerKeys {
        let mut client = Client::connect(server.port, None).unwrap();
        client.json("GET", "/_matrix/key/v2/server", None).unwrap()
    };
    let server = Server::start(directory.path()).unwrap();
    let before = keys(&server);
    let error = failed_output(&rotate(), 1);
    assert!(error.contains("hearth is running"), "{error}");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let output = rotate();
    assert!(output.status.success(), "{output:?}");
    let server = Server::start(directory.path()).unwrap();
    let after = keys(&server);
    assert_eq!(after.verify_keys.len(), 1);
    assert_ne!(after.verify_keys, before.verify_keys);
    let old: Vec<_> = after.old_verify_keys.keys().collect();
    assert_eq!(old, before.verify_keys.keys().collect::<Vec<_>>());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        after.verify_keys.keys().all(|id| printed.contains(id)),
        "{printed}"
    );
}

#[test]
fn rotate_key_without_a_data_directory_fails() {
    let directory = TempDir::new().unwrap();
    let output = command().arg("rotate-key").current_dir(&directory).output();
    let error = failed_output(&output.unwrap(), 1);
    assert!(error.contains("hearth-data"), "{error}");
    assert!(!directory.path().join("hearth-data").exists());
}

#[derive(Deserialize)]
struct ServerKeys {
    verify_keys: BTreeMap<String, serde_json::Value>,
    old_verify_keys: BTreeMap<String, serde_json::Value>,
}

#[test]
fn sigterm_answers_waiting_syncs_and_exits_with_status_0() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let mut client = client(server.port, &register(server.port, "alice").unwrap());
    let since = sync(&mut client, "timeout=0").next_batch;
    let path = format!("/_matrix/client/v3/sync?timeout=50000&since={since}");
    client.send("GET", &path, None).unwrap();
    // Requests are started in order: after another response, the sync is waiting.
    register(server.port, "bob").unwrap();
    let start = Instant::now();
    assert!(server.stop(Signal::TERM).unwrap().success());
    assert!(
        start.elapsed() < STOP_TIMEOUT,
        "it took {:?}",
        start.elapsed()
    );
    assert_eq!(client.read_response().expect("a response").status, 200);
}

struct Message {
    sender: usize,
    transaction: String,
    /// From the response, if there was one.
    event_id: Option<String>,
}

#[test]
fn acknowledged_messages_survive_sigkill_once_and_in_order() {
    const USERS: usize = 4;
    const KILLS: usize = 5;
    let directory = TempDir::new().unwrap();
    let mut server = Server::start(directory.path()).unwrap();
    let tokens: Vec<_> = (0..USERS)
        .map(|user| register(server.port, &format!("user{user}")).unwrap())
        .collect();
    let room = create_public_room(&mut client(server.port, &tokens[0])).unwrap();
    (1..USERS).for_each(|user| join(&mut client(server.port, &tokens[user]), &room).unwrap());
    let filter = "%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:10000%7D%7D%7D";
    let mut since = sync(&mut client(server.port, &tokens[0]), "timeout=0").next_batch;
    let mut synced_ids = Vec::new();

    for kill in 0..KILLS {
        let messages = send_until_killed(server, kill, &room, &tokens);
        server = Server::start(directory.path()).unwrap();

        let port = server.port;
        let mut ids = HashMap::new();
        for Message {
            sender,
            transaction,
            event_id,
        } in messages
        {
            let repeated = send_text(
                &mut client(port, &tokens[sender]),
                &room,
                &transaction,
                "repeated",
            )
            .unwrap();
            if let Some(first) = event_id {
                assert_eq!(
                    first, repeated,
                    "a repeated transaction id returns the same event"
                );
            }
            assert_eq!(
                ids.insert(repeated, transaction),
                None,
                "two transactions have the same event id"
            );
        }
        let query = format!("timeout=0&since={since}&filter={filter}");
        let mut synced = sync(&mut client(port, &tokens[0]), &query);
        let timeline = synced.rooms.join.remove(&room).unwrap().timeline;
        assert!(!timeline.limited);
        let new_ids: Vec<_> = timeline
            .events
            .into_iter()
            .map(|event| event.event_id)
            .collect();
        assert_eq!(
            new_ids.len(),
            ids.len(),
            "each event is in the timeline once"
        );
        assert!(new_ids.iter().all(|id| ids.contains_key(id)));
        synced_ids.extend(new_ids);
        since = synced.next_batch;
        assert_eq!(
            history(&mut client(port, &tokens[USERS - 1]), &room),
            synced_ids
        );
    }
}

/// All users send messages until the server is killed, after some responses. Returns all messages,
/// with or without a response.
fn send_until_killed(server: Server, kill: usize, room: &str, tokens: &[String]) -> Vec<Message> {
    let port = server.port;
    let (responded, responses) = mpsc::channel();
    thread::scope(|scope| {
        let senders: Vec<_> = (0..tokens.len())
            .map(|sender| {
                let responded = responded.clone();
                scope.spawn(move || {
                    let mut client = client(port, &tokens[sender]);
                    let mut messages = Vec::new();
                    loop {
                        let transaction = format!("{kill}-{}", messages.len());
                        let event_id = send_text(&mut client, room, &transaction, "hello").ok();
                        let killed = event_id.is_none();
                        messages.push(Message {
                            sender,
                            transaction,
                            event_id,
                        });
                        if killed {
                            return messages;
                        }
                        // Fails once the server is killed.
                        let _ = responded.send(());
                    }
                })
            })
            .collect();
        drop(responded);
        for _ in 0..20 + 17 * kill {
            responses.recv().expect("the server answers");
        }
        server.kill().unwrap();
        senders
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// The event ids of all messages of a room by `/messages`, oldest first.
fn history(client: &mut Client, room: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Page {
        chunk: Vec<Event>,
        end: Option<String>,
    }
    let mut ids = Vec::new();
    let mut from = String::new();
    loop {
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=50{from}");
        let page: Page = client.json("GET", &path, None).unwrap();
        let messages = page
            .chunk
            .into_iter()
            .filter(|event| event.event_type == "m.room.message");
        ids.extend(messages.map(|event| event.event_id));
        match page.end {
            Some(end) => from = format!("&from={end}"),
            None => break,
        }
    }
    ids.reverse();
    ids
}

#[derive(Deserialize)]
struct SyncResponse {
    next_batch: String,
    #[serde(default)]
    rooms: Rooms,
}

#[derive(Default, Deserialize)]
struct Rooms {
    #[serde(default)]
    join: HashMap<String, JoinedRoom>,
}

#[derive(Deserialize)]
struct JoinedRoom {
    timeline: Timeline,
}

#[derive(Deserialize)]
struct Timeline {
    events: Vec<Event>,
    #[serde(default)]
    limited: bool,
}

#[derive(Deserialize)]
struct Event {
    event_id: String,
    #[serde(rename = "type")]
    event_type: String,
}

fn client(port: u16, token: &str) -> Client {
    Client::connect(port, Some(&format!("Bearer {token}"))).unwrap()
}

fn sync(client: &mut Client, query: &str) -> SyncResponse {
    client
        .json("GET", &format!("/_matrix/client/v3/sync?{query}"), None)
        .unwrap()
}

/// Starts a server with these settings, which must fail with status `code`; returns its error output.
fn failed_start(settings: &str, code: i32) -> String {
    failed_start_on(free_port().unwrap(), settings, code)
}

fn failed_start_on(port: u16, settings: &str, code: i32) -> String {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("hearth.toml");
    let listen = format!("listen = [\"127.0.0.1:{port}\"]");
    fs::write(&config, format!("{listen}\n{settings}\n")).unwrap();
    let output = command()
        .args(["serve", "--config"])
        .arg(config)
        .current_dir(&directory)
        .output();
    failed_output(&output.unwrap(), code)
}

fn failed_output(output: &Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

/// A field of `/proc/PID/status`.
fn process_status_kb(server: &Server, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}
