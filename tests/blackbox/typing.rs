//! Typing notifications when the server is killed.

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client,
    common::{
        client_api::{create_public_room, join, register},
        http::Client,
        server::Server,
    },
};

/// The response of `GET /sync?{query}`.
fn sync(client: &mut Client, query: &str) -> Value {
    let path = format!("/_matrix/client/v3/sync?{query}");
    client.json("GET", &path, None).unwrap()
}

fn typing<'a>(synced: &'a Value, room: &str) -> Option<&'a Value> {
    let events = synced["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    let event = events.iter().find(|event| event["type"] == "m.typing")?;
    Some(&event["content"]["user_ids"])
}

#[test]
fn who_typed_when_the_server_was_killed_does_not_type_after_its_start() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| register(server.port, name).unwrap());
    let mut alice = client(server.port, &alice);
    let rooms = [(); 2].map(|()| create_public_room(&mut alice).unwrap());
    let mut of_bob = client(server.port, &bob);
    rooms
        .iter()
        .for_each(|room| join(&mut of_bob, room).unwrap());
    let path = format!(
        "/_matrix/client/v3/rooms/{}/typing/@alice:localhost",
        rooms[0]
    );
    let body = json!({ "typing": true, "timeout": 60_000 });
    alice.json::<Value>("PUT", &path, Some(&body)).unwrap();
    let before = sync(&mut of_bob, "");
    assert_eq!(
        typing(&before, &rooms[0]),
        Some(&json!(["@alice:localhost"]))
    );
    server.stop(Signal::KILL).unwrap();
    let server = Server::start(directory.path()).unwrap();
    let mut of_bob = client(server.port, &bob);
    let since = |synced: &Value| format!("since={}", synced["next_batch"].as_str().unwrap());
    let after = sync(&mut of_bob, &since(&before));
    assert_eq!(typing(&after, &rooms[0]), Some(&json!([])), "{after}");
    let later = sync(&mut of_bob, &since(&after));
    assert_eq!(typing(&later, &rooms[0]), None, "{later}");
    let first = sync(&mut of_bob, "");
    assert_eq!(typing(&first, &rooms[0]), None, "{first}");
}
