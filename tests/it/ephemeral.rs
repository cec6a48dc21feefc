//! Typing, receipts, read markers and presence.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use crate::{
    client_api::{
        content_of, create_room, create_room_with, join, latest_event_id, leave, next_batch,
        send_receipt, sync, sync_with,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const CLIENT: &str = "/_matrix/client/v3";

fn set_typing(user: &TestUser<'_>, room: &str, body: Value) -> (u16, Value) {
    let path = format!("{CLIENT}/rooms/{room}/typing/{}", user.user_id);
    user.put(&path, body)
}

/// The content of an ephemeral event of `room` in a sync response.
fn ephemeral_content<'a>(response: &'a Value, room: &str, kind: &str) -> &'a Value {
    let joined = &response["rooms"]["join"][room];
    content_of(&joined["ephemeral"]["events"], kind)
}

fn presence_path(user: &TestUser<'_>) -> String {
    format!("{CLIENT}/presence/{}/status", user.user_id)
}

#[test]
fn typing_is_synced_until_stopped_or_timed_out() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let before = sync(&alice, None);
    expect_ok(set_typing(
        &bob,
        &room,
        json!({ "typing": true, "timeout": 30_000 }),
    ));
    let typing = sync(&alice, Some(next_batch(&before)));
    assert_eq!(
        *ephemeral_content(&typing, &room, "m.typing"),
        json!({ "user_ids": [bob.user_id] })
    );
    let unchanged = sync(&alice, Some(next_batch(&typing)));
    assert_eq!(
        *ephemeral_content(&unchanged, &room, "m.typing"),
        Value::Null
    );
    expect_ok(set_typing(&bob, &room, json!({ "typing": false })));
    let stopped = sync(&alice, Some(next_batch(&unchanged)));
    assert_eq!(
        *ephemeral_content(&stopped, &room, "m.typing"),
        json!({ "user_ids": [] })
    );
    expect_ok(set_typing(
        &bob,
        &room,
        json!({ "typing": true, "timeout": 30_000 }),
    ));
    let typing_again = sync(&alice, Some(next_batch(&stopped)));
    server.clock.advance(Duration::from_secs(29));
    let before_timeout = sync(&alice, Some(next_batch(&typing_again)));
    assert_eq!(
        *ephemeral_content(&before_timeout, &room, "m.typing"),
        Value::Null
    );
    server.clock.advance(Duration::from_secs(2));
    let timed_out = sync(&alice, Some(next_batch(&before_timeout)));
    assert_eq!(
        *ephemeral_content(&timed_out, &room, "m.typing"),
        json!({ "user_ids": [] })
    );
}

#[test]
fn the_timeout_of_typing_is_any_number() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let mut since = next_batch(&sync(&alice, None)).to_owned();
    for (timeout, typing) in [
        (json!(3000.0), json!([alice.user_id])),
        (json!(-5), json!([])),
        (json!(1e300), json!([alice.user_id])),
    ] {
        let body = json!({ "typing": true, "timeout": timeout });
        expect_ok(set_typing(&alice, &room, body));
        server.clock.advance(Duration::from_millis(1));
        let synced = sync(&alice, Some(&since));
        since = next_batch(&synced).to_owned();
        let content = ephemeral_content(&synced, &room, "m.typing");
        assert_eq!(content["user_ids"], typing, "{timeout}");
    }
    let text = json!({ "typing": true, "timeout": "3000" });
    expect_error(&set_typing(&alice, &room, text), 400, "M_BAD_JSON");
}

#[test]
fn leaving_the_room_stops_typing() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    expect_ok(set_typing(
        &bob,
        &room,
        json!({ "typing": true, "timeout": 30_000 }),
    ));
    let typing = sync(&alice, None);
    leave(&bob, &room);
    let left = sync(&alice, Some(next_batch(&typing)));
    assert_eq!(
        *ephemeral_content(&left, &room, "m.typing"),
        json!({ "user_ids": [] })
    );
}

#[test]
fn typing_for_another_user_or_in_an_unjoined_room_is_forbidden() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let typing = json!({ "typing": true, "timeout": 30_000 });
    expect_error(&set_typing(&bob, &room, typing.clone()), 403, "M_FORBIDDEN");
    expect_error(
        &set_typing(&bob, "!nowhere:localhost", typing.clone()),
        403,
        "M_FORBIDDEN",
    );
    let path = format!("{CLIENT}/rooms/{room}/typing/{}", bob.user_id);
    expect_error(&alice.put(&path, typing), 403, "M_FORBIDDEN");
}

