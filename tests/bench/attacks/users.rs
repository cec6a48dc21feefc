//! What a local user can send.

use std::io;

use serde_json::{Map, Value, json};

use super::{Attack, Request, Stage, nothing, servers::wide};
use crate::{common::http::Client, sliding_sync::PATH as SLIDING_SYNC};

/// Of the user who attacks.
const ROOMS: usize = 500;

pub(super) fn attacks() -> Vec<Attack> {
    let attack = |label, requests| Attack {
        label,
        prepare: nothing,
        requests,
        at_once: false,
    };
    let prepared = |label, prepare, requests| Attack {
        label,
        prepare,
        requests,
        at_once: false,
    };
    vec![
        attack("keys/query for 9,000 users of one server", |stage, _| {
            query(stage, |_| String::from("one.invalid"))
        }),
        attack(
            "keys/query for 9,000 users of as many servers",
            |stage, _| query(stage, |n| format!("s{n}.invalid")),
        ),
        attack("keys/claim for 9,000 users of one server", |stage, _| {
            claim(stage, |_| String::from("one.invalid"))
        }),
        attack(
            "keys/claim for 9,000 users of as many servers",
            |stage, _| claim(stage, |n| format!("s{n}.invalid")),
        ),
        attack("keys/claim for 9,000 local users", |stage, _| {
            claim(stage, |_| String::from("localhost"))
        }),
        attack("sendToDevice to 9,000 servers", to_servers),
        attack("sendToDevice: 16 messages of 60 kB", to_devices),
        prepared("room_keys/keys: 5,000 keys", backup_version, backup),
        attack("createRoom: 1 MB of initial_state", create_room),
        attack("keys/upload of 250 kB", upload_keys),
        attack("a message of 60 kB of keys", message),
        prepared("a state event, power levels of 60 kB", power_levels, topic),
        prepared(
            "sync: 200 events, a filter of 60 kB",
            events,
            sync_by_filter,
        ),
        prepared("sync: 500 rooms, a filter of 900 rooms", rooms, sync_rooms),
        attack(
            "sliding sync: 40 lists of 500 rooms, 200 tags",
            sliding_lists,
        ),
        attack(
            "sliding sync: 500 rooms with all state, 900 patterns",
            sliding_state,
        ),
        prepared(
            "sliding sync: 100 lists, all rooms sent before",
            sliding_sent,
            sliding_again,
        ),
        attack("publicRooms: a search in 500 rooms", search),
        attack("hierarchy of 500 rooms", hierarchy),
        attack("state and members of 2,000 members", members),
        attack("messages, a filter of 28 kB", messages),
        attack("presence of a member of 500 rooms", presence),
        attack("a display name in 500 rooms", name),
        prepared("a message of 8 kB, 20 wildcards", wildcards, long_body),
        prepared("a message, 50 wildcards", more_wildcards, long_body),
        prepared("a message, ignored users of 250 kB", ignore, message),
        prepared("sync: 200 account data of 250 kB", account_data, sync),
    ]
}

fn query(stage: &Stage, server: impl Fn(usize) -> String) -> Vec<Request> {
    let users = (0..9000).map(|n| (format!("@u{n}:{}", server(n)), json!(["DEVICE"])));
    let body = json!({ "device_keys": users.collect::<Map<_, _>>(), "timeout": 100 });
    vec![stage.request("POST", "keys/query".into(), body)]
}

fn claim(stage: &Stage, server: impl Fn(usize) -> String) -> Vec<Request> {
    let users = (0..9000).map(|n| {
        (
            format!("@u{n}:{}", server(n)),
            json!({ "DEVICE": "signed_curve25519" }),
        )
    });
    let body = json!({ "one_time_keys": users.collect::<Map<_, _>>(), "timeout": 100 });
    vec![stage.request("POST", "keys/claim".into(), body)]
}

fn to_servers(stage: &Stage, run: usize) -> Vec<Request> {
    let users = (0..9000).map(|n| (format!("@u{n}:s{n}.invalid"), json!({ "DEVICE": {} })));
    let body = json!({ "messages": users.collect::<Map<_, _>>() });
    vec![stage.request("PUT", format!("sendToDevice/m.attack/a{run}"), body)]
}

