//! Room creation and upgrade. Unit tests cover the state of the new rooms.

use std::collections::BTreeSet;

use http::Method;
use serde_json::json;

use crate::{
    client_api::{create_room, create_room_with, join, joined_rooms, percent_encode, room_path},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const CREATE: &str = "/_matrix/client/v3/createRoom";

#[test]
fn creator_has_joined_a_room_of_every_version_also_after_restart() {
    let mut server = TestServer::new();
    let alice = server.register("alice");
    let rooms: BTreeSet<String> = ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]
        .map(|version| create_room(&alice, json!({ "room_version": version })))
        .into();
    assert_eq!(rooms.len(), 10);
    assert_eq!(joined_rooms(&alice), rooms);
    let token = alice.token.clone();
    server.restart();
    assert_eq!(joined_rooms(&server.user_with_token(&token)), rooms);
}

#[test]
fn invalid_create_room_requests_are_rejected() {
    let server = TestServer::new();
    let (alice, _) = (server.register("alice"), server.register("bob"));
    create_room(&alice, json!({ "room_alias_name": "taken" }));
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
            json!({ "room_version": "2" }),
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
        expect_error(&alice.post(CREATE, body), status, errcode);
    }
    assert_eq!(joined_rooms(&alice).len(), 1);
}

#[test]
fn server_acl_that_denies_the_own_server_is_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    let path = room_path(&room, "state/m.room.server_acl");
    for content in [
        json!({}),
        json!({ "allow": [] }),
        json!({ "allow": ["*"], "deny": ["LOCAL*"] }),
        json!({ "allow": ["*.example", 1] }),
        json!({ "allow": "*" }),
    ] {
        expect_error(&alice.put(&path, content.clone()), 400, "M_INVALID_PARAM");
        let initial = json!({ "type": "m.room.server_acl", "content": content });
        let body = json!({ "initial_state": [initial] });
        let answer = alice.post("/_matrix/client/v3/createRoom", body);
        assert_eq!(answer.0, 400, "{answer:?}");
    }
    expect_ok(alice.put(&path, json!({ "allow": ["*"], "deny": [1, "there"] })));
    // With another state key it is no server ACL.
    expect_ok(alice.put(&format!("{path}/other"), json!({})));
}

#[test]
fn only_members_give_a_room_an_alias() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let alias = |name: &str| {
        let alias = percent_encode(&format!("#{name}:localhost"));
        format!("/_matrix/client/v3/directory/room/{alias}")
    };
    let body = json!({ "room_id": room });
    expect_error(&bob.put(&alias("theirs"), body.clone()), 403, "M_FORBIDDEN");
    expect_error(&bob.get(&alias("theirs")), 404, "M_NOT_FOUND");
    join(&bob, &room);
    expect_ok(bob.put(&alias("theirs"), body));
}

#[test]
fn invite_permission_config_blocks_invites() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        bob.user_id
    );
    let room = create_room_with(&[&alice]);
    let invite = || {
        let body = json!({ "user_id": bob.user_id });
        alice.post(&format!("/_matrix/client/v3/rooms/{room}/invite"), body)
    };
    assert_eq!(bob.put(&path, json!({ "default_action": "block" })).0, 200);
    expect_error(&invite(), 403, "M_INVITE_BLOCKED");
    let body = json!({ "invite": [bob.user_id] });
    expect_error(&alice.post(CREATE, body), 403, "M_INVITE_BLOCKED");
    assert_eq!(bob.put(&path, json!({})).0, 200);
    assert_eq!(invite().0, 200);
}

#[test]
fn concurrent_room_creations_all_succeed() {
    let server = TestServer::new();
    let users: Vec<_> = (0..5)
        .map(|n| server.register(&format!("user{n}")))
        .collect();
    let create = |user: &TestUser<'_>| {
        let token = user.token.clone();
        let server = &server;
        async move {
            let body = json!({ "name": "same name" });
            server.send(Method::POST, CREATE, Some(&token), &body).await
        }
    };
    let creations: Vec<_> = (0..4).flat_map(|_| users.iter().map(create)).collect();
    let responses: Vec<_> = server.run(server.join_all(creations));
    let rooms: BTreeSet<&str> = responses
        .iter()
        .map(|(status, response)| {
            assert_eq!(*status, 200, "{response}");
            response["room_id"].as_str().unwrap()
        })
        .collect();
    assert_eq!(rooms.len(), 20);
    for user in &users {
        assert_eq!(joined_rooms(user).len(), 4);
    }
}

#[test]
fn upgrade_requires_permission_and_moves_alias_and_directory_entry() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let old = create_room(
        &alice,
        json!({
            "preset": "public_chat", "room_version": "10", "room_alias_name": "pub",
            "visibility": "public", "name": "Pub",
        }),
    );
    let upgrade = |user: &TestUser<'_>, version: &str| {
        let path = format!("/_matrix/client/v3/rooms/{old}/upgrade");
        user.post(&path, json!({ "new_version": version }))
    };
    expect_error(
        &upgrade(&alice, "bananas"),
        400,
        "M_UNSUPPORTED_ROOM_VERSION",
    );
    expect_error(&upgrade(&bob, "12"), 403, "M_FORBIDDEN");
    let unknown = "/_matrix/client/v3/rooms/!nowhere:localhost/upgrade";
    expect_error(
        &alice.post(unknown, json!({ "new_version": "12" })),
        404,
        "M_NOT_FOUND",
    );
    let (status, response) = upgrade(&alice, "12");
    assert_eq!(status, 200, "{response}");
    let new = response["replacement_room"].as_str().expect("a room id");
    assert!(joined_rooms(&alice).contains(new));
    let (_, alias) = server.get("/_matrix/client/v3/directory/room/%23pub:localhost");
    assert_eq!(alias, json!({ "room_id": new, "servers": ["localhost"] }));
    let (_, listed) = server.get("/_matrix/client/v3/publicRooms");
    assert_eq!(listed["chunk"][0]["room_id"], new);
    assert_eq!(listed["chunk"][0]["name"], "Pub");
    assert_eq!(listed["chunk"].as_array().unwrap().len(), 1);
}
