//! Simplified sliding sync (MSC4186): lists, subscriptions, and the connection.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, event_types, join, message_bodies, room_path, send_text,
        set_state,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const UNSTABLE: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const PROPOSAL: &str = "/_matrix/client/v4/sync";

/// A request on the connection of `body`, which does not wait.
#[track_caller]
pub fn sliding(user: &TestUser<'_>, pos: Option<&str>, body: Value) -> Value {
    expect_ok(user.post(&path(pos), body))
}

pub fn path(pos: Option<&str>) -> String {
    match pos {
        Some(pos) => format!("{UNSTABLE}?timeout=0&pos={pos}"),
        None => UNSTABLE.to_owned(),
    }
}

#[track_caller]
pub fn pos(response: &Value) -> &str {
    response["pos"].as_str().expect("a pos")
}

/// One list, `all`, of the rooms from `first` to `last`, with one event each.
pub fn window(first: u32, last: u32) -> Value {
    json!({ "lists": { "all": { "ranges": [[first, last]], "timeline_limit": 1 } } })
}

/// The rooms of a response, sorted.
pub fn rooms(response: &Value) -> Vec<&str> {
    let rooms = response["rooms"].as_object().expect("rooms");
    rooms.keys().map(String::as_str).collect()
}

fn sorted<'a>(rooms: &[&'a String]) -> Vec<&'a str> {
    let mut rooms: Vec<&str> = rooms.iter().map(|room| room.as_str()).collect();
    rooms.sort_unstable();
    rooms
}

#[test]
fn a_window_has_the_rooms_that_were_active_last() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let made = [(); 5].map(|()| create_room(&alice, json!({})));
    send_text(&alice, &made[1], "hello");
    let first = sliding(&alice, None, window(0, 1));
    assert_eq!(rooms(&first), sorted(&[&made[1], &made[4]]));
    assert_eq!(first["lists"]["all"]["count"], 5);
    let room = &first["rooms"][&made[1]];
    assert_eq!(room["initial"], true);
    assert_eq!(room["membership"], "join");
    assert_eq!(room["lists"], json!(["all"]));
    assert_eq!(message_bodies(&room["timeline"]), ["hello"]);
    assert_eq!(
        (&room["limited"], &room["num_live"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(room["joined_count"], 1);
    assert!(room["prev_batch"].is_string());
    let later = &first["rooms"][&made[4]]["bump_stamp"];
    assert!(room["bump_stamp"].as_u64() > later.as_u64());
}

#[test]
fn a_response_has_only_what_changed_since_the_last() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let made = [(); 3].map(|()| create_room(&alice, json!({ "name": "Room" })));
    let first = sliding(&alice, None, window(0, 9));
    let second = sliding(&alice, Some(pos(&first)), window(0, 9));
    assert_eq!(second["rooms"], json!({}));
    send_text(&alice, &made[0], "one");
    let third = sliding(&alice, Some(pos(&second)), window(0, 9));
    assert_eq!(rooms(&third), [made[0].as_str()]);
    let room = &third["rooms"][&made[0]];
    assert_eq!(message_bodies(&room["timeline"]), ["one"]);
    assert_eq!(
        (&room["limited"], &room["num_live"]),
        (&json!(false), &json!(1))
    );
    for unchanged in ["initial", "name", "required_state", "joined_count"] {
        assert_eq!(room[unchanged], Value::Null, "{unchanged}");
    }
    for text in ["two", "three"] {
        send_text(&alice, &made[0], text);
    }
    let fourth = sliding(&alice, Some(pos(&third)), window(0, 9));
    let room = &fourth["rooms"][&made[0]];
    assert_eq!(message_bodies(&room["timeline"]), ["three"]);
    assert_eq!(
        (&room["limited"], &room["num_live"]),
        (&json!(true), &json!(1))
    );
}

#[test]
fn a_lost_response_can_be_asked_for_again() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let made = [(); 4].map(|()| create_room(&alice, json!({})));
    let first = sliding(&alice, None, window(0, 1));
    send_text(&alice, &made[3], "hello");
    let lost = sliding(&alice, Some(pos(&first)), window(0, 3));
    let again = sliding(&alice, Some(pos(&first)), window(0, 3));
    assert_eq!(rooms(&again), rooms(&lost));
    assert_eq!(rooms(&again), sorted(&[&made[0], &made[1], &made[3]]));
    let next = sliding(&alice, Some(pos(&again)), window(0, 3));
    assert_eq!(next["rooms"], json!({}));
    let narrower = sliding(&alice, Some(pos(&first)), window(0, 2));
    assert_eq!(rooms(&narrower).len(), 2, "it begins at its token again");
}

