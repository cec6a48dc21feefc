//! Property test: under random joins, leaves, bans, encryption and device changes, a client that only
//! applies `device_lists` of its syncs tracks exactly the users it shares a room with, and the
//! latest version of their devices.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    client_api::{next_batch, percent_encode},
    test_server::{JsonResponse, TestServer, expect_ok},
};

const CLIENT: &str = "/_matrix/client/v3";
/// The first user creates rooms and stays in them.
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
    server: TestServer,
    users: Vec<User>,
    rooms: Vec<Room>,
    rng: StdRng,
    /// Number of device changes of each user.
    device_changes: Vec<usize>,
    /// Number of joins of each user.
    joins: Vec<usize>,
    /// Number of times that encryption was enabled in a room.
    encryptions: usize,
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
                    device: person.device_id,
                }
            })
            .into();
        let mut world = Self {
            server,
            users,
            rooms: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            device_changes: vec![0; NAMES.len()],
            joins: vec![0; NAMES.len()],
            encryptions: 0,
        };
        for number in 0..ROOMS {
            // The owner is in the first two only, so that users also share rooms without the owner.
            let creator = if number < 2 { OWNER } else { number };
            let body = json!({ "preset": "public_chat" });
            let created = expect_ok(world.request(creator, Method::POST, "/createRoom", &body));
            let id = created["room_id"].as_str().expect("a room id").to_owned();
            world.rooms.push(Room {
                id,
                members: [creator].into(),
            });
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
        let user = self.rng.random_range(1..self.users.len());
        let target = self.rng.random_range(1..self.users.len());
        let room = self.rng.random_range(0..self.rooms.len());
        let creator = if room < 2 { OWNER } else { room };
        let body_with_target = json!({ "user_id": self.users[target].id });
        let base = format!("/rooms/{}", percent_encode(&self.rooms[room].id));
        let post = |action: &str| (Method::POST, format!("{base}/{action}"));
        let action = self.rng.random_range(0..16);
        let (sender, (method, path), body) = match action {
            0..=4 => (user, post("join"), json!({})),
            5..=8 => (user, post("leave"), json!({})),
            9 => (creator, post("invite"), body_with_target),
            10 => (creator, post("kick"), body_with_target),
            11 => (creator, post("ban"), body_with_target),
            12 => (creator, post("unban"), body_with_target),
            13 => {
                let path = format!("{base}/state/m.room.encryption");
                let body = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
                (creator, (Method::PUT, path), body)
            }
            _ => {
                let path = format!("/devices/{}", percent_encode(&self.users[user].device));
                let name = self.device_changes[user].to_string();
                let body = json!({ "display_name": name });
                (user, (Method::PUT, path), body)
            }
        };
        let (status, response) = self.request(sender, method, &path, &body);
        assert!(status < 500, "{path}: {response}");
        match action {
            _ if status != 200 => {}
            0..=4 if self.rooms[room].members.insert(user) => self.joins[user] += 1,
            5..=8 => drop(self.rooms[room].members.remove(&user)),
            10 | 11 => drop(self.rooms[room].members.remove(&target)),
            13 => self.encryptions += 1,
            14.. => self.device_changes[user] += 1,
            _ => {}
        }
    }

    /// The actual state for `user` at the end of the sync that returned `token`.
    fn checkpoint(&self, user: usize, token: &str) -> Checkpoint {
        let rooms = self.rooms.iter();
        let own = rooms.filter(|room| room.members.contains(&user));
        let shared = own.flat_map(|room| &room.members).copied();
        Checkpoint {
            token: token.to_owned(),
            shared: shared.filter(|other| *other != user).collect(),
            device_changes: self.device_changes.clone(),
            joins: self.joins.clone(),
            encryptions: self.encryptions,
        }
    }

    /// The users whose ids are in `list`.
    fn users(&self, list: &Value) -> BTreeSet<usize> {
        let ids = list.as_array().into_iter().flatten();
        let number = |id: &Value| self.users.iter().position(|user| *id == *user.id);
        let users = ids.map(|id| number(id).expect("one of the users"));
        users.collect()
    }

    fn device_lists(&self, lists: &Value) -> DeviceLists {
        DeviceLists {
            changed: self.users(&lists["changed"]),
            left: self.users(&lists["left"]),
        }
    }
}

