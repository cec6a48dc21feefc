//! Whatever happens in rooms, and however clients follow it: they end with the server's state and
//! with the whole timeline, each event once and in order.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    home::{Answer, Home},
    rooms::{done, escaped, next},
};

const CLIENT: &str = "/_matrix/client/v3";
/// The first made the rooms, and stays.
const NAMES: [&str; 4] = ["owner", "alice", "bob", "carol"];
const OWNER: usize = 0;
const ROOMS: usize = 2;

/// How a client follows.
#[derive(Clone, Copy, Debug)]
struct Manner {
    limit: usize,
    state_after: bool,
    lazy: bool,
    only_messages: bool,
}

const PLAIN: Manner = Manner {
    limit: 2,
    state_after: false,
    lazy: false,
    only_messages: false,
};

const MANNERS: [Manner; 5] = [
    PLAIN,
    Manner { limit: 50, ..PLAIN },
    Manner {
        only_messages: true,
        ..PLAIN
    },
    Manner {
        limit: 3,
        state_after: true,
        ..PLAIN
    },
    Manner {
        state_after: true,
        lazy: true,
        ..PLAIN
    },
];

impl Manner {
    /// What it wants of a timeline, as a filter.
    fn wanted(self) -> Value {
        let mut wanted = json!({ "limit": self.limit });
        if self.only_messages {
            wanted["types"] = json!(["m.room.message"]);
        }
        wanted
    }
}

/// A user of the test.
struct User {
    id: String,
    token: String,
}

struct World {
    home: Home,
    users: Vec<User>,
    rooms: Vec<String>,
    rng: StdRng,
    sent: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let home = Home::new();
        let users = NAMES
            .map(|name| {
                let person = home.register(name);
                User {
                    id: person.user_id,
                    token: person.token,
                }
            })
            .into();
        let mut world = Self {
            home,
            users,
            rooms: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            sent: 0,
        };
        for _ in 0..ROOMS {
            let asked = json!({ "preset": "public_chat" });
            let made = done(world.ask(OWNER, Method::POST, "/createRoom", &asked));
            let room = made["room_id"].as_str().expect("a room id");
            world.rooms.push(room.to_owned());
        }
        world
    }

    fn ask(&self, user: usize, method: Method, path: &str, body: &Value) -> Answer {
        let path = format!("{CLIENT}{path}");
        let token = Some(&*self.users[user].token);
        self.home.run(self.home.send(method, &path, token, body))
    }

    fn get(&self, user: usize, path: &str) -> Value {
        done(self.ask(user, Method::GET, path, &Value::Null))
    }

    /// Somebody tries to do something, which the room may not allow.
    fn step(&mut self) {
        let mut user = self.rng.random_range(1..self.users.len());
        let room = self.rooms.choose(&mut self.rng).expect("a room").clone();
        let base = format!("/rooms/{}", escaped(&room));
        let target = self.rng.random_range(1..self.users.len());
        let target = self.users[target].id.clone();
        self.sent += 1;
        let number = self.sent;
        let at_target = json!({ "user_id": target });
        let what = self.rng.random_range(0..17);
        if what >= 12 {
            user = OWNER;
        }
        let (method, path, body) = match what {
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
                    escaped(&self.users[user].id)
                ),
                json!({ "membership": "join", "displayname": number.to_string() }),
            ),
            9 | 10 => (Method::POST, format!("{base}/join"), json!({})),
            11 => (Method::POST, format!("{base}/leave"), json!({})),
            12 => (Method::POST, format!("{base}/invite"), at_target),
            13 => (Method::POST, format!("{base}/kick"), at_target),
            14 => (Method::POST, format!("{base}/ban"), at_target),
            15 => (Method::POST, format!("{base}/unban"), at_target),
            _ => {
                let visibility = ["joined", "invited", "shared"][number % 3];
                (
                    Method::PUT,
                    format!("{base}/state/m.room.history_visibility"),
                    json!({ "history_visibility": visibility }),
                )
            }
        };
        let (status, answer) = self.ask(user, method, &path, &body);
        assert!(status < 500, "{path}: {answer}");
    }

    /// The rooms that the user is in.
    fn joined(&self, user: usize) -> BTreeSet<String> {
        let joined = self.get(user, "/joined_rooms");
        serde_json::from_value(joined["joined_rooms"].clone()).expect("a list of rooms")
    }

    /// The rooms that the user is invited to.
    fn invited(&self, user: usize) -> BTreeSet<String> {
        let id = escaped(&self.users[user].id);
        let is_invited = |room: &&String| {
            let path = format!("/rooms/{}/state/m.room.member/{id}", escaped(room));
            self.ask(OWNER, Method::GET, &path, &Value::Null).1["membership"] == "invite"
        };
        self.rooms.iter().filter(is_invited).cloned().collect()
    }

    /// The room's current state: (type, state key) → event id.
    fn state(&self, user: usize, room: &str) -> State {
        let state = self.get(user, &format!("/rooms/{}/state", escaped(room)));
        let events = state.as_array().expect("a list of events");
        events.iter().map(entry).collect()
    }

    /// The events before `from`, or all, oldest first.
    fn before(&self, client: &Client, room: &str, from: Option<&str>) -> Vec<String> {
        let filter = escaped(&client.manner.wanted().to_string());
        let mut events = Vec::new();
        let mut from = from.map(str::to_owned);
        loop {
            let start = from.map_or(String::new(), |from| format!("&from={}", escaped(&from)));
            let path = format!(
                "/rooms/{}/messages?dir=b&limit=5&filter={filter}{start}",
                escaped(room)
            );
            let page = self.get(client.user, &path);
            events.extend(page["chunk"].as_array().expect("events").iter().map(id));
            from = page["end"].as_str().map(str::to_owned);
            if from.is_none() {
                events.reverse();
                return events;
            }
        }
    }
}

