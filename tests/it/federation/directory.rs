//! Remote aliases and the directories of other servers.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, percent_encode},
    test_server::{TestServer, expect_error, expect_ok},
};

#[test]
fn remote_alias_is_resolved() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&bob, json!({ "room_alias_name": "pub" }));
    let path = |name: &str| {
        let alias = percent_encode(&format!("#{name}:{}", there.name()));
        format!("/_matrix/client/v3/directory/room/{alias}")
    };
    let found = expect_ok(here.get(&path("pub")));
    assert_eq!(found, json!({ "room_id": room, "servers": [there.name()] }));
    expect_error(&alice.get(&path("bup")), 404, "M_NOT_FOUND");
}

#[test]
fn remote_public_rooms_are_paginated_and_searchable() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    for name in ["one", "two", "three"] {
        create_room(&bob, json!({ "visibility": "public", "name": name }));
    }
    create_room(
        &alice,
        json!({ "visibility": "public", "name": "not there" }),
    );
    let names = |page: &Value| -> Vec<String> {
        let rooms = page["chunk"].as_array().expect("rooms").iter();
        rooms
            .map(|room| room["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let path = format!("/_matrix/client/v3/publicRooms?server={}", there.name());
    let first = expect_ok(alice.get(&format!("{path}&limit=2")));
    assert_eq!(names(&first), ["one", "two"]);
    assert_eq!(first["total_room_count_estimate"], 3);
    let since = first["next_batch"].as_str().expect("there is more");
    let second = expect_ok(alice.get(&format!("{path}&limit=2&since={since}")));
    assert_eq!(names(&second), ["three"]);
    assert_eq!(second["next_batch"], Value::Null);
    let search = json!({ "filter": { "generic_search_term": "TW" } });
    assert_eq!(names(&expect_ok(alice.post(&path, search))), ["two"]);
    let since = json!({ "since": "nonsense" });
    expect_error(&alice.post(&path, since), 400, "M_INVALID_PARAM");
}

#[test]
fn requests_to_other_servers_have_a_rate_whatever_the_endpoint() {
    let server = TestServer::federating_with(|_| ["rate_limits = true".to_owned()]);
    let server = &server[0];
    let room = percent_encode("!room:localhost:1");
    let alias = percent_encode("#room:localhost:1");
    let requests = [
        (Method::GET, "v3/publicRooms?server=localhost:1".to_owned()),
        (Method::POST, "v3/publicRooms?server=localhost:1".to_owned()),
        (Method::POST, format!("v3/join/{alias}")),
        (Method::GET, format!("v3/directory/room/{alias}")),
        (Method::GET, format!("v1/room_summary/{alias}")),
        (Method::GET, format!("v1/room_summary/{room}")),
    ];
    for (number, (method, path)) in requests.into_iter().enumerate() {
        let user = server.register(&format!("user{number}"));
        let path = format!("/_matrix/client/{path}");
        let body = if method == Method::GET {
            Value::Null
        } else {
            json!({})
        };
        let send = || user.request(method.clone(), &path, body.clone()).0;
        let statuses: Vec<_> = (0..61).map(|_| send()).collect();
        assert!(
            statuses[..60].iter().all(|status| *status != 429),
            "{path}: {statuses:?}"
        );
        assert_eq!(statuses[60], 429, "{path}");
        server.clock.advance(Duration::from_mins(10));
    }
}
