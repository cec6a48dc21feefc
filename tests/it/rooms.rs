//! What people do in rooms, in one call each, and what a sync tells of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use serde_json::{Value, json};

use crate::home::Person;

const CLIENT: &str = "/_matrix/client/v3";

/// A part of an URL with what has a meaning there escaped.
pub fn escaped(part: &str) -> String {
    part.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The answer to a request that must succeed.
#[track_caller]
pub fn done((status, answer): (u16, Value)) -> Value {
    assert_eq!(status, 200, "{answer}");
    answer
}

#[track_caller]
pub fn make_room(who: &Person<'_>, asked: Value) -> String {
    let answer = done(who.post(&format!("{CLIENT}/createRoom"), asked));
    answer["room_id"].as_str().expect("a room id").to_owned()
}

/// A room that the first one made and everybody has joined.
#[track_caller]
pub fn room_of(people: &[&Person<'_>]) -> String {
    let room = make_room(people[0], json!({ "preset": "public_chat" }));
    people[1..].iter().for_each(|person| join(person, &room));
    room
}

#[track_caller]
pub fn join(who: &Person<'_>, room: &str) {
    done(who.post(&format!("{CLIENT}/rooms/{room}/join"), json!({})));
}

#[track_caller]
pub fn leave(who: &Person<'_>, room: &str) {
    done(who.post(&format!("{CLIENT}/rooms/{room}/leave"), json!({})));
}

/// What a sync answers at once, asked with these parameters.
#[track_caller]
pub fn sync_with(who: &Person<'_>, parameters: &[(&str, &str)]) -> Value {
    let parameters: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", escaped(value)))
        .collect();
    done(who.get(&format!("{CLIENT}/sync?{}", parameters.join("&"))))
}

/// What a sync from `since` answers at once.
#[track_caller]
pub fn sync(who: &Person<'_>, since: Option<&str>) -> Value {
    let since = since.map(|since| ("since", since));
    sync_with(who, &Vec::from_iter(since))
}

/// Where the next sync goes on.
#[track_caller]
pub fn next(answer: &Value) -> &str {
    answer["next_batch"]
        .as_str()
        .expect("every answer has a token")
}

/// The types of a list of events, none if there is no list.
pub fn types(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect()
}

/// The content of the event of this type among `events`; `null` if there is none.
pub fn content<'e>(events: &'e Value, kind: &str) -> &'e Value {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = events.iter().rfind(|event| event["type"] == kind);
    found.map_or(&Value::Null, |event| &event["content"])
}

/// The last event of the room, as `who` sees it.
#[track_caller]
pub fn last_event(who: &Person<'_>, room: &str) -> String {
    let answer = sync(who, None);
    let events = &answer["rooms"]["join"][room]["timeline"]["events"];
    let last = events.as_array().and_then(|events| events.last());
    let last = last.expect("a room has events");
    last["event_id"].as_str().expect("an event id").to_owned()
}

/// Sends a receipt.
pub fn receipt(
    who: &Person<'_>,
    room: &str,
    (kind, event): (&str, &str),
    body: Value,
) -> (u16, Value) {
    let path = format!("{CLIENT}/rooms/{room}/receipt/{kind}/{}", escaped(event));
    who.ask(Method::POST, &path, body)
}

/// Sends an event that is no state; its id.
#[track_caller]
pub fn send(who: &Person<'_>, room: &str, kind: &str, content: Value) -> String {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let transaction = SENT.fetch_add(1, Ordering::Relaxed);
    let path = format!("{CLIENT}/rooms/{room}/send/{kind}/{transaction}");
    let answer = done(who.put(&path, content));
    answer["event_id"].as_str().expect("an event id").to_owned()
}

/// Sends a text; its id.
#[track_caller]
pub fn say(who: &Person<'_>, room: &str, body: &str) -> String {
    let content = json!({ "msgtype": "m.text", "body": body });
    send(who, room, "m.room.message", content)
}

/// Sends a text into the thread of `root`; its id.
#[track_caller]
pub fn reply(who: &Person<'_>, room: &str, root: &str, body: &str) -> String {
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let content = json!({ "msgtype": "m.text", "body": body, "m.relates_to": relation });
    send(who, room, "m.room.message", content)
}

/// Sets a piece of state.
#[track_caller]
pub fn set(who: &Person<'_>, room: &str, (kind, key): (&str, &str), content: Value) {
    let path = format!("{CLIENT}/rooms/{room}/state/{kind}/{}", escaped(key));
    done(who.put(&path, content));
}

/// The bodies of the messages among `events`.
pub fn bodies(events: &Value) -> Vec<&str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}
