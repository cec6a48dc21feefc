//! Whoever comes, goes, or changes devices: a client that only hears what syncs tell of device lists
//! knows with whom it shares a room, and whose devices it has to look at again.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    home::{Answer, Home},
    rooms::{done, escaped, next},
};

const CLIENT: &str = "/_matrix/client/v3";
/// The first made the rooms, and stays in them.
const NAMES: [&str; 5] = ["owner", "alice", "bob", "carol", "dave"];
const OWNER: usize = 0;
const ROOMS: usize = 4;

struct User {
    id: String,
    token: String,
    device: String,
}

#[derive(Default)]
struct Room {
    id: String,
    members: BTreeSet<usize>,
}

struct World {
    home: Home,
    users: Vec<User>,
    rooms: Vec<Room>,
    rng: StdRng,
    /// How often each user's devices changed.
    devices: Vec<usize>,
    /// How often each user came into a room.
    came: Vec<usize>,
    /// How often a room was encrypted.
    encrypted: usize,
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
                    device: person.device_id,
                }
            })
            .into();
        let mut world = Self {
            home,
            users,
            rooms: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            devices: vec![0; NAMES.len()],
            came: vec![0; NAMES.len()],
            encrypted: 0,
        };
        for number in 0..ROOMS {
            // Nobody meets the others by the owner in the last ones.
            let maker = if number < 2 { OWNER } else { number };
            let asked = json!({ "preset": "public_chat" });
            let made = done(world.ask(maker, Method::POST, "/createRoom", &asked));
            let id = made["room_id"].as_str().expect("a room id").to_owned();
            world.rooms.push(Room {
                id,
                members: [maker].into(),
            });
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
        let user = self.rng.random_range(1..self.users.len());
        let target = self.rng.random_range(1..self.users.len());
        let room = self.rng.random_range(0..self.rooms.len());
        let maker = if room < 2 { OWNER } else { room };
        let at_target = json!({ "user_id": self.users[target].id });
        let base = format!("/rooms/{}", escaped(&self.rooms[room].id));
        let act = |action: &str| (Method::POST, format!("{base}/{action}"));
        let what = self.rng.random_range(0..16);
        let (who, (method, path), body) = match what {
            0..=4 => (user, act("join"), json!({})),
            5..=8 => (user, act("leave"), json!({})),
            9 => (maker, act("invite"), at_target),
            10 => (maker, act("kick"), at_target),
            11 => (maker, act("ban"), at_target),
            12 => (maker, act("unban"), at_target),
            13 => {
                let path = format!("{base}/state/m.room.encryption");
                let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
                (maker, (Method::PUT, path), body)
            }
            _ => {
                let path = format!("/devices/{}", escaped(&self.users[user].device));
                let name = self.devices[user].to_string();
                let body = json!({ "display_name": name });
                (user, (Method::PUT, path), body)
            }
        };
        let (status, answer) = self.ask(who, method, &path, &body);
        assert!(status < 500, "{path}: {answer}");
        match what {
            _ if status != 200 => {}
            0..=4 if self.rooms[room].members.insert(user) => self.came[user] += 1,
            5..=8 => drop(self.rooms[room].members.remove(&user)),
            10 | 11 => drop(self.rooms[room].members.remove(&target)),
            13 => self.encrypted += 1,
            14.. => self.devices[user] += 1,
            _ => {}
        }
    }

    /// What there is to know for `user` now, when a sync has told everything up to `token`.
    fn known(&self, user: usize, token: &str) -> Known {
        let rooms = self.rooms.iter();
        let own = rooms.filter(|room| room.members.contains(&user));
        let shared = own.flat_map(|room| &room.members).copied();
        Known {
            token: token.to_owned(),
            shared: shared.filter(|other| *other != user).collect(),
            devices: self.devices.clone(),
            came: self.came.clone(),
            encrypted: self.encrypted,
        }
    }

    /// The users of a list of their ids.
    fn users(&self, list: &Value) -> BTreeSet<usize> {
        let ids = list.as_array().into_iter().flatten();
        let number = |id: &Value| self.users.iter().position(|user| *id == *user.id);
        let users = ids.map(|id| number(id).expect("one of the users"));
        users.collect()
    }

    fn told(&self, lists: &Value) -> Told {
        Told {
            changed: self.users(&lists["changed"]),
            left: self.users(&lists["left"]),
        }
    }
}

