//! Room aliases and the directory of published rooms.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, create_room_with, join},
    test_server::{TestServer, expect_error, expect_ok},
};

const PUBLIC_ROOMS: &str = "/_matrix/client/v3/publicRooms";

fn alias_path(name: &str) -> String {
    format!("/_matrix/client/v3/directory/room/%23{name}:localhost")
}

#[test]
fn alias_is_created_resolved_and_deleted() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let path = alias_path("pub");
    let body = json!({ "room_id": room });
    expect_error(&bob.put(&path, body.clone()), 403, "M_FORBIDDEN");
    assert_eq!(alice.put(&path, body.clone()), (200, json!({})));
    expect_error(&alice.put(&path, body.clone()), 409, "M_UNKNOWN");
    let found = server.get(&path);
    assert_eq!(
        found,
        (200, json!({ "room_id": room, "servers": ["localhost"] }))
    );
    let aliases = format!("/_matrix/client/v3/rooms/{room}/aliases");
    assert_eq!(
        alice.get(&aliases),
        (200, json!({ "aliases": ["#pub:localhost"] }))
    );
    expect_error(&bob.get(&aliases), 403, "M_FORBIDDEN");
    expect_error(&bob.delete(&path, Value::Null), 403, "M_FORBIDDEN");
    assert_eq!(alice.delete(&path, Value::Null), (200, json!({})));
    expect_error(&alice.delete(&path, Value::Null), 404, "M_NOT_FOUND");
    expect_error(&server.get(&path), 404, "M_NOT_FOUND");
    let remote = "/_matrix/client/v3/directory/room/%23pub:elsewhere.example";
    expect_error(&alice.put(remote, body), 400, "M_INVALID_PARAM");
    expect_error(&server.get(remote), 404, "M_NOT_FOUND");
    let unknown = json!({ "room_id": "!nowhere:localhost" });
    expect_error(&alice.put(&path, unknown), 404, "M_NOT_FOUND");
}

#[test]
fn aliases_of_a_world_readable_room_are_public() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let history = json!({
        "type": "m.room.history_visibility",
        "content": { "history_visibility": "world_readable" },
    });
    let body = json!({ "room_alias_name": "pub", "initial_state": [history] });
    let room = create_room(&alice, body);
    let aliases = bob.get(&format!("/_matrix/client/v3/rooms/{room}/aliases"));
    assert_eq!(aliases, (200, json!({ "aliases": ["#pub:localhost"] })));
}

#[test]
fn directory_visibility_defaults_to_public_when_set() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let path = format!("/_matrix/client/v3/directory/list/room/{room}");
    let visibility = || server.get(&path);
    assert_eq!(visibility(), (200, json!({ "visibility": "private" })));
    expect_error(
        &bob.put(&path, json!({ "visibility": "public" })),
        403,
        "M_FORBIDDEN",
    );
    for (body, after) in [
        (json!({}), "public"),
        (json!({ "visibility": "private" }), "private"),
        (json!({ "visibility": "public" }), "public"),
        (json!({ "visibility": "private" }), "private"),
        (Value::Null, "public"),
    ] {
        assert_eq!(alice.put(&path, body), (200, json!({})));
        assert_eq!(visibility(), (200, json!({ "visibility": after })));
    }
    let bananas = json!({ "visibility": "bananas" });
    expect_error(&alice.put(&path, bananas), 400, "M_INVALID_PARAM");
    let unknown = "/_matrix/client/v3/directory/list/room/!nowhere:localhost";
    expect_error(&server.get(unknown), 404, "M_NOT_FOUND");
    expect_error(&alice.put(unknown, json!({})), 404, "M_NOT_FOUND");
}

#[test]
fn public_rooms_are_paginated_and_searchable() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for name in ["one", "two", "three"] {
        create_room(&alice, json!({ "visibility": "public", "name": name }));
    }
    let space = create_room(
        &alice,
        json!({
            "visibility": "public", "name": "four", "creation_content": { "type": "m.space" },
        }),
    );
    join(&bob, &space);
    let names = |page: &Value| -> Vec<String> {
        let rooms = page["chunk"].as_array().expect("rooms");
        rooms
            .iter()
            .map(|room| room["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let page = |query: &str| {
        let (status, page) = server.get(&format!("{PUBLIC_ROOMS}{query}"));
        assert_eq!(status, 200, "{page}");
        page
    };
    let all = page("");
    assert_eq!(names(&all), ["four", "one", "two", "three"]);
    assert_eq!(all["chunk"][0]["num_joined_members"], 2);
    assert_eq!(all["total_room_count_estimate"], 4);
    assert_eq!(
        (&all["next_batch"], &all["prev_batch"]),
        (&Value::Null, &Value::Null)
    );
    let first = page("?limit=3");
    let second = page(&format!(
        "?limit=3&since={}",
        first["next_batch"].as_str().unwrap()
    ));
    assert_eq!(names(&second), ["three"]);
    assert_eq!(second["next_batch"], Value::Null);
    let previous = page(&format!(
        "?limit=3&since={}",
        second["prev_batch"].as_str().unwrap()
    ));
    assert_eq!(names(&previous), names(&first));
    assert_eq!(page("?server=localhost"), all);

    let search = |body: Value| alice.post(PUBLIC_ROOMS, body).1;
    assert_eq!(names(&search(json!({}))), ["four", "one", "two", "three"]);
    let filter = json!({ "filter": { "generic_search_term": "O" }, "limit": 2 });
    let found = search(filter.clone());
    assert_eq!(names(&found), ["four", "one"]);
    let mut next_search = filter;
    next_search["since"] = found["next_batch"].clone();
    assert_eq!(names(&search(next_search)), ["two"]);
    assert_eq!(
        names(&search(json!({ "filter": { "room_types": ["m.space"] } }))),
        ["four"]
    );
    let untyped = json!({ "filter": { "room_types": [null] } });
    assert_eq!(names(&search(untyped)), ["one", "two", "three"]);
    assert!(names(&search(json!({ "third_party_instance_id": "irc" }))).is_empty());

    expect_error(
        &server.get(&format!("{PUBLIC_ROOMS}?since=x")),
        400,
        "M_INVALID_PARAM",
    );
    let remote = format!("{PUBLIC_ROOMS}?server=elsewhere.example");
    expect_error(&server.get(&remote), 403, "M_FORBIDDEN");
    expect_error(
        &server.request(Method::POST, PUBLIC_ROOMS, json!({})),
        401,
        "M_MISSING_TOKEN",
    );
}

#[test]
fn a_page_of_rooms_with_long_topics_ends_sooner_and_all_pages_have_all_rooms() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let body = json!({ "visibility": "public", "topic": "t".repeat(20_000) });
    for _ in 0..25 {
        create_room(&alice, body.clone());
    }
    let (mut found, mut pages, mut since) = (0, 0, String::new());
    loop {
        let page = expect_ok(server.get(&format!("{PUBLIC_ROOMS}?limit=100{since}")));
        assert!(page.to_string().len() < 300_000);
        found += page["chunk"].as_array().expect("rooms").len();
        pages += 1;
        match page["next_batch"].as_str() {
            Some(token) => since = format!("&since={token}"),
            None => break,
        }
    }
    assert_eq!((found, pages), (25, 2));
}
