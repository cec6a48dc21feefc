//! Requests and responses that are as large as their limits allow: the peak of resident memory meanwhile.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, TcpListener},
    thread,
    time::Duration,
};

use ruma::RoomId;
use serde_json::{Map, Value, json};

use crate::{
    common::{
        client_api::{self, create_public_room},
        http::{Client, Response},
        server::Server,
    },
    mock_homeserver::MockHomeserver,
    peak_memory,
    sliding_sync::PATH as SLIDING_SYNC,
};

/// Bytes of a request body, below its limit.
const LARGE_BODY: usize = 1_000_000;
const QUERY: &str = "/_matrix/client/v3/keys/query";
/// The statuses of what a limit refuses.
const REFUSALS: [u16; 4] = [400, 403, 413, 429];
const JOIN_TIMEOUT: Duration = Duration::from_mins(20);
/// Transactions are sent after the response.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Of an account: the content of one type, and how many types are stored if nothing refuses them.
const ACCOUNT_DATA_BYTES: usize = 255_000;
const ACCOUNT_DATA: usize = 400;
const MIN_ACCOUNT_DATA: usize = 16;
const STATE_EVENT_BYTES: usize = 60_000;
const STATE_EVENTS: usize = 1_000;

/// The peak while `work` runs, in bytes.
fn peak_during(server: &Server, work: impl FnOnce() -> io::Result<()>) -> io::Result<u64> {
    peak_memory::reset(server.pid())?;
    work()?;
    peak_memory::peak(server.pid())
}

/// Sends a request. A refusal takes little memory, so it fails unless the response has status 200.
fn send(client: &mut Client, method: &str, path: &str, body: Option<&Value>) -> io::Result<()> {
    let path = format!("/_matrix/client/v3/{path}");
    check(&client.request(method, &path, body)?, &path)
}

/// Sends a request that may be refused because of a limit; whether it was served.
fn send_until_refused(
    client: &mut Client,
    method: &str,
    path: &str,
    body: &Value,
) -> io::Result<bool> {
    let path = format!("/_matrix/client/v3/{path}");
    let response = client.request(method, &path, Some(body))?;
    if REFUSALS.contains(&response.status) {
        return Ok(false);
    }
    check(&response, &path)?;
    Ok(true)
}

fn check(response: &Response, request: &str) -> io::Result<()> {
    if response.status == 200 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&response.body);
    let error = format!("{request}: {} {text}", response.status);
    Err(io::Error::other(error))
}

fn check_count(what: &str, found: usize, min: usize) -> io::Result<()> {
    if found >= min {
        return Ok(());
    }
    let error = format!("{found} {what}, expected at least {min}");
    Err(io::Error::other(error))
}

/// Joins a room, or has the join refused because the room is too large.
pub fn join(
    server: &Server,
    client: &mut Client,
    remote: &MockHomeserver,
    room: &RoomId,
    is_refused: bool,
) -> io::Result<u64> {
    let path = format!("join/{room}?via={}", remote.name());
    client.set_read_timeout(JOIN_TIMEOUT)?;
    peak_during(server, || {
        let is_joined = send_until_refused(client, "POST", &path, &json!({}))?;
        if is_joined == is_refused {
            let error = format!("{path}: joined is {is_joined}");
            return Err(io::Error::other(error));
        }
        Ok(())
    })
}

/// Distinct servers that accept connections and do not answer.
struct SilentServers {
    port: u16,
}

impl SilentServers {
    fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            let accepted: Vec<_> = listener.incoming().flatten().collect();
            drop(accepted);
        });
        Ok(Self { port })
    }

    fn user(&self, number: usize) -> String {
        let (high, low) = (number / 250, number % 250 + 1);
        format!(
            "@a:127.{}.{}.{low}:{}",
            high / 250 + 1,
            high % 250,
            self.port
        )
    }
}

