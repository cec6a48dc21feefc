//! A server made up for the measurements: rooms with as many members and messages as are wanted,
//! all of it signed, and the few endpoints by which hearth gets in.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, RwLock},
    thread,
};

use hearth::protocol::{
    ServerKey,
    build::{BuiltEvent, EventDraft, EventPlace, build, canonical_content},
    versions,
};
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomVersionId, ServerName,
    api::federation::authentication::XMatrix,
    serde::Base64,
    signatures::{KeyPair, sign_json},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};

use crate::common::http::Client;

/// What the certificates of the tests certify.
const HOST: &str = "localhost";
const VERSION: RoomVersionId = RoomVersionId::V11;
/// How many events go into one transaction.
const TOGETHER: usize = 50;

type Tls = BufReader<StreamOwned<ServerConnection, TcpStream>>;

/// A server with rooms. Clones are the same.
#[derive(Clone)]
pub struct City {
    name: OwnedServerName,
    key: Arc<ServerKey>,
    rooms: Arc<RwLock<Vec<Room>>>,
}

/// A room as the city has it.
struct Room {
    id: OwnedRoomId,
    /// What authorizes the ordinary member: the create event, the powers, the rule for joining.
    law: Vec<OwnedEventId>,
    /// The state, in the order in which it came about.
    state: Vec<BuiltEvent>,
    last: OwnedEventId,
    depth: u64,
}

impl City {
    /// A city that answers on a port of its own, until the process ends.
    pub fn found() -> io::Result<City> {
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let name = format!("{HOST}:{}", door.local_addr()?.port());
        let city = City {
            name: ServerName::parse(name).map_err(io::Error::other)?,
            key: Arc::new(ServerKey::generate()),
            rooms: Arc::default(),
        };
        let tls = Arc::new(tls()?);
        let host = city.clone();
        thread::spawn(move || {
            for guest in door.incoming().flatten() {
                let (host, tls) = (host.clone(), tls.clone());
                // Whoever hangs up has what they wanted.
                thread::spawn(move || host.serve(guest, tls));
            }
        });
        Ok(city)
    }

    /// Its name, by which it is found too.
    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// Makes a room that everybody may join, with so many members.
    pub fn settle(&self, members: usize) -> OwnedRoomId {
        let mut rooms = self.rooms.write().expect("nobody panics with it");
        let id = format!("!room{}:{}", rooms.len(), self.name);
        let mayor = self.user(0);
        let mut room = Room {
            id: OwnedRoomId::try_from(id).expect("it is a room id"),
            law: Vec::new(),
            state: Vec::new(),
            last: OwnedEventId::try_from("$nothing").expect("it is an event id"),
            depth: 0,
        };
        let joined = json!({ "membership": "join" });
        room.put(
            self,
            &mayor,
            ("m.room.create", ""),
            &json!({ "room_version": VERSION }),
        );
        room.put(self, &mayor, ("m.room.member", mayor.as_str()), &joined);
        let powers = json!({ "users": { mayor.as_str(): 100 } });
        room.put(self, &mayor, ("m.room.power_levels", ""), &powers);
        room.put(
            self,
            &mayor,
            ("m.room.join_rules", ""),
            &json!({ "join_rule": "public" }),
        );
        // The mayor's own membership authorizes nobody else.
        room.law.remove(1);
        for number in 1..members {
            let member = self.user(number);
            room.put(self, &member, ("m.room.member", member.as_str()), &joined);
        }
        let id = room.id.clone();
        rooms.push(room);
        id
    }

    /// So many messages of the mayor's, each after the one before; the first follows on the event
    /// by which somebody joined.
    pub fn chat(
        &self,
        room: &OwnedRoomId,
        join: &OwnedEventId,
        messages: usize,
    ) -> Vec<BuiltEvent> {
        let rooms = self.rooms.read().expect("nobody panics with it");
        let room = rooms.iter().find(|of| of.id == *room).expect("it is here");
        let mayor = self.user(0);
        let mut auth = room.law[..2].to_vec();
        auth.push(room.state[1].pdu.event_id().to_owned());
        let mut before = join.clone();
        let say = |number| {
            let text = json!({ "msgtype": "m.text", "body": format!("message {number}") });
            let draft = room.draft(&mayor, "m.room.message", None, &text);
            let depth = room.depth + 2 + number as u64;
            let said = self.build(&draft, &auth, vec![before.clone()], depth);
            before = said.pdu.event_id().to_owned();
            said
        };
        (0..messages).map(say).collect()
    }

