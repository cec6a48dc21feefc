//! `/sync` with `full_state`, of left rooms and of rejoined rooms. `sync_property` compares syncs with
//! the server's state.

use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, event_types, join, leave, message_bodies,
        next_batch, percent_encode, room_path, send_text, set_state, sync, sync_with,
    },
    sliding_sync::{pos, sliding, window},
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

#[test]
fn a_redacted_name_avatar_or_topic_is_taken_back() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    let set = |kind: &str, content: Value| {
        let path = room_path(&room, &format!("state/{kind}"));
        let event = expect_ok(alice.put(&path, content));
        event["event_id"].as_str().expect("an event id").to_owned()
    };
    let name = set("m.room.name", json!({ "name": "Secret" }));
    let avatar = set("m.room.avatar", json!({ "url": "mxc://localhost/x" }));
    let topic = set("m.room.topic", json!({ "topic": "secret" }));
    let mut body = window(0, 9);
    body["lists"]["all"]["required_state"] = json!([["m.room.topic", ""]]);
    let mut last = sliding(&alice, None, body.clone());
    let whole = &last["rooms"][&room];
    assert_eq!(whole["name"], "Secret");
    assert_eq!(whole["avatar"], "mxc://localhost/x");
    let mut old = next_batch(&sync(&alice, None)).to_owned();
    for (event, kind, field) in [
        (name, "m.room.name", Some("name")),
        (avatar, "m.room.avatar", Some("avatar")),
        (topic, "m.room.topic", None),
    ] {
        let redact = format!("redact/{}/{kind}", percent_encode(&event));
        expect_ok(alice.put(&room_path(&room, &redact), json!({})));
        last = sliding(&alice, Some(pos(&last)), body.clone());
        let update = last["rooms"][&room].as_object().expect("an update");
        match field {
            Some(field) => assert_eq!(update.get(field), Some(&Value::Null), "{update:?}"),
            None => {
                let state = &update["required_state"][0];
                assert_eq!(state["event_id"], event.as_str(), "{update:?}");
                assert_eq!(state["content"], json!({}));
            }
        }
        // The redaction itself is not in the limited timeline.
        send_text(&alice, &room, "later");
        let filter = json!({ "room": { "timeline": { "limit": 1 } } }).to_string();
        let synced = sync_with(&alice, &[("since", &old), ("filter", &filter)]);
        let state = &synced["rooms"]["join"][&room]["state"]["events"];
        assert_eq!(state[0]["event_id"], event.as_str(), "{synced}");
        old = next_batch(&synced).to_owned();
        last = sliding(&alice, Some(pos(&last)), body.clone());
    }
    send_text(&alice, &room, "much later");
    last = sliding(&alice, Some(pos(&last)), body);
    let update = last["rooms"][&room].as_object().expect("an update");
    assert!(!update.contains_key("name") && !update.contains_key("required_state"));
}