/// One user on each of as many silent servers as one body can name.
fn one_user_each(field: &str, of_user: &Value) -> io::Result<Value> {
    let servers = SilentServers::start()?;
    let mut users: BTreeMap<String, &Value> = BTreeMap::new();
    let entry = of_user.to_string().len() + servers.user(249).len() + 6;
    for number in 0..LARGE_BODY / entry {
        users.insert(servers.user(number), of_user);
    }
    Ok(Value::Object(Map::from_iter([(
        field.to_owned(),
        json!(users),
    )])))
}

pub fn claim_keys(server: &Server, client: &mut Client) -> io::Result<u64> {
    let body = one_user_each("one_time_keys", &json!({ "D": "signed_curve25519" }))?;
    peak_during(server, || send(client, "POST", "keys/claim", Some(&body)))
}

/// As many users as one request may name.
pub fn query_keys(server: &Server, client: &mut Client) -> io::Result<u64> {
    let mut body = one_user_each("device_keys", &json!([]))?;
    let users = body["device_keys"].as_object().into_iter().flatten();
    let users: Map<_, _> = users
        .take(9_900)
        .map(|(user, of)| (user.clone(), of.clone()))
        .collect();
    body["device_keys"] = Value::Object(users);
    peak_during(server, || send(client, "POST", "keys/query", Some(&body)))
}

/// Of each of two users, at once.
const WAITING_QUERIES: usize = 20;
const USERS_PER_QUERY: usize = 1_500;

/// Of all, however the two users share what may be requested at once.
const MIN_SERVED_QUERIES: usize = 10;

/// Many requests of two users, which wait for silent servers. Those beyond the share of a user are refused.
pub fn query_keys_at_once(server: &Server) -> io::Result<u64> {
    let silent = SilentServers::start()?;
    let users = (0..USERS_PER_QUERY).map(|number| (silent.user(number), json!([])));
    let body = json!({ "device_keys": users.collect::<Map<_, _>>() });
    let mut clients = Vec::new();
    for name in ["first", "second"] {
        let token = format!("Bearer {}", client_api::register(server.port, name)?);
        for _ in 0..WAITING_QUERIES {
            clients.push(Client::connect(server.port, Some(&token))?);
        }
    }
    peak_during(server, || {
        for client in &mut clients {
            client.send("POST", QUERY, Some(&body))?;
        }
        let mut served = 0;
        for client in &mut clients {
            let response = client.read_response()?;
            if !REFUSALS.contains(&response.status) {
                check(&response, QUERY)?;
                served += 1;
            }
        }
        check_count("served queries", served, MIN_SERVED_QUERIES)
    })
}

/// Devices of a local user, until their keys are refused.
const LOCAL_DEVICES: usize = 200;
const MIN_LOCAL_DEVICES: usize = 30;
const DEVICE_KEY_BYTES: usize = 30_000;
const LOCAL_USER: &str = "@user:localhost";

/// Logs in on devices of a local user, each of which uploads `keys` of its id. Returns the ids of those whose keys
/// were accepted.
fn upload_keys(
    server: &Server,
    client: &mut Client,
    keys: impl Fn(&str) -> Value,
) -> io::Result<Vec<String>> {
    let login = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": LOCAL_USER },
        "password": "correct horse battery staple",
    });
    let mut devices = Vec::new();
    for _ in 0..LOCAL_DEVICES {
        let session: Value = client.json("POST", "/_matrix/client/v3/login", Some(&login))?;
        let [token, device] = ["access_token", "device_id"]
            .map(|field| session[field].as_str().unwrap_or_default().to_owned());
        let mut device_client = Client::connect(server.port, Some(&format!("Bearer {token}")))?;
        let body = keys(&device);
        if !send_until_refused(&mut device_client, "POST", "keys/upload", &body)? {
            break;
        }
        devices.push(device);
    }
    check_count("devices", devices.len(), MIN_LOCAL_DEVICES)?;
    Ok(devices)
}