type State = BTreeMap<(String, String), String>;

fn id(event: &Value) -> String {
    event["event_id"].as_str().expect("an event id").to_owned()
}

fn entry(event: &Value) -> ((String, String), String) {
    let text = |field: &str| event[field].as_str().expect("a state event").to_owned();
    ((text("type"), text("state_key")), id(event))
}

fn events(list: &Value) -> Vec<Value> {
    list["events"].as_array().cloned().unwrap_or_default()
}

#[derive(Debug, Default)]
struct Room {
    state: State,
    timeline: Vec<String>,
    /// How much of the timeline is from when the user was in the room.
    stay: usize,
    joined: Option<u64>,
}

/// A client that knows only what syncs tell it.
struct Client {
    user: usize,
    manner: Manner,
    since: Option<String>,
    rooms: BTreeMap<String, Room>,
    in_rooms: BTreeSet<String>,
    invited: BTreeSet<String>,
}

impl Client {
    fn new(user: usize, manner: Manner) -> Self {
        Self {
            user,
            manner,
            since: None,
            rooms: BTreeMap::new(),
            in_rooms: BTreeSet::new(),
            invited: BTreeSet::new(),
        }
    }

    fn sync(&mut self, world: &World) {
        let filter = json!({ "room": {
            "timeline": self.manner.wanted(),
            "state": { "lazy_load_members": self.manner.lazy },
        } });
        let mut path = format!(
            "/sync?filter={}&use_state_after={}",
            escaped(&filter.to_string()),
            self.manner.state_after
        );
        if let Some(since) = &self.since {
            path += &format!("&since={since}");
        }
        let answer = world.get(self.user, &path);
        let sections = &answer["rooms"];
        for (section, is_in) in [("join", true), ("leave", false)] {
            for (room, told) in sections[section].as_object().into_iter().flatten() {
                self.invited.remove(room);
                if is_in {
                    self.in_rooms.insert(room.clone());
                } else {
                    self.in_rooms.remove(room);
                }
                self.hear(world, (room, is_in), told);
                if !is_in && self.manner.lazy {
                    // Nobody tells a client any more of those whom it happens to know.
                    let room = self.rooms.get_mut(room).expect("the room was told of");
                    room.state.retain(|key, _| key.0 != "m.room.member");
                }
            }
        }
        for (room, _) in sections["invite"].as_object().into_iter().flatten() {
            // Who left in between and was invited again is told what was before when joining.
            self.rooms.remove(room);
            self.in_rooms.remove(room);
            self.invited.insert(room.clone());
        }
        self.since = Some(next(&answer).to_owned());
        self.check(world, &answer);
    }

