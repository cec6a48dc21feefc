//! Sending events, and reading them by `/messages`, `/context`, `/event` and `/state`.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join, leave, message_bodies, next_batch, percent_encode,
        room_path, send_text, set_state, sync,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

fn send_in_transaction(user: &TestUser<'_>, room: &str, body: &str, transaction: &str) -> String {
    let path = room_path(room, &format!("send/m.room.message/{transaction}"));
    let sent = expect_ok(user.put(&path, json!({ "msgtype": "m.text", "body": body })));
    sent["event_id"].as_str().expect("an event id").to_owned()
}

#[test]
fn repeated_transaction_id_returns_the_same_event_also_after_restart() {
    let mut server = TestServer::new();
    let (room, first, token) = {
        let alice = server.register("alice");
        let room = create_room_with(&[&alice]);
        let first = send_in_transaction(&alice, &room, "hello", "t1");
        assert_eq!(send_in_transaction(&alice, &room, "hello", "t1"), first);
        assert_ne!(send_in_transaction(&alice, &room, "hello", "t2"), first);
        let other_device = server.log_in("alice");
        assert_ne!(
            send_in_transaction(&other_device, &room, "hello", "t1"),
            first
        );
        (room, first, alice.token.clone())
    };
    server.restart();
    let path = room_path(&room, "send/m.room.message/t1");
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let (status, sent) = server.run(server.send(Method::PUT, &path, Some(&token), &body));
    assert_eq!(
        (status, sent["event_id"].as_str()),
        (200, Some(first.as_str()))
    );
}

#[test]
fn pagination_in_both_directions_returns_each_message_once_while_new_ones_arrive() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let sent: Vec<String> = (0..25).map(|n| format!("message {n}")).collect();
    for body in &sent {
        send_text(&alice, &room, body);
    }
    let (mut received, mut from, mut oldest) = (Vec::new(), String::new(), String::new());
    loop {
        let (status, page) = bob.get(&room_path(&room, &format!("messages?dir=b&limit=7{from}")));
        assert_eq!(status, 200, "{page}");
        received.extend(
            message_bodies(&page["chunk"])
                .into_iter()
                .map(ToOwned::to_owned),
        );
        send_text(&bob, &room, "in between");
        let Some(end) = page["end"].as_str() else {
            break;
        };
        from = format!("&from={end}");
        oldest = end.to_owned();
    }
    received.reverse();
    assert_eq!(received, sent);
    let (mut received, mut from) = (Vec::new(), oldest);
    while !from.is_empty() {
        let (_, page) = bob.get(&room_path(
            &room,
            &format!("messages?dir=f&limit=4&from={from}"),
        ));
        received.extend(
            message_bodies(&page["chunk"])
                .into_iter()
                .map(ToOwned::to_owned),
        );
        from = page["end"].as_str().unwrap_or_default().to_owned();
    }
    received.retain(|body| body != "in between");
    assert_eq!(received, sent[sent.len() - received.len()..]);
    assert!(
        received.len() > 20,
        "the oldest token is near the start of the room"
    );
}

#[test]
fn redacted_event_has_empty_content_and_redacted_because() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let id = send_text(&bob, &room, "oops");
    let response = alice.put(
        &room_path(&room, &format!("redact/{id}/t2")),
        json!({ "reason": "rude" }),
    );
    assert_eq!(response.0, 200, "{response:?}");
    let (status, event) = bob.get(&room_path(&room, &format!("event/{id}")));
    assert_eq!(status, 200);
    assert_eq!(event["content"], json!({}));
    let because = &event["unsigned"]["redacted_because"];
    assert_eq!(because["content"]["reason"], "rude");
    assert_eq!(because["content"]["redacts"], json!(id));
    assert_eq!(because["redacts"], json!(id));
    assert_eq!(because["sender"], json!(alice.user_id));
}

#[test]
fn transaction_id_is_shown_only_to_the_sending_device() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let other_device = server.log_in("alice");
    let id = send_in_transaction(&alice, &room, "hello", "t1");
    let event_for = |user: &TestUser<'_>| user.get(&room_path(&room, &format!("event/{id}"))).1;
    assert_eq!(event_for(&alice)["unsigned"]["transaction_id"], "t1");
    assert_eq!(
        event_for(&other_device)["unsigned"]["transaction_id"],
        Value::Null
    );
}

#[test]
fn state_event_is_readable_with_prev_content() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    for (topic, path) in [
        ("first", "state/m.room.topic"),
        ("second", "state/m.room.topic/"),
    ] {
        assert_eq!(
            alice
                .put(&room_path(&room, path), json!({ "topic": topic }))
                .0,
            200
        );
    }
    let topic = bob.get(&room_path(&room, "state/m.room.topic"));
    assert_eq!(topic, (200, json!({ "topic": "second" })));
    let (_, event) = bob.get(&room_path(&room, "state/m.room.topic/?format=event"));
    assert_eq!(
        event["unsigned"]["prev_content"],
        json!({ "topic": "first" })
    );
    assert_eq!(event["room_id"], json!(room));
    expect_error(
        &bob.get(&room_path(&room, "state/m.room.topic/x")),
        404,
        "M_NOT_FOUND",
    );
    expect_error(
        &bob.put(&room_path(&room, "state/m.room.topic"), json!({})),
        403,
        "M_FORBIDDEN",
    );
}

