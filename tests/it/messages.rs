//! Sending, and reading what was sent.

use http::Method;
use serde_json::{Value, json};

use crate::home::{Home, Person, refused};

/// A room of alice's that bob has joined.
fn room_of(alice: &Person<'_>, others: &[&Person<'_>]) -> String {
    let (status, made) = alice.post(
        "/_matrix/client/v3/createRoom",
        json!({ "preset": "public_chat" }),
    );
    assert_eq!(status, 200, "{made}");
    let room = made["room_id"].as_str().expect("a room id").to_owned();
    for other in others {
        assert_eq!(other.post(&path(&room, "join"), json!({})).0, 200);
    }
    room
}

fn path(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{room}/{rest}")
}

fn send(who: &Person<'_>, room: &str, body: &str, transaction: &str) -> String {
    let path = path(room, &format!("send/m.room.message/{transaction}"));
    let (status, sent) = who.put(&path, json!({ "msgtype": "m.text", "body": body }));
    assert_eq!(status, 200, "{sent}");
    sent["event_id"].as_str().expect("an event id").to_owned()
}

fn bodies(events: &Value) -> Vec<&str> {
    let events = events.as_array().expect("a list of events").iter();
    events
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}

#[test]
fn a_message_is_sent_once_however_often_its_transaction_comes_even_after_a_restart() {
    let mut home = Home::new();
    let (room, first, token) = {
        let alice = home.register("alice");
        let room = room_of(&alice, &[]);
        let first = send(&alice, &room, "hello", "t1");
        assert_eq!(send(&alice, &room, "hello", "t1"), first);
        assert_ne!(send(&alice, &room, "hello", "t2"), first);
        let other_device = home.log_in("alice");
        assert_ne!(send(&other_device, &room, "hello", "t1"), first);
        (room, first, alice.token.clone())
    };
    home.restart();
    let again = path(&room, "send/m.room.message/t1");
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let (status, sent) = home.run(home.send(Method::PUT, &again, Some(&token), &body));
    assert_eq!(
        (status, sent["event_id"].as_str()),
        (200, Some(first.as_str()))
    );
}

#[test]
fn paging_back_and_forth_meets_every_message_once_while_new_ones_come() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&alice, &[&bob]);
    let sent: Vec<String> = (0..25).map(|n| format!("message {n}")).collect();
    for (n, body) in sent.iter().enumerate() {
        send(&alice, &room, body, &n.to_string());
    }
    let (mut met, mut from, mut oldest) = (Vec::new(), String::new(), String::new());
    for round in 0.. {
        let (status, page) = bob.get(&path(&room, &format!("messages?dir=b&limit=7{from}")));
        assert_eq!(status, 200, "{page}");
        met.extend(bodies(&page["chunk"]).into_iter().map(ToOwned::to_owned));
        send(&bob, &room, "in between", &format!("between{round}"));
        let Some(end) = page["end"].as_str() else {
            break;
        };
        from = format!("&from={end}");
        oldest = end.to_owned();
    }
    met.reverse();
    assert_eq!(met, sent);
    let (mut met, mut from) = (Vec::new(), oldest);
    while !from.is_empty() {
        let (_, page) = bob.get(&path(&room, &format!("messages?dir=f&limit=4&from={from}")));
        met.extend(bodies(&page["chunk"]).into_iter().map(ToOwned::to_owned));
        from = page["end"].as_str().unwrap_or_default().to_owned();
    }
    met.retain(|body| body != "in between");
    assert_eq!(met, sent[sent.len() - met.len()..]);
    assert!(met.len() > 20, "the oldest point was near the beginning");
}

#[test]
fn a_redacted_message_is_empty_and_says_why() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&alice, &[&bob]);
    let id = send(&bob, &room, "oops", "t1");
    refused(
        &bob.put(
            &path(&room, &format!("redact/{}/t2", "$nothing")),
            json!({}),
        ),
        404,
        "M_NOT_FOUND",
    );
    let answer = alice.put(
        &path(&room, &format!("redact/{id}/t2")),
        json!({ "reason": "rude" }),
    );
    assert_eq!(answer.0, 200, "{answer:?}");
    let (status, event) = bob.get(&path(&room, &format!("event/{id}")));
    assert_eq!(status, 200);
    assert_eq!(event["content"], json!({}));
    let because = &event["unsigned"]["redacted_because"];
    assert_eq!(because["content"]["reason"], "rude");
    assert_eq!(because["content"]["redacts"], json!(id));
    assert_eq!(because["redacts"], json!(id));
    assert_eq!(because["sender"], json!(alice.user_id));
}

#[test]
fn only_the_device_that_sent_a_message_sees_its_transaction() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = room_of(&alice, &[]);
    let other_device = home.log_in("alice");
    let id = send(&alice, &room, "hello", "t1");
    let seen = |who: &Person<'_>| who.get(&path(&room, &format!("event/{id}"))).1;
    assert_eq!(seen(&alice)["unsigned"]["transaction_id"], "t1");
    assert_eq!(
        seen(&other_device)["unsigned"]["transaction_id"],
        Value::Null
    );
}

