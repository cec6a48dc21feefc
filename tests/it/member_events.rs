//! Membership events that clients write as state events. They work as by the endpoints of their own.

use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join, join_via, joined_rooms, room_path, set_state,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

fn member_path(room: &str, user: &str) -> String {
    room_path(room, &format!("state/m.room.member/{user}"))
}

fn put_membership(by: &TestUser<'_>, room: &str, of: &TestUser<'_>, membership: &str) -> String {
    let body = json!({ "membership": membership });
    let answer = expect_ok(by.put(&member_path(room, of.user_id.as_str()), body));
    answer["event_id"].as_str().expect("an event id").to_owned()
}

fn membership(seen_by: &TestUser<'_>, room: &str, of: &TestUser<'_>) -> Value {
    expect_ok(seen_by.get(&member_path(room, of.user_id.as_str())))["membership"].clone()
}

fn restricted(space: &str) -> Value {
    json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    })
}

#[test]
fn who_may_join_a_restricted_room_may_do_so_by_state_event() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let lobby = create_room_with(&[&alice]);
    join(&bob, &lobby);
    for version in ["8", "10", "11", "12"] {
        let rule = json!({ "type": "m.room.join_rules", "content": restricted(&lobby) });
        let body = json!({ "room_version": version, "initial_state": [rule] });
        let room = create_room(&alice, body);
        put_membership(&bob, &room, &bob, "join");
        let content = expect_ok(bob.get(&member_path(&room, bob.user_id.as_str())));
        let via = &content["join_authorised_via_users_server"];
        assert_eq!(via, alice.user_id.as_str(), "version {version}");
        assert_eq!(content["displayname"], "bob", "version {version}");
        // A nickname is no join: nobody vouches for it again.
        let nickname = json!({
            "membership": "join", "displayname": "Bobby",
            "join_authorised_via_users_server": alice.user_id,
        });
        expect_ok(bob.put(&member_path(&room, bob.user_id.as_str()), nickname));
        let content = expect_ok(bob.get(&member_path(&room, bob.user_id.as_str())));
        assert_eq!(
            content,
            json!({ "membership": "join", "displayname": "Bobby" })
        );
    }
}

#[test]
fn what_a_client_says_about_who_authorizes_a_join_is_dropped_everywhere() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let forged = |membership: &str| json!({ "membership": membership, "join_authorised_via_users_server": alice.user_id });
    let initial_state = json!([
        { "type": "m.room.join_rules", "content": restricted("!nowhere:localhost") },
        { "type": "m.room.member", "state_key": alice.user_id, "content": forged("join") },
        { "type": "m.room.member", "state_key": bob.user_id, "content": forged("invite") },
    ]);
    let room = create_room(&alice, json!({ "initial_state": initial_state }));
    for user in [&alice, &bob] {
        let content = expect_ok(alice.get(&member_path(&room, user.user_id.as_str())));
        let field = content.get("join_authorised_via_users_server");
        assert_eq!(field, None, "{content}");
    }
}

#[test]
fn state_that_equals_the_current_one_answers_the_event_that_is_there() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let topic = |text: &str| {
        let path = room_path(&room, "state/m.room.topic");
        expect_ok(alice.put(&path, json!({ "topic": text })))["event_id"].clone()
    };
    let first = topic("one");
    assert_eq!(topic("one"), first);
    let second = topic("two");
    assert_ne!(second, first);
    assert_ne!(topic("one"), first);
    let invite = put_membership(&alice, &room, &bob, "invite");
    assert_eq!(put_membership(&alice, &room, &bob, "invite"), invite);
    let join = put_membership(&bob, &room, &bob, "join");
    assert_eq!(put_membership(&bob, &room, &bob, "join"), join);
}

