//! A mock homeserver with generated rooms of any size, all events of which are signed. It serves the
//! endpoints that hearth needs to join.

#![allow(dead_code, reason = "each target uses a part")]

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, RwLock},
    thread,
};

use hearth::protocol::{
    ServerKey,
    build::{BuiltEvent, EventDraft, EventPlace, build, canonical_content},
    reference::has_hash,
    signed_request::SignedRequest,
    versions,
};
use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, RoomVersionId, ServerName,
    api::federation::authentication::XMatrix,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    serde::Base64,
    signatures::{KeyPair, hash_and_sign_event, reference_hash, sign_json},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};

use crate::common::http::Client;

/// The host name of the test certificate.
const HOST: &str = "localhost";
const DEFAULT_VERSION: RoomVersionId = RoomVersionId::V11;
/// The limit of the specification.
const MAX_PDUS_PER_TRANSACTION: usize = 50;

type Tls = BufReader<StreamOwned<ServerConnection, TcpStream>>;

/// Clones share their rooms.
#[derive(Clone)]
pub struct MockHomeserver {
    name: OwnedServerName,
    key: Arc<ServerKey>,
    /// Of the rooms that it creates.
    version: RoomVersionId,
    rooms: Arc<RwLock<Vec<Room>>>,
}

struct Room {
    id: OwnedRoomId,
    version: RoomVersionId,
    /// The auth events of a join: create event, power levels and join rules.
    auth_events: Vec<OwnedEventId>,
    /// Oldest first.
    state: Vec<BuiltEvent>,
    /// How many of `state` are not members other than the creator: the first.
    without_members: usize,
    last: OwnedEventId,
    depth: u64,
    /// The JSON of more state events, each after a comma.
    small_events: String,
}

