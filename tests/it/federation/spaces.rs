//! Hierarchies and summaries of remote rooms.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::mock_origin::{MockOrigin, server_with_another_host};
use crate::{
    client_api::{change_membership, create_room, join_via, percent_encode, set_state},
    mock_web_server::MockWebServer,
    spaces::{add_child, create_named_room, create_space, hierarchy, room_names, summary},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

#[test]
fn hierarchy_includes_remote_rooms_and_spaces() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let via = |server: &TestServer, order: &str| json!({ "via": [server.name()], "order": order });
    let (space, inner) = (create_space(&alice, "space"), create_space(&bob, "inner"));
    let [near, back] = ["near", "back"].map(|name| create_named_room(&alice, name, "public_chat"));
    let far = create_named_room(&bob, "far", "public_chat");
    let secret = create_named_room(&bob, "secret", "private_chat");
    add_child(&alice, &space, &inner, via(&there, "a"));
    add_child(&alice, &space, &near, via(&here, "b"));
    add_child(&alice, &space, &secret, via(&there, "c"));
    add_child(&bob, &inner, &far, via(&there, "a"));
    add_child(&bob, &inner, &back, via(&here, "b"));
    add_child(&bob, &inner, &secret, via(&there, "c"));
    let response = expect_ok(hierarchy(&alice, &space, ""));
    assert_eq!(
        room_names(&response),
        ["space", "inner", "far", "back", "near"]
    );
    assert_eq!(response["rooms"][1]["children_state"][0]["state_key"], far);
    // The same for a user of the other server.
    let response = expect_ok(hierarchy(&bob, &inner, ""));
    assert_eq!(room_names(&response), ["inner", "far", "back", "secret"]);
}

#[test]
fn summary_of_a_remote_room_is_fetched_from_its_server() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let body = json!({ "name": "far", "preset": "public_chat", "room_alias_name": "far" });
    let far = create_room(&bob, body);
    let via = format!("via={}", there.name());
    let response = expect_ok(summary(&alice, &far, &via));
    assert_eq!(
        (&response["name"], &response["membership"]),
        (&"far".into(), &"leave".into())
    );
    let alias = format!("#far:{}", there.name());
    assert_eq!(expect_ok(summary(&alice, &alias, ""))["room_id"], far);
    let secret = create_named_room(&bob, "secret", "private_chat");
    expect_error(&summary(&alice, &secret, &via), 404, "M_NOT_FOUND");
    assert_eq!(response["join_rule"], "public");
}

#[test]
fn summary_is_shown_to_servers_whose_users_may_join() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let via = format!("via={}", there.name());
    let not_federated =
        json!({ "preset": "public_chat", "creation_content": { "m.federate": false } });
    let not_federated = create_room(&bob, not_federated);
    expect_error(&summary(&alice, &not_federated, &via), 404, "M_NOT_FOUND");
    let readable = json!({
        "preset": "private_chat",
        "initial_state": [{
            "type": "m.room.history_visibility",
            "content": { "history_visibility": "world_readable" },
        }],
    });
    let readable = create_room(&bob, readable);
    assert_eq!(
        expect_ok(summary(&alice, &readable, &via))["world_readable"],
        true
    );
}

/// A room of `version` with this join rule.
fn create_with_join_rule(user: &TestUser<'_>, version: &str, rule: Value) -> String {
    let rule = json!({ "type": "m.room.join_rules", "content": rule });
    create_room(
        user,
        json!({ "preset": "private_chat", "room_version": version, "initial_state": [rule] }),
    )
}