/// The peak while several users send the same request at once.
fn peak_of_requests(server: &Server, path: &str, body: &Value) -> io::Result<u64> {
    let clients = (0..REQUESTS).map(|number| {
        let token = client_api::register(server.port, &format!("other{number}"))?;
        Client::connect(server.port, Some(&format!("Bearer {token}")))
    });
    let mut clients: Vec<_> = clients.collect::<io::Result<_>>()?;
    peak_during(server, || {
        for client in &mut clients {
            client.send("POST", path, Some(body))?;
        }
        clients
            .iter_mut()
            .try_for_each(|client| check(&client.read_response()?, path))
    })
}

/// Requests at once for all keys of a local user, whose devices have as many as are accepted.
pub fn query_local_keys(server: &Server, client: &mut Client) -> io::Result<u64> {
    let keys = |device: &str| {
        let keys = json!({
            "user_id": LOCAL_USER, "device_id": device, "algorithms": [], "signatures": {},
            "keys": { "ed25519:D": "k".repeat(DEVICE_KEY_BYTES) },
        });
        json!({ "device_keys": keys })
    };
    upload_keys(server, client, keys)?;
    let body = json!({ "device_keys": { LOCAL_USER: [] } });
    peak_of_requests(server, QUERY, &body)
}

/// Claims at once of a key of each of many devices of a local user.
pub fn claim_local_keys(server: &Server, client: &mut Client) -> io::Result<u64> {
    let keys = |_: &str| {
        let key = json!({ "key": "k".repeat(DEVICE_KEY_BYTES), "fallback": true });
        json!({ "fallback_keys": { "signed_curve25519:F": key } })
    };
    let devices = upload_keys(server, client, keys)?.into_iter();
    let wanted: Map<_, _> = devices
        .map(|device| (device, json!("signed_curve25519")))
        .collect();
    let body = json!({ "one_time_keys": { LOCAL_USER: wanted } });
    peak_of_requests(server, "/_matrix/client/v3/keys/claim", &body)
}

/// How many servers respond at once, and how many requests wait for each.
const LARGE_RESPONSES: usize = 24;
const REQUESTS: usize = 8;
/// Of all responses: more than one server gave its keys.
const MIN_LARGE_BYTES: usize = 5_000_000;
/// Longer than the requests take.
const UNREAD_TIME: Duration = Duration::from_secs(15);

/// Several requests, each for one user on each of several servers that respond with 4 MB. Nobody reads the
/// responses until all are there.
pub fn query_large_keys(server: &Server) -> io::Result<u64> {
    let servers = (0..LARGE_RESPONSES).map(|_| MockHomeserver::start());
    let servers: Vec<_> = servers.collect::<io::Result<_>>()?;
    let users = servers
        .iter()
        .map(|server| (server.user(0).to_string(), json!([])));
    let body = json!({ "device_keys": users.collect::<Map<_, _>>() });
    let clients = (0..REQUESTS).map(|number| {
        let token = client_api::register(server.port, &format!("user{number}"))?;
        Client::connect(server.port, Some(&format!("Bearer {token}")))
    });
    let mut clients: Vec<_> = clients.collect::<io::Result<_>>()?;
    peak_during(server, || {
        for client in &mut clients {
            client.send("POST", QUERY, Some(&body))?;
        }
        thread::sleep(UNREAD_TIME);
        let mut bytes = 0;
        for client in &mut clients {
            let response = client.read_response()?;
            check(&response, QUERY)?;
            bytes += response.body.len();
        }
        check_count("bytes of keys", bytes, MIN_LARGE_BYTES)
    })
}

pub fn send_to_device(server: &Server, client: &mut Client) -> io::Result<u64> {
    let body = one_user_each("messages", &json!({ "D": {} }))?;
    peak_during(server, || {
        for transaction in 0..3 {
            let path = format!("sendToDevice/m.test/{transaction}");
            send(client, "PUT", &path, Some(&body))?;
        }
        thread::sleep(AFTERWARDS);
        Ok(())
    })
}

/// Stores account data until it is refused, and syncs.
pub fn account_data(server: &Server, client: &mut Client) -> io::Result<u64> {
    let body = json!({ "text": "a".repeat(ACCOUNT_DATA_BYTES) });
    let mut stored = 0;
    for number in 0..ACCOUNT_DATA {
        let path = format!("user/@user:localhost/account_data/{number}");
        stored += usize::from(send_until_refused(client, "PUT", &path, &body)?);
    }
    check_count("account data", stored, MIN_ACCOUNT_DATA)?;
    peak_during(server, || send(client, "GET", "sync", None))
}

