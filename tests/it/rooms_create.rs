//! Making and replacing rooms as clients see it. What the rooms are like is tested beside the code.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::home::{Answer, Home, Person, refused};

const CREATE: &str = "/_matrix/client/v3/createRoom";

impl Person<'_> {
    /// Makes the room that `body` asks for.
    #[track_caller]
    pub fn create_room(&self, body: Value) -> String {
        let (status, answer) = self.post(CREATE, body);
        assert_eq!(status, 200, "{answer}");
        answer["room_id"].as_str().expect("a room id").to_owned()
    }

    /// A room that everybody may join.
    #[track_caller]
    pub fn public_room(&self) -> String {
        self.create_room(json!({ "preset": "public_chat" }))
    }

    /// The rooms that the person is in.
    #[track_caller]
    pub fn joined_rooms(&self) -> BTreeSet<String> {
        let (status, answer) = self.get("/_matrix/client/v3/joined_rooms");
        assert_eq!(status, 200, "{answer}");
        serde_json::from_value(answer["joined_rooms"].clone()).expect("room ids")
    }
}

#[test]
fn a_room_is_made_and_its_maker_is_in_it_even_after_a_restart() {
    let mut home = Home::new();
    let alice = home.register("alice");
    let rooms: BTreeSet<String> = ["6", "7", "8", "9", "10", "11", "12"]
        .map(|version| alice.create_room(json!({ "room_version": version })))
        .into();
    assert_eq!(rooms.len(), 7);
    assert_eq!(alice.joined_rooms(), rooms);
    let token = alice.token.clone();
    home.restart();
    let path = "/_matrix/client/v3/joined_rooms";
    let (_, answer) = home.run(home.send(Method::GET, path, Some(&token), &Value::Null));
    let joined: BTreeSet<String> = serde_json::from_value(answer["joined_rooms"].clone()).unwrap();
    assert_eq!(joined, rooms);
}

#[test]
fn a_room_that_cannot_be_is_refused_with_the_reason() {
    let home = Home::new();
    let (alice, _) = (home.register("alice"), home.register("bob"));
    alice.create_room(json!({ "room_alias_name": "taken" }));
    let threepid = json!({
        "id_server": "id.example", "id_access_token": "t",
        "medium": "email", "address": "bob@example.org",
    });
    for (body, status, errcode) in [
        (
            json!({ "room_version": "1" }),
            400,
            "M_UNSUPPORTED_ROOM_VERSION",
        ),
        (
            json!({ "room_version": "bananas" }),
            400,
            "M_UNSUPPORTED_ROOM_VERSION",
        ),
        (json!({ "room_alias_name": "taken" }), 400, "M_ROOM_IN_USE"),
        (json!({ "room_alias_name": "a b" }), 400, "M_INVALID_PARAM"),
        (json!({ "preset": "bananas" }), 400, "M_INVALID_PARAM"),
        (json!({ "visibility": "bananas" }), 400, "M_INVALID_PARAM"),
        (json!({ "invite": ["bananas"] }), 400, "M_BAD_JSON"),
        (json!({ "invite": "@bob:localhost" }), 400, "M_BAD_JSON"),
        (
            json!({ "invite": ["@nobody:localhost"] }),
            404,
            "M_NOT_FOUND",
        ),
        (
            json!({ "invite_3pid": [threepid] }),
            403,
            "M_THREEPID_DENIED",
        ),
        (
            json!({ "initial_state": [{ "type": "m.room.topic" }] }),
            400,
            "M_BAD_JSON",
        ),
        (
            json!({ "creation_content": { "n": 0.5 } }),
            400,
            "M_BAD_JSON",
        ),
        (
            json!({ "initial_state": [{ "type": "m.room.create", "content": {} }] }),
            400,
            "M_INVALID_ROOM_STATE",
        ),
        (json!({ "topic": "x".repeat(70_000) }), 413, "M_TOO_LARGE"),
    ] {
        refused(&alice.post(CREATE, body), status, errcode);
    }
    assert_eq!(alice.joined_rooms().len(), 1);
}

#[test]
fn whoever_wants_no_invites_is_not_invited() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        bob.user_id
    );
    let room = alice.public_room();
    let invite = || {
        let body = json!({ "user_id": bob.user_id });
        alice.post(&format!("/_matrix/client/v3/rooms/{room}/invite"), body)
    };
    assert_eq!(bob.put(&path, json!({ "default_action": "block" })).0, 200);
    refused(&invite(), 403, "M_INVITE_BLOCKED");
    let body = json!({ "invite": [bob.user_id] });
    refused(&alice.post(CREATE, body), 403, "M_INVITE_BLOCKED");
    assert_eq!(bob.put(&path, json!({})).0, 200);
    assert_eq!(invite().0, 200);
}

#[test]
fn many_rooms_made_at_once_are_all_made() {
    let home = Home::new();
    let people: Vec<_> = (0..5).map(|n| home.register(&format!("user{n}"))).collect();
    let create = |person: &Person<'_>| {
        let token = person.token.clone();
        let home = &home;
        async move {
            let body = json!({ "name": "the same for all" });
            home.send(Method::POST, CREATE, Some(&token), &body).await
        }
    };
    let twenty: Vec<_> = (0..4).flat_map(|_| people.iter().map(create)).collect();
    let answers: Vec<Answer> = home.run(home.all(twenty));
    let rooms: BTreeSet<&str> = answers
        .iter()
        .map(|(status, answer)| {
            assert_eq!(*status, 200, "{answer}");
            answer["room_id"].as_str().unwrap()
        })
        .collect();
    assert_eq!(rooms.len(), 20);
    for person in &people {
        assert_eq!(person.joined_rooms().len(), 4);
    }
}

#[test]
fn an_upgrade_takes_permission_and_a_known_version() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let old = alice.create_room(json!({
        "preset": "public_chat", "room_version": "10", "room_alias_name": "pub",
        "visibility": "public", "name": "Pub",
    }));
    let upgrade = |by: &Person<'_>, version: &str| {
        let path = format!("/_matrix/client/v3/rooms/{old}/upgrade");
        by.post(&path, json!({ "new_version": version }))
    };
    refused(
        &upgrade(&alice, "bananas"),
        400,
        "M_UNSUPPORTED_ROOM_VERSION",
    );
    refused(&upgrade(&bob, "12"), 403, "M_FORBIDDEN");
    let unknown = "/_matrix/client/v3/rooms/!nowhere:localhost/upgrade";
    refused(
        &alice.post(unknown, json!({ "new_version": "12" })),
        404,
        "M_NOT_FOUND",
    );
    let (status, answer) = upgrade(&alice, "12");
    assert_eq!(status, 200, "{answer}");
    let new = answer["replacement_room"].as_str().expect("a room id");
    assert!(alice.joined_rooms().contains(new));
    let (_, alias) = home.ask(
        Method::GET,
        "/_matrix/client/v3/directory/room/%23pub:localhost",
        Value::Null,
    );
    assert_eq!(alias, json!({ "room_id": new, "servers": ["localhost"] }));
    let (_, listed) = home.ask(Method::GET, "/_matrix/client/v3/publicRooms", Value::Null);
    assert_eq!(listed["chunk"][0]["room_id"], new);
    assert_eq!(listed["chunk"][0]["name"], "Pub");
    assert_eq!(listed["chunk"].as_array().unwrap().len(), 1);
}
