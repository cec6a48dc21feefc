//! Push notifications when the server is killed.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client,
    common::{
        client_api::{create_public_room, join, register, send_text},
        push_gateway::{Behaviour, MockPushGateway},
        server::{Server, command, free_port},
    },
};

#[test]
fn messages_that_were_not_pushed_when_the_server_was_killed_are_pushed_after_its_start() {
    const MESSAGES: usize = 30;
    let gateway = MockPushGateway::new();
    let (directory, port) = (TempDir::new().unwrap(), free_port().unwrap());
    let start =
        || Server::start_with(command(), directory.path(), port, &gateway.setting()).unwrap();
    let mut server = start();
    let [alice, bob] = ["alice", "bob"].map(|name| register(port, name).unwrap());
    let room = create_public_room(&mut client(port, &alice)).unwrap();
    let mut of_bob = client(port, &bob);
    join(&mut of_bob, &room).unwrap();
    let pusher = json!({
        "kind": "http",
        "app_id": "app",
        "pushkey": "key",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "data": { "url": gateway.url(), "format": "event_id_only" },
    });
    let path = "/_matrix/client/v3/pushers/set";
    of_bob.json::<Value>("POST", path, Some(&pusher)).unwrap();
    for (round, behaviour) in [Behaviour::Fail(503), Behaviour::Stall]
        .into_iter()
        .enumerate()
    {
        let before = gateway.received().len();
        gateway.set(behaviour);
        let mut of_alice = client(port, &alice);
        let sent: Vec<String> = (0..MESSAGES)
            .map(|number| send_text(&mut of_alice, &room, &format!("{round}-{number}"), "hello"))
            .collect::<Result<_, _>>()
            .unwrap();
        gateway.wait_blocking(before + 1);
        server.kill().unwrap();
        gateway.set(Behaviour::Accept(Vec::new()));
        let failed = gateway.received().len();
        server = start();
        // What was sent shortly before the kill may come again.
        let mut count = failed + MESSAGES;
        loop {
            let received = gateway.wait_blocking(count);
            let ids = received[failed..]
                .iter()
                .map(|notification| notification["event_id"].as_str().unwrap().to_owned());
            let ids: Vec<String> = ids.filter(|id| sent.contains(id)).collect();
            if ids.len() >= MESSAGES {
                assert_eq!(ids, sent);
                break;
            }
            count = received.len() + 1;
        }
    }
}