#[test]
fn who_typed_when_the_server_stopped_does_not_type_after_its_start() {
    let mut server = TestServer::new();
    let (token, room, before) = {
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let room = create_room_with(&[&alice, &bob]);
        expect_ok(set_typing(&alice, &room, json!({ "typing": true })));
        let synced = sync(&bob, None);
        let typing = ephemeral_content(&synced, &room, "m.typing");
        assert_eq!(*typing, json!({ "user_ids": [alice.user_id] }));
        (bob.token.clone(), room, next_batch(&synced).to_owned())
    };
    server.restart();
    let bob = server.user_with_token(&token);
    let synced = sync(&bob, Some(&before));
    let typing = ephemeral_content(&synced, &room, "m.typing");
    assert_eq!(*typing, json!({ "user_ids": [] }), "{synced}");
    let again = sync(&bob, Some(next_batch(&synced)));
    assert_eq!(*ephemeral_content(&again, &room, "m.typing"), Value::Null);
}

#[test]
fn public_receipt_is_shared_and_private_receipt_is_not() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let event = latest_event_id(&alice, &room);
    let before = (sync(&alice, None), sync(&bob, None));
    expect_ok(send_receipt(&bob, &room, ("m.read", &event), json!({})));
    let synced = sync(&alice, Some(next_batch(&before.0)));
    let presence = &ephemeral_content(&synced, &room, "m.receipt")[&event]["m.read"][&bob.user_id];
    assert_eq!(*presence, json!({ "ts": server.clock.now_ms() }));
    expect_ok(send_receipt(
        &bob,
        &room,
        ("m.read.private", &event),
        json!({}),
    ));
    let of_alice = sync(&alice, Some(next_batch(&synced)));
    assert_eq!(
        *ephemeral_content(&of_alice, &room, "m.receipt"),
        Value::Null
    );
    let of_bob = sync(&bob, Some(next_batch(&before.1)));
    let of_bob = &ephemeral_content(&of_bob, &room, "m.receipt")[&event];
    for kind in ["m.read", "m.read.private"] {
        assert!(of_bob[kind][&bob.user_id]["ts"].is_u64(), "{of_bob}");
    }
    let initial = sync(&alice, None);
    let initial = &ephemeral_content(&initial, &room, "m.receipt")[&event];
    assert_eq!(initial["m.read.private"], Value::Null);
    assert!(initial["m.read"][&bob.user_id].is_object());
}

#[test]
fn receipts_of_all_threads_at_one_event_are_sent() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let event = latest_event_id(&alice, &room);
    let threads = [None, Some("main"), Some(event.as_str())];
    for thread in threads {
        let body = thread.map_or_else(|| json!({}), |thread| json!({ "thread_id": thread }));
        expect_ok(send_receipt(&bob, &room, ("m.read", &event), body));
    }
    let synced = sync(&alice, None);
    let events = synced["rooms"]["join"][&room]["ephemeral"]["events"]
        .as_array()
        .unwrap();
    let of_bob = events.iter().map(|ephemeral| {
        let receipt = &ephemeral["content"][&event]["m.read"][&bob.user_id];
        receipt["thread_id"].as_str().map(ToOwned::to_owned)
    });
    let expected = threads.map(|thread| thread.map(ToOwned::to_owned));
    assert_eq!(of_bob.collect::<BTreeSet<_>>(), expected.into());
}

#[test]
fn receipt_for_an_earlier_event_is_ignored() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let earlier = latest_event_id(&alice, &room);
    let path = format!("{CLIENT}/rooms/{room}/leave");
    bob.post(&path, json!({}));
    join(&bob, &room);
    let later = latest_event_id(&alice, &room);
    assert_ne!(earlier, later);
    expect_ok(send_receipt(&bob, &room, ("m.read", &later), json!({})));
    let since = sync(&alice, None);
    expect_ok(send_receipt(&bob, &room, ("m.read", &earlier), json!({})));
    let after = sync(&alice, Some(next_batch(&since)));
    assert_eq!(*ephemeral_content(&after, &room, "m.receipt"), Value::Null);
}

#[test]
fn invalid_receipts_are_rejected() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let event = latest_event_id(&alice, &room);
    let send = |kind, body| send_receipt(&alice, &room, (kind, &*event), body);
    for (kind, body) in [
        ("m.seen", json!({})),
        ("m.read", json!({ "thread_id": "" })),
        ("m.read", json!({ "thread_id": "thread" })),
        ("m.read", json!({ "thread_id": "$nothing" })),
        ("m.fully_read", json!({ "thread_id": "main" })),
    ] {
        expect_error(&send(kind, body), 400, "M_INVALID_PARAM");
    }
    expect_ok(send("m.read", json!({ "thread_id": "main" })));
    let unknown_event = |kind| send_receipt(&alice, &room, (kind, "$nothing"), json!({}));
    expect_ok(unknown_event("m.read"));
    expect_error(&unknown_event("m.fully_read"), 404, "M_NOT_FOUND");
    let not_joined = send_receipt(&bob, &room, ("m.read", &event), json!({}));
    expect_error(&not_joined, 403, "M_FORBIDDEN");
}

