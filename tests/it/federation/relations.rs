//! Relations between events of users of several servers.

use serde_json::{Value, json};

use super::{device_lists::create_shared_room, outage::wait_for_event};
use crate::{
    client_api::{
        next_batch, percent_encode, room_path, send_event, send_in_thread, send_text, sync,
    },
    test_server::{TestServer, expect_ok},
};

#[test]
fn children_of_other_servers_are_aggregated_until_they_are_redacted() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let since = next_batch(&sync(&alice, None)).to_owned();
    let since_bob = next_batch(&sync(&bob, None)).to_owned();
    let root = send_text(&alice, &room, "root");
    wait_for_event(&bob, &room, &root, since_bob);
    let reply = send_in_thread(&bob, &room, &root, "reply");
    let relation = json!({ "rel_type": "m.replace", "event_id": reply });
    let content =
        json!({ "body": "* x", "m.new_content": { "body": "x" }, "m.relates_to": relation });
    let edit = send_event(&bob, &room, "m.room.message", content);
    wait_for_event(&alice, &room, &edit, since);
    let path = room_path(&room, &format!("event/{}", percent_encode(&root)));
    let aggregations = || expect_ok(alice.get(&path))["unsigned"]["m.relations"].clone();
    let latest = aggregations()["m.thread"]["latest_event"].clone();
    assert_eq!(latest["event_id"], *reply);
    assert_eq!(
        latest["unsigned"]["m.relations"]["m.replace"]["event_id"],
        *edit
    );
    let since = next_batch(&sync(&alice, None)).to_owned();
    let redact = room_path(&room, &format!("redact/{}/1", percent_encode(&reply)));
    let redaction = expect_ok(bob.put(&redact, json!({})));
    wait_for_event(
        &alice,
        &room,
        redaction["event_id"].as_str().expect("an id"),
        since,
    );
    assert_eq!(aggregations(), Value::Null);
}