#[test]
fn state_that_no_room_can_have_is_400() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({ "room_version": "12" }));
    let put = |kind: &str, content: Value| {
        alice.put(&room_path(&room, &format!("state/{kind}")), content)
    };
    let create = put("m.room.create", json!({ "room_version": "12" }));
    expect_error(&create, 400, "M_INVALID_PARAM");
    let levels = put(
        "m.room.power_levels",
        json!({ "users": { alice.user_id.as_str(): 100 } }),
    );
    expect_error(&levels, 400, "M_INVALID_PARAM");
    let without_membership = put(&format!("m.room.member/{}", alice.user_id), json!({}));
    expect_error(&without_membership, 400, "M_INVALID_PARAM");
    let too_long = format!("@{}:localhost", "b".repeat(245));
    for creators in [
        json!("@bob:localhost"),
        json!([1]),
        json!(["bob"]),
        json!([too_long]),
    ] {
        let content = json!({ "additional_creators": creators });
        let body = json!({ "room_version": "12", "creation_content": content });
        let answer = alice.post("/_matrix/client/v3/createRoom", body);
        expect_error(&answer, 400, "M_INVALID_ROOM_STATE");
    }
}

#[test]
fn who_is_invited_twice_by_one_creation_gets_one_invitation() {
    let [here, there] = TestServer::federating();
    let alice = here.register("alice");
    for bob in [here.register("bob"), there.register("bob")] {
        let invite = json!({
            "type": "m.room.member",
            "state_key": bob.user_id,
            "content": { "membership": "invite", "reason": "both" },
        });
        let room = create_room(
            &alice,
            json!({ "invite": [bob.user_id], "is_direct": true, "initial_state": [invite] }),
        );
        let page = expect_ok(alice.get(&room_path(&room, "messages?dir=b&limit=100")));
        let invites = page["chunk"].as_array().unwrap().iter();
        let invites: Vec<_> = invites
            .filter(|event| event["state_key"] == bob.user_id)
            .map(|event| (&event["content"]["reason"], &event["content"]["is_direct"]))
            .collect();
        assert_eq!(invites, [(&json!("both"), &json!(true))]);
    }
}

#[test]
fn a_creation_says_if_another_server_refuses_an_invitation() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let nobody = bob.user_id.replace("@bob", "@nobody");
    let body = json!({ "invite": [nobody, bob.user_id] });
    let (status, error) = alice.post("/_matrix/client/v3/createRoom", body);
    assert!(status == 403 || status == 404, "{status} {error}");
    let rooms = joined_rooms(&alice);
    assert_eq!(rooms.len(), 1, "the room is there");
    let room = rooms.first().unwrap();
    assert_eq!(
        membership(&alice, room, &bob),
        "invite",
        "the others are invited"
    );
}

#[test]
fn user_of_another_server_is_invited_by_state_event() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let invited = create_room_with(&[&alice]);
    put_membership(&alice, &invited, &bob, "invite");
    let invite = json!({
        "type": "m.room.member", "state_key": bob.user_id, "content": { "membership": "invite" },
    });
    let initially = create_room(&alice, json!({ "initial_state": [invite] }));
    for room in [&invited, &initially] {
        assert_eq!(membership(&alice, room, &bob), "invite");
        put_membership(&bob, room, &bob, "join");
        assert_eq!(membership(&bob, room, &bob), "join");
    }
    assert_eq!(joined_rooms(&bob), [invited, initially].into());
}

#[test]
fn membership_in_a_room_of_another_server_is_changed_by_state_event() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    // The id of a room of this version names a server through which it can be joined.
    let room = create_room(&alice, json!({ "room_version": "11" }));
    put_membership(&alice, &room, &bob, "invite");
    put_membership(&bob, &room, &bob, "leave");
    assert_eq!(membership(&alice, &room, &bob), "leave");
    set_state(
        &alice,
        &room,
        ("m.room.join_rules", ""),
        json!({ "join_rule": "knock" }),
    );
    put_membership(&bob, &room, &bob, "knock");
    assert_eq!(membership(&alice, &room, &bob), "knock");
    put_membership(&alice, &room, &bob, "invite");
    join_via(&bob, &room, &here);
    for (membership_set, expected) in [("leave", "leave"), ("ban", "ban"), ("leave", "leave")] {
        put_membership(&alice, &room, &bob, membership_set);
        assert_eq!(membership(&alice, &room, &bob), expected);
    }
}
