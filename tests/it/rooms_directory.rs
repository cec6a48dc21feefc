//! Aliases and the directory as clients see them.

use http::Method;
use serde_json::{Value, json};

use crate::home::{Home, refused};

const PUBLIC_ROOMS: &str = "/_matrix/client/v3/publicRooms";

fn alias_path(name: &str) -> String {
    format!("/_matrix/client/v3/directory/room/%23{name}:localhost")
}

#[test]
fn an_alias_is_made_found_and_removed() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = alice.public_room();
    let path = alias_path("pub");
    let body = json!({ "room_id": room });
    refused(&bob.put(&path, body.clone()), 403, "M_FORBIDDEN");
    assert_eq!(alice.put(&path, body.clone()), (200, json!({})));
    refused(&alice.put(&path, body.clone()), 409, "M_UNKNOWN");
    let found = home.ask(Method::GET, &path, Value::Null);
    assert_eq!(
        found,
        (200, json!({ "room_id": room, "servers": ["localhost"] }))
    );
    let aliases = format!("/_matrix/client/v3/rooms/{room}/aliases");
    assert_eq!(
        alice.get(&aliases),
        (200, json!({ "aliases": ["#pub:localhost"] }))
    );
    refused(&bob.get(&aliases), 403, "M_FORBIDDEN");
    refused(&bob.delete(&path, Value::Null), 403, "M_FORBIDDEN");
    assert_eq!(alice.delete(&path, Value::Null), (200, json!({})));
    refused(&alice.delete(&path, Value::Null), 404, "M_NOT_FOUND");
    refused(
        &home.ask(Method::GET, &path, Value::Null),
        404,
        "M_NOT_FOUND",
    );
    let elsewhere = "/_matrix/client/v3/directory/room/%23pub:elsewhere.example";
    refused(&alice.put(elsewhere, body), 400, "M_INVALID_PARAM");
    refused(
        &home.ask(Method::GET, elsewhere, Value::Null),
        404,
        "M_NOT_FOUND",
    );
    let unknown = json!({ "room_id": "!nowhere:localhost" });
    refused(&alice.put(&path, unknown), 404, "M_NOT_FOUND");
}

#[test]
fn everybody_sees_the_aliases_of_a_room_that_everybody_may_read() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let history = json!({
        "type": "m.room.history_visibility",
        "content": { "history_visibility": "world_readable" },
    });
    let body = json!({ "room_alias_name": "pub", "initial_state": [history] });
    let room = alice.create_room(body);
    let aliases = bob.get(&format!("/_matrix/client/v3/rooms/{room}/aliases"));
    assert_eq!(aliases, (200, json!({ "aliases": ["#pub:localhost"] })));
}

#[test]
fn a_room_is_published_by_default_when_its_visibility_is_set() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = alice.public_room();
    let path = format!("/_matrix/client/v3/directory/list/room/{room}");
    let visibility = || home.ask(Method::GET, &path, Value::Null);
    assert_eq!(visibility(), (200, json!({ "visibility": "private" })));
    refused(
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
    refused(&alice.put(&path, bananas), 400, "M_INVALID_PARAM");
    let unknown = "/_matrix/client/v3/directory/list/room/!nowhere:localhost";
    refused(
        &home.ask(Method::GET, unknown, Value::Null),
        404,
        "M_NOT_FOUND",
    );
    refused(&alice.put(unknown, json!({})), 404, "M_NOT_FOUND");
}

#[test]
fn the_directory_is_read_page_by_page_and_searched() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    for name in ["one", "two", "three"] {
        alice.create_room(json!({ "visibility": "public", "name": name }));
    }
    let popular = alice.create_room(json!({
        "visibility": "public", "name": "four", "creation_content": { "type": "m.space" },
    }));
    assert_eq!(
        bob.post(&format!("/_matrix/client/v3/join/{popular}"), json!({}))
            .0,
        200
    );
    let names = |page: &Value| -> Vec<String> {
        let rooms = page["chunk"].as_array().expect("rooms");
        rooms
            .iter()
            .map(|room| room["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let page = |query: &str| {
        let (status, page) = home.ask(Method::GET, &format!("{PUBLIC_ROOMS}{query}"), Value::Null);
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
    let back = page(&format!(
        "?limit=3&since={}",
        second["prev_batch"].as_str().unwrap()
    ));
    assert_eq!(names(&back), names(&first));
    assert_eq!(page("?server=localhost"), all);

    let search = |body: Value| alice.post(PUBLIC_ROOMS, body).1;
    assert_eq!(names(&search(json!({}))), ["four", "one", "two", "three"]);
    let filter = json!({ "filter": { "generic_search_term": "O" }, "limit": 2 });
    let found = search(filter.clone());
    assert_eq!(names(&found), ["four", "one"]);
    let mut more = filter;
    more["since"] = found["next_batch"].clone();
    assert_eq!(names(&search(more)), ["two"]);
    assert_eq!(
        names(&search(json!({ "filter": { "room_types": ["m.space"] } }))),
        ["four"]
    );
    let untyped = json!({ "filter": { "room_types": [null] } });
    assert_eq!(names(&search(untyped)), ["one", "two", "three"]);
    assert!(names(&search(json!({ "third_party_instance_id": "irc" }))).is_empty());

    refused(
        &home.ask(Method::GET, &format!("{PUBLIC_ROOMS}?since=x"), Value::Null),
        400,
        "M_INVALID_PARAM",
    );
    let elsewhere = format!("{PUBLIC_ROOMS}?server=elsewhere.example");
    refused(
        &home.ask(Method::GET, &elsewhere, Value::Null),
        403,
        "M_FORBIDDEN",
    );
    refused(
        &home.ask(Method::POST, PUBLIC_ROOMS, json!({})),
        401,
        "M_MISSING_TOKEN",
    );
}
