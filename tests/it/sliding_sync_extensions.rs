//! The extensions of simplified sliding sync (MSC4186).

use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, percent_encode, room_path, send_in_thread, send_receipt,
        send_text,
    },
    sliding_sync::{path, pos, sliding},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const CLIENT: &str = "/_matrix/client/v3";

/// A list of all rooms, with these extensions enabled.
fn with(extensions: &Value) -> Value {
    json!({
        "lists": { "all": { "ranges": [[0, 99]], "timeline_limit": 1 } },
        "extensions": extensions,
    })
}

/// The extensions in the response, and its pos.
#[track_caller]
fn extensions(user: &TestUser<'_>, pos: Option<&str>, wanted: &Value) -> (Value, String) {
    let response = sliding(user, pos, with(wanted));
    let next = response["pos"].as_str().expect("a pos").to_owned();
    (response["extensions"].clone(), next)
}

fn send_to_device(from: &TestUser<'_>, to: &TestUser<'_>, transaction: &str) {
    let path = format!("{CLIENT}/sendToDevice/org.example/{transaction}");
    let messages = json!({ &to.user_id: { &to.device_id: { "n": transaction } } });
    expect_ok(from.put(&path, json!({ "messages": messages })));
}

#[test]
fn without_extensions_there_are_none_and_unknown_ones_are_absent() {
    let server = TestServer::new();
    let alice = server.register("alice");
    create_room(&alice, json!({}));
    assert_eq!(extensions(&alice, None, &json!({})).0, json!({}));
    let unknown = json!({ "io.element.msc4308.thread_subscriptions": { "enabled": true } });
    assert_eq!(extensions(&alice, None, &unknown).0, json!({}));
    let disabled = json!({ "e2ee": { "enabled": false }, "to_device": {} });
    assert_eq!(extensions(&alice, None, &disabled).0, json!({}));
}

#[test]
fn to_device_messages_are_sent_until_their_token_comes_back() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for transaction in ["1", "2", "3"] {
        send_to_device(&bob, &alice, transaction);
    }
    let messages = |since: Option<&str>| {
        let mut to_device = json!({ "enabled": true, "limit": 2 });
        if let Some(since) = since {
            to_device["since"] = since.into();
        }
        let (extensions, _) = extensions(&alice, None, &json!({ "to_device": to_device }));
        let to_device = &extensions["to_device"];
        let events = to_device["events"].as_array().expect("events");
        let sent: Vec<_> = events
            .iter()
            .map(|event| event["content"]["n"].to_string())
            .collect();
        let next = to_device["next_batch"]
            .as_str()
            .expect("a token")
            .to_owned();
        (sent.join(" "), next)
    };
    let (first, next) = messages(None);
    assert_eq!(first, r#""1" "2""#);
    assert_eq!(messages(None).0, first, "nothing was acknowledged");
    let (second, next) = messages(Some(&next));
    assert_eq!(second, r#""3""#);
    let (third, _) = messages(Some(&next));
    assert_eq!(third, "");
    let wrong = with(&json!({ "to_device": { "enabled": true, "since": "x" } }));
    expect_error(&alice.post(&path(None), wrong), 400, "M_INVALID_PARAM");
}

#[test]
fn device_lists_and_key_counts_are_sent() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    create_room_with(&[&alice, &bob]);
    let wanted = json!({ "e2ee": { "enabled": true } });
    let (first, pos) = extensions(&alice, None, &wanted);
    assert_eq!(
        first["e2ee"],
        json!({
            "device_one_time_keys_count": { "signed_curve25519": 0 },
            "device_unused_fallback_key_types": [],
        })
    );
    server.log_in("bob");
    let (second, pos) = extensions(&alice, Some(&pos), &wanted);
    assert_eq!(
        second["e2ee"]["device_lists"]["changed"],
        json!([bob.user_id])
    );
    let (third, _) = extensions(&alice, Some(&pos), &wanted);
    assert_eq!(third["e2ee"]["device_lists"], Value::Null);
}

#[test]
fn account_data_are_sent_once_and_again_when_they_change() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (room, other) = (
        create_room(&alice, json!({})),
        create_room(&alice, json!({})),
    );
    let put = |room: Option<&str>, n: u32| {
        let user_id = percent_encode(&alice.user_id);
        let room = room.map_or_else(String::new, |room| {
            format!("rooms/{}/", percent_encode(room))
        });
        let path = format!("{CLIENT}/user/{user_id}/{room}account_data/org.example");
        expect_ok(alice.put(&path, json!({ "n": n })));
    };
    put(None, 1);
    put(Some(&room), 2);
    let wanted = json!({ "account_data": { "enabled": true } });
    let (first, pos) = extensions(&alice, None, &wanted);
    let global = first["account_data"]["global"].as_array().expect("events");
    let types: Vec<_> = global.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["org.example", "m.push_rules"]);
    let event = |n: u32| json!([{ "type": "org.example", "content": { "n": n } }]);
    assert_eq!(first["account_data"]["rooms"], json!({ &room: event(2) }));
    let (second, pos) = extensions(&alice, Some(&pos), &wanted);
    assert_eq!(second, json!({}));
    put(None, 3);
    put(Some(&other), 4);
    let (third, pos) = extensions(&alice, Some(&pos), &wanted);
    let changed = json!({ "global": event(3), "rooms": { &other: event(4) } });
    assert_eq!(third["account_data"], changed);
    put(Some(&room), 5);
    let (without, pos) = extensions(&alice, Some(&pos), &json!({}));
    assert_eq!(without, json!({}));
    let (fourth, _) = extensions(&alice, Some(&pos), &wanted);
    assert_eq!(
        fourth["account_data"]["rooms"],
        json!({ &room: event(5) }),
        "it was missed"
    );
}