#[test]
fn former_member_reads_the_room_as_of_leaving_and_non_member_is_forbidden() {
    let server = TestServer::new();
    let (alice, bob, carol) = (
        server.register("alice"),
        server.register("bob"),
        server.register("carol"),
    );
    let room = create_room_with(&[&alice, &bob]);
    set_state(
        &alice,
        &room,
        ("m.room.topic", ""),
        json!({ "topic": "old" }),
    );
    send_text(&alice, &room, "before");
    leave(&bob, &room);
    set_state(
        &alice,
        &room,
        ("m.room.topic", ""),
        json!({ "topic": "new" }),
    );
    send_text(&alice, &room, "after");
    assert_eq!(
        bob.get(&room_path(&room, "state/m.room.topic")).1,
        json!({ "topic": "old" })
    );
    let (_, page) = bob.get(&room_path(&room, "messages?dir=b"));
    assert_eq!(message_bodies(&page["chunk"]), ["before"]);
    for tail in [
        "state",
        "members",
        "joined_members",
        "messages?dir=b",
        "state/m.room.topic",
    ] {
        expect_error(&carol.get(&room_path(&room, tail)), 403, "M_FORBIDDEN");
    }
    let (_, members) = alice.get(&room_path(&room, "members?membership=leave"));
    assert_eq!(members["chunk"][0]["state_key"], json!(bob.user_id));
    let (_, joined) = alice.get(&room_path(&room, "joined_members"));
    assert_eq!(
        joined["joined"].as_object().map(|joined| joined.len()),
        Some(1)
    );
}

#[test]
fn members_at_a_token_after_leaving_are_those_at_the_time_of_leaving() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|it| server.register(it));
    let room = create_room_with(&[&alice, &bob]);
    let before = sync(&bob, None);
    leave(&bob, &room);
    join(&carol, &room);
    send_text(&alice, &room, "later");
    let after = next_batch(&sync(&bob, None)).to_owned();
    let end = expect_ok(alice.get(&room_path(&room, "messages?dir=b")))["start"].clone();
    let end = end.as_str().expect("a token").to_owned();
    let members = |user: &TestUser<'_>, at: &str| {
        let path = room_path(&room, &format!("members?at={}", percent_encode(at)));
        let chunk = expect_ok(user.get(&path))["chunk"].take();
        let chunk = chunk.as_array().expect("members").iter();
        chunk
            .map(|it| {
                (
                    it["state_key"].to_string(),
                    it["content"]["membership"].to_string(),
                )
            })
            .collect::<BTreeMap<_, _>>()
    };
    for at in [&after, &end] {
        let seen = members(&bob, at);
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[&json!(bob.user_id).to_string()], "\"leave\"");
        assert_eq!(members(&alice, at).len(), 3);
    }
    let seen = members(&bob, next_batch(&before));
    assert_eq!(seen[&json!(bob.user_id).to_string()], "\"join\"");
}

#[test]
fn members_at_a_token_of_hidden_history_are_forbidden() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|it| server.register(it));
    let room = create_room_with(&[&alice, &carol]);
    let hidden = json!({ "history_visibility": "joined" });
    set_state(&alice, &room, ("m.room.history_visibility", ""), hidden);
    send_text(&alice, &room, "hidden");
    let at = next_batch(&sync(&alice, None)).to_owned();
    leave(&carol, &room);
    join(&bob, &room);
    let path = room_path(&room, &format!("members?at={}", percent_encode(&at)));
    expect_ok(alice.get(&path));
    expect_error(&bob.get(&path), 403, "M_FORBIDDEN");
}

#[test]
fn redaction_after_leaving_is_not_shown_to_the_former_member() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|it| server.register(it));
    let room = create_room_with(&[&alice, &bob]);
    let ids = [(); 2].map(|()| send_text(&alice, &room, "x"));
    let redact = |id: &str| {
        let path = room_path(&room, &format!("redact/{id}/1"));
        expect_ok(alice.put(&path, json!({ "reason": "secret" })));
    };
    redact(&ids[0]);
    leave(&bob, &room);
    redact(&ids[1]);
    let because = |user: &TestUser<'_>, id: &str| {
        let event = expect_ok(user.get(&room_path(&room, &format!("event/{id}"))));
        assert_eq!(event["content"], json!({}));
        event["unsigned"]["redacted_because"]["content"]["reason"].clone()
    };
    assert_eq!(because(&bob, &ids[0]), "secret");
    assert_eq!(because(&bob, &ids[1]), Value::Null);
    assert_eq!(because(&alice, &ids[1]), "secret");
    let page = expect_ok(bob.get(&room_path(&room, "messages?dir=b&limit=2")));
    // The leave event and the first redaction.
    assert_eq!(page["chunk"].as_array().map(Vec::len), Some(2), "{page}");
}

