//! Spaces: hierarchy, and room summaries.

use serde_json::{Value, json};

use crate::{
    client_api::{change_membership, create_room, join, percent_encode, set_state},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

#[track_caller]
pub fn create_space(user: &TestUser<'_>, name: &str) -> String {
    let creation = json!({ "type": "m.space" });
    create_room(
        user,
        json!({ "name": name, "preset": "public_chat", "creation_content": creation }),
    )
}

#[track_caller]
pub fn create_named_room(user: &TestUser<'_>, name: &str, preset: &str) -> String {
    create_room(user, json!({ "name": name, "preset": preset }))
}

#[track_caller]
pub fn add_child(user: &TestUser<'_>, space: &str, room: &str, content: Value) {
    set_state(user, space, ("m.space.child", room), content);
}

pub fn hierarchy(user: &TestUser<'_>, space: &str, parameters: &str) -> (u16, Value) {
    let path = format!(
        "/_matrix/client/v1/rooms/{}/hierarchy",
        percent_encode(space)
    );
    user.get(&format!("{path}?{parameters}"))
}

pub fn room_names(response: &Value) -> Vec<&str> {
    let rooms = response["rooms"].as_array().expect("rooms").iter();
    rooms
        .map(|room| room["name"].as_str().unwrap_or("?"))
        .collect()
}

pub fn summary(user: &TestUser<'_>, room: &str, parameters: &str) -> (u16, Value) {
    user.get(&summary_path(room, parameters))
}

fn summary_path(room: &str, parameters: &str) -> String {
    let path = format!("/_matrix/client/v1/room_summary/{}", percent_encode(room));
    format!("{path}?{parameters}")
}

fn via() -> Value {
    json!({ "via": ["localhost"] })
}

#[test]
fn hierarchy_is_depth_first_in_child_order() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (space, inner) = (create_space(&alice, "space"), create_space(&alice, "inner"));
    let [first, second, deep] =
        ["first", "second", "deep"].map(|name| create_named_room(&alice, name, "public_chat"));
    add_child(
        &alice,
        &space,
        &second,
        json!({ "via": ["localhost"], "order": "b" }),
    );
    add_child(
        &alice,
        &space,
        &first,
        json!({ "via": ["localhost"], "order": "a" }),
    );
    add_child(
        &alice,
        &space,
        &inner,
        json!({ "via": ["localhost"], "order": "aa" }),
    );
    add_child(&alice, &inner, &deep, via());
    // A cycle.
    add_child(&alice, &inner, &space, via());
    let response = expect_ok(hierarchy(&bob, &space, ""));
    assert_eq!(
        room_names(&response),
        ["space", "first", "inner", "deep", "second"]
    );
    let root = &response["rooms"][0];
    assert_eq!(root["room_type"], "m.space");
    assert_eq!(root["join_rule"], "public");
    assert_eq!(root["num_joined_members"], 1);
    let child = &root["children_state"][0];
    let mut fields: Vec<_> = child.as_object().expect("an event").keys().collect();
    fields.sort();
    assert_eq!(
        fields,
        ["content", "origin_server_ts", "sender", "state_key", "type"]
    );
    assert_eq!(child["state_key"], first);
    let shallow = expect_ok(hierarchy(&bob, &space, "max_depth=1"));
    assert_eq!(room_names(&shallow), ["space", "first", "inner", "second"]);
    assert_eq!(
        room_names(&expect_ok(hierarchy(&bob, &space, "max_depth=0"))),
        ["space"]
    );
}

#[test]
fn hierarchy_is_paginated() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let space = create_space(&alice, "space");
    for (name, suggested) in [("a", true), ("b", false), ("c", true)] {
        let room = create_named_room(&alice, name, "public_chat");
        let content = json!({ "via": ["localhost"], "order": name, "suggested": suggested });
        add_child(&alice, &space, &room, content);
    }
    let first = expect_ok(hierarchy(&alice, &space, "limit=2&suggested_only=true"));
    assert_eq!(room_names(&first), ["space", "a"]);
    let from = first["next_batch"].as_str().expect("there is more");
    let second = expect_ok(hierarchy(
        &alice,
        &space,
        &format!("limit=2&suggested_only=true&from={from}"),
    ));
    assert_eq!(room_names(&second), ["c"]);
    assert_eq!(second["next_batch"], Value::Null);
    for parameters in [format!("from={from}"), "from=nonsense".to_owned()] {
        let response = hierarchy(&alice, &space, &parameters);
        expect_error(&response, 400, "M_INVALID_PARAM");
    }
}

