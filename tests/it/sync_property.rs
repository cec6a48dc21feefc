//! Property test: under random events and memberships, clients that sync with different filters
//! converge to the server's state and timeline, with each event once and in order.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    client_api::{next_batch, percent_encode},
    test_server::{JsonResponse, TestServer, expect_ok},
};

const CLIENT: &str = "/_matrix/client/v3";
/// The first user creates the rooms and stays in them.
const NAMES: [&str; 4] = ["owner", "alice", "bob", "carol"];
const OWNER: usize = 0;
const ROOMS: usize = 2;

/// Filter and parameters of a client's syncs.
#[derive(Clone, Copy, Debug)]
struct SyncOptions {
    limit: usize,
    state_after: bool,
    lazy: bool,
    only_messages: bool,
}

const DEFAULT: SyncOptions = SyncOptions {
    limit: 2,
    state_after: false,
    lazy: false,
    only_messages: false,
};

const ALL_OPTIONS: [SyncOptions; 5] = [
    DEFAULT,
    SyncOptions {
        limit: 50,
        ..DEFAULT
    },
    SyncOptions {
        only_messages: true,
        ..DEFAULT
    },
    SyncOptions {
        limit: 3,
        state_after: true,
        ..DEFAULT
    },
    SyncOptions {
        state_after: true,
        lazy: true,
        ..DEFAULT
    },
];

impl SyncOptions {
    fn timeline_filter(self) -> Value {
        let mut filter = json!({ "limit": self.limit });
        if self.only_messages {
            filter["types"] = json!(["m.room.message"]);
        }
        filter
    }
}

struct User {
    id: String,
    token: String,
}

struct World {
    server: TestServer,
    users: Vec<User>,
    rooms: Vec<String>,
    rng: StdRng,
    sent: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let server = TestServer::new();
        let users = NAMES
            .map(|name| {
                let person = server.register(name);
                User {
                    id: person.user_id,
                    token: person.token,
                }
            })
            .into();
        let mut world = Self {
            server,
            users,
            rooms: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            sent: 0,
        };
        for _ in 0..ROOMS {
            let body = json!({ "preset": "public_chat" });
            let created = expect_ok(world.request(OWNER, Method::POST, "/createRoom", &body));
            let room = created["room_id"].as_str().expect("a room id");
            world.rooms.push(room.to_owned());
        }
        world
    }

    fn request(&self, user: usize, method: Method, path: &str, body: &Value) -> JsonResponse {
        let path = format!("{CLIENT}{path}");
        let token = Some(&*self.users[user].token);
        self.server
            .run(self.server.send(method, &path, token, body))
    }

    fn get(&self, user: usize, path: &str) -> Value {
        expect_ok(self.request(user, Method::GET, path, &Value::Null))
    }

    /// Sends a random request. The room may not allow it.
    fn step(&mut self) {
        let mut user = self.rng.random_range(1..self.users.len());
        let room = self.rooms.choose(&mut self.rng).expect("a room").clone();
        let base = format!("/rooms/{}", percent_encode(&room));
        let target = self.rng.random_range(1..self.users.len());
        let target = self.users[target].id.clone();
        self.sent += 1;
        let number = self.sent;
        let body_with_target = json!({ "user_id": target });
        let action = self.rng.random_range(0..17);
        if action >= 12 {
            user = OWNER;
        }
        let (method, path, body) = match action {
            0..=5 => (
                Method::PUT,
                format!("{base}/send/m.room.message/{number}"),
                json!({ "msgtype": "m.text", "body": number.to_string() }),
            ),
            6 => (
                Method::PUT,
                format!("{base}/state/m.room.topic"),
                json!({ "topic": number.to_string() }),
            ),
            7 => (
                Method::PUT,
                format!("{base}/state/org.example/{}", number % 3),
                json!({ "n": number }),
            ),
            8 => (
                Method::PUT,
                format!(
                    "{base}/state/m.room.member/{}",
                    percent_encode(&self.users[user].id)
                ),
                json!({ "membership": "join", "displayname": number.to_string() }),
            ),
            9 | 10 => (Method::POST, format!("{base}/join"), json!({})),
            11 => (Method::POST, format!("{base}/leave"), json!({})),
            12 => (Method::POST, format!("{base}/invite"), body_with_target),
            13 => (Method::POST, format!("{base}/kick"), body_with_target),
            14 => (Method::POST, format!("{base}/ban"), body_with_target),
            15 => (Method::POST, format!("{base}/unban"), body_with_target),
            _ => {
                let visibility = ["joined", "invited", "shared"][number % 3];
                (
                    Method::PUT,
                    format!("{base}/state/m.room.history_visibility"),
                    json!({ "history_visibility": visibility }),
                )
            }
        };
        let (status, response) = self.request(user, method, &path, &body);
        assert!(status < 500, "{path}: {response}");
    }

    fn joined_rooms(&self, user: usize) -> BTreeSet<String> {
        let response = self.get(user, "/joined_rooms");
        serde_json::from_value(response["joined_rooms"].clone()).expect("a list of rooms")
    }

    fn invited_rooms(&self, user: usize) -> BTreeSet<String> {
        let id = percent_encode(&self.users[user].id);
        let is_invited = |room: &&String| {
            let path = format!("/rooms/{}/state/m.room.member/{id}", percent_encode(room));
            self.request(OWNER, Method::GET, &path, &Value::Null).1["membership"] == "invite"
        };
        self.rooms.iter().filter(is_invited).cloned().collect()
    }

    fn state(&self, user: usize, room: &str) -> State {
        let state = self.get(user, &format!("/rooms/{}/state", percent_encode(room)));
        let events = state.as_array().expect("a list of events");
        events.iter().map(state_entry).collect()
    }

    /// The ids of all events before the token `from`, or of all events, oldest first.
    fn history(&self, client: &Client, room: &str, from: Option<&str>) -> Vec<String> {
        let filter = percent_encode(&client.options.timeline_filter().to_string());
        let mut events = Vec::new();
        let mut from = from.map(str::to_owned);
        loop {
            let start = from.map_or(String::new(), |from| {
                format!("&from={}", percent_encode(&from))
            });
            let path = format!(
                "/rooms/{}/messages?dir=b&limit=5&filter={filter}{start}",
                percent_encode(room)
            );
            let page = self.get(client.user, &path);
            events.extend(
                page["chunk"]
                    .as_array()
                    .expect("events")
                    .iter()
                    .map(event_id),
            );
            from = page["end"].as_str().map(str::to_owned);
            if from.is_none() {
                events.reverse();
                return events;
            }
        }
    }
}

