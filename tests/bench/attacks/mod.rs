//! Requests that cost the most, and how long the requests of others wait meanwhile.

mod servers;
mod users;

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, ServerName};
use serde_json::{Value, json};

use crate::{
    common::{client_api, http::Client, server::Server},
    load::lower_priority,
    mock_homeserver::MockHomeserver,
    probe::{Probe, probe},
};

/// Of the room on the mock homeserver.
const MEMBERS: usize = 2000;

/// The server under attack, and who attacks it.
pub struct Stage {
    pid: u32,
    port: u16,
    name: OwnedServerName,
    remote: MockHomeserver,
    /// Of the local user who attacks.
    token: String,
    /// Of a local user who shares a room with them.
    other: String,
    /// A room of both users.
    room: String,
    /// A room of the mock homeserver, with a large server ACL, which the local user has joined.
    remote_room: OwnedRoomId,
    remote_join: OwnedEventId,
}

pub struct Attack {
    pub label: &'static str,
    /// What must be there before; it does not count.
    prepare: fn(&Stage) -> io::Result<()>,
    /// The requests of a run, whose number makes ids of transactions unique.
    requests: fn(&Stage, run: usize) -> Vec<Request>,
    /// Whether they are sent over as many connections, or one after another.
    at_once: bool,
}

struct Request {
    method: &'static str,
    path: String,
    authorization: String,
    /// The text may have keys in any order.
    body: String,
}

pub fn all() -> impl Iterator<Item = Attack> {
    servers::attacks().into_iter().chain(users::attacks())
}

fn nothing(_: &Stage) -> io::Result<()> {
    Ok(())
}

impl Stage {
    pub fn new(server: &Server) -> io::Result<Self> {
        let (pid, port) = (server.pid(), server.port);
        let remote = MockHomeserver::start()?;
        let acl = servers::large_acl();
        let remote_room = remote.create_room_with(MEMBERS, Some(&acl));
        let token = format!("Bearer {}", client_api::register(port, "user")?);
        let other = format!("Bearer {}", client_api::register(port, "other")?);
        let mut client = Client::connect(port, Some(&token))?;
        let room = client_api::create_public_room(&mut client)?;
        client_api::join(&mut Client::connect(port, Some(&other))?, &room)?;
        let remote_join = join(&mut client, &remote_room, &remote)?;
        Ok(Self {
            pid,
            port,
            name: ServerName::parse("localhost").map_err(io::Error::other)?,
            remote,
            token,
            other,
            room,
            remote_room,
            remote_join,
        })
    }

    fn client(&self) -> io::Result<Client> {
        Client::connect(self.port, Some(&self.token))
    }

    /// A request of the local user.
    fn request(&self, method: &'static str, path: String, body: impl ToString) -> Request {
        Request {
            method,
            path: format!("/_matrix/client/v3/{path}"),
            authorization: self.token.clone(),
            body: body.to_string(),
        }
    }

    fn get(&self, path: String) -> Request {
        self.request("GET", path, "")
    }

    /// A request of the mock homeserver.
    fn signed(&self, method: &'static str, path: String, body: impl ToString) -> Request {
        self.signed_with("v1", method, path, body)
    }

    fn signed_with(
        &self,
        version: &str,
        method: &'static str,
        path: String,
        body: impl ToString,
    ) -> Request {
        let path = format!("/_matrix/federation/{version}/{path}");
        let body = body.to_string();
        let request = http::Request::builder().method(method).uri(&path);
        let request = request.body(body.clone().into_bytes());
        let authorization = self
            .remote
            .authorization(&self.name, &request.expect("a valid request"));
        Request {
            method,
            path,
            authorization: authorization.expect("the body is JSON"),
            body,
        }
    }
}

impl Attack {
    pub fn prepare(&self, stage: &Stage) -> io::Result<()> {
        (self.prepare)(stage)
    }

    /// The longest probe during the attack.
    pub fn longest_probe(&self, stage: &Stage, run: usize) -> io::Result<Probe> {
        let requests = (self.requests)(stage, run);
        let stop = &AtomicBool::new(false);
        thread::scope(|scope| {
            let prober = scope.spawn(move || probe(stage.pid, stage.port, stop));
            let attacker = scope.spawn(|| {
                lower_priority();
                match self.at_once {
                    true => send_at_once(&requests, stage.port),
                    false => requests
                        .iter()
                        .try_for_each(|request| request.send(stage.port)),
                }
            });
            let sent = attacker.join();
            // Some work goes on after the response.
            thread::sleep(Duration::from_secs(1));
            stop.store(true, Ordering::Relaxed);
            let probes = prober.join();
            let panicked = || Err(io::Error::other("the attacker or the probe panicked"));
            sent.unwrap_or_else(|_| panicked())?;
            let probes = probes.unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))?;
            Ok(probes.into_iter().max().unwrap_or_default())
        })
    }
}

fn send_at_once(requests: &[Request], port: u16) -> io::Result<()> {
    thread::scope(|scope| {
        let send = |request| scope.spawn(move || Request::send(request, port));
        let sending: Vec<_> = requests.iter().map(send).collect();
        let panicked = |_| Err(io::Error::other("an attacker panicked"));
        let mut sent = sending.into_iter();
        sent.try_for_each(|sent| sent.join().unwrap_or_else(panicked))
    })
}

impl Request {
    fn send(&self, port: u16) -> io::Result<()> {
        let Self {
            method,
            path,
            authorization,
            body,
        } = self;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Authorization: {authorization}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut client = Client::connect(port, None)?;
        client.send_bytes(&[head.as_bytes(), body.as_bytes()].concat())?;
        let response = client.read_response()?;
        // A refusal is a defence.
        if response.status >= 500 {
            let text = String::from_utf8_lossy(&response.body);
            let status = response.status;
            return Err(io::Error::other(format!(
                "{method} {path}: {status} {text}"
            )));
        }
        Ok(())
    }
}

/// Joins a room of `remote`; returns the id of the join event.
pub fn join(
    client: &mut Client,
    room: &OwnedRoomId,
    remote: &MockHomeserver,
) -> io::Result<OwnedEventId> {
    let path = format!("/_matrix/client/v3/join/{room}?via={}", remote.name());
    client.json::<Value>("POST", &path, Some(&json!({})))?;
    let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1");
    let newest: Value = client.json("GET", &path, None)?;
    let id = newest["chunk"][0]["event_id"].as_str().unwrap_or_default();
    OwnedEventId::try_from(id).map_err(io::Error::other)
}
