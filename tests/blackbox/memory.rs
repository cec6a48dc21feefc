//! Resident memory after password hashing, and its peak while large requests and responses are served.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    thread,
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{
    common::{
        client_api::{create_public_room, register},
        http::Client,
        server::{Server, command, free_port},
    },
    process_status_kb,
};

/// Beside the pages of the binary, which the system can drop, and of which a debug build has many. Hashing one
/// password takes 19 MiB.
const MAX_ANONYMOUS_KB: u64 = 12_000;

#[test]
fn ten_concurrent_logins_leave_less_than_12_mb() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    register(server.port, "alice").unwrap();
    let login = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "correct horse battery staple",
    });
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut client = Client::connect(server.port, None).unwrap();
                let response = client.request("POST", "/_matrix/client/v3/login", Some(&login));
                assert_eq!(response.unwrap().status, 200);
            });
        }
    });
    let anonymous = process_status_kb(&server, "RssAnon:");
    assert!(anonymous < MAX_ANONYMOUS_KB, "{anonymous} kB");
}

#[test]
fn three_hundred_registrations_leave_less_than_12_mb() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    for number in 0..300 {
        register(server.port, &format!("user{number}")).unwrap();
    }
    let anonymous = process_status_kb(&server, "RssAnon:");
    assert!(anonymous < MAX_ANONYMOUS_KB, "{anonymous} kB");
}

/// The peak of memory, without the pages of the binary, while the server answers a request with status 200.
fn peak_kb(
    server: &Server,
    client: &mut Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> u64 {
    // proc(5), `clear_refs`.
    fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    let path = format!("/_matrix/client/v3/{path}");
    let response = client.request(method, &path, body).unwrap();
    assert_eq!(response.status, 200);
    let peak = process_status_kb(server, "VmHWM:");
    peak.saturating_sub(process_status_kb(server, "RssFile:"))
}

fn start(directory: &TempDir, settings: &str) -> (Server, Client) {
    let port = free_port().unwrap();
    let server = Server::start_with(command(), directory.path(), port, settings).unwrap();
    let token = register(port, "alice").unwrap();
    let client = Client::connect(port, Some(&format!("Bearer {token}"))).unwrap();
    (server, client)
}

#[test]
fn responses_with_24_mb_of_state_take_little_memory() {
    let directory = TempDir::new().unwrap();
    let (server, mut client) = start(&directory, "memory = \"32M\"");
    let room = create_public_room(&mut client).unwrap();
    let content = json!({ "text": "a".repeat(60_000) });
    for number in 0..400 {
        let path = format!("/_matrix/client/v3/rooms/{room}/state/org.example/{number}");
        client.json::<Value>("PUT", &path, Some(&content)).unwrap();
    }
    let state = format!("rooms/{room}/state");
    for path in ["sync", &state] {
        let peak = peak_kb(&server, &mut client, "GET", path, None);
        assert!(peak < 30_000, "{path}: {peak} kB");
    }
}

#[test]
fn a_claim_of_keys_of_5000_silent_servers_takes_little_memory() {
    let directory = TempDir::new().unwrap();
    let settings = "federation = \"on\"\nallow_private_addresses = true\nnotaries = []";
    let (server, mut client) = start(&directory, settings);
    // It accepts connections, and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    thread::spawn(move || silent.incoming().collect::<Vec<_>>());
    let users: Map<_, _> = (0..5000)
        .map(|number| {
            let user = format!("@a:127.1.{}.{}:{port}", number / 250, number % 250 + 1);
            (user, json!({ "D": "signed_curve25519" }))
        })
        .collect();
    let body = json!({ "timeout": 1000, "one_time_keys": users });
    let peak = peak_kb(&server, &mut client, "POST", "keys/claim", Some(&body));
    assert!(peak < 50_000, "{peak} kB");
}
