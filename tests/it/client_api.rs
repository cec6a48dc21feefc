//! Requests of the client-server API that many tests send, and parts of their responses.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::test_server::{JsonResponse, TestServer, TestUser, expect_ok};

const CLIENT: &str = "/_matrix/client/v3";

pub fn percent_encode(segment: &str) -> String {
    segment
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The path of an endpoint of a room. `tail` is percent-encoded already.
pub fn room_path(room: &str, tail: &str) -> String {
    format!("{CLIENT}/rooms/{}/{tail}", percent_encode(room))
}

#[track_caller]
pub fn create_room(user: &TestUser<'_>, body: Value) -> String {
    let response = expect_ok(user.post(&format!("{CLIENT}/createRoom"), body));
    response["room_id"].as_str().expect("a room id").to_owned()
}

/// Creates a public room as the first of `users` and joins the others.
#[track_caller]
pub fn create_room_with(users: &[&TestUser<'_>]) -> String {
    let room = create_room(users[0], json!({ "preset": "public_chat" }));
    users[1..].iter().for_each(|user| join(user, &room));
    room
}

#[track_caller]
pub fn join(user: &TestUser<'_>, room: &str) {
    expect_ok(user.post(&room_path(room, "join"), json!({})));
}

#[track_caller]
pub fn leave(user: &TestUser<'_>, room: &str) {
    expect_ok(user.post(&room_path(room, "leave"), json!({})));
}

/// Sends `join`, `leave`, `invite`, `kick`, `ban`, `unban` or `forget`.
pub fn change_membership(
    user: &TestUser<'_>,
    room: &str,
    action: &str,
    body: Value,
) -> JsonResponse {
    user.post(&room_path(room, action), body)
}

#[track_caller]
pub fn joined_rooms(user: &TestUser<'_>) -> BTreeSet<String> {
    let response = expect_ok(user.get(&format!("{CLIENT}/joined_rooms")));
    serde_json::from_value(response["joined_rooms"].clone()).expect("room ids")
}

#[track_caller]
pub fn sync_with(user: &TestUser<'_>, parameters: &[(&str, &str)]) -> Value {
    let parameters: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", percent_encode(value)))
        .collect();
    expect_ok(user.get(&format!("{CLIENT}/sync?{}", parameters.join("&"))))
}

/// A sync that does not wait.
#[track_caller]
pub fn sync(user: &TestUser<'_>, since: Option<&str>) -> Value {
    let since = since.map(|since| ("since", since));
    sync_with(user, &Vec::from_iter(since))
}

#[track_caller]
pub fn next_batch(response: &Value) -> &str {
    response["next_batch"].as_str().expect("a sync token")
}

/// The types of `events`. No list counts as an empty one.
pub fn event_types(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect()
}

/// The content of the last event of a type; `null` if there is none.
pub fn content_of<'e>(events: &'e Value, event_type: &str) -> &'e Value {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = events.iter().rfind(|event| event["type"] == event_type);
    found.map_or(&Value::Null, |event| &event["content"])
}

/// The `body` of each event that has one. No list counts as an empty one.
pub fn message_bodies(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}

#[track_caller]
pub fn latest_event_id(user: &TestUser<'_>, room: &str) -> String {
    let response = sync(user, None);
    let events = &response["rooms"]["join"][room]["timeline"]["events"];
    let last = events.as_array().and_then(|events| events.last());
    let last = last.expect("a room has events");
    last["event_id"].as_str().expect("an event id").to_owned()
}

pub fn send_receipt(
    user: &TestUser<'_>,
    room: &str,
    (receipt_type, event): (&str, &str),
    body: Value,
) -> JsonResponse {
    let tail = format!("receipt/{receipt_type}/{}", percent_encode(event));
    user.post(&room_path(room, &tail), body)
}

/// Sends a message event; returns its id.
#[track_caller]
pub fn send_event(user: &TestUser<'_>, room: &str, event_type: &str, content: Value) -> String {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let transaction = SENT.fetch_add(1, Ordering::Relaxed);
    let path = room_path(room, &format!("send/{event_type}/{transaction}"));
    let response = expect_ok(user.put(&path, content));
    response["event_id"]
        .as_str()
        .expect("an event id")
        .to_owned()
}

/// Sends a text message; returns its event id.
#[track_caller]
pub fn send_text(user: &TestUser<'_>, room: &str, body: &str) -> String {
    let content = json!({ "msgtype": "m.text", "body": body });
    send_event(user, room, "m.room.message", content)
}

/// Sends a text message in the thread of `root`; returns its event id.
#[track_caller]
pub fn send_in_thread(user: &TestUser<'_>, room: &str, root: &str, body: &str) -> String {
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let content = json!({ "msgtype": "m.text", "body": body, "m.relates_to": relation });
    send_event(user, room, "m.room.message", content)
}

#[track_caller]
pub fn set_state(
    user: &TestUser<'_>,
    room: &str,
    (event_type, state_key): (&str, &str),
    content: Value,
) {
    let tail = format!("state/{event_type}/{}", percent_encode(state_key));
    expect_ok(user.put(&room_path(room, &tail), content));
}

/// Joins over federation, through `server`.
#[track_caller]
pub fn join_via(user: &TestUser<'_>, room: &str, server: &TestServer) {
    let (room, via) = (percent_encode(room), percent_encode(server.name().as_str()));
    expect_ok(user.post(&format!("{CLIENT}/join/{room}?via={via}"), json!({})));
}
