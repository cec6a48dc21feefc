//! What the process keeps of the memory that passwords take up.

use std::{fs, thread};

use serde_json::json;
use tempfile::TempDir;

use crate::common::{http::Client, people::register, server::Server};

/// How much may be resident after logins, in kB. One password takes up 19 MiB.
const MAX_RESIDENT_KB: u64 = 40_000;

#[test]
fn ten_logins_at_once_leave_less_than_40_mb_resident() {
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
                let answer = client.call("POST", "/_matrix/client/v3/login", Some(&login));
                assert_eq!(answer.unwrap().status, 200);
            });
        }
    });
    let resident = resident_kb(server.id());
    assert!(resident < MAX_RESIDENT_KB, "{resident} kB");
}

fn resident_kb(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.unwrap().trim().trim_end_matches(" kB");
    kb.parse().unwrap()
}