/// (type, state key) → event id.
type State = BTreeMap<(String, String), String>;

fn event_id(event: &Value) -> String {
    event["event_id"].as_str().expect("an event id").to_owned()
}

fn state_entry(event: &Value) -> ((String, String), String) {
    let text = |field: &str| event[field].as_str().expect("a state event").to_owned();
    ((text("type"), text("state_key")), event_id(event))
}

fn events(list: &Value) -> Vec<Value> {
    list["events"].as_array().cloned().unwrap_or_default()
}

#[derive(Debug, Default)]
struct Room {
    state: State,
    timeline: Vec<String>,
    /// The length of the part of the timeline from the time before the user left.
    len_while_joined: usize,
    joined_count: Option<u64>,
}

/// A client that only applies responses to its syncs, and fills gaps by `/messages`.
struct Client {
    user: usize,
    options: SyncOptions,
    since: Option<String>,
    rooms: BTreeMap<String, Room>,
    joined_rooms: BTreeSet<String>,
    invited: BTreeSet<String>,
}

impl Client {
    fn new(user: usize, options: SyncOptions) -> Self {
        Self {
            user,
            options,
            since: None,
            rooms: BTreeMap::new(),
            joined_rooms: BTreeSet::new(),
            invited: BTreeSet::new(),
        }
    }

    fn sync(&mut self, world: &World) {
        let filter = json!({ "room": {
            "timeline": self.options.timeline_filter(),
            "state": { "lazy_load_members": self.options.lazy },
        } });
        let mut path = format!(
            "/sync?filter={}&use_state_after={}",
            percent_encode(&filter.to_string()),
            self.options.state_after
        );
        if let Some(since) = &self.since {
            path += &format!("&since={since}");
        }
        let response = world.get(self.user, &path);
        let sections = &response["rooms"];
        for (section, is_joined) in [("join", true), ("leave", false)] {
            for (room, update) in sections[section].as_object().into_iter().flatten() {
                self.invited.remove(room);
                if is_joined {
                    self.joined_rooms.insert(room.clone());
                } else {
                    self.joined_rooms.remove(room);
                }
                self.apply(world, (room, is_joined), update);
                if !is_joined && self.options.lazy {
                    // The members of a left room are not updated any more.
                    let room = self.rooms.get_mut(room).expect("the room was synced");
                    room.state.retain(|key, _| key.0 != "m.room.member");
                }
            }
        }
        for (room, _) in sections["invite"].as_object().into_iter().flatten() {
            // If the user left and was invited again, joining returns the room from the start.
            self.rooms.remove(room);
            self.joined_rooms.remove(room);
            self.invited.insert(room.clone());
        }
        self.since = Some(next_batch(&response).to_owned());
        self.check(world, &response);
    }