fn to_devices(stage: &Stage, run: usize) -> Vec<Request> {
    let content = wide(60_000);
    let devices = (0..16).map(|n| format!(r#""D{n}":{content}"#));
    let devices = devices.collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"messages":{{"@other:localhost":{{{devices}}}}}}}"#);
    vec![stage.request("PUT", format!("sendToDevice/m.attack/b{run}"), body)]
}

fn backup_version(stage: &Stage) -> io::Result<()> {
    let body = json!({ "algorithm": "a", "auth_data": {} });
    let path = "/_matrix/client/v3/room_keys/version";
    stage
        .client()?
        .json::<Value>("POST", path, Some(&body))
        .map(drop)
}

fn backup(stage: &Stage, run: usize) -> Vec<Request> {
    let key = json!({ "is_verified": false, "first_message_index": 0, "forwarded_count": 0, "session_data": { "c": "x".repeat(30) } });
    let sessions = (0..5000).map(|n| (format!("{run}-session{n}"), key.clone()));
    let body =
        json!({ "rooms": { "!r:localhost": { "sessions": sessions.collect::<Map<_, _>>() } } });
    vec![stage.request("PUT", "room_keys/keys?version=1".into(), body)]
}

fn create_room(stage: &Stage, _: usize) -> Vec<Request> {
    let content = wide(50_000);
    let state = (0..20).map(|n| format!(r#"{{"type":"t{n}","state_key":"","content":{content}}}"#));
    let state = state.collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"initial_state":[{state}]}}"#);
    vec![stage.request("POST", "createRoom".into(), body)]
}

fn upload_keys(stage: &Stage, run: usize) -> Vec<Request> {
    let keys = (0..1500).map(|n| (format!("signed_curve25519:{run}{n:05}"), json!({ "key": "k".repeat(43), "signatures": { "@user:localhost": { "ed25519:D": "s".repeat(43) } } })));
    let body = json!({ "one_time_keys": keys.collect::<Map<_, _>>() });
    vec![stage.request("POST", "keys/upload".into(), body)]
}

fn send(stage: &Stage, run: usize, content: String) -> Vec<Request> {
    let room = &stage.room;
    let of = |n| {
        stage.request(
            "PUT",
            format!("rooms/{room}/send/m.room.message/{run}-{n}-{}", rand()),
            &content,
        )
    };
    (0..3).map(of).collect()
}

fn rand() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64)
}

fn message(stage: &Stage, run: usize) -> Vec<Request> {
    let more = wide(50_000);
    send(
        stage,
        run,
        format!(r#"{{"msgtype":"m.text","more":{more},"body":""}}"#),
    )
}

fn long_body(stage: &Stage, run: usize) -> Vec<Request> {
    let content = json!({ "msgtype": "m.text", "body": "a".repeat(60_000) });
    send(stage, run, content.to_string())
}

fn add_wildcards(stage: &Stage, count: usize) -> io::Result<()> {
    let mut client = Client::connect(stage.port, Some(&stage.other))?;
    for n in 0..count {
        let body = json!({ "actions": ["notify"], "pattern": format!("{}{n}", "a*".repeat(16)) });
        let path = format!("/_matrix/client/v3/pushrules/global/content/{n}");
        client.json::<Value>("PUT", &path, Some(&body))?;
    }
    Ok(())
}

fn wildcards(stage: &Stage) -> io::Result<()> {
    add_wildcards(stage, 20)
}

fn more_wildcards(stage: &Stage) -> io::Result<()> {
    add_wildcards(stage, 50)
}

fn ignore(stage: &Stage) -> io::Result<()> {
    let users = (0..8000).map(|n| (format!("@u{n}:example.org"), json!({})));
    let body = json!({ "ignored_users": users.collect::<Map<_, _>>() });
    let path = "/_matrix/client/v3/user/@other:localhost/account_data/m.ignored_user_list";
    Client::connect(stage.port, Some(&stage.other))?
        .json::<Value>("PUT", path, Some(&body))
        .map(drop)
}

fn power_levels(stage: &Stage) -> io::Result<()> {
    let users = (0..1800).map(|n| (format!("@u{n:04}:localhost.example"), json!(1)));
    let users: Map<_, _> = users.collect();
    let body = json!({ "users": users, "users_default": 0 });
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.power_levels/",
        stage.room
    );
    stage
        .client()?
        .json::<Value>("PUT", &path, Some(&body))
        .map(drop)
}