/// The peak of each request that responds with a room's state.
pub fn state(server: &Server, client: &mut Client) -> io::Result<Vec<(&'static str, u64)>> {
    let room = create_public_room(client)?;
    let body = json!({ "text": "a".repeat(STATE_EVENT_BYTES) });
    for number in 0..STATE_EVENTS {
        let path = format!("rooms/{room}/state/org.example.test/{number}");
        send(client, "PUT", &path, Some(&body))?;
    }
    let state = format!("rooms/{room}/state");
    let members = format!("rooms/{room}/members");
    let messages = format!("rooms/{room}/messages?dir=b&limit=100");
    let paths = [
        ("- /sync of a room with 60 MB of state", "sync"),
        ("- /state of it", &state),
        ("- /members of it", &members),
        ("- /messages of it", &messages),
    ];
    let mut peaks = Vec::new();
    for (name, path) in paths {
        let peak = peak_during(server, || send(client, "GET", path, None))?;
        peaks.push((name, peak));
    }
    let list = json!({ "range": [0, 9], "timeline_limit": 100, "required_state": [["*", "*"]] });
    let body = json!({ "lists": { "all": list } });
    let peak = peak_during(server, || {
        check(
            &client.request("POST", SLIDING_SYNC, Some(&body))?,
            SLIDING_SYNC,
        )
    })?;
    peaks.push(("- sliding sync of it", peak));
    Ok(peaks)
}

/// Of a space, each with a long name and topic.
const CHILDREN: usize = 500;
const ALIASES: usize = 1_000;
const MIN_ALIASES: usize = 100;
const LONG_TEXT_BYTES: usize = 20_000;

/// The peaks of the responses that list the rooms of a space, and the aliases of a room until they are refused.
pub fn rooms(server: &Server, client: &mut Client) -> io::Result<Vec<(&'static str, u64)>> {
    let create = |client: &mut Client, body: Value| -> io::Result<String> {
        let room: Value = client.json("POST", "/_matrix/client/v3/createRoom", Some(&body))?;
        Ok(room["room_id"].as_str().unwrap_or_default().to_owned())
    };
    let space = json!({ "creation_content": { "type": "m.space" }, "preset": "public_chat" });
    let space = create(client, space)?;
    for _ in 0..CHILDREN {
        let text = "t".repeat(LONG_TEXT_BYTES);
        let body = json!({ "preset": "public_chat", "name": text, "topic": text });
        let child = create(client, body)?;
        let path = format!("rooms/{space}/state/m.space.child/{child}");
        send(client, "PUT", &path, Some(&json!({ "via": ["localhost"] })))?;
    }
    let mut aliases = 0;
    for number in 0..ALIASES {
        let alias = format!("%23{}{number}:localhost", "a".repeat(200));
        let path = format!("directory/room/{alias}");
        let body = json!({ "room_id": space });
        aliases += usize::from(send_until_refused(client, "PUT", &path, &body)?);
    }
    check_count("aliases", aliases, MIN_ALIASES)?;
    let mut peaks = Vec::new();
    let hierarchy = format!("/_matrix/client/v1/rooms/{space}/hierarchy?limit=1000");
    let peak = peak_during(server, || {
        check(&client.request("GET", &hierarchy, None)?, &hierarchy)
    })?;
    peaks.push(("- /hierarchy of 500 rooms with 40 kB each", peak));
    let aliases = format!("rooms/{space}/aliases");
    let peak = peak_during(server, || send(client, "GET", &aliases, None))?;
    peaks.push(("- /aliases of as many as possible", peak));
    let public = "publicRooms?limit=1000";
    let peak = peak_during(server, || send(client, "GET", public, None))?;
    peaks.push(("- /publicRooms", peak));
    Ok(peaks)
}