    fn apply(&mut self, world: &World, (room_id, is_joined): (&str, bool), update: &Value) {
        let mut room = self.rooms.remove(room_id).unwrap_or_default();
        let timeline = events(&update["timeline"]);
        let before = events(&update["state"]);
        let after = events(&update["state_after"]);
        assert!(before.is_empty() || !self.options.state_after);
        assert!(after.is_empty() || self.options.state_after);
        room.state.extend(before.iter().map(state_entry));
        if self.options.state_after {
            room.state.extend(after.iter().map(state_entry));
        } else {
            let state = timeline
                .iter()
                .filter(|event| event["state_key"].is_string());
            room.state.extend(state.map(state_entry));
        }
        for event in timeline.iter().filter(|_| is_joined) {
            let sender = event["sender"].as_str().expect("a sender").to_owned();
            let member = ("m.room.member".to_owned(), sender);
            let has_member = room.state.contains_key(&member);
            assert!(has_member, "user writes is known: {event}");
        }
        if let Some(count) = update["summary"]["m.joined_member_count"].as_u64() {
            room.joined_count = Some(count);
        }
        let ids = timeline.iter().map(event_id);
        if update["timeline"]["limited"] == true {
            let from = update["timeline"]["prev_batch"].as_str();
            assert!(from.is_some(), "a limited timeline has a token");
            room.timeline = world.history(self, room_id, from);
            room.timeline.extend(ids);
        } else {
            room.timeline.extend(ids);
        }
        // A timeline without a token only says that an invite ended.
        if is_joined || update["timeline"]["prev_batch"].is_string() {
            room.len_while_joined = room.timeline.len();
        }
        self.rooms.insert(room_id.to_owned(), room);
    }

    fn check(&self, world: &World, response: &Value) {
        let client = (self.user, self.options);
        assert_eq!(
            self.joined_rooms,
            world.joined_rooms(self.user),
            "{client:?} {response}"
        );
        assert_eq!(
            self.invited,
            world.invited_rooms(self.user),
            "{client:?} {response}"
        );
        for (room_id, room) in &self.rooms {
            let was_joined = (room.state.keys()).any(|(kind, _)| kind == "m.room.create");
            if !was_joined {
                continue;
            }
            let timeline = world.history(self, room_id, None);
            if self.joined_rooms.contains(room_id) {
                assert_eq!(room.timeline, timeline, "{client:?} {response}");
            } else {
                // The last event can come later than leaving, such as a ban.
                let while_joined = &room.timeline[..room.len_while_joined.saturating_sub(1)];
                assert!(timeline.starts_with(while_joined), "{client:?} {response}");
            }
        }
        for room_id in &self.joined_rooms {
            let room = &self.rooms[room_id];
            let (mut actual, mut expected) = (room.state.clone(), world.state(self.user, room_id));
            let joined_count = joined_count(world, self.user, room_id);
            assert_eq!(
                room.joined_count,
                Some(joined_count),
                "{client:?} {response}"
            );
            if self.options.lazy {
                actual.retain(|key, _| expected.contains_key(key));
                expected.retain(|key, _| key.0 != "m.room.member" || actual.contains_key(key));
            }
            assert_eq!(actual, expected, "{client:?} {response}");
        }
    }
}

fn joined_count(world: &World, user: usize, room: &str) -> u64 {
    let path = format!("/rooms/{}/joined_members", percent_encode(room));
    let members = world.get(user, &path);
    let members = members["joined"].as_object().expect("members");
    members.len() as u64
}

fn run_random_clients(seed: u64) {
    let mut world = World::new(seed);
    let mut clients: Vec<Client> = (1..NAMES.len())
        .flat_map(|user| ALL_OPTIONS.map(|options| Client::new(user, options)))
        .collect();
    for round in 0..25 {
        for _ in 0..world.rng.random_range(1..8) {
            world.step();
        }
        if round == 12 {
            world.server.restart();
        }
        for client in &mut clients {
            if world.rng.random_bool(0.4) {
                client.sync(&world);
            }
        }
    }
    for client in &mut clients {
        client.sync(&world);
    }
}

#[test]
fn syncing_clients_converge_to_the_state_and_timeline_of_the_server() {
    for seed in 0..3 {
        run_random_clients(seed);
    }
}