fn topic(stage: &Stage, run: usize) -> Vec<Request> {
    let path = format!("rooms/{}/state/m.room.topic/", stage.room);
    let of = |n| {
        stage.request(
            "PUT",
            path.clone(),
            json!({ "topic": format!("{run} {n}") }),
        )
    };
    (0..3).map(of).collect()
}

fn next_batch(stage: &Stage) -> io::Result<String> {
    let filter = r#"{"room":{"rooms":[]}}"#;
    let path = format!("/_matrix/client/v3/sync?filter={}", encode(filter));
    let synced: Value = stage.client()?.json("GET", &path, None)?;
    Ok(synced["next_batch"].as_str().unwrap_or_default().to_owned())
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn filter_id(stage: &Stage, filter: &Value) -> io::Result<String> {
    let path = "/_matrix/client/v3/user/@user:localhost/filter";
    let stored: Value = stage.client()?.json("POST", path, Some(filter))?;
    Ok(stored["filter_id"].as_str().unwrap_or_default().to_owned())
}

/// Messages of other types than the filter's, after the token that is the name of the device.
fn events(stage: &Stage) -> io::Result<()> {
    let since = next_batch(stage)?;
    let mut client = stage.client()?;
    for n in 0..200 {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/{}/f{n}",
            stage.room,
            "t".repeat(200)
        );
        client.json::<Value>("PUT", &path, Some(&json!({ "n": n })))?;
    }
    keep(stage, "events", &since)
}

/// Keeps a text as account data.
fn keep(stage: &Stage, name: &str, text: &str) -> io::Result<()> {
    let path = format!("/_matrix/client/v3/user/@user:localhost/account_data/{name}");
    stage
        .client()?
        .json::<Value>("PUT", &path, Some(&json!({ "text": text })))
        .map(drop)
}

