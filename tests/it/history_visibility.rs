//! What users and other servers see of a room's history (client-server API, "Room History Visibility").

use http::Method;
use ruma::{
    EventId,
    api::federation::{backfill::get_backfill, event::get_event},
    uint,
};
use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, join, join_via, leave, message_bodies, percent_encode,
        room_path, send_receipt, send_text, set_state, sync,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const VISIBILITIES: [&str; 4] = ["world_readable", "shared", "invited", "joined"];

/// A room for invited users.
fn create(user: &TestUser<'_>, visibility: &str) -> String {
    let content = json!({ "history_visibility": visibility });
    let event = json!({ "type": "m.room.history_visibility", "content": content });
    let body = json!({ "preset": "private_chat", "initial_state": [event] });
    create_room(user, body)
}

fn invite(user: &TestUser<'_>, room: &str, whom: &TestUser<'_>) {
    let body = json!({ "user_id": whom.user_id });
    expect_ok(change_membership(user, room, "invite", body));
}

fn event_path(room: &str, id: &str) -> String {
    room_path(room, &format!("event/{}", percent_encode(id)))
}

#[test]
fn a_receipt_does_not_tell_whether_an_event_exists_that_the_user_may_not_see() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create(&alice, "joined");
    let before = send_text(&alice, &room, "before");
    invite(&alice, &room, &bob);
    join(&bob, &room);
    let after = send_text(&alice, &room, "after");
    let made_up = format!("${}", "A".repeat(43));
    let receipts = |user: &TestUser<'_>| {
        let response = sync(user, None);
        let events = &response["rooms"]["join"][&room]["ephemeral"]["events"];
        events.clone()
    };
    for kind in ["m.read", "m.read.private", "m.fully_read"] {
        let receipt = |event: &str| send_receipt(&bob, &room, (kind, event), json!({}));
        match kind {
            "m.fully_read" => expect_error(&receipt(&before), 404, "M_NOT_FOUND"),
            _ => drop(expect_ok(receipt(&before))),
        }
        assert_eq!(receipt(&before), receipt(&made_up));
    }
    assert_eq!(receipts(&bob), Value::Null);
    for kind in ["m.read", "m.read.private", "m.fully_read"] {
        expect_ok(send_receipt(&bob, &room, (kind, &after), json!({})));
    }
    assert!(receipts(&alice)[0]["content"][&after]["m.read"].is_object());
}

/// The bodies that `user` gets by `/messages`; [`None`] if the room is refused.
fn page(user: &TestUser<'_>, room: &str) -> Option<Vec<String>> {
    let (status, page) = user.get(&room_path(room, "messages?dir=f&limit=100"));
    let bodies = message_bodies(&page["chunk"]).into_iter();
    (status == 200).then(|| bodies.map(str::to_owned).collect())
}

#[test]
fn users_see_the_messages_that_the_history_visibility_allows() {
    for visibility in VISIBILITIES {
        let server = TestServer::new();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
        let room = create(&alice, visibility);
        let mut sent = Vec::new();
        let mut send = |body| sent.push((body, send_text(&alice, &room, body)));
        send("before");
        invite(&alice, &room, &bob);
        send("invited");
        let seen_before: &[&str] = match visibility {
            "world_readable" => &["before", "invited"],
            "invited" => &["invited"],
            _ => &[],
        };
        assert_eq!(page(&bob, &room).unwrap(), seen_before, "{visibility}");
        join(&bob, &room);
        send("joined");
        let seen: &[&str] = match visibility {
            "world_readable" | "shared" => &["before", "invited", "joined"],
            "invited" => &["invited", "joined"],
            _ => &["joined"],
        };
        assert_eq!(page(&bob, &room).unwrap(), seen, "{visibility}");
        let synced = sync(&bob, None);
        let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
        assert_eq!(message_bodies(timeline), seen, "{visibility}");
        leave(&bob, &room);
        send("left");
        let seen_later = match visibility {
            "world_readable" => [seen, &["left"]].concat(),
            _ => seen.to_vec(),
        };
        assert_eq!(page(&bob, &room).unwrap(), seen_later, "{visibility}");
        for (body, id) in &sent {
            let (event, context) = (
                bob.get(&event_path(&room, id)),
                bob.get(&room_path(
                    &room,
                    &format!("context/{}", percent_encode(id)),
                )),
            );
            match seen_later.contains(body) {
                true => {
                    assert_eq!(expect_ok(event)["content"]["body"], *body);
                    let context = expect_ok(context);
                    assert_eq!(context["event"]["content"]["body"], *body);
                }
                false => {
                    expect_error(&event, 404, "M_NOT_FOUND");
                    expect_error(&context, 404, "M_NOT_FOUND");
                }
            }
        }
        // Who never was in the room.
        let all = sent.iter().map(|(body, _)| (*body).to_owned()).collect();
        let readable = visibility == "world_readable";
        assert_eq!(page(&carol, &room), readable.then_some(all), "{visibility}");
    }
}

