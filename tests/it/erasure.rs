//! Erased users: accounts that were deactivated with `erase`.

use http::Method;
use ruma::api::federation::event::get_event;
use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join, join_via, percent_encode, room_path, send_text,
        set_state, sync,
    },
    test_server::{TestServer, TestUser, expect_ok},
};

fn erase(user: &TestUser<'_>) {
    let path = "/_matrix/client/v3/account/deactivate";
    expect_ok(user.request_with_password(Method::POST, path, json!({ "erase": true })));
}

/// The body of the message `id` by `/event`, `/context`, `/messages` and `/sync`.
fn bodies(user: &TestUser<'_>, room: &str, id: &str) -> [Value; 4] {
    let get = |tail: &str| expect_ok(user.get(&room_path(room, tail)));
    let body_in = |events: &Value| {
        let mut events = events.as_array().expect("events").iter();
        let event = events.find(|event| event["event_id"] == id);
        event.expect("the event")["content"]["body"].clone()
    };
    let sync = sync(user, None);
    [
        get(&format!("event/{id}"))["content"]["body"].clone(),
        get(&format!("context/{id}"))["event"]["content"]["body"].clone(),
        body_in(&get("messages?dir=b&limit=50")["chunk"]),
        body_in(&sync["rooms"]["join"][room]["timeline"]["events"]),
    ]
}

#[test]
fn messages_of_an_erased_user_are_redacted_for_who_was_not_in_the_room_when_they_were_sent() {
    let server = TestServer::new();
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|it| server.register(it));
    let profile = format!("/_matrix/client/v3/profile/{}/displayname", bob.user_id);
    expect_ok(bob.put(&profile, json!({ "displayname": "Robert" })));
    let room = create_room_with(&[&alice, &bob]);
    let id = send_text(&bob, &room, "by bob");
    let other = send_text(&alice, &room, "by alice");
    join(&carol, &room);
    assert_eq!(bodies(&carol, &room, &id), [const { "by bob" }; 4]);
    erase(&bob);
    join(&dave, &room);
    assert_eq!(bodies(&alice, &room, &id), [const { "by bob" }; 4]);
    for late in [&carol, &dave] {
        assert_eq!(bodies(late, &room, &id), [const { Value::Null }; 4]);
        assert_eq!(bodies(late, &room, &other), [const { "by alice" }; 4]);
        let page = expect_ok(late.get(&room_path(&room, "messages?dir=b&limit=50")));
        assert!(!page.to_string().contains("Robert"), "{page}");
    }
}

#[test]
fn redactions_by_an_erased_user_lose_their_reason_for_who_was_not_in_the_room() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|it| server.register(it));
    let room = create_room_with(&[&alice, &bob]);
    let id = send_text(&bob, &room, "x");
    let path = room_path(&room, &format!("redact/{id}/1"));
    expect_ok(bob.put(&path, json!({ "reason": "I said too much" })));
    erase(&bob);
    join(&carol, &room);
    for (user, reason) in [(&alice, json!("I said too much")), (&carol, Value::Null)] {
        let event = expect_ok(user.get(&room_path(&room, &format!("event/{id}"))));
        let because = &event["unsigned"]["redacted_because"];
        assert_eq!(because["type"], "m.room.redaction");
        assert_eq!(because["content"]["reason"], reason);
    }
}

#[test]
fn state_that_a_room_needs_is_kept_when_its_sender_is_erased() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|it| server.register(it));
    let room = create_room_with(&[&alice, &bob]);
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    set_state(&alice, &room, ("m.room.encryption", ""), encryption.clone());
    set_state(&alice, &room, ("m.room.topic", ""), json!({ "topic": "x" }));
    erase(&alice);
    let carol = server.register("carol");
    join(&carol, &room);
    let get = |tail: &str| expect_ok(carol.get(&room_path(&room, tail)));
    assert_eq!(get("state/m.room.topic"), json!({ "topic": "x" }));
    let page = get("messages?dir=b&limit=50");
    let content_of = |kind: &str| {
        let mut events = page["chunk"].as_array().expect("events").iter();
        events.find(|it| it["type"] == kind).expect("the event")["content"].clone()
    };
    assert_eq!(content_of("m.room.encryption"), encryption);
    assert_eq!(content_of("m.room.topic"), json!({}));
}

