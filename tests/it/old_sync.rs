//! The deprecated endpoints that `/sync` replaced.

use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, leave, message_bodies, next_batch,
        percent_encode, send_text, sync,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

fn events(user: &TestUser<'_>, query: &str) -> Value {
    expect_ok(user.get(&format!("/_matrix/client/v3/events?{query}")))
}

#[test]
fn events_come_in_order_with_their_rooms_and_once() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (one, two) = (
        create_room_with(&[&alice, &bob]),
        create_room_with(&[&alice, &bob]),
    );
    let now = events(&alice, "timeout=0");
    assert!(message_bodies(&now["chunk"]).is_empty() && now["start"].is_string());
    let sent = [(&one, "first"), (&two, "second"), (&one, "third")];
    for (room, body) in sent {
        send_text(&bob, room, body);
        server.clock.advance(std::time::Duration::from_millis(5));
    }
    let from = percent_encode(now["end"].as_str().unwrap());
    let response = events(&alice, &format!("from={from}&timeout=60000"));
    assert_eq!(response["start"], now["end"]);
    assert_eq!(
        message_bodies(&response["chunk"]),
        ["first", "second", "third"]
    );
    let chunk = response["chunk"].as_array().unwrap();
    let rooms = chunk
        .iter()
        .filter(|event| event["type"] == "m.room.message");
    let rooms: Vec<_> = rooms
        .map(|event| event["room_id"].as_str().unwrap())
        .collect();
    assert_eq!(rooms, [&one, &two, &one]);
    let in_one = events(
        &alice,
        &format!("from={from}&room_id={}", percent_encode(&one)),
    );
    assert_eq!(message_bodies(&in_one["chunk"]), ["first", "third"]);
    let end = percent_encode(response["end"].as_str().unwrap());
    assert_eq!(
        message_bodies(&events(&alice, &format!("from={end}"))["chunk"]),
        [""; 0]
    );
    let wrong = alice.get("/_matrix/client/v3/events?from=nonsense");
    assert_eq!(wrong.0, 400, "{}", wrong.1);
    let private = create_room(&bob, json!({}));
    let path = format!(
        "/_matrix/client/v3/events?room_id={}",
        percent_encode(&private)
    );
    expect_error(&alice.get(&path), 403, "M_FORBIDDEN");
}

#[test]
fn events_has_as_many_events_of_a_room_as_a_sync_can_have() {
    let server = TestServer::with("registration = \"open\"\nrate_limits = false");
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let now = events(&alice, "timeout=0");
    let sent: Vec<String> = (0..60).map(|number| format!("message {number}")).collect();
    for body in &sent {
        send_text(&alice, &room, body);
    }
    let from = percent_encode(now["end"].as_str().unwrap());
    let response = events(&alice, &format!("from={from}"));
    let mut received = message_bodies(&response["chunk"]);
    received.sort_by_key(|body| sent.iter().position(|it| it == body));
    assert_eq!(received, sent);
}

#[test]
fn events_waits_for_an_event() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let since = sync(&alice, None);
    let path = format!(
        "/_matrix/client/v3/events?timeout=60000&from={}",
        percent_encode(next_batch(&since))
    );
    let send = async {
        let path = crate::client_api::room_path(&room, "send/m.room.message/1");
        let body = json!({ "msgtype": "m.text", "body": "now" });
        server
            .send(http::Method::PUT, &path, Some(&bob.token), &body)
            .await
    };
    let wait = server.send(http::Method::GET, &path, Some(&alice.token), &Value::Null);
    let (response, sent) = server.run(smol::future::zip(wait, send));
    expect_ok(sent);
    assert_eq!(message_bodies(&expect_ok(response)["chunk"]), ["now"]);
}

#[test]
fn an_event_is_found_by_its_id_by_who_may_see_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let event = send_text(&alice, &room, "hello");
    let path = format!("/_matrix/client/v3/events/{}", percent_encode(&event));
    let found = expect_ok(alice.get(&path));
    assert_eq!(
        (&found["room_id"], &found["content"]["body"]),
        (&json!(room), &json!("hello"))
    );
    expect_error(&bob.get(&path), 404, "M_NOT_FOUND");
    expect_error(
        &alice.get("/_matrix/client/v3/events/$none"),
        404,
        "M_NOT_FOUND",
    );
}

#[test]
fn initial_sync_has_the_rooms_of_the_user_with_state_and_messages() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let joined = create_room(
        &alice,
        json!({ "preset": "public_chat", "visibility": "public" }),
    );
    for number in 0..5 {
        send_text(&alice, &joined, &format!("message {number}"));
    }
    let left = create_room_with(&[&alice]);
    leave(&alice, &left);
    let invited = create_room(&bob, json!({}));
    let target = json!({ "user_id": alice.user_id });
    expect_ok(change_membership(&bob, &invited, "invite", target));
    let initial =
        |query: &str| expect_ok(alice.get(&format!("/_matrix/client/v3/initialSync?{query}")));
    let response = initial("limit=2");
    let find = |response: &Value, id: &str| {
        let rooms = response["rooms"].as_array().unwrap().iter();
        rooms.clone().find(|room| room["room_id"] == id).cloned()
    };
    let room = find(&response, &joined).unwrap();
    assert_eq!(
        (&room["membership"], &room["visibility"]),
        (&json!("join"), &json!("public"))
    );
    assert_eq!(
        message_bodies(&room["messages"]["chunk"]),
        ["message 3", "message 4"]
    );
    assert!(room["messages"]["start"].is_string());
    let state = room["state"].as_array().unwrap();
    let is_create = |event: &&Value| event["type"] == "m.room.create";
    assert_eq!(state.iter().find(is_create).unwrap()["room_id"], joined);
    let room = find(&response, &invited).unwrap();
    assert_eq!(room["membership"], "invite");
    assert_eq!(room["invite"]["content"]["membership"], "invite");
    assert!(find(&response, &left).is_none());
    assert_eq!(
        find(&initial("archived=true"), &left).unwrap()["membership"],
        "leave"
    );
    assert!(response["presence"].is_array() && response["account_data"].is_array());
    send_text(&alice, &joined, "later");
    let from = percent_encode(response["end"].as_str().unwrap());
    assert_eq!(
        message_bodies(&events(&alice, &format!("from={from}"))["chunk"]),
        ["later"]
    );
}