/// The actual state at the end of a sync.
#[derive(Clone)]
struct Checkpoint {
    token: String,
    /// The other users in rooms of the user.
    shared: BTreeSet<usize>,
    device_changes: Vec<usize>,
    joins: Vec<usize>,
    encryptions: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct DeviceLists {
    changed: BTreeSet<usize>,
    left: BTreeSet<usize>,
}

impl DeviceLists {
    /// Asserts that these are the changes for `user` from one sync to another.
    fn check(&self, user: usize, from: &Checkpoint, to: &Checkpoint) {
        let left: BTreeSet<usize> = &from.shared - &to.shared;
        assert_eq!(self.left, left, "user {user} from {}", from.token);
        for other in 0..NAMES.len() {
            let is_tracked = other == user || to.shared.contains(&other);
            let has_changed = from.device_changes[other] != to.device_changes[other];
            let is_new = other != user && !from.shared.contains(&other);
            let may_be_new = from.joins[other] != to.joins[other]
                || from.joins[user] != to.joins[user]
                || from.encryptions != to.encryptions;
            let reported = self.changed.contains(&other);
            let why = format!("{other} to {user} from {}: {self:?}", from.token);
            assert!(reported || !is_tracked || !(has_changed || is_new), "{why}");
            assert!(
                !reported || is_tracked && (has_changed || may_be_new),
                "{why}"
            );
        }
    }
}

/// A client that queries the devices of users reported as changed, and of no others.
struct Client {
    user: usize,
    /// One for each sync.
    checkpoints: Vec<Checkpoint>,
    /// Tracked user → version of the devices when they were queried.
    tracked: BTreeMap<usize, usize>,
}

impl Client {
    fn new(world: &World, user: usize) -> Self {
        let response = world.get(user, "/sync");
        let checkpoint = world.checkpoint(user, next_batch(&response));
        let shared = checkpoint.shared.iter();
        Self {
            user,
            tracked: shared
                .map(|other| (*other, checkpoint.device_changes[*other]))
                .collect(),
            checkpoints: vec![checkpoint],
        }
    }

    fn sync(&mut self, world: &mut World) {
        let last = self.checkpoints.last().expect("the first one").clone();
        let response = world.get(self.user, &format!("/sync?since={}", last.token));
        let checkpoint = world.checkpoint(self.user, next_batch(&response));
        let lists = world.device_lists(&response["device_lists"]);
        lists.check(self.user, &last, &checkpoint);
        assert_eq!(self.changes(world, &last, &checkpoint), lists);
        for other in lists.changed.iter().filter(|other| **other != self.user) {
            self.tracked
                .insert(*other, checkpoint.device_changes[*other]);
        }
        self.tracked.retain(|other, _| !lists.left.contains(other));
        let shared = checkpoint.shared.iter();
        let expected: BTreeMap<_, _> = shared
            .map(|other| (*other, checkpoint.device_changes[*other]))
            .collect();
        assert_eq!(self.tracked, expected, "user {}", self.user);
        self.checkpoints.push(checkpoint);
        self.check_past_range(world);
    }

    /// Asserts that `/keys/changes` of a random past range is right.
    fn check_past_range(&self, world: &mut World) {
        let mut ends = [0; 2].map(|_| world.rng.random_range(0..self.checkpoints.len()));
        ends.sort_unstable();
        let [from, to] = ends.map(|end| &self.checkpoints[end]);
        self.changes(world, from, to).check(self.user, from, to);
    }

    fn changes(&self, world: &World, from: &Checkpoint, to: &Checkpoint) -> DeviceLists {
        let path = format!("/keys/changes?from={}&to={}", from.token, to.token);
        world.device_lists(&world.get(self.user, &path))
    }
}

fn run_random_clients(seed: u64) {
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
            world.server.restart();
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
fn device_lists_of_all_syncs_add_up_to_the_devices_of_shared_rooms() {
    for seed in 0..2 {
        run_random_clients(seed);
    }
}