#[test]
fn context_returns_surrounding_events_and_pagination_tokens() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let ids: Vec<String> = (0..9)
        .map(|n| send_text(&alice, &room, &n.to_string()))
        .collect();
    let (status, context) = alice.get(&room_path(&room, &format!("context/{}?limit=4", ids[4])));
    assert_eq!(status, 200, "{context}");
    assert_eq!(context["event"]["event_id"], json!(ids[4]));
    assert_eq!(message_bodies(&context["events_before"]), ["3", "2"]);
    assert_eq!(message_bodies(&context["events_after"]), ["5", "6"]);
    let end = context["end"].as_str().expect("a token");
    let (_, page) = alice.get(&room_path(
        &room,
        &format!("messages?dir=f&limit=2&from={end}"),
    ));
    assert_eq!(message_bodies(&page["chunk"]), ["7", "8"]);
    let start = context["start"].as_str().expect("a token");
    let (_, page) = alice.get(&room_path(
        &room,
        &format!("messages?dir=b&limit=2&from={start}"),
    ));
    assert_eq!(message_bodies(&page["chunk"]), ["1", "0"]);
    assert!(
        context["state"]
            .as_array()
            .is_some_and(|state| state.len() > 4)
    );
}

#[test]
fn invalid_events_are_rejected() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let path = room_path(&room, "send/m.room.message/t1");
    expect_error(&alice.put(&path, json!({ "body": 1.5 })), 400, "M_BAD_JSON");
    expect_error(
        &alice.put(&path, json!({ "body": "x".repeat(65_000) })),
        413,
        "M_TOO_LARGE",
    );
    expect_error(
        &bob.put(&path, json!({ "body": "hello" })),
        403,
        "M_FORBIDDEN",
    );
    let unknown_room = room_path("!nowhere:localhost", "send/m.room.message/t1");
    expect_error(
        &alice.put(&unknown_room, json!({ "body": "hello" })),
        404,
        "M_NOT_FOUND",
    );
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[test]
fn json_nested_more_than_100_levels_is_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let user = &alice.user_id;
    let content = |depth| json!({ "nested": nested(depth) });
    for path in [
        room_path(&room, "send/m.room.message/deep"),
        room_path(&room, "state/org.example.deep/"),
        format!("/_matrix/client/v3/user/{user}/account_data/org.example.deep"),
        "/_matrix/client/v3/sendToDevice/org.example.deep/deep".to_owned(),
    ] {
        for depth in [100, 120] {
            expect_error(&alice.put(&path, content(depth)), 400, "M_BAD_JSON");
        }
    }
    let filter = json!({ "org.example.deep": nested(100) });
    let path = format!("/_matrix/client/v3/user/{user}/filter");
    expect_error(&alice.post(&path, filter), 400, "M_BAD_JSON");
    // An event has one level more than its content.
    for (depth, is_refused) in [(98, false), (99, true)] {
        let path = room_path(&room, &format!("send/m.room.message/{depth}"));
        let response = alice.put(&path, content(depth));
        if is_refused {
            expect_error(&response, 400, "M_BAD_JSON");
        } else {
            expect_ok(response);
        }
    }
    send_text(&alice, &room, "after");
}

/// The number of events of a page of `/messages`, and its `end`.
fn page(user: &TestUser<'_>, room: &str, query: &str) -> (usize, Option<String>) {
    let page = expect_ok(user.get(&room_path(room, &format!("messages?{query}"))));
    let events = page["chunk"].as_array().expect("a chunk").len();
    (events, page["end"].as_str().map(ToOwned::to_owned))
}

#[test]
fn messages_has_an_end_only_where_more_may_come() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    send_text(&alice, &room, "first");
    let (all, end) = page(&alice, &room, "dir=b&limit=100");
    assert_eq!(end, None);
    assert_eq!(
        page(&alice, &room, &format!("dir=b&limit={all}")),
        (all, None)
    );
    let (most, end) = page(&alice, &room, &format!("dir=b&limit={}", all - 1));
    let end = end.expect("the create event comes");
    assert_eq!(most, all - 1);
    let last = format!("dir=b&limit=100&from={end}");
    assert_eq!(page(&alice, &room, &last), (1, None));
    let filter = percent_encode(r#"{"types":["org.example.none"]}"#);
    assert_eq!(
        page(&alice, &room, &format!("dir=b&filter={filter}")),
        (0, None)
    );
    // Later messages come after the newest one.
    let (forward, end) = page(&alice, &room, "dir=f&limit=100");
    let next = format!("dir=f&from={}", end.expect("more may come"));
    assert_eq!((forward, page(&alice, &room, &next)), (all, (0, None)));
    send_text(&alice, &room, "second");
    assert_eq!(page(&alice, &room, &next).0, 1);
}