#[test]
fn other_servers_get_events_of_an_erased_user_redacted() {
    let [here, there] = TestServer::federating();
    let (alice, bob, carol) = (
        here.register("alice"),
        here.register("bob"),
        there.register("carol"),
    );
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    join(&bob, &room);
    let id = send_text(&bob, &room, "by bob");
    send_text(&alice, &room, "by alice");
    erase(&bob);
    join_via(&carol, &room, &here);
    let page = expect_ok(carol.get(&room_path(&room, "messages?dir=b&limit=50")));
    let mut events = page["chunk"].as_array().expect("events").iter();
    let event = events.find(|event| event["event_id"] == *id);
    assert_eq!(event.expect("the event")["content"], json!({}));

    let request = get_event::v1::Request::new(id.try_into().expect("an event id"));
    let response = there.run(there.client().send(here.name(), request));
    let pdu = response.expect("the event").pdu;
    let pdu: Value = serde_json::from_str(pdu.get()).expect("JSON");
    assert_eq!(pdu["content"], json!({}));
}

#[test]
fn who_joins_later_gets_no_member_events_and_no_replaced_state_of_an_erased_user() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|it| server.register(it));
    let room = create_room_with(&[&bob, &alice]);
    let named = json!({ "membership": "join", "displayname": "Robert" });
    set_state(&bob, &room, ("m.room.member", &bob.user_id), named);
    set_state(
        &bob,
        &room,
        ("m.room.topic", ""),
        json!({ "topic": "old topic" }),
    );
    let then = send_text(&bob, &room, "x");
    set_state(
        &bob,
        &room,
        ("m.room.topic", ""),
        json!({ "topic": "topic" }),
    );
    let mallory = server.register("mallory");
    let ban = json!({ "user_id": mallory.user_id, "reason": "a reason" });
    expect_ok(bob.post(&room_path(&room, "ban"), ban));
    let id = send_text(&alice, &room, "y");
    erase(&bob);
    let dave = server.register("dave");
    join(&dave, &room);
    let lazy = percent_encode(r#"{"lazy_load_members":true}"#);
    let full = percent_encode(r#"{"room":{"timeline":{"limit":1}}}"#);
    let token = expect_ok(alice.get(&room_path(&room, &format!("context/{id}"))))["start"].clone();
    let token = percent_encode(token.as_str().expect("a token"));
    let answers = |user: &TestUser<'_>| {
        let get = |tail: &str| expect_ok(user.get(&room_path(&room, tail))).to_string();
        [
            get(&format!("context/{then}?limit=0")),
            get(&format!("context/{id}?filter={lazy}")),
            get(&format!("members?at={token}")),
            get("state"),
            get(&format!(
                "state/m.room.member/{}",
                percent_encode(&mallory.user_id)
            )),
            expect_ok(user.get(&format!("/_matrix/client/v3/sync?filter={full}"))).to_string(),
        ]
    };
    let all = answers(&alice).concat();
    let personal = ["Robert", "a reason", "old topic"];
    for text in personal {
        assert!(all.contains(text), "{text}");
    }
    for answer in answers(&dave) {
        for text in personal {
            assert!(!answer.contains(text), "{text} is in {answer}");
        }
    }
    let state = |tail: &str| expect_ok(dave.get(&room_path(&room, &format!("state/{tail}"))));
    assert_eq!(state("m.room.topic")["topic"], "topic");
    let banned = state(&format!(
        "m.room.member/{}",
        percent_encode(&mallory.user_id)
    ));
    assert_eq!(banned, json!({ "membership": "ban" }));
}