#[test]
fn hierarchy_shows_only_rooms_the_user_is_in_or_may_join() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let space = create_space(&alice, "space");
    let private = create_named_room(&alice, "private", "private_chat");
    let removed = create_named_room(&alice, "removed", "public_chat");
    let rule = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    });
    let restricted = create_room(
        &alice,
        json!({
            "name": "restricted", "preset": "private_chat",
            "initial_state": [{ "type": "m.room.join_rules", "content": rule }],
        }),
    );
    for (room, order) in [(&private, "a"), (&restricted, "b"), (&removed, "c")] {
        let content = json!({ "via": ["localhost"], "order": order });
        add_child(&alice, &space, room, content);
    }
    add_child(&alice, &space, &removed, json!({}));
    let visible_rooms = |user: &TestUser<'_>| -> Vec<String> {
        let response = expect_ok(hierarchy(user, &space, ""));
        room_names(&response)
            .into_iter()
            .map(ToOwned::to_owned)
            .collect()
    };
    assert_eq!(visible_rooms(&alice), ["space", "private", "restricted"]);
    assert_eq!(visible_rooms(&bob), ["space"]);
    join(&bob, &space);
    assert_eq!(visible_rooms(&bob), ["space", "restricted"]);
    let invited = server.register("invited");
    let invite = json!({ "user_id": invited.user_id });
    expect_ok(change_membership(&alice, &space, "invite", invite));
    assert_eq!(visible_rooms(&invited), ["space"], "only members may join");
    let response = server.get(&summary_path(&restricted, ""));
    expect_error(&response, 404, "M_NOT_FOUND");
    let invite = json!({ "user_id": bob.user_id });
    expect_ok(change_membership(&alice, &private, "invite", invite));
    assert_eq!(visible_rooms(&bob), ["space", "private", "restricted"]);
    let carol = server.register("carol");
    expect_error(&hierarchy(&carol, &private, ""), 403, "M_FORBIDDEN");
    expect_error(
        &hierarchy(&carol, "!nowhere:localhost", ""),
        403,
        "M_FORBIDDEN",
    );
}

#[test]
fn room_summary_is_shown_to_users_who_may_join() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(
        &alice,
        json!({
            "name": "Pub", "preset": "public_chat", "room_alias_name": "pub",
            "room_version": "11",
        }),
    );
    let private = create_named_room(&alice, "private", "private_chat");
    let expected = json!({
        "room_id": room, "name": "Pub", "canonical_alias": "#pub:localhost",
        "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
        "room_version": "11", "membership": "join", "join_rule": "public",
    });
    assert_eq!(expect_ok(summary(&alice, &room, "")), expected);
    assert_eq!(expect_ok(summary(&alice, "#pub:localhost", "")), expected);
    assert_eq!(expect_ok(summary(&bob, &room, ""))["membership"], "leave");
    let unauthenticated_summary = |room: &str| server.get(&summary_path(room, ""));
    assert_eq!(
        expect_ok(unauthenticated_summary(&room))["membership"],
        Value::Null
    );
    assert_eq!(
        expect_ok(summary(&alice, &private, ""))["join_rule"],
        "invite"
    );
    for response in [
        summary(&bob, &private, ""),
        unauthenticated_summary(&private),
        unauthenticated_summary("!nowhere:localhost"),
        unauthenticated_summary("#nothing:localhost"),
    ] {
        expect_error(&response, 404, "M_NOT_FOUND");
    }
}

#[test]
fn a_public_room_is_not_shown_to_who_is_banned_from_it() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    let space = create_space(&alice, "space");
    let room = create_named_room(&alice, "room", "public_chat");
    add_child(&alice, &space, &room, via());
    join(&bob, &space);
    let names = || {
        let response = expect_ok(hierarchy(&bob, &space, ""));
        room_names(&response).len()
    };
    assert_eq!(names(), 2);
    let body = json!({ "user_id": bob.user_id });
    expect_ok(change_membership(&alice, &room, "ban", body));
    assert_eq!(names(), 1);
    expect_error(&summary(&bob, &room, ""), 404, "M_NOT_FOUND");
}

#[test]
fn a_page_of_a_hierarchy_ends_after_so_many_bytes_and_very_large_child_events_are_skipped() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let space = create_space(&alice, "space");
    for _ in 0..25 {
        let topic = "t".repeat(20_000);
        let body = json!({ "name": "child", "preset": "public_chat", "topic": topic });
        add_child(&alice, &space, &create_room(&alice, body), via());
    }
    let skipped = create_named_room(&alice, "skipped", "public_chat");
    let large = json!({ "via": ["localhost"], "org.example.more": "x".repeat(5000) });
    add_child(&alice, &space, &skipped, large);
    let (mut names, mut pages, mut from) = (Vec::new(), 0, String::new());
    loop {
        let page = expect_ok(hierarchy(&alice, &space, &format!("limit=100{from}")));
        assert!(page.to_string().len() < 300_000);
        names.extend(room_names(&page).into_iter().map(ToOwned::to_owned));
        pages += 1;
        match page["next_batch"].as_str() {
            Some(token) => from = format!("&from={token}"),
            None => break,
        }
    }
    assert_eq!((names.len(), pages), (26, 2));
    assert!(!names.contains(&"skipped".to_owned()));
}