#[test]
fn receipts_are_those_of_the_timeline_first_and_then_those_that_move() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let old = send_text(&alice, &room, "old");
    let new = send_text(&alice, &room, "new");
    let read = |user: &TestUser<'_>, event: &str| {
        expect_ok(send_receipt(user, &room, ("m.read", event), json!({})));
    };
    read(&bob, &old);
    let wanted = json!({ "receipts": { "enabled": true } });
    let (first, _) = extensions(&alice, None, &wanted);
    assert_eq!(
        first["receipts"]["rooms"],
        json!({}),
        "Bob has not read the timeline"
    );
    let (own, _) = extensions(&bob, None, &wanted);
    let receipt = &own["receipts"]["rooms"][&room]["content"][&old]["m.read"];
    assert!(
        receipt[&bob.user_id]["ts"].is_u64(),
        "one's own receipt wherever it is"
    );
    let (_, pos) = extensions(&alice, None, &wanted);
    read(&bob, &new);
    let (moved, pos) = extensions(&alice, Some(&pos), &wanted);
    let event = &moved["receipts"]["rooms"][&room];
    assert_eq!(event["type"], "m.receipt");
    assert!(event["content"][&new]["m.read"][&bob.user_id].is_object());
    let (none, _) = extensions(&alice, Some(&pos), &wanted);
    assert_eq!(none, json!({}));
}

#[test]
fn of_the_receipts_of_a_user_at_an_event_the_one_for_most_of_the_room_is_sent_and_one_of_each_kind()
{
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let root = send_text(&alice, &room, "root");
    send_in_thread(&alice, &room, &root, "reply");
    let wanted = json!({ "receipts": { "enabled": true } });
    let (_, start) = extensions(&bob, None, &wanted);
    let read = |kind: &str, thread: Option<&str>| {
        let body = thread.map_or(json!({}), |thread| json!({ "thread_id": thread }));
        expect_ok(send_receipt(&bob, &room, (kind, &root), body));
    };
    let thread_of = |receipts: &Value, kind: &str| {
        let content = &receipts["receipts"]["rooms"][&room]["content"];
        let receipt = &content[&root][kind][&bob.user_id];
        assert!(receipt["ts"].is_u64(), "{content}");
        receipt["thread_id"].as_str().map(str::to_owned)
    };
    read("m.read", Some("main"));
    read("m.read", Some(&root));
    read("m.read.private", Some(&root));
    let (threaded, _) = extensions(&bob, Some(&start), &wanted);
    assert_eq!(thread_of(&threaded, "m.read").as_deref(), Some("main"));
    assert_eq!(thread_of(&threaded, "m.read.private"), Some(root.clone()));
    read("m.read", None);
    let (all, _) = extensions(&bob, Some(&start), &wanted);
    assert_eq!(thread_of(&all, "m.read"), None);
}

#[test]
fn typing_is_sent_when_it_changes_in_the_rooms_of_the_extension() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let wanted = json!({ "typing": { "enabled": true } });
    let type_in = |typing: bool| {
        let tail = format!("typing/{}", percent_encode(&bob.user_id));
        let body = json!({ "typing": typing, "timeout": 30000 });
        expect_ok(bob.put(&room_path(&room, &tail), body));
    };
    let (first, pos) = extensions(&alice, None, &wanted);
    assert_eq!(first, json!({}));
    type_in(true);
    let typing = |users: Value| {
        let event = json!({ "type": "m.typing", "content": { "user_ids": users } });
        json!({ "rooms": { &room: event } })
    };
    let (second, next) = extensions(&alice, Some(&pos), &wanted);
    assert_eq!(second["typing"], typing(json!([bob.user_id])));
    let elsewhere = json!({ "typing": { "enabled": true, "lists": [], "rooms": ["*"] } });
    assert_eq!(extensions(&alice, Some(&pos), &elsewhere).0, json!({}));
    type_in(false);
    let (third, _) = extensions(&alice, Some(&next), &wanted);
    assert_eq!(third["typing"], typing(json!([])));
}

#[test]
fn an_extension_has_the_selected_lists_and_rooms() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let rooms = [(); 2].map(|()| create_room(&alice, json!({})));
    for room in &rooms {
        let event = send_text(&alice, room, "hello");
        expect_ok(send_receipt(&alice, room, ("m.read", &event), json!({})));
    }
    let receipts = |selection: Value| {
        let mut receipts = json!({ "enabled": true });
        for (name, value) in selection.as_object().expect("an object") {
            receipts[name] = value.clone();
        }
        let body = json!({
            "lists": { "last": { "ranges": [[0, 0]], "timeline_limit": 1 } },
            "room_subscriptions": { &rooms[0]: { "timeline_limit": 1 } },
            "extensions": { "receipts": receipts },
        });
        let response = sliding(&alice, None, body);
        assert!(pos(&response).starts_with("s1_"));
        let sent = response["extensions"]["receipts"]["rooms"]
            .as_object()
            .cloned();
        let sent = sent.unwrap_or_default();
        rooms.each_ref().map(|room| sent.contains_key(room))
    };
    assert_eq!(receipts(json!({})), [true, true]);
    assert_eq!(receipts(json!({ "lists": [] })), [true, false]);
    assert_eq!(receipts(json!({ "rooms": [] })), [false, true]);
    assert_eq!(
        receipts(json!({ "lists": ["other"], "rooms": ["!x:y"] })),
        [false, false]
    );
    assert_eq!(
        receipts(json!({ "lists": ["last"], "rooms": [&rooms[0]] })),
        [true, true]
    );
}