#[test]
fn rooms_are_shown_to_servers_whose_users_may_knock_or_are_invited() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let via = format!("via={}", there.name());
    let club = create_space(&bob, "club");
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let knock = || json!({ "join_rule": "knock" });
    let restricted = |rule: &str| json!({ "join_rule": rule, "allow": allow });
    // Room versions without a join rule take it as `invite`.
    for (version, rule, is_shown) in [
        ("12", knock(), true),
        ("7", knock(), true),
        ("6", knock(), false),
        ("10", restricted("knock_restricted"), true),
        ("9", restricted("knock_restricted"), false),
        ("9", restricted("restricted"), false),
    ] {
        let room = create_with_join_rule(&bob, version, rule.clone());
        let (status, answer) = summary(&alice, &room, &via);
        assert_eq!(status == 200, is_shown, "{version} {rule} {answer}");
    }
    let room = create_with_join_rule(&bob, "9", restricted("restricted"));
    let private = create_named_room(&bob, "private", "private_chat");
    let carol = there.register("carol");
    for user in [&carol, &alice] {
        expect_error(&summary(&alice, &private, &via), 404, "M_NOT_FOUND");
        let body = json!({ "user_id": user.user_id });
        expect_ok(change_membership(&bob, &private, "invite", body));
    }
    // Not what was remembered of the answer before.
    here.clock.advance(Duration::from_mins(10));
    assert_eq!(
        expect_ok(summary(&alice, &private, &via))["name"],
        "private"
    );
    join_via(&alice, &club, &there);
    here.clock.advance(Duration::from_mins(10));
    assert_eq!(summary(&alice, &room, &via).0, 200);
    let unsupported = create_with_join_rule(&bob, "7", restricted("restricted"));
    expect_error(&summary(&alice, &unsupported, &via), 404, "M_NOT_FOUND");
}

#[test]
fn a_child_that_was_refused_is_requested_again_after_a_join_here() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let via = json!({ "via": [there.name()] });
    let club = create_room(&bob, json!({ "preset": "public_chat", "name": "club" }));
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    let for_members = create_with_join_rule(&bob, "11", rule);
    let space = create_space(&alice, "space");
    add_child(&alice, &space, &for_members, via);
    let is_shown = || {
        let response = expect_ok(hierarchy(&alice, &space, ""));
        let rooms = response["rooms"].as_array().expect("rooms").clone();
        rooms.iter().any(|room| room["room_id"] == for_members)
    };
    assert!(!is_shown());
    join_via(&alice, &club, &there);
    assert!(is_shown());
}

/// The summary of a public room.
fn public_summary(room: &str, room_type: Option<&str>) -> Value {
    let mut summary = json!({
        "room_id": room, "name": room, "num_joined_members": 1, "guest_can_join": false,
        "world_readable": false, "join_rule": "public",
    });
    if let Some(room_type) = room_type {
        summary["room_type"] = room_type.into();
    }
    summary
}

/// The room that a request for a hierarchy names.
fn requested_room(path: &str) -> Option<String> {
    let room = path.strip_prefix("/_matrix/federation/v1/hierarchy/")?;
    Some(room.replace("%21", "!").replace("%3A", ":"))
}

/// A response with a room that has no children.
fn childless(room: &str) -> Option<Vec<u8>> {
    let mut summary = public_summary(room, None);
    summary["children_state"] = json!([]);
    let response = json!({ "room": summary, "children": [], "inaccessible_children": [] });
    Some(response.to_string().into_bytes())
}

#[test]
fn a_hierarchy_of_another_room_than_was_requested_is_not_shown() {
    let [here] = TestServer::federating();
    let alice = here.register("alice");
    let honest = MockWebServer::with_json(0, |path| childless(&requested_room(path)?));
    let liar = MockWebServer::with_json(0, |_| childless("!other:far.example"));
    let space = create_space(&alice, "space");
    add_child(
        &alice,
        &space,
        "!a:far.example",
        json!({ "via": [honest.name()] }),
    );
    add_child(
        &alice,
        &space,
        "!b:far.example",
        json!({ "via": [liar.name()] }),
    );
    let response = expect_ok(hierarchy(&alice, &space, ""));
    assert_eq!(room_names(&response), ["space", "!a:far.example"]);
    assert_ne!(liar.request_count(), 0);
}

#[test]
fn few_servers_are_asked_for_a_room_and_few_rooms_for_a_page() {
    let [here] = TestServer::federating();
    let alice = here.register("alice");
    let refusing = MockWebServer::with_json(0, |_| None);
    let space = create_space(&alice, "space");
    let room = "!a:localhost:1";
    add_child(
        &alice,
        &space,
        room,
        json!({ "via": vec![refusing.name(); 10] }),
    );
    let response = expect_ok(hierarchy(&alice, &space, ""));
    assert_eq!(room_names(&response), ["space"]);
    assert_eq!(refusing.request_count(), 3);
    let answering = MockWebServer::with_json(0, |path| childless(&requested_room(path)?));
    let large = create_space(&alice, "large");
    for number in 0..60 {
        let child = format!("!{number}:far.example");
        add_child(&alice, &large, &child, json!({ "via": [answering.name()] }));
    }
    let response = expect_ok(hierarchy(&alice, &large, "limit=100"));
    assert_eq!(room_names(&response).len(), 51);
    assert_eq!(answering.request_count(), 50);
    let response = hierarchy(&alice, &large, "from=2001_20_0");
    expect_error(&response, 400, "M_INVALID_PARAM");
}

