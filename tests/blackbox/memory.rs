//! Resident memory after password hashing.

use std::thread;

use serde_json::json;
use tempfile::TempDir;

use crate::{
    common::{client_api::register, http::Client, server::Server},
    process_status_kb,
};

/// Hashing one password takes 19 MiB.
const MAX_RESIDENT_KB: u64 = 40_000;

#[test]
fn ten_concurrent_logins_leave_less_than_40_mb_resident() {
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
    let resident = process_status_kb(&server, "VmRSS:");
    assert!(resident < MAX_RESIDENT_KB, "{resident} kB");
}

#[test]
fn three_hundred_registrations_leave_less_than_40_mb_resident() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    for number in 0..300 {
        register(server.port, &format!("user{number}")).unwrap();
    }
    let resident = process_status_kb(&server, "VmRSS:");
    assert!(resident < MAX_RESIDENT_KB, "{resident} kB");
}
