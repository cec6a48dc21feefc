//! Invites by other servers (`PUT /invite`).

use http::Method;
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::mock_origin::{MockOrigin, server_with_another_host};
use crate::{
    client_api::{create_room, event_types, percent_encode, set_state, sync},
    test_server::{JsonResponse, TestServer, TestUser, expect_error, expect_ok},
};

const V11: RoomVersionId = RoomVersionId::V11;

/// The invite event of eve for this user, with `changes`.
fn invite_event(origin: &MockOrigin, room: &str, user: &str, changes: Value) -> Value {
    let mut event = json!({
        "type": "m.room.member", "room_id": room, "sender": origin.user("eve"), "state_key": user,
        "content": { "membership": "invite" }, "auth_events": ["$a"], "prev_events": ["$b"],
        "depth": 5, "origin_server_ts": 1,
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        event[field] = value.clone();
    }
    event
}

/// Sends an invite in a room of this version.
fn send_invite(
    origin: &MockOrigin,
    to: &TestServer,
    version: &RoomVersionId,
    event: Value,
    state: Value,
) -> JsonResponse {
    let room = event["room_id"].clone();
    let (id, event) = origin.event(version, event);
    let room = room.as_str().expect("a room id");
    put_invite(origin, to, version, (room, &id), &event, state)
}

fn put_invite(
    origin: &MockOrigin,
    to: &TestServer,
    version: &RoomVersionId,
    (room, id): (&str, &str),
    event: &Value,
    state: Value,
) -> JsonResponse {
    let (room, id) = (percent_encode(room), percent_encode(id));
    let path = format!("/_matrix/federation/v2/invite/{room}/{id}");
    let body = json!({ "room_version": version, "event": event, "invite_room_state": state });
    origin.send(to, Method::PUT, &path, &body)
}

fn is_invited(user: &TestUser<'_>, room: &str) -> bool {
    sync(user, None)["rooms"]["invite"][room].is_object()
}

#[test]
fn an_invite_is_accepted_only_of_a_user_of_the_origin_for_a_local_user_and_with_its_id() {
    let [here] = TestServer::federating();
    let (alice, origin) = (here.register("alice"), MockOrigin::new(&here));
    let room = format!("!room:{}", origin.name());
    let send = |changes: Value| {
        let event = invite_event(&origin, &room, &alice.user_id, changes);
        send_invite(&origin, &here, &V11, event, json!([]))
    };
    let elsewhere = json!({ "state_key": "@bob:elsewhere.example" });
    expect_error(&send(elsewhere), 400, "M_INVALID_PARAM");
    let by_another = json!({ "sender": "@eve:elsewhere.example" });
    expect_error(&send(by_another), 403, "M_FORBIDDEN");
    let join = json!({ "content": { "membership": "join" } });
    expect_error(&send(join), 400, "M_INVALID_PARAM");
    let large = json!({ "content": { "membership": "invite", "reason": "r".repeat(17_000) } });
    expect_error(&send(large), 413, "M_TOO_LARGE");
    let nobody = format!("@nobody:{}", here.name());
    expect_error(&send(json!({ "state_key": nobody })), 404, "M_NOT_FOUND");
    let event = invite_event(&origin, &room, &alice.user_id, Value::Null);
    let (id, event) = origin.event(&V11, event);
    let send =
        |id: &str, event: &Value| put_invite(&origin, &here, &V11, (&room, id), event, json!([]));
    expect_error(&send("$other", &event), 400, "M_INVALID_PARAM");
    let mut unsigned = event.clone();
    unsigned["signatures"] = json!({});
    expect_error(&send(&id, &unsigned), 403, "M_FORBIDDEN");
    assert!(!is_invited(&alice, &room));
    let signed = expect_ok(send(&id, &event));
    let signatures = &signed["event"]["signatures"];
    assert!(signatures[here.name().as_str()].is_object(), "{signatures}");
    assert!(is_invited(&alice, &room));
}

#[test]
fn an_invite_to_a_room_that_is_here_obeys_its_version_and_its_server_acl_and_waits_for_the_event() {
    let here = server_with_another_host();
    let [alice, bob] = ["alice", "bob"].map(|name| here.register(name));
    let origin = MockOrigin::new(&here);
    let body = json!({ "preset": "public_chat", "room_version": "11" });
    let room = create_room(&alice, body);
    let send = |version: &RoomVersionId| {
        let event = invite_event(&origin, &room, &bob.user_id, Value::Null);
        send_invite(&origin, &here, version, event, json!([])).0
    };
    assert_ne!(send(&RoomVersionId::V10), 200);
    assert_eq!(send(&V11), 200);
    assert!(!is_invited(&bob, &room), "the event is not here");
    let acl = json!({ "allow": ["*"], "deny": ["localhost"] });
    set_state(&alice, &room, ("m.room.server_acl", ""), acl);
    assert_eq!(send(&V11), 403);
}

#[test]
fn since_version_12_an_invite_has_the_create_event() {
    let [here] = TestServer::federating();
    let (alice, origin) = (here.register("alice"), MockOrigin::new(&here));
    let version = RoomVersionId::V12;
    let create = json!({
        "type": "m.room.create", "sender": origin.user("eve"), "state_key": "",
        "content": { "room_version": "12" }, "auth_events": [], "prev_events": [],
        "depth": 1, "origin_server_ts": 1,
    });
    let (id, create) = origin.event(&version, create);
    let room = id.replacen('$', "!", 1);
    let send = |state: Value| {
        let event = invite_event(&origin, &room, &alice.user_id, Value::Null);
        send_invite(&origin, &here, &version, event, state)
    };
    expect_error(&send(json!([])), 400, "M_INVALID_PARAM");
    assert!(!is_invited(&alice, &room));
    expect_ok(send(json!([create])));
    assert!(is_invited(&alice, &room));
}

#[test]
fn clients_get_of_the_state_of_an_invite_what_is_listed_and_not_made_up_in_the_name_of_local_users()
{
    let [here] = TestServer::federating();
    let (alice, origin) = (here.register("alice"), MockOrigin::new(&here));
    let room = format!("!room:{}", origin.name());
    let (eve, mallory) = (origin.user("eve"), origin.user("mallory"));
    let stripped = |kind: &str, sender: &str, state_key: &str, content: Value| json!({ "type": kind, "sender": sender, "state_key": state_key, "content": content });
    let member = json!({ "membership": "join" });
    let mut state = vec![
        stripped(
            "m.room.name",
            &alice.user_id,
            "",
            json!({ "name": "by alice" }),
        ),
        stripped("m.room.member", &eve, &eve, member.clone()),
        stripped("m.room.member", &mallory, &mallory, member),
        stripped("org.example.secret", &eve, "", json!({})),
    ];
    for _ in 0..60 {
        state.push(stripped("m.room.topic", &eve, "", json!({ "topic": "t" })));
    }
    state.push(stripped("m.room.avatar", &eve, "", json!({})));
    let event = invite_event(&origin, &room, &alice.user_id, Value::Null);
    expect_ok(send_invite(&origin, &here, &V11, event, json!(state)));
    let synced = sync(&alice, None);
    let state = &synced["rooms"]["invite"][&room]["invite_state"]["events"];
    let types = event_types(state);
    for kind in ["m.room.name", "org.example.secret", "m.room.avatar"] {
        assert!(!types.contains(&kind), "{types:?}");
    }
    assert!(types.contains(&"m.room.topic"), "{types:?}");
    let state = state.as_array().expect("a list");
    let is_member = |user: &str| state.iter().any(|event| event["state_key"] == user);
    assert!(is_member(&eve) && is_member(&alice.user_id) && !is_member(&mallory));
}