#[test]
fn a_connection_goes_on_after_a_restart() {
    let mut server = TestServer::new();
    let (room, old, token) = {
        let alice = server.register("alice");
        let room = create_room(&alice, json!({}));
        create_room(&alice, json!({}));
        let first = sliding(&alice, None, window(0, 9));
        (room, pos(&first).to_owned(), alice.token.clone())
    };
    server.restart();
    let alice = server.user_with_token(&token);
    send_text(&alice, &room, "after");
    let next = sliding(&alice, Some(&old), window(0, 9));
    assert_eq!(rooms(&next), [room.as_str()]);
    assert_eq!(message_bodies(&next["rooms"][&room]["timeline"]), ["after"]);
    assert_eq!(next["rooms"][&room]["initial"], Value::Null);
}

#[test]
fn a_pos_is_valid_for_its_device_and_connection_and_until_it_expires() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let tablet = server.log_in("alice");
    let of_connection = |id: &str| {
        let mut body = window(0, 9);
        body["conn_id"] = id.into();
        body
    };
    let first = sliding(&alice, None, of_connection("main"));
    let unknown = |user: &TestUser<'_>, pos: &str, id: &str| {
        let response = user.post(&path(Some(pos)), of_connection(id));
        expect_error(&response, 400, "M_UNKNOWN_POS");
    };
    unknown(&bob, pos(&first), "main");
    unknown(&tablet, pos(&first), "main");
    unknown(&alice, pos(&first), "other");
    unknown(&alice, "x", "main");
    let restarted = sliding(&alice, None, of_connection("main"));
    unknown(&alice, pos(&first), "main");
    let response = sliding(&alice, Some(pos(&restarted)), of_connection("main"));
    server.clock.advance(Duration::from_secs(2 * 24 * 60 * 60));
    let refreshed = sliding(&alice, Some(pos(&response)), of_connection("main"));
    server.clock.advance(Duration::from_secs(29 * 24 * 60 * 60));
    let last = sliding(&alice, Some(pos(&refreshed)), of_connection("main"));
    server.clock.advance(Duration::from_secs(31 * 24 * 60 * 60));
    unknown(&alice, pos(&last), "main");
}

#[test]
fn a_device_has_a_limited_number_of_connections() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let connect = |id: usize| {
        server.clock.advance(Duration::from_secs(1));
        let body = json!({ "conn_id": id.to_string() });
        pos(&sliding(&alice, None, body)).to_owned()
    };
    let tokens: Vec<_> = (0..17).map(connect).collect();
    let continued = |id: usize| {
        let body = json!({ "conn_id": id.to_string() });
        alice.post(&path(Some(&tokens[id])), body)
    };
    expect_error(&continued(0), 400, "M_UNKNOWN_POS");
    expect_ok(continued(1));
    expect_ok(continued(16));
}

#[test]
fn an_event_wakes_a_request_that_waits() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let first = sliding(&alice, None, window(0, 9));
    let path = format!("{UNSTABLE}?timeout=100000&pos={}", pos(&first));
    let body = window(0, 9);
    let waiting = server.send(Method::POST, &path, Some(&alice.token), &body);
    let send = async {
        let path = room_path(&room, "send/m.room.message/1");
        let body = json!({ "msgtype": "m.text", "body": "wake up" });
        server
            .send(Method::PUT, &path, Some(&bob.token), &body)
            .await
    };
    let started = std::time::Instant::now();
    let ((status, response), _) = server.run(smol::future::zip(waiting, send));
    assert_eq!(status, 200);
    assert_eq!(
        message_bodies(&response["rooms"][&room]["timeline"]),
        ["wake up"]
    );
    assert!(
        started.elapsed().as_secs() < 50,
        "it waited for the timeout"
    );
}

#[test]
fn rooms_that_changed_outside_of_the_window_are_sent_since_then_when_they_are_in_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let only = json!({ "room_subscriptions": { &room: { "timeline_limit": 5 } } });
    let first = sliding(&alice, None, only.clone());
    assert_eq!(rooms(&first), [room.as_str()]);
    send_text(&bob, &room, "missed");
    let second = sliding(&alice, Some(pos(&first)), json!({}));
    assert_eq!(second["rooms"], json!({}));
    send_text(&bob, &room, "later");
    let third = sliding(&alice, Some(pos(&second)), json!({}));
    let fourth = sliding(&alice, Some(pos(&third)), only);
    let room = &fourth["rooms"][&room];
    assert_eq!(message_bodies(&room["timeline"]), ["missed", "later"]);
    assert_eq!(room["initial"], Value::Null);
}