#[test]
fn state_is_put_and_read_back_with_what_it_replaced() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&alice, &[&bob]);
    for (topic, at) in [
        ("first", "state/m.room.topic"),
        ("second", "state/m.room.topic/"),
    ] {
        assert_eq!(
            alice.put(&path(&room, at), json!({ "topic": topic })).0,
            200
        );
    }
    let topic = bob.get(&path(&room, "state/m.room.topic"));
    assert_eq!(topic, (200, json!({ "topic": "second" })));
    let (_, event) = bob.get(&path(&room, "state/m.room.topic/?format=event"));
    assert_eq!(
        event["unsigned"]["prev_content"],
        json!({ "topic": "first" })
    );
    assert_eq!(event["room_id"], json!(room));
    refused(
        &bob.get(&path(&room, "state/m.room.topic/x")),
        404,
        "M_NOT_FOUND",
    );
    refused(
        &bob.put(&path(&room, "state/m.room.topic"), json!({})),
        403,
        "M_FORBIDDEN",
    );
}

#[test]
fn who_left_reads_the_room_as_it_was_then_and_strangers_read_nothing() {
    let home = Home::new();
    let (alice, bob, carol) = (
        home.register("alice"),
        home.register("bob"),
        home.register("carol"),
    );
    let room = room_of(&alice, &[&bob]);
    assert_eq!(
        alice
            .put(
                &path(&room, "state/m.room.topic"),
                json!({ "topic": "old" })
            )
            .0,
        200
    );
    send(&alice, &room, "before", "t1");
    bob.post(&path(&room, "leave"), json!({}));
    assert_eq!(
        alice
            .put(
                &path(&room, "state/m.room.topic"),
                json!({ "topic": "new" })
            )
            .0,
        200
    );
    send(&alice, &room, "after", "t2");
    assert_eq!(
        bob.get(&path(&room, "state/m.room.topic")).1,
        json!({ "topic": "old" })
    );
    let (_, page) = bob.get(&path(&room, "messages?dir=b"));
    assert_eq!(bodies(&page["chunk"]), ["before"]);
    for rest in [
        "state",
        "members",
        "joined_members",
        "messages?dir=b",
        "state/m.room.topic",
    ] {
        refused(&carol.get(&path(&room, rest)), 403, "M_FORBIDDEN");
    }
    let (_, members) = alice.get(&path(&room, "members?membership=leave"));
    assert_eq!(members["chunk"][0]["state_key"], json!(bob.user_id));
    let (_, joined) = alice.get(&path(&room, "joined_members"));
    assert_eq!(
        joined["joined"].as_object().map(|joined| joined.len()),
        Some(1)
    );
}

#[test]
fn the_context_of_a_message_is_what_stands_around_it() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = room_of(&alice, &[]);
    let ids: Vec<String> = (0..9)
        .map(|n| send(&alice, &room, &n.to_string(), &n.to_string()))
        .collect();
    let (status, context) = alice.get(&path(&room, &format!("context/{}?limit=4", ids[4])));
    assert_eq!(status, 200, "{context}");
    assert_eq!(context["event"]["event_id"], json!(ids[4]));
    assert_eq!(bodies(&context["events_before"]), ["3", "2"]);
    assert_eq!(bodies(&context["events_after"]), ["5", "6"]);
    let end = context["end"].as_str().expect("a token");
    let (_, page) = alice.get(&path(&room, &format!("messages?dir=f&limit=2&from={end}")));
    assert_eq!(bodies(&page["chunk"]), ["7", "8"]);
    let start = context["start"].as_str().expect("a token");
    let (_, page) = alice.get(&path(
        &room,
        &format!("messages?dir=b&limit=2&from={start}"),
    ));
    assert_eq!(bodies(&page["chunk"]), ["1", "0"]);
    assert!(
        context["state"]
            .as_array()
            .is_some_and(|state| state.len() > 4)
    );
}

#[test]
fn what_is_no_event_is_refused_with_the_reason() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&alice, &[]);
    let at = path(&room, "send/m.room.message/t1");
    refused(&alice.put(&at, json!({ "body": 1.5 })), 400, "M_BAD_JSON");
    refused(
        &alice.put(&at, json!({ "body": "x".repeat(65_000) })),
        413,
        "M_TOO_LARGE",
    );
    refused(
        &bob.put(&at, json!({ "body": "hello" })),
        403,
        "M_FORBIDDEN",
    );
    let nowhere = path("!nowhere:localhost", "send/m.room.message/t1");
    refused(
        &alice.put(&nowhere, json!({ "body": "hello" })),
        404,
        "M_NOT_FOUND",
    );
}
