//! Simplified sliding sync on a full disk.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    common::{
        client_api::{create_public_room, register},
        http::Client,
        large_files::Session,
    },
    media::{start_on_small_disk, wait_until},
};

const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// The response for the rooms up to the index `last`.
fn sliding(client: &mut Client, connection: &str, pos: Option<&Value>, last: u32) -> Value {
    let query = pos.map_or(String::new(), |pos| {
        format!("?pos={}", pos.as_str().unwrap())
    });
    let body = json!({
        "conn_id": connection,
        "lists": { "all": { "range": [0, last], "timeline_limit": 1 } },
    });
    let mut answer = None;
    // 503 while the database is opened again: a write has found the disk full.
    wait_until(|| {
        let response = client.request("POST", &format!("{PATH}{query}"), Some(&body));
        let response = answer.insert(response.unwrap());
        response.status != 503
    });
    let response = answer.unwrap();
    let text = String::from_utf8_lossy(&response.body);
    assert_eq!(response.status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_full_disk_rooms_are_received_once_and_new_connections_begin() {
    let directory = TempDir::new().unwrap();
    let Some(server) = start_on_small_disk(directory.path(), 96) else {
        return;
    };
    let token = register(server.port, "alice").unwrap();
    let mut client = Client::connect(server.port, Some(&format!("Bearer {token}"))).unwrap();
    let rooms = [(); 3].map(|()| create_public_room(&mut client).unwrap());
    let first = sliding(&mut client, "before", None, 0);
    assert!(first["rooms"][&rooms[2]].is_object());
    let session = Session {
        port: server.port,
        token: &token,
    };
    let full = (0..110).find(|number| {
        // Each file is different, as identical ones are stored once.
        let response = session.try_upload(number * 16..number * 16 + 15);
        response.unwrap().0 == 507
    });
    assert!(full.is_some(), "the disk was never full");
    // The store looks for itself, and only once in a while.
    let text = json!({ "msgtype": "m.text", "body": "a".repeat(60_000) });
    let refused = (0..1000).find(|number| {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/{number}",
            rooms[2]
        );
        client.request("PUT", &path, Some(&text)).unwrap().status == 507
    });
    assert!(refused.is_some(), "messages were accepted all the time");
    for connection in ["before", "after"] {
        let pos = (connection == "before").then_some(&first["pos"]);
        let all = sliding(&mut client, connection, pos, 9);
        assert!(all["rooms"][&rooms[0]].is_object(), "{connection}: {all}");
        // What was sent is not sent again.
        let none = sliding(&mut client, connection, Some(&all["pos"]), 9);
        assert_eq!(none["rooms"], json!({}), "{connection}");
    }
}