#[test]
fn required_state_has_what_the_patterns_match() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    set_state(&alice, &room, ("org.example", "a"), json!({}));
    set_state(&alice, &room, ("org.example", "b"), json!({}));
    let state = |required: Value, timeline_limit: u32| {
        let body = json!({ "room_subscriptions": { &room: {
            "timeline_limit": timeline_limit, "required_state": required,
        } } });
        let response = sliding(&alice, None, body);
        let events = response["rooms"][&room]["required_state"].clone();
        let events = events.as_array().cloned().unwrap_or_default();
        let mut keys: Vec<_> = events
            .iter()
            .map(|event| {
                let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
                format!("{} {}", text("type"), text("state_key"))
            })
            .collect();
        keys.sort_unstable();
        keys
    };
    let (me, him) = (&alice.user_id, &bob.user_id);
    let member = |user: &str| format!("m.room.member {user}");
    assert_eq!(state(json!([["m.room.create", ""]]), 0), ["m.room.create "]);
    assert_eq!(
        state(json!([["org.example", "*"]]), 0),
        ["org.example a", "org.example b"]
    );
    assert_eq!(state(json!([["m.room.member", "$ME"]]), 0), [member(me)]);
    assert_eq!(state(json!([["*", "a"]]), 0), ["org.example a"]);
    let all = state(json!([["*", "*"]]), 0);
    assert!(all.contains(&member(me)) && all.contains(&member(him)));
    assert!(all.contains(&"m.room.join_rules ".to_owned()));
    assert_eq!(state(json!([]), 10), [""; 0]);
    send_text(&bob, &room, "hello");
    assert_eq!(state(json!([["m.room.member", "$LAZY"]]), 1), [member(him)]);
    let lazy = state(json!([["*", "*"], ["m.room.member", "$LAZY"]]), 1);
    assert!(lazy.contains(&member(him)) && !lazy.contains(&member(me)));
    let proposed = json!({
        "include": [{ "type": "org.example" }],
        "exclude": [{ "state_key": "b" }],
        "lazy_members": true,
    });
    assert_eq!(
        state(proposed, 1),
        [member(him), "org.example a".to_owned()]
    );
}

#[test]
fn changed_state_is_sent_if_it_is_required_and_lazy_members_once() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let body = json!({ "room_subscriptions": { &room: {
        "timeline_limit": 1,
        "required_state": [["m.room.topic", ""], ["m.room.member", "$LAZY"]],
    } } });
    let mut last = pos(&sliding(&alice, None, body.clone())).to_owned();
    let mut next = || {
        let response = sliding(&alice, Some(&last), body.clone());
        last = pos(&response).to_owned();
        response["rooms"][&room].clone()
    };
    set_state(
        &alice,
        &room,
        ("m.room.topic", ""),
        json!({ "topic": "tea" }),
    );
    assert_eq!(
        event_types(&next()["required_state"]),
        ["m.room.member", "m.room.topic"],
        "the sender is new to the client"
    );
    set_state(&alice, &room, ("org.example", ""), json!({}));
    assert_eq!(next()["required_state"], Value::Null);
    set_state(
        &alice,
        &room,
        ("m.room.name", ""),
        json!({ "name": "Kitchen" }),
    );
    assert_eq!(next()["name"], "Kitchen");
    set_state(&alice, &room, ("m.room.name", ""), json!({}));
    let unnamed = next();
    assert!(
        unnamed
            .as_object()
            .is_some_and(|room| room.contains_key("name"))
    );
    assert_eq!(unnamed["name"], Value::Null);
    assert_eq!(unnamed["heroes"][0]["user_id"], bob.user_id.as_str());
    let carol = server.register("carol");
    join(&carol, &room);
    let joined = next();
    assert_eq!(joined["joined_count"], 3);
    assert_eq!(
        joined["required_state"][0]["state_key"],
        carol.user_id.as_str()
    );
}

