//! Joining rooms over federation.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, join, join_via, percent_encode, room_path, set_state},
    test_server::{JsonResponse, TestServer, TestUser, expect_error, expect_ok},
};

#[test]
fn join_with_omitted_members_fetches_all_members() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), here.register("bob"));
    // A named room has no heroes, so that `members_omitted` leaves out all members.
    let room = create_room(
        &alice,
        json!({ "preset": "public_chat", "name": "the square" }),
    );
    join(&bob, &room);
    let carol = there.register("carol");
    join_via(&carol, &room, &here);
    let members = expect_ok(carol.get(&room_path(&room, "joined_members")))["joined"].clone();
    for member in [&alice, &bob, &carol] {
        assert!(members[member.user_id.as_str()].is_object(), "{members}");
    }
}

/// The response to a join through `server`.
fn try_join(user: &TestUser<'_>, room: &str, server: &TestServer) -> JsonResponse {
    let (room, via) = (percent_encode(room), percent_encode(server.name().as_str()));
    user.post(
        &format!("/_matrix/client/v3/join/{room}?via={via}"),
        json!({}),
    )
}

#[test]
fn events_of_a_server_whose_keys_cannot_be_fetched_are_dropped_from_a_joined_room() {
    let [here, there, mut down] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let (room, carol) = {
        let carol = down.register("carol");
        let levels = json!({ "users": { carol.user_id.as_str(): 50 } });
        let body = json!({ "preset": "public_chat", "power_level_content_override": levels });
        let room = create_room(&alice, body);
        join_via(&carol, &room, &here);
        set_state(
            &carol,
            &room,
            ("m.room.topic", ""),
            json!({ "topic": "birds" }),
        );
        (room, carol.user_id)
    };
    let topic = room_path(&room, "state/m.room.topic/");
    here.wait_until(async || {
        let token = Some(&*alice.token);
        here.send(Method::GET, &topic, token, &Value::Null).await.0 == 200
    });
    down.stop();
    join_via(&bob, &room, &here);
    let members = expect_ok(bob.get(&room_path(&room, "joined_members")))["joined"].clone();
    let is_member = |user: &str| members[user].is_object();
    assert!(
        is_member(&alice.user_id) && is_member(&bob.user_id),
        "{members}"
    );
    assert!(!is_member(&carol), "{members}");
    expect_error(&bob.get(&topic), 404, "M_NOT_FOUND");
}

#[test]
fn a_join_without_the_create_event_or_an_auth_event_of_the_join_fails() {
    let [here, there, mut down] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let rooms = {
        let carol = down.register("carol");
        let created = create_room(&carol, json!({ "preset": "public_chat" }));
        join_via(&alice, &created, &down);
        let users = json!({ alice.user_id.as_str(): 100, carol.user_id.as_str(): 100 });
        let levels = json!({ "users": users });
        let ruled = create_room(
            &alice,
            json!({
                "preset": "public_chat",
                "room_version": "11",
                "power_level_content_override": levels,
            }),
        );
        join_via(&carol, &ruled, &here);
        let levels = json!({ "users": users, "events_default": 1 });
        set_state(&carol, &ruled, ("m.room.power_levels", ""), levels);
        let path = room_path(&ruled, "state/m.room.power_levels/");
        here.wait_until(async || {
            let token = Some(&*alice.token);
            let levels = here.send(Method::GET, &path, token, &Value::Null).await.1;
            levels["events_default"] == 1
        });
        [created, ruled]
    };
    down.stop();
    for room in &rooms {
        let (status, error) = try_join(&bob, room, &here);
        assert!((400..600).contains(&status), "{status} {error}");
        assert!(error["errcode"].is_string(), "{error}");
    }
    // Nothing of it is left: with the keys the joins succeed.
    down.start();
    there.clock.advance(Duration::from_hours(1));
    for room in &rooms {
        there.wait_until(async || {
            let (room, via) = (percent_encode(room), percent_encode(here.name().as_str()));
            let path = format!("/_matrix/client/v3/join/{room}?via={via}");
            let token = Some(&*bob.token);
            there.send(Method::POST, &path, token, &json!({})).await.0 == 200
        });
    }
}
