//! What a server may not respond to a join.

use http::Method;
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::mock_origin::MockOrigin;
use crate::{
    client_api::{create_room, joined_rooms, percent_encode, room_path, set_state},
    test_server::{JsonResponse, TestServer, TestUser, expect_error, expect_ok},
};

const V11: RoomVersionId = RoomVersionId::V11;
const MAKE_JOIN: &str = "/_matrix/federation/v1/make_join/";
const SEND_JOIN: &str = "/_matrix/federation/v2/send_join/";

/// A room of eve, who is the only one in it.
struct Room {
    id: String,
    events: Vec<Value>,
    ids: Vec<String>,
}

impl Room {
    fn new(origin: &MockOrigin, join_rules: &Value) -> Self {
        let mut room = Self {
            id: format!("!room:{}", origin.name()),
            events: Vec::new(),
            ids: Vec::new(),
        };
        let eve = origin.user("eve");
        let levels = json!({ "users": { eve.as_str(): 100 } });
        for (kind, state_key, content) in [
            ("m.room.create", "", json!({ "room_version": "11" })),
            ("m.room.member", &*eve, json!({ "membership": "join" })),
            ("m.room.power_levels", "", levels),
            ("m.room.join_rules", "", join_rules.clone()),
        ] {
            let event = json!({
                "type": kind, "state_key": state_key, "content": content, "sender": eve,
                "room_id": room.id, "auth_events": room.ids,
                "prev_events": room.ids.last().into_iter().collect::<Vec<_>>(),
                "depth": room.ids.len() + 1, "origin_server_ts": 1,
            });
            let (id, event) = origin.event(&V11, event);
            room.ids.push(id);
            room.events.push(event);
        }
        room
    }

    /// Answers requests for joins with a template that has this content, and with the room and this event.
    fn answer_joins(&self, origin: &MockOrigin, content: &Value, event: Option<&Value>) {
        let [create, eve, levels, join_rules] = &self.ids[..] else {
            panic!("a room has four events");
        };
        let mut auth_events = vec![create, levels, join_rules];
        if content["join_authorised_via_users_server"].is_string() {
            auth_events.push(eve);
        }
        let template = json!({
            "room_version": "11",
            "event": {
                "content": content, "auth_events": auth_events,
                "prev_events": [join_rules], "depth": 5,
            },
        });
        origin.answer(MAKE_JOIN, &template);
        let mut response = json!({
            "state": self.events, "auth_chain": self.events, "members_omitted": false,
            "servers_in_room": [origin.name()],
        });
        if let Some(event) = event {
            response["event"] = event.clone();
        }
        origin.answer(SEND_JOIN, &response);
    }
}

fn join_through(origin: &MockOrigin, user: &TestUser<'_>, room: &str) -> JsonResponse {
    let (room, via) = (percent_encode(room), percent_encode(&origin.name()));
    user.post(
        &format!("/_matrix/client/v3/join/{room}?via={via}"),
        json!({}),
    )
}

#[test]
fn another_event_in_the_response_to_a_join_does_not_replace_the_join() {
    let [here] = TestServer::federating();
    let (alice, origin) = (here.register("alice"), MockOrigin::new(&here));
    let room = Room::new(&origin, &json!({ "join_rule": "public" }));
    let join = json!({ "membership": "join" });
    let of_eve = room.events[1].clone();
    room.answer_joins(&origin, &join, Some(&of_eve));
    expect_ok(join_through(&origin, &alice, &room.id));
    assert!(joined_rooms(&alice).contains(&room.id));
    let members = expect_ok(alice.get(&room_path(&room.id, "joined_members")));
    assert!(members["joined"][&alice.user_id].is_object(), "{members}");
}

#[test]
fn a_restricted_join_that_the_authorizing_server_has_not_signed_fails() {
    let [here] = TestServer::federating();
    let (alice, origin) = (here.register("alice"), MockOrigin::new(&here));
    let allow = json!([{ "type": "m.room_membership", "room_id": "!club:elsewhere.example" }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    let room = Room::new(&origin, &rule);
    let eve = origin.user("eve");
    let join = json!({ "membership": "join", "join_authorised_via_users_server": eve });
    room.answer_joins(&origin, &join, None);
    let (status, error) = join_through(&origin, &alice, &room.id);
    assert_eq!(status, 502, "{error}");
    assert!(joined_rooms(&alice).is_empty());
}

#[test]
fn a_join_through_another_server_that_the_room_which_is_here_does_not_allow_fails() {
    let [here] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), here.register("bob"));
    let origin = MockOrigin::new(&here);
    let body = json!({ "preset": "public_chat", "room_version": "11" });
    let room = create_room(&alice, body);
    // Eve joins, so that her server is one that may know more of the room.
    let eve = origin.user("eve");
    origin.join(&here, &V11, (&eve, &room));
    let path = format!(
        "{MAKE_JOIN}{}/{}?ver=11",
        percent_encode(&room),
        percent_encode(&eve)
    );
    let template = expect_ok(origin.send(&here, Method::GET, &path, &Value::Null));
    // This server cannot know who is in the room of the condition.
    let allow = json!([{ "type": "m.room_membership", "room_id": "!club:elsewhere.example" }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    set_state(&alice, &room, ("m.room.join_rules", ""), rule);
    origin.answer(MAKE_JOIN, &template);
    origin.answer(SEND_JOIN, &json!({ "state": [], "auth_chain": [] }));
    expect_error(&join_through(&origin, &bob, &room), 403, "M_FORBIDDEN");
    assert!(joined_rooms(&bob).is_empty());
    // The room is what it was.
    assert!(joined_rooms(&alice).contains(&room));
    let members = expect_ok(alice.get(&room_path(&room, "joined_members")));
    assert_eq!(members["joined"].as_object().map(|of| of.len()), Some(2));
}