    fn hear(&mut self, world: &World, (room_id, is_in): (&str, bool), told: &Value) {
        let mut room = self.rooms.remove(room_id).unwrap_or_default();
        let timeline = events(&told["timeline"]);
        let before = events(&told["state"]);
        let after = events(&told["state_after"]);
        assert!(before.is_empty() || !self.manner.state_after);
        assert!(after.is_empty() || self.manner.state_after);
        room.state.extend(before.iter().map(entry));
        if self.manner.state_after {
            room.state.extend(after.iter().map(entry));
        } else {
            let state = timeline
                .iter()
                .filter(|event| event["state_key"].is_string());
            room.state.extend(state.map(entry));
        }
        for event in timeline.iter().filter(|_| is_in) {
            let sender = event["sender"].as_str().expect("a sender").to_owned();
            let member = ("m.room.member".to_owned(), sender);
            let known = room.state.contains_key(&member);
            assert!(known, "who writes is known: {event}");
        }
        if let Some(count) = told["summary"]["m.joined_member_count"].as_u64() {
            room.joined = Some(count);
        }
        let ids = timeline.iter().map(id);
        if told["timeline"]["limited"] == true {
            let from = told["timeline"]["prev_batch"].as_str();
            assert!(from.is_some(), "a gap can be filled");
            room.timeline = world.before(self, room_id, from);
            room.timeline.extend(ids);
        } else {
            room.timeline.extend(ids);
        }
        // What has no token before it tells that an invitation ended.
        if is_in || told["timeline"]["prev_batch"].is_string() {
            room.stay = room.timeline.len();
        }
        self.rooms.insert(room_id.to_owned(), room);
    }

    fn check(&self, world: &World, answer: &Value) {
        let who = (self.user, self.manner);
        assert_eq!(self.in_rooms, world.joined(self.user), "{who:?} {answer}");
        assert_eq!(self.invited, world.invited(self.user), "{who:?} {answer}");
        for (room_id, room) in &self.rooms {
            let was_in = (room.state.keys()).any(|(kind, _)| kind == "m.room.create");
            if !was_in {
                continue;
            }
            let timeline = world.before(self, room_id, None);
            if self.in_rooms.contains(room_id) {
                assert_eq!(room.timeline, timeline, "{who:?} {answer}");
            } else {
                // The last event can be a later one, by which the user was banned, say.
                let stay = &room.timeline[..room.stay.saturating_sub(1)];
                assert!(timeline.starts_with(stay), "{who:?} {answer}");
            }
        }
        for room_id in &self.in_rooms {
            let room = &self.rooms[room_id];
            let (mut told, mut real) = (room.state.clone(), world.state(self.user, room_id));
            let joined = joined_count(world, self.user, room_id);
            assert_eq!(room.joined, Some(joined), "{who:?} {answer}");
            if self.manner.lazy {
                told.retain(|key, _| real.contains_key(key));
                real.retain(|key, _| key.0 != "m.room.member" || told.contains_key(key));
            }
            assert_eq!(told, real, "{who:?} {answer}");
        }
    }
}

fn joined_count(world: &World, user: usize, room: &str) -> u64 {
    let path = format!("/rooms/{}/joined_members", escaped(room));
    let members = world.get(user, &path);
    let members = members["joined"].as_object().expect("members");
    members.len() as u64
}

fn follow(seed: u64) {
    let mut world = World::new(seed);
    let mut clients: Vec<Client> = (1..NAMES.len())
        .flat_map(|user| MANNERS.map(|manner| Client::new(user, manner)))
        .collect();
    for round in 0..25 {
        for _ in 0..world.rng.random_range(1..8) {
            world.step();
        }
        if round == 12 {
            world.home.restart();
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
fn a_client_ends_with_the_servers_state_and_timeline() {
    for seed in 0..3 {
        follow(seed);
    }
}