#[test]
fn a_hierarchy_ends_after_2000_rooms() {
    const CHILDREN: usize = 500;
    let [here] = TestServer::federating();
    let alice = here.register("alice");
    let origin = MockWebServer::with_json(0, |path| {
        let space = requested_room(path)?;
        let name = space.trim_start_matches('!').split(':').next()?;
        let children: Vec<_> = (0..CHILDREN)
            .map(|number| format!("!{name}-{number}:far.example"))
            .collect();
        let mut summary = public_summary(&space, Some("m.space"));
        let state = |child: &String| {
            json!({
                "type": "m.space.child", "state_key": child, "sender": "@a:far.example",
                "content": { "via": ["far.example"] }, "origin_server_ts": 1,
            })
        };
        summary["children_state"] = children.iter().map(state).collect();
        let summaries = children.iter().map(|child| public_summary(child, None));
        let response = json!({
            "room": summary, "children": summaries.collect::<Value>(), "inaccessible_children": [],
        });
        Some(response.to_string().into_bytes())
    });
    let space = create_space(&alice, "space");
    for name in ["a", "b", "c", "d", "e"] {
        let content = json!({ "via": [origin.name()], "order": name });
        add_child(&alice, &space, &format!("!{name}:far.example"), content);
    }
    let end = expect_ok(hierarchy(&alice, &space, "limit=100&from=1950_20_0"));
    assert_eq!(room_names(&end).len(), 50);
    assert_eq!(end["next_batch"], Value::Null);
}

/// The response to a request of another server for a hierarchy.
fn requested_hierarchy(origin: &MockOrigin, here: &TestServer, room: &str) -> (u16, Value) {
    let path = format!("/_matrix/federation/v1/hierarchy/{}", percent_encode(room));
    origin.send(here, Method::GET, &path, &Value::Null)
}

#[test]
fn a_room_is_shown_to_a_server_only_if_its_acl_allows_and_a_user_of_the_server_is_invited() {
    let here = server_with_another_host();
    let (alice, origin) = (here.register("alice"), MockOrigin::new(&here));
    let carol = here.register("carol");
    let public = create_named_room(&alice, "public", "public_chat");
    let private = create_named_room(&alice, "private", "private_chat");
    let requested = |room: &str| requested_hierarchy(&origin, &here, room);
    expect_ok(requested(&public));
    let acl = json!({ "allow": ["*"], "deny": ["localhost"] });
    set_state(&alice, &public, ("m.room.server_acl", ""), acl);
    expect_error(&requested(&public), 404, "M_NOT_FOUND");
    expect_error(&requested(&private), 404, "M_NOT_FOUND");
    let target = json!({ "user_id": carol.user_id });
    expect_ok(change_membership(&alice, &private, "invite", target));
    expect_error(&requested(&private), 404, "M_NOT_FOUND");
    let banned = json!({ "user_id": origin.user("eve") });
    expect_ok(change_membership(&alice, &private, "ban", banned));
    expect_error(&requested(&private), 404, "M_NOT_FOUND");
}

#[test]
fn another_server_gets_the_summaries_of_a_large_space_up_to_a_limit() {
    let [here] = TestServer::federating();
    let (alice, origin) = (here.register("alice"), MockOrigin::new(&here));
    let space = create_space(&alice, "space");
    for _ in 0..25 {
        let body = json!({ "preset": "public_chat", "topic": "t".repeat(20_000) });
        let child = create_room(&alice, body);
        add_child(&alice, &space, &child, json!({ "via": [here.name()] }));
    }
    let response = expect_ok(requested_hierarchy(&origin, &here, &space));
    assert!(response.to_string().len() < 320_000);
    let children = response["children"].as_array().expect("children").len();
    assert!((10..20).contains(&children), "{children}");
}