impl MockHomeserver {
    /// Serves on a free port until the process ends.
    pub fn start() -> io::Result<MockHomeserver> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let name = format!("{HOST}:{}", listener.local_addr()?.port());
        let server = MockHomeserver {
            name: ServerName::parse(name).map_err(io::Error::other)?,
            key: Arc::new(ServerKey::generate()),
            version: DEFAULT_VERSION,
            rooms: Arc::default(),
        };
        let tls = Arc::new(tls_config()?);
        let acceptor = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, tls) = (acceptor.clone(), tls.clone());
                // Ends with an error when the client closes the connection.
                thread::spawn(move || server.serve(stream, tls));
            }
        });
        Ok(server)
    }

    /// The same server, which creates rooms of another version.
    pub fn with_version(&self, version: RoomVersionId) -> Self {
        Self {
            version,
            ..self.clone()
        }
    }

    pub fn name(&self) -> &ServerName {
        &self.name
    }

    /// The version of the rooms that it creates.
    pub fn version(&self) -> &RoomVersionId {
        &self.version
    }

    /// The same version where users may create rooms of it, else another.
    pub fn client_version(&self) -> &RoomVersionId {
        match versions::may_be_created(rules(&self.version)) {
            true => &self.version,
            false => &DEFAULT_VERSION,
        }
    }

    /// The rules of the room of an event: one of its own, or one that a user created.
    fn rules_of(&self, event: &Value) -> &'static RoomVersionRules {
        let rooms = self.rooms.read().expect("the lock is not poisoned");
        let room = rooms
            .iter()
            .find(|room| event["room_id"] == room.id.as_str());
        rules(room.map_or(self.client_version(), |room| &room.version))
    }

    /// The id of an event, `$none` if it is none that canonical JSON allows.
    pub fn event_id(&self, event: &Value) -> String {
        const NONE: &str = "$none";
        let rules = self.rules_of(event);
        if rules.event_id_format == EventIdFormatVersion::V1 {
            return event["event_id"].as_str().unwrap_or(NONE).to_owned();
        }
        let object = serde_json::from_value::<CanonicalJsonObject>(event.clone());
        let hash = object
            .ok()
            .and_then(|object| reference_hash(&object, rules).ok());
        hash.map_or_else(|| NONE.to_owned(), |hash| format!("${hash}"))
    }

    /// Creates a public room with this many members.
    pub fn create_room(&self, members: usize) -> OwnedRoomId {
        self.create_room_with(members, None)
    }

    /// The same with a server ACL.
    pub fn create_room_with(&self, members: usize, server_acl: Option<&Value>) -> OwnedRoomId {
        let mut rooms = self.rooms.write().expect("the lock is not poisoned");
        let id = format!("!room{}:{}", rooms.len(), self.name);
        let creator = self.user(0);
        let mut room = Room {
            id: OwnedRoomId::try_from(id).expect("a room id"),
            version: self.version.clone(),
            auth_events: Vec::new(),
            state: Vec::new(),
            without_members: 0,
            last: OwnedEventId::try_from("$nothing").expect("an event id"),
            depth: 0,
            small_events: String::new(),
        };
        let joined = json!({ "membership": "join" });
        let mut create = json!({ "room_version": self.version });
        if !rules(&self.version).authorization.use_room_create_sender {
            create["creator"] = json!(creator);
        }
        room.add_state(self, &creator, ("m.room.create", ""), &create);
        room.add_state(self, &creator, ("m.room.member", creator.as_str()), &joined);
        let powers = json!({ "users": { creator.as_str(): 100 } });
        room.add_state(self, &creator, ("m.room.power_levels", ""), &powers);
        room.add_state(
            self,
            &creator,
            ("m.room.join_rules", ""),
            &json!({ "join_rule": "public" }),
        );
        if let Some(acl) = server_acl {
            room.add_state(self, &creator, ("m.room.server_acl", ""), acl);
        }
        room.without_members = room.state.len();
        // The creator's membership is no auth event of other joins.
        room.auth_events.remove(1);
        for number in 1..members {
            let member = self.user(number);
            room.add_state(self, &member, ("m.room.member", member.as_str()), &joined);
        }
        let id = room.id.clone();
        rooms.push(room);
        id
    }

    /// Creates a public room with so many bytes of state events that are as small as possible.
    pub fn create_room_of_small_events(&self, bytes: usize) -> OwnedRoomId {
        let id = self.create_room(1);
        let mut rooms = self.rooms.write().expect("the lock is not poisoned");
        let room = rooms.iter_mut().find(|room| room.id == id);
        let room = room.expect("it was just created");
        let creator = self.user(0);
        let mut auth_events = room.auth_events[..2].to_vec();
        auth_events.push(room.state[1].pdu.event_id().to_owned());
        let mut number = 0_u32;
        while room.small_events.len() < bytes {
            let key = format!("{number:x}");
            let draft = room.draft(&creator, "t", Some(&key), &json!({}));
            let event = self.build(room, &draft, &auth_events, vec![room.last.clone()], 9);
            room.small_events.push(',');
            let json = str::from_utf8(&event.json).expect("valid JSON");
            room.small_events.push_str(json);
            number += 1;
        }
        id
    }

    /// A chain of `messages` messages by the creator, after the event `join`.
    pub fn build_messages(
        &self,
        room: &OwnedRoomId,
        join: &OwnedEventId,
        messages: usize,
    ) -> Vec<BuiltEvent> {
        let text = |number| json!({ "msgtype": "m.text", "body": format!("message {number}") });
        self.build_messages_with(room, join, (0..messages).map(text))
    }

    /// The same with these contents.
    pub fn build_messages_with(
        &self,
        room: &OwnedRoomId,
        join: &OwnedEventId,
        contents: impl Iterator<Item = Value>,
    ) -> Vec<BuiltEvent> {
        let rooms = self.rooms.read().expect("the lock is not poisoned");
        let room = rooms
            .iter()
            .find(|of| of.id == *room)
            .expect("the room exists");
        let creator = self.user(0);
        let mut auth_events = room.auth_events[..2].to_vec();
        auth_events.push(room.state[1].pdu.event_id().to_owned());
        let mut previous = join.clone();
        let build_message = |(number, content): (usize, Value)| {
            let draft = room.draft(&creator, "m.room.message", None, &content);
            let depth = room.depth + 2 + number as u64;
            let message = self.build(room, &draft, &auth_events, vec![previous.clone()], depth);
            previous = message.pdu.event_id().to_owned();
            message
        };
        contents.enumerate().map(build_message).collect()
    }

    /// An event of the creator in a room. Without `join`, which is the event that it follows, it follows the
    /// room's last.
    pub fn build_event(
        &self,
        room: &OwnedRoomId,
        join: Option<&OwnedEventId>,
        (event_type, state_key): (&str, Option<&str>),
        content: &Value,
    ) -> BuiltEvent {
        let rooms = self.rooms.read().expect("the lock is not poisoned");
        let room = rooms
            .iter()
            .find(|of| of.id == *room)
            .expect("the room exists");
        let draft = room.draft(&self.user(0), event_type, state_key, content);
        let mut auth_events = room.auth_events.clone();
        auth_events.push(room.state[1].pdu.event_id().to_owned());
        let previous = join.unwrap_or(&room.last).clone();
        self.build(room, &draft, &auth_events, vec![previous], room.depth + 2)
    }

    /// The create event of a room.
    pub fn create_event(&self, room: &OwnedRoomId) -> Value {
        let rooms = self.rooms.read().expect("the lock is not poisoned");
        let room = rooms.iter().find(|of| of.id == *room);
        to_json(&room.expect("the room exists").state[0])
    }

    /// Hashes and signs an event, whatever it has; `false` if it is none that canonical JSON allows.
    pub fn sign_event(&self, event: &mut Value) -> bool {
        let Ok(mut object) = serde_json::from_value::<CanonicalJsonObject>(event.clone()) else {
            return false;
        };
        let rules = self.rules_of(event);
        let signed = hash_and_sign_event(
            self.name.as_str(),
            &*self.key,
            &mut object,
            &rules.redaction,
        );
        *event = serde_json::to_value(object).expect("valid JSON");
        signed.is_ok()
    }

    /// Sends events to the server `name` on `port`, in transactions of the maximal size.
    pub fn send(&self, name: &ServerName, port: u16, events: &[BuiltEvent]) -> io::Result<()> {
        for (number, batch) in events.chunks(MAX_PDUS_PER_TRANSACTION).enumerate() {
            let pdus: Vec<Value> = batch.iter().map(to_json).collect();
            let transaction = json!({
                "origin": self.name, "origin_server_ts": now().get(), "pdus": pdus,
            });
            let first = batch[0].pdu.event_id().as_str();
            let id = format!("{number}{}", &first[1..9]);
            let response = self.send_transaction(name, port, &id, &transaction)?;
            let results = response["pdus"].as_object().into_iter().flatten();
            if let Some((id, result)) = results
                .into_iter()
                .find(|(_, result)| result["error"].is_string())
            {
                return Err(io::Error::other(format!("{id} was rejected: {result}")));
            }
        }
        Ok(())
    }

    fn send_transaction(
        &self,
        name: &ServerName,
        port: u16,
        id: &str,
        transaction: &Value,
    ) -> io::Result<Value> {
        let path = format!("/_matrix/federation/v1/send/{id}");
        let request = http::Request::put(&path).body(transaction.to_string().into_bytes());
        let header = self.authorization(name, &request.expect("a valid request"));
        let header = header.expect("the body is JSON");
        let mut client = Client::connect(port, Some(&header))?;
        client.json("PUT", &path, Some(transaction))
    }

    /// The value of the header; `None` if the body is no JSON.
    pub fn authorization(
        &self,
        destination: &ServerName,
        request: &http::Request<Vec<u8>>,
    ) -> Option<String> {
        let signed = SignedRequest::new(request, &self.name, destination).ok()?;
        let (_, signature) = self.key.sign(signed.text().as_bytes()).into_parts();
        let header = XMatrix::new(
            self.name.clone(),
            destination.to_owned(),
            self.key.id().to_owned(),
            Base64::new(signature),
        );
        let header = http::HeaderValue::from(&header);
        Some(header.to_str().expect("a text").to_owned())
    }

    pub fn user(&self, number: usize) -> OwnedUserId {
        let id = format!("@member{number}:{}", self.name);
        OwnedUserId::try_from(id).expect("a user id")
    }

    fn build(
        &self,
        room: &Room,
        draft: &EventDraft,
        auth_events: &[OwnedEventId],
        prev_events: Vec<OwnedEventId>,
        depth: u64,
    ) -> BuiltEvent {
        let place = EventPlace {
            prev_events: prev_events.into_iter().map(Into::into).collect(),
            auth_events: auth_events.iter().cloned().map(Into::into).collect(),
            depth,
            origin_server_ts: now(),
        };
        build(draft, &place, rules(&room.version), &self.key).expect("a valid event")
    }

    fn serve(&self, stream: TcpStream, tls: Arc<ServerConfig>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        while let Some(path) = read_request(&mut stream)? {
            let (status, body) = self.respond(&path);
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

    fn respond(&self, path: &str) -> (u16, String) {
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let omit_members = query.contains("omit_members=true");
        let tail = path.strip_prefix("/_matrix/").unwrap_or_default();
        let segments: Vec<&str> = tail.split('/').collect();
        let rooms = self.rooms.read().expect("the lock is not poisoned");
        let room = segments
            .get(3)
            .and_then(|id| rooms.iter().find(|room| room.id == *id));
        match (segments.as_slice(), room) {
            (["key", "v2", "server", ..], _) => (200, self.server_keys()),
            (["federation", "v1", "make_join", _, user], Some(room)) => (200, room.make_join(user)),
            (["federation", "v2", "send_join", ..], Some(room)) => {
                (200, room.send_join(&self.name, omit_members))
            }
            (["federation", "v1", "state", ..], Some(room)) => (200, room.full_state()),
            (["federation", "v1", "user", "keys", "query"], _) => (200, self.large_keys()),
            (["federation", "v1", "send", ..], _) => (200, json!({ "pdus": {} }).to_string()),
            _ => (
                404,
                json!({ "errcode": "M_UNRECOGNIZED", "error": "" }).to_string(),
            ),
        }
    }

    /// About 4 MB of device keys of user 0.
    fn large_keys(&self) -> String {
        let user = self.user(0);
        let more = "x".repeat(4_000);
        let devices = (0..900).map(|n| {
            let keys = json!({
                "user_id": user, "device_id": format!("D{n}"), "algorithms": [], "keys": {},
                "signatures": {}, "more": more,
            });
            (format!("D{n}"), keys)
        });
        let devices: serde_json::Map<_, _> = devices.collect();
        json!({ "device_keys": { user.as_str(): devices } }).to_string()
    }

    fn server_keys(&self) -> String {
        let mut keys: CanonicalJsonObject = canonical_content(&json!({
            "server_name": self.name,
            "valid_until_ts": u64::from(now().get()) + 24 * 3600 * 1000,
            "verify_keys": { self.key.id().as_str(): { "key": self.key.public_key() } },
            "old_verify_keys": {},
        }))
        .expect("valid JSON");
        sign_json(self.name.as_str(), &*self.key, &mut keys).expect("it can be signed");
        serde_json::to_string(&keys).expect("valid JSON")
    }
}

impl Room {
    fn add_state(
        &mut self,
        server: &MockHomeserver,
        sender: &OwnedUserId,
        (event_type, state_key): (&str, &str),
        content: &Value,
    ) {
        let draft = self.draft(sender, event_type, Some(state_key), content);
        let previous = (self.depth > 0).then(|| self.last.clone());
        self.depth += 1;
        let event = server.build(
            self,
            &draft,
            &self.auth_events,
            previous.into_iter().collect(),
            self.depth,
        );
        self.last = event.pdu.event_id().to_owned();
        if self.auth_events.len() < 4 && self.state.len() < 4 {
            self.auth_events.push(self.last.clone());
        }
        self.state.push(event);
    }

    fn draft(
        &self,
        sender: &OwnedUserId,
        event_type: &str,
        state_key: Option<&str>,
        content: &Value,
    ) -> EventDraft {
        EventDraft {
            room_id: Some(self.id.clone()),
            sender: sender.clone(),
            event_type: event_type.into(),
            state_key: state_key.map(str::to_owned),
            content: canonical_content(content).expect("valid JSON"),
            text: None,
            redacts: None,
        }
    }

    /// The response of `make_join`.
    fn make_join(&self, user: &str) -> String {
        let auth_events = self.auth_events.iter().map(|id| self.reference(id));
        let event = json!({
            "room_id": self.id, "sender": user, "state_key": user, "type": "m.room.member",
            "content": { "membership": "join" }, "depth": self.depth + 1,
            "prev_events": [self.reference(&self.last)],
            "auth_events": auth_events.collect::<Vec<_>>(), "origin_server_ts": now().get(),
        });
        json!({ "room_version": self.version, "event": event }).to_string()
    }

    /// An event as `prev_events` and `auth_events` refer to it. Nobody checks the hash.
    fn reference(&self, id: &OwnedEventId) -> Value {
        match has_hash(rules(&self.version)) {
            true => json!([id, {}]),
            false => json!(id),
        }
    }

    /// The response of `send_join`.
    fn send_join(&self, origin: &ServerName, omit_members: bool) -> String {
        let state = if omit_members {
            &self.state[..self.without_members]
        } else {
            &self.state
        };
        format!(
            r#"{{"origin":"{origin}","members_omitted":{omit_members},"auth_chain":[{}],"state":[{}{}]}}"#,
            join_json(&self.state[..4]),
            join_json(state),
            self.small_events,
        )
    }

    /// The response of `state`.
    fn full_state(&self) -> String {
        let (chain, state) = (join_json(&self.state[..4]), join_json(&self.state));
        let small = &self.small_events;
        format!(r#"{{"auth_chain":[{chain}],"pdus":[{state}{small}]}}"#)
    }
}

/// Reads a request; returns its path, or `None` at the end of the connection.
fn read_request(stream: &mut Tls) -> io::Result<Option<String>> {
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

fn tls_config() -> io::Result<ServerConfig> {
    let of = |name: &str| format!("{}/src/http/tests/{name}", env!("CARGO_MANIFEST_DIR"));
    let certificate =
        CertificateDer::from_pem_file(of("localhost.pem")).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(of("localhost.key.pem")).map_err(io::Error::other)?;
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)
}

fn rules(version: &RoomVersionId) -> &'static RoomVersionRules {
    versions::rules(version).expect("a supported version")
}

fn now() -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch::now()
}

fn join_json(events: &[BuiltEvent]) -> String {
    let texts = events
        .iter()
        .map(|event| str::from_utf8(&event.json).expect("valid JSON"));
    texts.collect::<Vec<&str>>().join(",")
}

pub fn to_json(event: &BuiltEvent) -> Value {
    serde_json::from_slice(&event.json).expect("valid JSON")
}
