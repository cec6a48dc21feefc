//! What another server can send.

use serde_json::{Map, Value, json};

use super::{Attack, Request, Stage, join, nothing};
use crate::mock_homeserver::to_json;

/// The limits of a transaction, and of one EDU of hearth's.
const EDUS: usize = 100;
const RECEIPTS_PER_EDU: usize = 500;
const PRESENCE_UPDATES_PER_EDU: usize = 200;
/// A little less than hearth accepts in a transaction.
const LARGE: usize = 11_000_000;

pub(super) fn attacks() -> [Attack; 13] {
    let attack = |label, requests| Attack {
        label,
        prepare: nothing,
        requests,
        at_once: false,
    };
    [
        attack("50,000 receipts, ACL of 1,500 entries", receipts),
        attack("20,000 updates of presence", presence),
        attack("100 typing users", typing),
        attack("100 device lists of 60 kB", device_lists),
        attack("100 to-device messages of 60 kB", to_device),
        attack("50 PDUs of 60 kB", pdus),
        Attack {
            at_once: true,
            ..attack("800 PDUs of 10 kB in 16 rooms at once", pdus_of_rooms)
        },
        attack("a transaction of 11 MB: one EDU of many keys", keys),
        attack("a transaction of 11 MB: one EDU, nested", nested),
        attack("keys/query for 6,000 users by a server", query),
        attack("keys/claim for 6,000 users by a server", claim),
        attack("state_ids, state and backfill of 2,000 members", state),
        attack("10 invitations with 900 kB of state", invitations),
    ]
}

/// A server ACL of nearly 64 KiB.
pub(super) fn large_acl() -> Value {
    let denied = (0..1500).map(|number| format!("*.b?d{number}.*.evil-server.example"));
    json!({ "allow": ["*"], "deny": denied.collect::<Vec<_>>() })
}

/// An object of at most so many bytes whose keys are in a wrong order.
pub(super) fn wide(bytes: usize) -> String {
    let count = bytes / 20;
    let members = (0..count).map(|n| format!(r#""key{:07}":{n}"#, n * 7919 % count));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn transaction(stage: &Stage, run: usize, edus: &str) -> Vec<Request> {
    transaction_with(stage, run, "[]", edus)
}

fn transaction_with(stage: &Stage, run: usize, pdus: &str, edus: &str) -> Vec<Request> {
    vec![transaction_named(stage, &run.to_string(), pdus, edus)]
}

fn transaction_named(stage: &Stage, name: &str, pdus: &str, edus: &str) -> Request {
    let origin = stage.remote.name();
    let body =
        format!(r#"{{"origin":"{origin}","origin_server_ts":1,"pdus":{pdus},"edus":{edus}}}"#);
    stage.signed("PUT", format!("send/attack{name}"), body)
}

/// EDUs of one kind.
fn edus(kind: &str, contents: impl Iterator<Item = impl ToString>) -> String {
    let edu = |content: String| format!(r#"{{"edu_type":"{kind}","content":{content}}}"#);
    let edus = contents.map(|content| edu(content.to_string()));
    format!("[{}]", edus.collect::<Vec<_>>().join(","))
}

/// Receipts of all members for one event.
fn receipts(stage: &Stage, run: usize) -> Vec<Request> {
    let receipt = json!({ "event_ids": [stage.remote_join], "data": { "ts": 1 } });
    let read = (0..RECEIPTS_PER_EDU).map(|n| (stage.remote.user(n).to_string(), receipt.clone()));
    let read: Map<_, _> = read.collect();
    let content = json!({ stage.remote_room.as_str(): { "m.read": read } });
    let contents = std::iter::repeat_n(content, EDUS);
    transaction(stage, run, &edus("m.receipt", contents))
}

fn presence(stage: &Stage, run: usize) -> Vec<Request> {
    let content = |message: usize| {
        let update = |number| {
            json!({
                "user_id": stage.remote.user(number), "presence": "online", "last_active_ago": 1,
                "status_msg": format!("{run} {message}"),
            })
        };
        let push: Vec<_> = (0..PRESENCE_UPDATES_PER_EDU).map(update).collect();
        json!({ "push": push })
    };
    transaction(stage, run, &edus("m.presence", (0..EDUS).map(content)))
}

fn typing(stage: &Stage, run: usize) -> Vec<Request> {
    let of = |n| {
        let (room, user) = (&stage.remote_room, stage.remote.user(n));
        json!({ "room_id": room, "user_id": user, "typing": run != 1 })
    };
    transaction(stage, run, &edus("m.typing", (0..EDUS).map(of)))
}

fn device_lists(stage: &Stage, run: usize) -> Vec<Request> {
    let more = wide(60_000);
    let of = |n: usize| {
        let (user, stream_id) = (stage.remote.user(n), run * 1000 + n);
        format!(
            r#"{{"user_id":"{user}","device_id":"D","stream_id":{stream_id},"prev_id":[],"keys":{{
                "user_id":"{user}","device_id":"D","algorithms":[],"signatures":{{}},"keys":{{}},"more":{more}}}}}"#
        )
    };
    transaction(stage, run, &edus("m.device_list_update", (0..EDUS).map(of)))
}