fn kept(stage: &Stage, name: &str) -> String {
    let path = format!("/_matrix/client/v3/user/@user:localhost/account_data/{name}");
    let kept = stage
        .client()
        .and_then(|mut client| client.json::<Value>("GET", &path, None));
    kept.expect("it was kept")["text"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn sync_by_filter(stage: &Stage, _: usize) -> Vec<Request> {
    let filter = |count| {
        let types: Vec<_> = (0..count).map(|n| format!("*{n:x}")).collect();
        filter_id(
            stage,
            &json!({ "room": { "timeline": { "types": types } } }),
        )
    };
    // The largest that is accepted.
    let id = filter(9000).or_else(|_| filter(500)).expect("a filter");
    let since = kept(stage, "events");
    vec![stage.get(format!("sync?filter={id}&since={since}"))]
}

fn rooms(stage: &Stage) -> io::Result<()> {
    let mut client = stage.client()?;
    let mut children = Vec::new();
    for n in 0..ROOMS {
        let body = json!({
            "visibility": "public", "preset": "public_chat", "name": format!("a room {n}"),
            "topic": "t".repeat(200),
        });
        let created: Value = client.json("POST", "/_matrix/client/v3/createRoom", Some(&body))?;
        let id = created["room_id"].as_str().unwrap_or_default();
        children.push(id.to_owned());
    }
    let body = json!({ "creation_content": { "type": "m.space" }, "preset": "public_chat" });
    let space: Value = client.json("POST", "/_matrix/client/v3/createRoom", Some(&body))?;
    let id = space["room_id"].as_str().unwrap_or_default();
    let via = json!({ "via": ["localhost"] });
    for child in children {
        let path = format!("/_matrix/client/v3/rooms/{id}/state/m.space.child/{child}");
        client.json::<Value>("PUT", &path, Some(&via))?;
    }
    keep(stage, "space", id)
}

fn sync_rooms(stage: &Stage, _: usize) -> Vec<Request> {
    let not: Vec<_> = (0..900)
        .map(|n| format!("!room{n}abcdefghijklmnop:localhost"))
        .collect();
    let filter = json!({ "room": { "not_rooms": not } });
    let id = filter_id(stage, &filter).expect("a filter");
    vec![stage.get(format!("sync?filter={id}"))]
}

fn sliding(stage: &Stage, pos: Option<&str>, body: &Value) -> Request {
    let pos = pos.map_or(String::new(), |pos| format!("?pos={pos}"));
    Request {
        path: format!("{SLIDING_SYNC}{pos}"),
        ..stage.request("POST", String::new(), body)
    }
}

/// So many lists of all rooms, each like `list`.
fn lists(count: usize, list: &Value) -> Value {
    let lists = (0..count).map(|n| (format!("list{n}"), list.clone()));
    json!({ "lists": lists.collect::<Map<_, _>>() })
}

fn sliding_lists(stage: &Stage, _: usize) -> Vec<Request> {
    let tags: Vec<_> = (0..5).map(|n| format!("u.tag{n}")).collect();
    let filters = json!({ "not_tags": tags, "room_name_like": "room" });
    let list = json!({ "range": [0, 999], "timeline_limit": 100, "filters": filters });
    vec![sliding(stage, None, &lists(40, &list))]
}

fn sliding_state(stage: &Stage, _: usize) -> Vec<Request> {
    let patterns = (0..900).map(|n| json!([format!("org.example.{n}"), "*"]));
    let patterns: Vec<_> = patterns.chain([json!(["*", "*"])]).collect();
    let list = json!({ "range": [0, 999], "timeline_limit": 100, "required_state": patterns });
    vec![sliding(stage, None, &lists(1, &list))]
}

fn sliding_sent(stage: &Stage) -> io::Result<()> {
    let request = sliding(stage, None, &many_lists());
    let body = many_lists();
    let first: Value = stage.client()?.json("POST", &request.path, Some(&body))?;
    keep(stage, "pos", first["pos"].as_str().unwrap_or_default())
}

fn many_lists() -> Value {
    lists(100, &json!({ "range": [0, 999], "timeline_limit": 1 }))
}

fn sliding_again(stage: &Stage, run: usize) -> Vec<Request> {
    let mut requests = message(stage, run);
    requests.push(sliding(stage, Some(&kept(stage, "pos")), &many_lists()));
    requests
}

fn search(stage: &Stage, _: usize) -> Vec<Request> {
    let body = json!({ "filter": { "generic_search_term": "x".repeat(1000) } });
    vec![stage.request("POST", "publicRooms".into(), body)]
}

fn hierarchy(stage: &Stage, _: usize) -> Vec<Request> {
    let space = kept(stage, "space");
    let mut request = stage.get(String::new());
    request.path = format!("/_matrix/client/v1/rooms/{space}/hierarchy?limit=1000");
    vec![request]
}

fn members(stage: &Stage, _: usize) -> Vec<Request> {
    let room = &stage.remote_room;
    let paths = ["state", "members", "joined_members"];
    paths
        .map(|path| stage.get(format!("rooms/{room}/{path}")))
        .into()
}

fn messages(stage: &Stage, _: usize) -> Vec<Request> {
    let types: Vec<_> = (0..2000).map(|n| format!("*{n:x}")).collect();
    let filter = encode(&json!({ "types": types }).to_string());
    let path = format!(
        "rooms/{}/messages?dir=b&limit=100&filter={filter}",
        stage.room
    );
    vec![stage.get(path)]
}

fn presence(stage: &Stage, run: usize) -> Vec<Request> {
    let body = json!({ "presence": "online", "status_msg": format!("{run}") });
    vec![stage.request("PUT", "presence/@user:localhost/status".into(), body)]
}

fn name(stage: &Stage, run: usize) -> Vec<Request> {
    let body = json!({ "displayname": format!("user {run}") });
    vec![stage.request("PUT", "profile/@user:localhost/displayname".into(), body)]
}

fn account_data(stage: &Stage) -> io::Result<()> {
    let mut client = stage.client()?;
    for n in 0..200 {
        let path = format!("/_matrix/client/v3/user/@user:localhost/account_data/large{n}");
        let response =
            client.request("PUT", &path, Some(&json!({ "text": "x".repeat(250_000) })))?;
        if response.status != 200 {
            break;
        }
    }
    Ok(())
}

fn sync(stage: &Stage, _: usize) -> Vec<Request> {
    let filter = encode(r#"{"room":{"rooms":[]}}"#);
    vec![stage.get(format!("sync?filter={filter}"))]
}