    /// Sends events to the server `name` at `port`, as many at a time as the specification allows.
    pub fn send(&self, (name, port): (&ServerName, u16), events: &[BuiltEvent]) -> io::Result<()> {
        for (number, some) in events.chunks(TOGETHER).enumerate() {
            let pdus: Vec<Value> = some.iter().map(json_of).collect();
            let transaction = json!({
                "origin": self.name, "origin_server_ts": now().get(), "pdus": pdus,
            });
            let first = some[0].pdu.event_id().as_str();
            let path = format!("/_matrix/federation/v1/send/{number}{}", &first[1..9]);
            let header = self.signature(name, &path, &transaction);
            let mut client = Client::connect(port, Some(&header))?;
            let answer: Value = client.json("PUT", &path, Some(&transaction))?;
            let results = answer["pdus"].as_object().into_iter().flatten();
            if let Some((id, result)) = results
                .into_iter()
                .find(|(_, result)| result["error"].is_string())
            {
                return Err(io::Error::other(format!("{id} is refused: {result}")));
            }
        }
        Ok(())
    }

    fn signature(&self, destination: &ServerName, path: &str, body: &Value) -> String {
        let request = http::Request::put(path).body(body.to_string().into_bytes());
        let request = request.expect("it is a request");
        let object = XMatrix::request_object(&request, &self.name, destination);
        let object = serde_json::to_vec(&object.expect("it is JSON")).expect("it is JSON");
        let (_, signature) = self.key.sign(&object).into_parts();
        let signed = XMatrix::new(
            self.name.clone(),
            destination.to_owned(),
            self.key.id().to_owned(),
            Base64::new(signature),
        );
        http::HeaderValue::from(&signed)
            .to_str()
            .expect("it is text")
            .to_owned()
    }

    fn user(&self, number: usize) -> OwnedUserId {
        let id = format!("@citizen{number}:{}", self.name);
        OwnedUserId::try_from(id).expect("it is a user id")
    }

    fn build(
        &self,
        draft: &EventDraft,
        auth_events: &[OwnedEventId],
        prev_events: Vec<OwnedEventId>,
        depth: u64,
    ) -> BuiltEvent {
        let place = EventPlace {
            prev_events,
            auth_events: auth_events.to_vec(),
            depth,
            origin_server_ts: now(),
        };
        let rules = versions::rules(&VERSION).expect("it is supported");
        build(draft, &place, rules, &self.key).expect("it is an event")
    }

