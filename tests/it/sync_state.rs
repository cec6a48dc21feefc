//! `/sync` with `full_state`, of left rooms and of rejoined rooms. `sync_property` compares syncs with
//! the server's state.

use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, event_types, join, leave, message_bodies,
        next_batch, send_text, set_state, sync, sync_with,
    },
    test_server::{TestServer, expect_ok},
};

#[test]
fn full_state_returns_the_complete_state() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({ "name": "Kitchen" }));
    let initial = sync(&alice, None);
    let response = sync_with(
        &alice,
        &[("since", next_batch(&initial)), ("full_state", "true")],
    );
    let joined = &response["rooms"]["join"][&room];
    let state = event_types(&joined["state"]["events"]);
    assert!(state.contains(&"m.room.create") && state.contains(&"m.room.name"));
    assert_eq!(
        joined["timeline"],
        json!({ "limited": false, "events": [] })
    );
}

#[test]
fn left_room_is_synced_once_even_if_forgotten() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let laptop = server.log_in("bob");
    let room = create_room_with(&[&alice, &bob]);
    let before = sync(&laptop, None);
    send_text(&alice, &room, "bye");
    leave(&bob, &room);
    expect_ok(change_membership(&bob, &room, "forget", json!({})));
    send_text(&alice, &room, "secret");
    for parameters in [vec![], vec![("full_state", "true")]] {
        let mut parameters = parameters;
        parameters.push(("since", next_batch(&before)));
        let left = sync_with(&laptop, &parameters);
        let timeline = &left["rooms"]["leave"][&room]["timeline"]["events"];
        assert_eq!(event_types(timeline), ["m.room.message", "m.room.member"]);
        assert_eq!(message_bodies(timeline), ["bye"]);
        let after = sync(&laptop, Some(next_batch(&left)));
        assert_eq!(after["rooms"], json!({}));
    }
}

#[test]
fn rejoined_room_is_synced_completely() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let before = sync(&bob, None);
    leave(&bob, &room);
    let left = sync(&bob, Some(next_batch(&before)));
    set_state(
        &alice,
        &room,
        ("m.room.topic", ""),
        json!({ "topic": "new" }),
    );
    join(&bob, &room);
    for since in [&before, &left] {
        let rejoined = sync(&bob, Some(next_batch(since)));
        let joined = &rejoined["rooms"]["join"][&room];
        let types = [
            event_types(&joined["state"]["events"]),
            event_types(&joined["timeline"]["events"]),
        ]
        .concat();
        for kind in ["m.room.create", "m.room.topic", "m.room.power_levels"] {
            assert!(types.contains(&kind), "{kind} is missing: {joined}");
        }
        assert_eq!(rejoined["rooms"]["leave"], Value::Null);
    }
}