fn to_device(stage: &Stage, run: usize) -> Vec<Request> {
    let content = wide(60_000);
    let of = |n: usize| {
        let user = stage.remote.user(n);
        format!(
            r#"{{"sender":"{user}","type":"m.attack","message_id":"{run}-{n}","messages":{{"@user:localhost":{{"*":{content}}}}}}}"#
        )
    };
    transaction(stage, run, &edus("m.direct_to_device", (0..EDUS).map(of)))
}

fn pdus(stage: &Stage, run: usize) -> Vec<Request> {
    let more: Value = serde_json::from_str(&wide(50_000)).expect("JSON");
    let content = json!({ "msgtype": "m.text", "body": "", "run": run, "more": more });
    let contents = std::iter::repeat_n(content, 50);
    let (room, join) = (&stage.remote_room, &stage.remote_join);
    let events = stage.remote.build_messages_with(room, join, contents);
    let events: Vec<_> = events.iter().map(to_json).collect();
    transaction_with(stage, run, &json!(events).to_string(), "[]")
}

/// A transaction for each of several rooms, which the local user has just joined.
fn pdus_of_rooms(stage: &Stage, _: usize) -> Vec<Request> {
    let content = json!({ "msgtype": "m.text", "body": "x".repeat(10_000) });
    let of_room = |_| {
        let room = stage.remote.create_room(50);
        let mut client = stage.client().expect("the server is up");
        let joined = join(&mut client, &room, &stage.remote).expect("the room is public");
        let contents = std::iter::repeat_n(content.clone(), 50);
        let events = stage.remote.build_messages_with(&room, &joined, contents);
        let events: Vec<_> = events.iter().map(to_json).collect();
        transaction_named(stage, room.as_str(), &json!(events).to_string(), "[]")
    };
    (0..16).map(of_room).collect()
}

fn keys(stage: &Stage, run: usize) -> Vec<Request> {
    transaction(stage, run, &edus("attack", [wide(LARGE)].iter()))
}

/// As deep as the server reads it, with all keys in the wrong order.
fn nested(stage: &Stage, run: usize) -> Vec<Request> {
    let text = "a".repeat(LARGE);
    let deep = (0..90).fold(format!(r#""{text}""#), |inner, _| {
        format!(r#"{{"b":{inner},"a":0}}"#)
    });
    let content = format!(r#"{{"deep":{deep}}}"#);
    transaction(stage, run, &edus("attack", [content].iter()))
}

fn users(of: impl Fn(usize) -> Value) -> Map<String, Value> {
    (0..6000)
        .map(|n| (format!("@nobody{n}:localhost"), of(n)))
        .collect()
}

fn query(stage: &Stage, _: usize) -> Vec<Request> {
    let body = json!({ "device_keys": users(|_| json!([])) });
    vec![stage.signed("POST", "user/keys/query".to_owned(), body)]
}

fn claim(stage: &Stage, _: usize) -> Vec<Request> {
    let body = json!({ "one_time_keys": users(|_| json!({ "D": "a" })) });
    vec![stage.signed("POST", "user/keys/claim".to_owned(), body)]
}

fn state(stage: &Stage, _: usize) -> Vec<Request> {
    let (room, event) = (&stage.remote_room, &stage.remote_join);
    let paths = [
        format!("state_ids/{room}?event_id={event}"),
        format!("state/{room}?event_id={event}"),
        format!("backfill/{room}?v={event}&limit=100"),
        format!("event_auth/{room}/{event}"),
    ];
    paths.map(|path| stage.signed("GET", path, "")).into()
}

/// Of rooms in which the server is not, with more state than it keeps.
fn invitations(stage: &Stage, _: usize) -> Vec<Request> {
    let name = wide(14_000);
    let state = (0..60).map(|n| {
        format!(r#"{{"type":"m.room.name","state_key":"{n}","sender":"@a:b","content":{name}}}"#)
    });
    let state = state.collect::<Vec<_>>().join(",");
    let invitation = |_| {
        let room = stage.remote.create_room(1);
        let content = json!({ "membership": "invite", "reason": "x".repeat(10_000) });
        let target = ("m.room.member", Some("@user:localhost"));
        let event = stage.remote.build_event(&room, None, target, &content);
        let path = format!("invite/{room}/{}", event.pdu.event_id());
        let (event, version) = (to_json(&event), "11");
        let body = format!(
            r#"{{"room_version":"{version}","event":{event},"invite_room_state":[{state}]}}"#
        );
        stage.signed_with("v2", "PUT", path, body)
    };
    (0..10).map(invitation).collect()
}