#[test]
fn each_message_has_the_visibility_of_its_time() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    let room = create(&alice, "shared");
    send_text(&alice, &room, "shared");
    for visibility in ["joined", "shared", "invited"] {
        let kind = ("m.room.history_visibility", "");
        let content = json!({ "history_visibility": visibility });
        set_state(&alice, &room, kind, content);
        send_text(&alice, &room, &format!("then {visibility}"));
    }
    invite(&alice, &room, &bob);
    join(&bob, &room);
    assert_eq!(page(&bob, &room).unwrap(), ["shared", "then shared"]);
}

#[test]
fn state_events_of_others_are_hidden_like_their_messages() {
    for (visibility, is_seen) in [("shared", true), ("invited", false), ("joined", false)] {
        let server = TestServer::new();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
        let room = create(&alice, visibility);
        invite(&alice, &room, &carol);
        join(&carol, &room);
        set_state(&alice, &room, ("m.room.topic", ""), json!({ "topic": "x" }));
        invite(&alice, &room, &bob);
        join(&bob, &room);
        let page = expect_ok(bob.get(&room_path(&room, "messages?dir=f&limit=100")));
        let events = page["chunk"].as_array().expect("events").iter();
        let keys: Vec<_> = events
            .map(|event| (&event["type"], &event["state_key"]))
            .collect();
        for key in [("m.room.member", &*carol.user_id), ("m.room.topic", "")] {
            let key = (&json!(key.0), &json!(key.1));
            assert_eq!(keys.contains(&key), is_seen, "{visibility} {key:?}");
        }
        let own = (&json!("m.room.member"), &json!(bob.user_id));
        assert!(keys.contains(&own));
    }
}

#[test]
fn a_forgotten_room_is_not_readable() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    for visibility in ["world_readable", "shared"] {
        let room = create(&alice, visibility);
        invite(&alice, &room, &bob);
        join(&bob, &room);
        send_text(&alice, &room, "hello");
        leave(&bob, &room);
        assert_eq!(page(&bob, &room).unwrap(), ["hello"]);
        expect_ok(change_membership(&bob, &room, "forget", json!({})));
        assert_eq!(page(&bob, &room), None);
    }
}

#[test]
fn an_invitation_that_was_rejected_shows_only_what_was_sent_meanwhile() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    let room = create(&alice, "invited");
    invite(&alice, &room, &bob);
    send_text(&alice, &room, "invited");
    leave(&bob, &room);
    send_text(&alice, &room, "rejected");
    invite(&alice, &room, &bob);
    join(&bob, &room);
    assert_eq!(page(&bob, &room).unwrap(), ["invited"]);
}

