//! `hearth why`: the story of a join, of a notification, and of an event for another server.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smol::Timer;

use crate::{
    client_api::{create_room, create_room_with, join_via, percent_encode, room_path, send_text},
    test_server::{TestServer, expect_error, expect_ok},
};

fn why(server: &TestServer, what: &str, request: Value) -> Vec<String> {
    let response = expect_ok(server.administer(&format!("why/{what}"), &request));
    let story = response["story"].as_array().expect("a story").iter();
    story
        .map(|sentence| sentence.as_str().expect("a text").to_owned())
        .collect()
}

#[track_caller]
fn says(story: &[String], part: &str) {
    let has_part = |sentence: &String| sentence.contains(part);
    assert!(story.iter().any(has_part), "{part:?} is not in {story:#?}");
}

#[test]
fn a_join_is_refused_because_of_a_ban_the_join_rule_a_block_or_an_account() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({ "preset": "private_chat" }));
    let join = |user: &str| why(&server, "join", json!({ "user": user, "room": room }));
    let story = join("bob");
    says(&story, "@bob:localhost never was in the room");
    says(&story, "only those join who are invited");
    let invite = json!({ "user_id": bob.user_id });
    expect_ok(alice.post(&room_path(&room, "invite"), invite));
    says(&join("bob"), "Yes: @bob:localhost is invited");
    let ban = json!({ "user_id": bob.user_id, "reason": "he sings" });
    expect_ok(alice.post(&room_path(&room, "ban"), ban));
    says(
        &join("bob"),
        "No: @bob:localhost is banned (the reason given: he sings)",
    );
    says(&join("alice"), "@alice:localhost is in the room");
    expect_ok(server.administer("room/block", &json!({ "room": room })));
    says(&join("bob"), "has blocked");
    expect_ok(server.administer("user/lock", &json!({ "user": "bob", "is_set": true })));
    says(&join("bob"), "is locked");
    let unknown = why(
        &server,
        "join",
        json!({ "user": "bob", "room": "!x:elsewhere.example" }),
    );
    says(&unknown, "This server is not in the room");
    says(&unknown, "`federation` does not allow elsewhere.example");
    let nobody = server.administer("why/join", &json!({ "user": "carol", "room": room }));
    expect_error(&nobody, 404, "M_NOT_FOUND");
}

#[test]
fn a_join_that_was_refused_here_or_by_another_server_has_its_reason() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({ "preset": "private_chat" }));
    let join = json!({ "user": "bob", "room": room });
    let before = why(&server, "join", join.clone());
    assert!(
        !before.iter().any(|sentence| sentence.contains("last try")),
        "{before:?}"
    );
    expect_error(
        &bob.post(&room_path(&room, "join"), json!({})),
        403,
        "M_FORBIDDEN",
    );
    let story = why(&server, "join", join.clone());
    says(&story, "The last try failed 0s ago: ");
    says(&story, "invited");
    let invite = json!({ "user_id": bob.user_id });
    expect_ok(alice.post(&room_path(&room, "invite"), invite));
    expect_ok(bob.post(&room_path(&room, "join"), json!({})));
    let after = why(&server, "join", join);
    assert!(
        !after.iter().any(|sentence| sentence.contains("last try")),
        "{after:?}"
    );

    let [here, there] = TestServer::federating();
    let (carol, dave) = (here.register("carol"), there.register("dave"));
    let room = create_room(&carol, json!({ "preset": "private_chat" }));
    let path = format!(
        "/_matrix/client/v3/join/{}?via={}",
        percent_encode(&room),
        percent_encode(here.name().as_str())
    );
    expect_error(&dave.post(&path, json!({})), 403, "M_FORBIDDEN");
    let story = why(&there, "join", json!({ "user": "dave", "room": room }));
    says(
        &story,
        "The last try failed 0s ago: the other server says: ",
    );
}

#[test]
fn a_restricted_room_names_the_rooms_that_let_in() {
    let server = TestServer::new();
    let (alice, _bob) = (server.register("alice"), server.register("bob"));
    let space = create_room(&alice, json!({}));
    let rules = json!({ "type": "m.room.join_rules", "state_key": "", "content": {
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    } });
    let room = create_room(&alice, json!({ "initial_state": [rules] }));
    let story = why(&server, "join", json!({ "user": "bob", "room": room }));
    says(&story, "in one of these rooms");
    says(&story, &format!("{space}: the user is not in it"));
}

#[test]
fn a_notification_is_missing_because_of_its_sender_a_rule_the_app_or_the_event() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let event = send_text(&alice, &room, "hello");
    let push =
        |user: &str, event: &str| why(&server, "push", json!({ "user": user, "event": event }));
    says(
        &push("alice", &event),
        "nobody is notified of their own events",
    );
    let story = push("bob", &event);
    says(
        &story,
        "By the push rules that the user has now, it notifies.",
    );
    says(&story, "No app of the user asks for push notifications");
    let receipt = format!("receipt/m.read/{}", percent_encode(&event));
    expect_ok(bob.post(&room_path(&room, &receipt), json!({})));
    says(&push("bob", &event), "It is read by now");
    let rule = format!(
        "/_matrix/client/v3/pushrules/global/room/{}",
        percent_encode(&room)
    );
    expect_ok(bob.put(&rule, json!({ "actions": [] })));
    says(&push("bob", &event), "it does not notify");
    says(
        &push("bob", "$nothing:example.org"),
        "does not have the event",
    );
    let _carol = server.register("carol");
    says(
        &push("carol", &event),
        "No: @carol:localhost is not in the room",
    );
}

/// Waits until the story has `part`.
#[track_caller]
fn comes_to_say(server: &TestServer, request: &Value, part: &str) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let story = why(server, "send", request.clone());
        if story.iter().any(|sentence| sentence.contains(part)) {
            return story;
        }
        assert!(Instant::now() < deadline, "{part:?} never is in {story:#?}");
        server.run(Timer::after(Duration::from_millis(5)));
    }
}

#[test]
fn an_event_is_not_sent_to_a_server_that_is_not_in_the_room_or_does_not_answer() {
    let [here, mut there] = TestServer::federating();
    let alice = here.register("alice");
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let name = there.name().to_string();
    let request = |event: &str| json!({ "event": event, "server": name });
    let early = send_text(&alice, &room, "nobody else is here");
    says(
        &why(&here, "send", request(&early)),
        "has no user in the room now",
    );
    let theirs = {
        let bob = there.register("bob");
        join_via(&bob, &room, &here);
        send_text(&bob, &room, "hello")
    };
    let event = send_text(&alice, &room, "hello");
    let story = comes_to_say(&here, &request(&event), "Yes: ");
    says(&story, "has users in the room now");
    comes_to_say(&here, &request(&theirs), "sends its own events");
    there.stop();
    let event = send_text(&alice, &room, "are you there?");
    let story = comes_to_say(&here, &request(&event), "Not yet: it waits for");
    says(&story, "It last took a transaction");
    comes_to_say(&here, &request(&event), "hearth federation retry");
}