#[test]
fn more_required_state_and_a_longer_timeline_are_sent_at_once() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({ "topic": "tea" }));
    for text in ["one", "two", "three"] {
        send_text(&alice, &room, text);
    }
    let body = |limit: u32, required: Value| {
        json!({ "room_subscriptions": { &room: {
            "timeline_limit": limit, "required_state": required,
        } } })
    };
    let create = json!([["m.room.create", ""]]);
    let first = sliding(&alice, None, body(1, create.clone()));
    let longer = sliding(&alice, Some(pos(&first)), body(3, create.clone()));
    let update = &longer["rooms"][&room];
    assert_eq!(message_bodies(&update["timeline"]), ["one", "two", "three"]);
    assert_eq!(update["unstable_expanded_timeline"], true);
    assert_eq!(
        (&update["limited"], &update["num_live"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(update["required_state"], Value::Null);
    let shorter = sliding(&alice, Some(pos(&longer)), body(1, create.clone()));
    assert_eq!(shorter["rooms"], json!({}));
    let again = sliding(&alice, Some(pos(&shorter)), body(3, create));
    assert_eq!(again["rooms"], json!({}), "the client has these events");
    let both = json!([["m.room.create", ""], ["m.room.topic", ""]]);
    let more = sliding(&alice, Some(pos(&again)), body(3, both.clone()));
    let update = &more["rooms"][&room];
    assert_eq!(event_types(&update["required_state"]), ["m.room.topic"]);
    assert_eq!(update["timeline"], json!([]));
    let last = sliding(&alice, Some(pos(&more)), body(3, both));
    assert_eq!(last["rooms"], json!({}));
}

#[test]
fn a_pos_is_a_token_for_messages() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    send_text(&alice, &room, "before");
    let first = sliding(&alice, None, window(0, 9));
    send_text(&alice, &room, "after");
    let tail = format!("messages?dir=b&limit=1&from={}", pos(&first));
    let page = expect_ok(alice.get(&room_path(&room, &tail)));
    assert_eq!(message_bodies(&page["chunk"]), ["before"]);
}

#[test]
fn the_proposals_own_path_has_its_parameters_in_the_body() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({ "topic": "tea" }));
    let body = |pos: Option<&str>, limit: u32| {
        let topic = json!({ "include": [{ "type": "m.room.topic", "state_key": "" }] });
        let list = json!({ "range": [0, 9], "timeline_limit": limit, "required_state": topic });
        let mut body = json!({ "lists": { "all": list }, "timeout": 0 });
        if let Some(pos) = pos {
            body["pos"] = pos.into();
        }
        body
    };
    let first = expect_ok(alice.post(PROPOSAL, body(None, 1)));
    let update = &first["rooms"][&room];
    assert_eq!(event_types(&update["required_state"]), ["m.room.topic"]);
    let second = expect_ok(alice.post(PROPOSAL, body(Some(pos(&first)), 2)));
    assert_eq!(second["rooms"][&room]["expanded_timeline"], true);
    let without_range = json!({ "lists": { "all": { "timeline_limit": 1 } } });
    let all = expect_ok(alice.post(PROPOSAL, without_range));
    assert_eq!(rooms(&all), [room.as_str()]);
}

#[test]
fn requests_beyond_the_limits_are_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let list = json!({ "ranges": [[0, 9]], "timeline_limit": 1 });
    let many = |count: usize, value: &Value| -> Value {
        let entries = (0..count).map(|number| (format!("!{number}:h"), value.clone()));
        Value::Object(entries.collect())
    };
    let patterns = json!(vec![["m.room.topic", ""]; 1001]);
    for body in [
        json!({ "lists": many(101, &list) }),
        json!({ "room_subscriptions": many(101, &json!({ "timeline_limit": 1 })) }),
        json!({ "lists": { "a": { "ranges": vec![[0, 9]; 33], "timeline_limit": 1 } } }),
        json!({ "lists": { "a": { "ranges": [], "required_state": patterns } } }),
        json!({ "lists": { "a": { "ranges": [], "filters": { "tags": vec!["t"; 301] } } } }),
        json!({ "conn_id": "x".repeat(256) }),
    ] {
        expect_error(&alice.post(UNSTABLE, body), 400, "M_INVALID_PARAM");
    }
    expect_ok(alice.post(UNSTABLE, json!({ "lists": many(100, &list) })));
    let path = format!("{UNSTABLE}?set_presence=asleep");
    expect_error(&alice.post(&path, json!({})), 400, "M_INVALID_PARAM");
}

#[test]
fn too_many_combinations_of_long_required_states_are_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for _ in 0..12 {
        create_room(&alice, json!({}));
    }
    let lists = |patterns: usize| -> Value {
        let list = |number: usize| {
            let required = (0..patterns).map(|pattern| json!([format!("{number}.{pattern}"), ""]));
            let required: Vec<_> = required.collect();
            let list = json!({ "ranges": [[0, number]], "required_state": required });
            (number.to_string(), list)
        };
        json!({ "lists": Value::Object((0..100).map(list).collect()) })
    };
    expect_error(&alice.post(UNSTABLE, lists(10)), 400, "M_INVALID_PARAM");
    expect_ok(alice.post(UNSTABLE, lists(1)));
}