#[test]
fn other_servers_get_events_that_their_users_may_not_see_redacted() {
    for visibility in VISIBILITIES {
        let [here, there] = TestServer::federating();
        let [alice, carol] = ["alice", "carol"].map(|name| here.register(name));
        let bob = there.register("bob");
        let room = create(&alice, visibility);
        invite(&alice, &room, &carol);
        join(&carol, &room);
        let mut sent = Vec::new();
        let mut send = |body| sent.push((body, send_text(&alice, &room, body)));
        send("before");
        invite(&alice, &room, &bob);
        send("invited");
        join_via(&bob, &room, &here);
        send("joined");
        let seen: &[&str] = match visibility {
            "world_readable" | "shared" => &["before", "invited", "joined"],
            "invited" => &["invited", "joined"],
            _ => &["joined"],
        };
        let last = sent[2].1.clone();
        for (body, id) in sent {
            let id = EventId::parse(id).expect("an event id");
            let request = get_event::v1::Request::new(id);
            let response = there.run(there.client().send(here.name(), request));
            let event: Value = serde_json::from_str(response.expect("the event").pdu.get())
                .expect("an event is JSON");
            let expected = seen.contains(&body).then_some(body);
            assert_eq!(event["content"]["body"].as_str(), expected, "{visibility}");
        }
        let mut request = get_backfill::v1::Request::new(
            room.as_str().try_into().expect("a room id"),
            vec![EventId::parse(last).expect("an event id")],
            uint!(50),
        );
        request.limit = uint!(50);
        let response = there.run(there.client().send(here.name(), request));
        let pdus = response.expect("events").pdus;
        let events: Vec<Value> = pdus
            .iter()
            .map(|pdu| serde_json::from_str(pdu.get()).expect("an event is JSON"))
            .collect();
        let of_type = |kind: &str| -> Vec<&Value> {
            events
                .iter()
                .filter(|event| event["type"] == kind)
                .collect()
        };
        let mut bodies: Vec<_> = of_type("m.room.message")
            .iter()
            .filter_map(|event| event["content"]["body"].as_str())
            .collect();
        bodies.reverse();
        assert_eq!(bodies, seen, "{visibility}");
        // A server sees the joins of its own users. A redacted one has no display name.
        let members = of_type("m.room.member");
        for user in [&bob, &carol] {
            let mut joins = members.iter().filter(|event| {
                event["state_key"] == user.user_id && event["content"]["membership"] == "join"
            });
            let join = joins.next().expect("the user has joined");
            let is_seen =
                user.user_id == bob.user_id || ["world_readable", "shared"].contains(&visibility);
            let has_name = join["content"]["displayname"].is_string();
            assert_eq!(has_name, is_seen, "{visibility} {join}");
        }
    }
}

#[test]
fn a_server_of_which_nobody_is_in_the_room_gets_no_event() {
    let [here, there] = TestServer::federating();
    let alice = here.register("alice");
    let room = create(&alice, "world_readable");
    let id = send_text(&alice, &room, "hello");
    let id = EventId::parse(id).expect("an event id");
    let request = get_event::v1::Request::new(id);
    let response = there.run(there.client().send(here.name(), request));
    let status = match response {
        Err(hearth::federation::Error::Status(status, _)) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(status, http::StatusCode::FORBIDDEN);
}

#[test]
fn a_page_ends_where_the_request_says() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    let mut tokens = Vec::new();
    for number in 0..6 {
        send_text(&alice, &room, &number.to_string());
        let page = room_path(&room, "messages?dir=b&limit=1");
        let page = expect_ok(alice.request(Method::GET, &page, Value::Null));
        // Before the message.
        tokens.push(page["end"].as_str().expect("a token").to_owned());
    }
    let bodies = |query: String| {
        let page = expect_ok(alice.get(&room_path(&room, &format!("messages?{query}"))));
        message_bodies(&page["chunk"]).join("")
    };
    let (early, late) = (&tokens[1], &tokens[4]);
    assert_eq!(
        bodies(format!("dir=f&limit=50&from={early}&to={late}")),
        "123"
    );
    assert_eq!(
        bodies(format!("dir=b&limit=50&from={late}&to={early}")),
        "321"
    );
}
