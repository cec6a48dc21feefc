//! `/sync` with lazy-loaded members.

use serde_json::{Value, json};

use crate::{
    client_api::{create_room, create_room_with, next_batch, send_text, set_state, sync_with},
    test_server::{TestServer, TestUser},
};

const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2}}}"#;
const REDUNDANT: &str = r#"{"room":{"state":{"lazy_load_members":true,
    "include_redundant_members":true},"timeline":{"limit":2}}}"#;

/// Syncs; returns the users whose member events are in the room's `state`, and the next token.
fn sync_members(
    user: &TestUser<'_>,
    room: &str,
    filter: &str,
    since: Option<&str>,
) -> (Vec<String>, String) {
    let mut parameters = vec![("filter", filter)];
    parameters.extend(since.map(|since| ("since", since)));
    let response = sync_with(user, &parameters);
    let state = &response["rooms"]["join"][room]["state"]["events"];
    let mut users: Vec<String> = state
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| event["state_key"].as_str().expect("a user").to_owned())
        .collect();
    users.sort();
    (users, next_batch(&response).to_owned())
}

#[test]
fn lazy_loading_returns_each_sender_once() {
    let mut server = TestServer::new();
    let users = ["alice", "bob", "carol", "dave"].map(|name| server.register(name));
    let [alice, bob, carol, dave] = &users;
    let room = create_room_with(&[alice, bob, carol, dave]);
    set_state(alice, &room, ("m.room.name", ""), json!({ "name": "Pub" }));
    send_text(bob, &room, "one");
    send_text(bob, &room, "two");
    let (first, since) = sync_members(alice, &room, LAZY, None);
    assert_eq!(first, [alice.user_id.as_str(), bob.user_id.as_str()]);
    send_text(bob, &room, "three");
    send_text(carol, &room, "four");
    let (second, later) = sync_members(alice, &room, LAZY, Some(&since));
    assert_eq!(second, [carol.user_id.as_str()], "bob was returned before");
    // A repeated token returns the same: the response may have been lost.
    let (again, _) = sync_members(alice, &room, LAZY, Some(&since));
    assert_eq!(again, [carol.user_id.as_str()]);
    let (none, unchanged) = sync_members(alice, &room, REDUNDANT, Some(&later));
    assert!(none.is_empty());
    send_text(bob, &room, "five");
    let (redundant, _) = sync_members(alice, &room, REDUNDANT, Some(&unchanged));
    assert_eq!(redundant, [bob.user_id.as_str()]);
    let (fresh, since) = sync_members(alice, &room, LAZY, None);
    assert_eq!(
        fresh,
        [&alice.user_id, &bob.user_id, &carol.user_id].map(String::as_str),
        "an initial sync returns everything again"
    );
    let (alice, bob) = (alice.token.clone(), bob.token.clone());
    server.restart();
    let (alice, bob) = (server.user_with_token(&alice), server.user_with_token(&bob));
    send_text(&bob, &room, "six");
    let (restarted, _) = sync_members(&alice, &room, LAZY, Some(&since));
    assert_eq!(
        restarted,
        [bob.user_id.as_str()],
        "returned again after a restart"
    );
}

#[test]
fn changed_member_is_returned_again() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    set_state(&alice, &room, ("m.room.name", ""), json!({ "name": "Pub" }));
    send_text(&bob, &room, "one");
    send_text(&bob, &room, "two");
    let (_, since) = sync_members(&alice, &room, LAZY, None);
    let member = json!({ "membership": "join", "displayname": "Bobby" });
    set_state(&bob, &room, ("m.room.member", &bob.user_id), member);
    send_text(&bob, &room, "three");
    send_text(&bob, &room, "four");
    let (changed, _) = sync_members(&alice, &room, LAZY, Some(&since));
    assert_eq!(changed, [bob.user_id.as_str()]);
}

#[test]
fn unnamed_room_returns_its_heroes() {
    let server = TestServer::new();
    let users = ["alice", "bob", "carol"].map(|name| server.register(name));
    let [alice, bob, carol] = &users;
    let room = create_room_with(&[alice, carol, bob]);
    for text in ["one", "two"] {
        send_text(alice, &room, text);
    }
    let response = sync_with(alice, &[("filter", LAZY)]);
    let heroes = &response["rooms"]["join"][&room]["summary"]["m.heroes"];
    assert_eq!(
        *heroes,
        json!([carol.user_id, bob.user_id]),
        "in the order of their joins"
    );
    let (returned, _) = sync_members(alice, &room, LAZY, None);
    assert_eq!(returned.len(), 3);
    let named = create_room(alice, json!({ "name": "" }));
    set_state(alice, &named, ("m.room.name", ""), json!({ "name": "" }));
    let response = sync_with(alice, &[]);
    let summary = &response["rooms"]["join"][&named]["summary"];
    assert_eq!(
        summary["m.heroes"],
        Value::Null,
        "there are no other members"
    );
}

#[test]
fn state_after_includes_the_targets_of_membership_events() {
    let server = TestServer::new();
    let users = ["alice", "bob", "carol"].map(|name| server.register(name));
    let [alice, bob, carol] = &users;
    let room = create_room_with(&[alice, bob, carol]);
    let since = next_batch(&sync_with(carol, &[("filter", LAZY)])).to_owned();
    let kick = format!("/_matrix/client/v3/rooms/{room}/kick");
    alice.post(&kick, json!({ "user_id": bob.user_id }));
    let parameters = [
        ("filter", LAZY),
        ("since", since.as_str()),
        ("use_state_after", "true"),
    ];
    let response = sync_with(carol, &parameters);
    let after = &response["rooms"]["join"][&room]["state_after"]["events"];
    let bobs = after
        .as_array()
        .expect("state")
        .iter()
        .find(|event| event["state_key"] == *bob.user_id);
    assert_eq!(
        bobs.map(|event| &event["content"]["membership"]),
        Some(&json!("leave"))
    );
}
