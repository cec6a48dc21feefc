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
        http::Client,
        server::Server,
    },
    mock_homeserver::MockHomeserver,
    peak_memory,
    sliding_sync::PATH as SLIDING_SYNC,
};

/// Bytes of a request body, below its limit.
const LARGE_BODY: usize = 1_000_000;
const JOIN_TIMEOUT: Duration = Duration::from_mins(20);
/// Transactions are sent after the response.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Of an account: the content of one type, and how many types are stored if nothing refuses them.
const ACCOUNT_DATA_BYTES: usize = 255_000;
const ACCOUNT_DATA: usize = 400;
const STATE_EVENT_BYTES: usize = 60_000;
const STATE_EVENTS: usize = 1_000;

/// The peak while `work` runs, in bytes.
fn peak_during(server: &Server, work: impl FnOnce() -> io::Result<()>) -> io::Result<u64> {
    peak_memory::reset(server.pid())?;
    work()?;
    peak_memory::peak(server.pid())
}

/// Sends a request, whatever its status.
fn send(client: &mut Client, method: &str, path: &str, body: Option<&Value>) -> io::Result<()> {
    let path = format!("/_matrix/client/v3/{path}");
    client.request(method, &path, body).map(drop)
}

/// Joins a room. It may be refused.
pub fn join(
    server: &Server,
    client: &mut Client,
    remote: &MockHomeserver,
    room: &RoomId,
) -> io::Result<u64> {
    let path = format!("join/{room}?via={}", remote.name());
    client.set_read_timeout(JOIN_TIMEOUT)?;
    peak_during(server, || send(client, "POST", &path, Some(&json!({}))))
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

/// Many requests of two users, which wait for silent servers.
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
            client.send("POST", "/_matrix/client/v3/keys/query", Some(&body))?;
        }
        clients
            .iter_mut()
            .try_for_each(|client| client.read_response().map(drop))
    })
}

/// Devices of a local user, until their keys are refused.
const LOCAL_DEVICES: usize = 200;
const DEVICE_KEY_BYTES: usize = 30_000;

/// Requests at once for all keys of a local user, whose devices have as many as are accepted. Nobody reads the
/// responses until all are there.
pub fn query_local_keys(server: &Server, client: &mut Client) -> io::Result<u64> {
    let user = "@user:localhost";
    let login = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": "correct horse battery staple",
    });
    for _ in 0..LOCAL_DEVICES {
        let session: Value = client.json("POST", "/_matrix/client/v3/login", Some(&login))?;
        let [token, device] = ["access_token", "device_id"].map(|field| session[field].as_str());
        let authorization = format!("Bearer {}", token.unwrap_or_default());
        let mut device_client = Client::connect(server.port, Some(&authorization))?;
        let keys = json!({
            "user_id": user, "device_id": device, "algorithms": [], "signatures": {},
            "keys": { "ed25519:D": "k".repeat(DEVICE_KEY_BYTES) },
        });
        let body = json!({ "device_keys": keys });
        let path = "/_matrix/client/v3/keys/upload";
        if device_client.request("POST", path, Some(&body))?.status != 200 {
            break;
        }
    }
    let body = json!({ "device_keys": { user: [] } });
    let clients = (0..REQUESTS).map(|number| {
        let token = client_api::register(server.port, &format!("other{number}"))?;
        Client::connect(server.port, Some(&format!("Bearer {token}")))
    });
    let mut clients: Vec<_> = clients.collect::<io::Result<_>>()?;
    peak_during(server, || {
        for client in &mut clients {
            client.send("POST", "/_matrix/client/v3/keys/query", Some(&body))?;
        }
        clients
            .iter_mut()
            .try_for_each(|client| client.read_response().map(drop))
    })
}

/// How many servers respond at once, and how many requests wait for each.
const LARGE_RESPONSES: usize = 24;
const REQUESTS: usize = 8;
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
            client.send("POST", "/_matrix/client/v3/keys/query", Some(&body))?;
        }
        thread::sleep(UNREAD_TIME);
        Ok(())
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
    for number in 0..ACCOUNT_DATA {
        let path = format!("user/@user:localhost/account_data/{number}");
        send(client, "PUT", &path, Some(&body))?;
    }
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
        client.request("POST", SLIDING_SYNC, Some(&body)).map(drop)
    })?;
    peaks.push(("- sliding sync of it", peak));
    Ok(peaks)
}

/// Of a space, each with a long name and topic.
const CHILDREN: usize = 500;
const ALIASES: usize = 1_000;
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
    for number in 0..ALIASES {
        let alias = format!("%23{}{number}:localhost", "a".repeat(200));
        let path = format!("directory/room/{alias}");
        send(client, "PUT", &path, Some(&json!({ "room_id": space })))?;
    }
    let mut peaks = Vec::new();
    let hierarchy = format!("/_matrix/client/v1/rooms/{space}/hierarchy?limit=1000");
    let peak = peak_during(server, || client.request("GET", &hierarchy, None).map(drop))?;
    peaks.push(("- /hierarchy of 500 rooms with 40 kB each", peak));
    let aliases = format!("rooms/{space}/aliases");
    let peak = peak_during(server, || send(client, "GET", &aliases, None))?;
    peaks.push(("- /aliases of as many as possible", peak));
    let public = "publicRooms?limit=1000";
    let peak = peak_during(server, || send(client, "GET", public, None))?;
    peaks.push(("- /publicRooms", peak));
    Ok(peaks)
}
