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