    fn serve(&self, guest: TcpStream, tls: Arc<ServerConfig>) -> io::Result<()> {
        guest.set_nodelay(true)?;
        let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
        let mut stream = BufReader::new(StreamOwned::new(connection, guest));
        while let Some(path) = request(&mut stream)? {
            let (status, body) = self.answer(&path);
            let head = format!(
                "HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.get_mut().write_all(head.as_bytes())?;
            stream.get_mut().write_all(body.as_bytes())?;
            stream.get_mut().flush()?;
        }
        Ok(())
    }

    fn answer(&self, path: &str) -> (u16, String) {
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let omit = query.contains("omit_members=true");
        let rest = path.strip_prefix("/_matrix/").unwrap_or_default();
        let parts: Vec<&str> = rest.split('/').collect();
        let rooms = self.rooms.read().expect("nobody panics with it");
        let room = parts
            .get(3)
            .and_then(|id| rooms.iter().find(|room| room.id == *id));
        match (parts.as_slice(), room) {
            (["key", "v2", "server", ..], _) => (200, self.keys()),
            (["federation", "v1", "make_join", _, user], Some(room)) => (200, room.template(user)),
            (["federation", "v2", "send_join", ..], Some(room)) => {
                (200, room.given(&self.name, omit))
            }
            (["federation", "v1", "state", ..], Some(room)) => (200, room.whole()),
            (["federation", "v1", "send", ..], _) => (200, json!({ "pdus": {} }).to_string()),
            _ => (
                404,
                json!({ "errcode": "M_UNRECOGNIZED", "error": "" }).to_string(),
            ),
        }
    }

    fn keys(&self) -> String {
        let mut keys: CanonicalJsonObject = canonical_content(&json!({
            "server_name": self.name,
            "valid_until_ts": u64::from(now().get()) + 24 * 3600 * 1000,
            "verify_keys": { self.key.id().as_str(): { "key": self.key.public_key() } },
            "old_verify_keys": {},
        }))
        .expect("it is JSON");
        sign_json(self.name.as_str(), &*self.key, &mut keys).expect("it can be signed");
        serde_json::to_string(&keys).expect("it is JSON")
    }
}

impl Room {
    /// Puts something into the state.
    fn put(
        &mut self,
        city: &City,
        sender: &OwnedUserId,
        (kind, key): (&str, &str),
        content: &Value,
    ) {
        let draft = self.draft(sender, kind, Some(key), content);
        let before = (self.depth > 0).then(|| self.last.clone());
        self.depth += 1;
        let event = city.build(&draft, &self.law, before.into_iter().collect(), self.depth);
        self.last = event.pdu.event_id().to_owned();
        if self.law.len() < 4 && self.state.len() < 4 {
            self.law.push(self.last.clone());
        }
        self.state.push(event);
    }

    fn draft(
        &self,
        sender: &OwnedUserId,
        kind: &str,
        key: Option<&str>,
        content: &Value,
    ) -> EventDraft {
        EventDraft {
            room_id: Some(self.id.clone()),
            sender: sender.clone(),
            event_type: kind.into(),
            state_key: key.map(str::to_owned),
            content: canonical_content(content).expect("it is JSON"),
            redacts: None,
        }
    }

    /// What `user` may fill in to join.
    fn template(&self, user: &str) -> String {
        let event = json!({
            "room_id": self.id, "sender": user, "state_key": user, "type": "m.room.member",
            "content": { "membership": "join" }, "depth": self.depth + 1,
            "prev_events": [self.last], "auth_events": self.law, "origin_server_ts": now().get(),
        });
        json!({ "room_version": VERSION, "event": event }).to_string()
    }

    /// What who has joined is given.
    fn given(&self, city: &ServerName, omit: bool) -> String {
        let state = if omit { &self.state[..4] } else { &self.state };
        format!(
            r#"{{"origin":"{city}","members_omitted":{omit},"auth_chain":[{}],"state":[{}]}}"#,
            texts(&self.state[..4]),
            texts(state),
        )
    }

    /// The whole state, with what authorizes it.
    fn whole(&self) -> String {
        let (chain, state) = (texts(&self.state[..4]), texts(&self.state));
        format!(r#"{{"auth_chain":[{chain}],"pdus":[{state}]}}"#)
    }
}

/// Reads a request; the path that it asks for.
fn request(stream: &mut Tls) -> io::Result<Option<String>> {
    let (mut path, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if path.is_none() {
            path = line.split(' ').nth(1).map(str::to_owned);
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    io::copy(&mut stream.take(length), &mut io::sink())?;
    Ok(path)
}

fn tls() -> io::Result<ServerConfig> {
    let of = |name: &str| format!("{}/src/http/tests/{name}", env!("CARGO_MANIFEST_DIR"));
    let certificate =
        CertificateDer::from_pem_file(of("localhost.pem")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(of("localhost.key.pem")).map_err(io::Error::other)?;
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)
}

fn now() -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch::now()
}

fn texts(events: &[BuiltEvent]) -> String {
    let texts = events
        .iter()
        .map(|event| str::from_utf8(&event.json).expect("it is JSON"));
    texts.collect::<Vec<&str>>().join(",")
}

fn json_of(event: &BuiltEvent) -> Value {
    serde_json::from_slice(&event.json).expect("it is JSON")
}