/// The truth where a sync ended.
#[derive(Clone)]
struct Known {
    token: String,
    shared: BTreeSet<usize>,
    devices: Vec<usize>,
    came: Vec<usize>,
    encrypted: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Told {
    changed: BTreeSet<usize>,
    left: BTreeSet<usize>,
}

impl Told {
    /// Whether it is what happened to `user` from one sync to another.
    fn check(&self, user: usize, from: &Known, to: &Known) {
        let gone: BTreeSet<usize> = &from.shared - &to.shared;
        assert_eq!(self.left, gone, "user {user} from {}", from.token);
        for other in 0..NAMES.len() {
            let is_known = other == user || to.shared.contains(&other);
            let has_changed = from.devices[other] != to.devices[other];
            let is_met = other != user && !from.shared.contains(&other);
            let may_be_met = from.came[other] != to.came[other]
                || from.came[user] != to.came[user]
                || from.encrypted != to.encrypted;
            let told = self.changed.contains(&other);
            let why = format!("{other} to {user} from {}: {self:?}", from.token);
            assert!(told || !is_known || !(has_changed || is_met), "{why}");
            assert!(!told || is_known && (has_changed || may_be_met), "{why}");
        }
    }
}

/// A client that follows, and what was true wherever a sync of its ended. It looks at the devices of
/// whoever is told as changed, and at nobody's else.
struct Client {
    user: usize,
    syncs: Vec<Known>,
    /// Which devices it knows of whom it follows.
    follows: BTreeMap<usize, usize>,
}

impl Client {
    fn new(world: &World, user: usize) -> Self {
        let answer = world.get(user, "/sync");
        let known = world.known(user, next(&answer));
        let shared = known.shared.iter();
        Self {
            user,
            follows: shared
                .map(|other| (*other, known.devices[*other]))
                .collect(),
            syncs: vec![known],
        }
    }

    fn sync(&mut self, world: &mut World) {
        let last = self.syncs.last().expect("the first one").clone();
        let answer = world.get(self.user, &format!("/sync?since={}", last.token));
        let known = world.known(self.user, next(&answer));
        let told = world.told(&answer["device_lists"]);
        told.check(self.user, &last, &known);
        assert_eq!(self.changes(world, &last, &known), told);
        for other in told.changed.iter().filter(|other| **other != self.user) {
            self.follows.insert(*other, known.devices[*other]);
        }
        self.follows.retain(|other, _| !told.left.contains(other));
        let shared = known.shared.iter();
        let truth: BTreeMap<_, _> = shared
            .map(|other| (*other, known.devices[*other]))
            .collect();
        assert_eq!(self.follows, truth, "user {}", self.user);
        self.syncs.push(known);
        self.look_back(world);
    }

    /// Any span of the past is told as it was.
    fn look_back(&self, world: &mut World) {
        let mut ends = [0; 2].map(|_| world.rng.random_range(0..self.syncs.len()));
        ends.sort_unstable();
        let [from, to] = ends.map(|end| &self.syncs[end]);
        self.changes(world, from, to).check(self.user, from, to);
    }

    fn changes(&self, world: &World, from: &Known, to: &Known) -> Told {
        let path = format!("/keys/changes?from={}&to={}", from.token, to.token);
        world.told(&world.get(self.user, &path))
    }
}

fn follow(seed: u64) {
    let mut world = World::new(seed);
    let users: Vec<usize> = (0..NAMES.len()).collect();
    let mut clients: Vec<Client> = users
        .iter()
        .map(|user| Client::new(&world, *user))
        .collect();
    for round in 0..50 {
        for _ in 0..world.rng.random_range(1..6) {
            world.step();
        }
        if round % 20 == 19 {
            world.home.restart();
        }
        for _ in 0..2 {
            let user = *users.choose(&mut world.rng).expect("a user");
            clients[user].sync(&mut world);
        }
    }
    for client in &mut clients {
        client.sync(&mut world);
    }
}

#[test]
fn what_syncs_tell_of_device_lists_adds_up_to_the_truth() {
    for seed in 0..2 {
        follow(seed);
    }
}
