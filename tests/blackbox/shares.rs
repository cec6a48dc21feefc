//! What all connections share cannot be held by a few who are not logged in.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use crate::common::{
    client_api::register,
    http::Client,
    server::{Server, command, free_port},
};

const VERSIONS: &str = "/_matrix/client/versions";
/// Longer than anything takes that is not kept waiting.
const AT_ONCE: Duration = Duration::from_secs(5);

fn start(directory: &TempDir, settings: &str) -> Server {
    Server::start_with(command(), directory.path(), free_port().unwrap(), settings).unwrap()
}

/// Opens a connection and sends the head of a request, as if a proxy forwarded it for `client`.
fn begin(server: &Server, client: &str, request: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
    let head = format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: {client}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Sends the beginning of a body until the server takes no more.
fn send_some(stream: &mut TcpStream, bytes: usize) {
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut left = bytes;
    while left > 0 {
        match stream.write(&vec![b' '; left.min(1 << 16)]) {
            Ok(sent) if sent > 0 => left -= sent,
            _ => return,
        }
    }
}

fn log_in(server: &Server) -> u16 {
    let login = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "correct horse battery staple",
    });
    let mut client = Client::connect(server.port, None).unwrap();
    let response = client.request("POST", "/_matrix/client/v3/login", Some(&login));
    response.unwrap().status
}

#[test]
fn a_slow_large_body_with_an_invalid_signature_keeps_nobody_from_logging_in() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, "memory = \"128M\"");
    register(server.port, "alice").unwrap();
    let signature = "authorization: X-Matrix origin=\"127.0.0.1:1\",destination=\"localhost\",\
                     key=\"ed25519:a\",sig=\"bm9uc2Vuc2U\"\r\n";
    let mut attack = begin(
        &server,
        "192.0.2.1",
        "PUT /_matrix/federation/v1/send/1",
        &format!("{signature}content-length: 8388608\r\n"),
    );
    send_some(&mut attack, 8_388_600);
    // While the server reads what has been sent.
    for _ in 0..5 {
        assert_eq!(log_in(&server), 200);
    }
}

#[test]
fn slow_bodies_of_one_network_keep_others_neither_from_logging_in_nor_from_sending_large_bodies() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, "memory = \"32M\"");
    let token = register(server.port, "alice").unwrap();
    let attack: Vec<_> = (0..24)
        .map(|_| {
            let length = "content-length: 262144\r\n";
            let request = "POST /_matrix/client/v3/login";
            let mut stream = begin(&server, "192.0.2.1", request, length);
            send_some(&mut stream, 262_100);
            stream
        })
        .collect();
    assert_eq!(log_in(&server), 200);
    let mut client = Client::connect(server.port, Some(&format!("Bearer {token}"))).unwrap();
    let path = "/_matrix/client/v3/user/@alice:localhost/account_data/large";
    let body = json!({ "text": "a".repeat(200_000) });
    let response = client.request("PUT", path, Some(&body)).unwrap();
    assert_eq!(response.status, 200);
    drop(attack);
}

#[test]
fn idle_connections_and_open_heads_of_one_address_keep_nobody_out() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, "memory = \"32M\"");
    let mut attack = Vec::new();
    let start = Instant::now();
    for _ in 0..300 {
        let mut idle = begin(&server, "192.0.2.1", &format!("GET {VERSIONS}"), "");
        let _ = idle.read(&mut [0; 4096]);
        attack.push(idle);
        let mut half = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        let _ = half.write_all(b"GET /");
        attack.push(half);
    }
    let mut client = Client::connect(server.port, None).unwrap();
    let response = client.request("GET", VERSIONS, None).unwrap();
    assert_eq!(response.status, 200);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[test]
fn requests_that_name_silent_servers_keep_no_user_from_asking_other_servers() {
    let directory = TempDir::new().unwrap();
    let server = start(
        &directory,
        "federation = \"on\"\nallow_private_addresses = true\nnotaries = []",
    );
    let token = register(server.port, "alice").unwrap();
    // It accepts connections, and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut accepted = Vec::new();
        while let Ok(connection) = silent.accept() {
            accepted.push(connection);
        }
    });
    let mut attack = Vec::new();
    for network in 1..5 {
        let client = format!("192.0.2.{network}");
        for n in 1..25 {
            let origin = format!("127.0.{network}.{n}:{silent_port}");
            let signature = format!(
                "authorization: X-Matrix origin=\"{origin}\",destination=\"localhost\",\
                 key=\"ed25519:a\",sig=\"bm9uc2Vuc2U\"\r\n"
            );
            let event = "GET /_matrix/federation/v1/event/$e";
            attack.push(begin(&server, &client, event, &signature));
            let profile = format!("GET /_matrix/client/v3/profile/@a:{origin}");
            attack.push(begin(&server, &client, &profile, ""));
        }
    }
    thread::sleep(Duration::from_millis(500));
    // Nobody listens on this port.
    let closed = free_port().unwrap();
    let path = format!("/_matrix/client/v3/profile/@a:127.0.0.1:{closed}");
    let mut client = Client::connect(server.port, Some(&format!("Bearer {token}"))).unwrap();
    let start = Instant::now();
    assert_eq!(client.request("GET", &path, None).unwrap().status, 502);
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[test]
fn one_warning_names_the_setting_if_a_proxy_is_not_trusted() {
    let directory = TempDir::new().unwrap();
    let server = start(&directory, "trusted_proxies = [\"192.0.2.1\"]");
    for _ in 0..3 {
        let mut stream = begin(&server, "192.0.2.7", &format!("GET {VERSIONS}"), "");
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    }
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    assert_eq!(log.matches("`trusted_proxies`").count(), 1, "{log}");
}
