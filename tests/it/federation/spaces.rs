//! Hierarchies and summaries of remote rooms.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client_api::{change_membership, create_room, join_via},
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