#[test]
fn read_markers_set_fully_read_and_both_receipts() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let event = latest_event_id(&alice, &room);
    let before = (sync(&alice, None), sync(&bob, None));
    let path = format!("{CLIENT}/rooms/{room}/read_markers");
    let markers = json!({ "m.fully_read": event, "m.read": event, "m.read.private": event });
    expect_ok(bob.post(&path, markers));
    let of_bob = sync(&bob, Some(next_batch(&before.1)));
    let data = &of_bob["rooms"]["join"][&room]["account_data"]["events"];
    assert_eq!(
        *content_of(data, "m.fully_read"),
        json!({ "event_id": event })
    );
    let of_alice = sync(&alice, Some(next_batch(&before.0)));
    let joined = &of_alice["rooms"]["join"][&room];
    assert_eq!(joined["account_data"], Value::Null);
    assert!(ephemeral_content(&of_alice, &room, "m.receipt")[&event]["m.read"].is_object());
    expect_ok(send_receipt(
        &alice,
        &room,
        ("m.fully_read", &event),
        json!({}),
    ));
    let path = format!(
        "{CLIENT}/user/{}/rooms/{room}/account_data/m.fully_read",
        alice.user_id
    );
    assert_eq!(expect_ok(alice.get(&path)), json!({ "event_id": event }));
}

#[test]
fn presence_is_visible_only_to_users_who_share_a_room() {
    let server = TestServer::new();
    let people = ["alice", "bob", "carol"].map(|name| server.register(name));
    let [alice, bob, carol] = &people;
    create_room_with(&[alice, bob]);
    let body = json!({ "presence": "unavailable", "status_msg": "asleep" });
    expect_ok(bob.put(&presence_path(bob), body.clone()));
    server.clock.advance(Duration::from_secs(7));
    let expected = json!({
        "presence": "unavailable",
        "status_msg": "asleep",
        "last_active_ago": 7000,
        "currently_active": false,
    });
    assert_eq!(expect_ok(alice.get(&presence_path(bob))), expected);
    let presence = sync_with(alice, &[("set_presence", "offline")]);
    let presence = presence["presence"]["events"].as_array().expect("presence");
    assert_eq!(presence.len(), 1);
    assert_eq!(
        (&presence[0]["sender"], &presence[0]["content"]),
        (&json!(bob.user_id), &expected)
    );
    expect_error(&carol.get(&presence_path(bob)), 403, "M_FORBIDDEN");
    let unknown_user = format!("{CLIENT}/presence/@nobody:localhost/status");
    expect_error(&alice.get(&unknown_user), 403, "M_FORBIDDEN");
    expect_error(&alice.put(&presence_path(bob), body), 403, "M_FORBIDDEN");
    let invalid = json!({ "presence": "elsewhere" });
    expect_error(
        &bob.put(&presence_path(bob), invalid),
        400,
        "M_INVALID_PARAM",
    );
    let unrelated = sync_with(carol, &[("set_presence", "offline")]);
    assert_eq!(unrelated["presence"], Value::Null);
}

#[test]
fn sync_sets_presence_online_and_inactivity_offline() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    create_room_with(&[&alice, &bob]);
    assert_eq!(
        expect_ok(alice.get(&presence_path(&bob))),
        json!({ "presence": "offline" })
    );
    sync(&bob, None);
    let online = expect_ok(alice.get(&presence_path(&bob)));
    assert_eq!(
        (&online["presence"], &online["currently_active"]),
        (&json!("online"), &json!(true))
    );
    server.clock.advance(Duration::from_secs(3600));
    let inactive = expect_ok(alice.get(&presence_path(&bob)));
    assert_eq!(inactive["presence"], "offline");
}

#[test]
fn filtered_presence_is_not_synced() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    create_room(&alice, json!({}));
    create_room_with(&[&alice, &bob]);
    sync(&bob, None);
    for filter in [
        json!({ "presence": { "not_types": ["m.*"] } }),
        json!({ "presence": { "not_senders": [bob.user_id, alice.user_id] } }),
        json!({ "presence": { "senders": ["@nobody:localhost"] } }),
    ] {
        let response = sync_with(&alice, &[("filter", &filter.to_string())]);
        assert_eq!(response["presence"], Value::Null, "{filter}");
    }
}
