//! Fuzz test of all endpoints on the started binary.
//!
//! `valid_requests.txt` has a valid request for each endpoint. Sent as they are, they get the status that the
//! file says, with rooms of each of some versions; so what follows is not refused at the first check only. Then
//! they are changed: wrong types, numbers, null, missing and repeated fields, deep nesting, invalid UTF-8, lone
//! surrogates, NUL, strings of 1 MB, odd paths and queries, wrong methods; with and without the token of an
//! account or the signature of a hostile server, which signs its requests and events after the change. Whatever
//! they are, the server answers at once, and with no internal error, does not panic, keeps its memory budget and
//! goes on.
//!
//! `HEARTH_FUZZ_REQUESTS` sets how many requests are sent, `HEARTH_TEST_SEED` which. The same seed and number
//! send the same requests again, but for the ids and times in them.

mod common;
#[path = "bench/mock_homeserver.rs"]
mod mock_homeserver;
#[path = "fuzz/mutation.rs"]
mod mutation;
#[path = "fuzz/random.rs"]
mod random;
#[path = "fuzz/world.rs"]
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use common::{
    http::{Client, Response},
    server::{Server, command, free_port},
};
use mock_homeserver::MockHomeserver;
use random::Random;
use ruma::RoomVersionId;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use world::{World, percent_encode};

const VALID_REQUESTS: &str = include_str!("fuzz/valid_requests.txt");
const SPECIFICATION: &str = include_str!("endpoints/specification.tsv");
const NOT_SERVED: &str = include_str!("endpoints/not_served.txt");

/// Versions of rooms whose events differ in their ids, references, signatures or redactions.
const VERSIONS: [RoomVersionId; 6] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V11,
];

/// For the gate.
const REQUESTS: usize = 2400;
/// After so many, everything that they may have spoilt is made anew.
const REQUESTS_PER_WORLD: usize = 400;
/// An answer that takes longer is a hang.
const MAX_RESPONSE_TIME: Duration = Duration::from_secs(10);
const MEMORY_MB: u64 = 128;

/// More than any endpoint takes, but not so much that the server stops reading.
const MAX_BODY_BYTES: usize = 16_000_000;

const ENDS_SESSION: &[&str] = &[
    "/logout",
    "/logout/all",
    "/password",
    "/delete_devices",
    "/deactivate",
];

const UNUSUAL_SIGNATURE: &str = "X-Matrix origin=,key=\"\",sig=\"%\"";

/// These may wait for another server, or tell that it failed.
const GATEWAY_ERRORS: &[u16] = &[502, 504];

/// A line of `valid_requests.txt`.
struct ValidRequest<'a> {
    status: u16,
    /// In rooms of the versions of which users may not create rooms.
    status_in_old_rooms: u16,
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    body: Option<Value>,
}

/// A request as it is sent.
struct Request {
    method: String,
    target: String,
    authorization: Option<String>,
    content_type: &'static str,
    body: Vec<u8>,
}

struct Fuzzer {
    server: Server,
    directory: TempDir,
    hostile: MockHomeserver,
    client: Client,
    world: World,
    worlds: usize,
    log_bytes: u64,
    /// The request before.
    previous: String,
}

#[test]
fn every_served_endpoint_has_a_valid_request() {
    let endpoint = |line: &'static str| {
        let mut fields = line.split_ascii_whitespace();
        (fields.next(), fields.next())
    };
    let not_served: BTreeSet<_> = NOT_SERVED.lines().map(endpoint).collect();
    let valid = valid_requests();
    for line in SPECIFICATION.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let (method, template) = (fields[1], fields[2]);
        let is_of_template = |request: &ValidRequest<'_>| {
            let (path, template) = (request.path.split('/'), template.split('/'));
            let mut pairs = path.clone().zip(template.clone());
            request.method == method
                && path.count() == template.count()
                && pairs.all(|(segment, name)| segment == name || name.starts_with('{'))
        };
        assert!(
            not_served.contains(&(Some(method), Some(template)))
                || valid.iter().any(is_of_template),
            "tests/fuzz/valid_requests.txt has no {method} {template}"
        );
    }
}

#[test]
fn no_request_breaks_the_server() {
    let (requests, seed) = (
        setting("HEARTH_FUZZ_REQUESTS", REQUESTS),
        setting("HEARTH_TEST_SEED", 1),
    );
    let valid = valid_requests();
    let keys: Vec<_> = valid
        .iter()
        .flat_map(|request| request.query.unwrap_or_default().split('&'))
        .filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()))
        .collect();
    let mut fuzzer = Fuzzer::start();
    for version in VERSIONS {
        fuzzer.renew_in(&version);
        let wrong = fuzzer.unexpected_responses(&valid);
        assert!(
            wrong.is_empty(),
            "version {version}: {}",
            wrong.join("\n\n")
        );
    }
    let mut random = Random::new(seed);
    let mut statuses = BTreeMap::<u16, usize>::new();
    for number in 0..requests {
        if number % REQUESTS_PER_WORLD == 0 {
            let version = &VERSIONS[number / REQUESTS_PER_WORLD % VERSIONS.len()];
            fuzzer.renew_in(version);
        }
        let request = random.pick(&valid);
        let sent = fuzzer.changed_request(&mut random, request, &keys);
        let response = fuzzer.send(&sent);
        *statuses.entry(response.status).or_default() += 1;
        fuzzer.restore(request, &response);
    }
    println!("seed {seed}: {statuses:?}");
    fuzzer.finish();
}

#[test]
fn a_server_can_send_only_the_joins_leaves_and_invites_of_its_own_users() {
    let mut fuzzer = Fuzzer::start();
    for version in VERSIONS {
        fuzzer.renew_in(&version);
        let world = &mut fuzzer.world;
        world.next_remote_user();
        for membership in ["join", "leave"] {
            let forged = world.send_forged_membership_events(membership).unwrap();
            assert!(!forged.is_empty());
            for (what, status) in forged {
                assert!(
                    matches!(status, 400 | 403),
                    "version {version}: send_{membership} {what}: {status}"
                );
            }
            assert_eq!(world.send_own_membership_event(membership).unwrap(), 200);
        }
        for (what, status) in world.send_forged_invites().unwrap() {
            assert!(
                matches!(status, 400 | 403 | 413),
                "version {version}: invite {what}: {status}"
            );
        }
        world.next_remote_user();
        let statuses = world.send_outdated_membership_events().unwrap();
        assert_eq!(statuses, [400, 200, 400, 200, 403], "version {version}");
    }
    fuzzer.finish();
}

/// Clients read an absent value, and some fail on `null`.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    match env::var(name) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
        Err(_) => default,
    }
}

fn valid_requests() -> Vec<ValidRequest<'static>> {
    let lines = VALID_REQUESTS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<_> = line.splitn(4, ' ').collect();
            let body = fields.get(3).map(|body| {
                let json = serde_json::from_str(body);
                // The name of an event.
                json.unwrap_or_else(|_| Value::from(*body))
            });
            let (path, query) = match fields[2].split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (fields[2], None),
            };
            let (status, in_old_rooms) =
                fields[0].split_once('/').unwrap_or((fields[0], fields[0]));
            ValidRequest {
                status: status.parse().expect("a status"),
                status_in_old_rooms: in_old_rooms.parse().expect("a status"),
                method: fields[1],
                path,
                query,
                body,
            }
        })
        .collect()
}

impl ValidRequest<'_> {
    fn is_federation(&self) -> bool {
        self.path.starts_with("/_matrix/federation")
    }
}

impl Request {
    fn to_bytes(&self) -> Vec<u8> {
        let authorization = self.authorization.as_deref();
        let authorization =
            authorization.map_or_else(String::new, |value| format!("Authorization: {value}\r\n"));
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\n{authorization}Content-Length: {}\r\n\r\n",
            self.method,
            self.target,
            self.content_type,
            self.body.len()
        );
        [head.as_bytes(), &self.body].concat()
    }

    fn describe(&self) -> String {
        let bytes = self.to_bytes();
        let shown = &bytes[..bytes.len().min(4000)];
        format!(
            "a request of {} bytes:\n{}",
            bytes.len(),
            shown.escape_ascii()
        )
    }
}

impl Fuzzer {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let settings = format!(
            "memory = \"{MEMORY_MB}M\"\nfederation = \"on\"\nnotaries = []\nextra_ca = {:?}\n\
             allow_private_addresses = true\nregistration_shared_secret = \"secret\"\n",
            concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests/root.pem")
        );
        let port = free_port().unwrap();
        let server = Server::start_with(command(), directory.path(), port, &settings).unwrap();
        let hostile = MockHomeserver::start().unwrap();
        Self {
            world: World::new(port, &hostile, 0).unwrap(),
            client: Client::connect(port, None).unwrap(),
            server,
            directory,
            hostile,
            worlds: 1,
            log_bytes: 0,
            previous: String::new(),
        }
    }

    /// Makes everything anew, with rooms of this version.
    fn renew_in(&mut self, version: &RoomVersionId) {
        self.hostile = self.hostile.with_version(version.clone());
        self.renew();
    }

    /// Sends the requests as they are. What the responses have that they must not.
    fn unexpected_responses(&mut self, valid: &[ValidRequest<'_>]) -> Vec<String> {
        let mut wrong = Vec::new();
        for request in valid {
            let is_old = self.hostile.version() != self.hostile.client_version();
            let expected = match is_old {
                true => request.status_in_old_rooms,
                false => request.status,
            };
            let sent = self.request(request);
            let response = self.send(&sent);
            if response.status != expected {
                let answer = String::from_utf8_lossy(&response.body).into_owned();
                wrong.push(format!(
                    "{} {answer} for {}",
                    response.status,
                    sent.describe()
                ));
            }
            if let Ok(body) = serde_json::from_slice::<Value>(&response.body) {
                let results = body["pdus"].as_object().into_iter().flatten();
                let refused = results.filter(|(_, result)| result.get("error").is_some());
                let names = [
                    has_null(&body).then_some("null"),
                    refused.map(|_| "error").next(),
                ];
                for name in names.into_iter().flatten() {
                    let (method, path) = (request.method, request.path);
                    wrong.push(format!("{name} in {body} for {method} {path}"));
                }
            }
            self.restore(request, &response);
        }
        wrong
    }

    fn renew(&mut self) {
        self.world = World::new(self.server.port, &self.hostile, self.worlds)
            .unwrap_or_else(|error| panic!("the server does not go on: {error}\n{}", self.log()));
        self.worlds += 1;
    }

    /// Makes anew what a request may have ended: the session, or the account.
    fn restore(&mut self, request: &ValidRequest<'_>, response: &Response) {
        let ends_session = ENDS_SESSION.iter().any(|end| request.path.ends_with(end));
        if response.status == 200 && ends_session && self.world.log_in().is_err() {
            self.renew();
        }
    }

    fn request(&mut self, request: &ValidRequest<'_>) -> Request {
        let mut body = request.body.clone().unwrap_or_default();
        self.world.fill_json(&mut body);
        let path = self.world.fill(request.path, true);
        let query = request.query.map(|query| self.world.fill(query, true));
        let id = self.world.sign_events(&mut body);
        let body = request
            .body
            .as_ref()
            .map_or_else(Vec::new, |_| random::to_text(&body));
        self.finished(request, request.method.to_owned(), path, query, &id, body)
    }

    fn changed_request(
        &mut self,
        random: &mut Random,
        request: &ValidRequest<'_>,
        keys: &[String],
    ) -> Request {
        let mut body = request.body.clone().unwrap_or_default();
        self.world.fill_json(&mut body);
        let mut path = self.world.fill(request.path, true);
        let mut query = request.query.map(|query| self.world.fill(query, true));
        let mut method = request.method.to_owned();
        if !body.is_null() && !random.one_in(5) {
            (0..=random.number(3)).for_each(|_| mutation::json(random, &mut body));
        }
        let id = match random.one_in(8) {
            true => "$none".to_owned(),
            false => self.world.sign_events(&mut body),
        };
        let mut text = random::to_text(&body);
        text.truncate(MAX_BODY_BYTES);
        if request.body.is_none() && !random.one_in(20) {
            text.clear();
        }
        if random.one_in(12) {
            mutation::text(random, &mut text);
        }
        if random.one_in(5) {
            path = mutation::path(random, &path);
        }
        if random.one_in(if query.is_some() { 2 } else { 8 }) {
            query = Some(mutation::query(random, &query.unwrap_or_default(), keys));
        }
        if random.one_in(30) {
            method = mutation::method(random);
        }
        let mut finished = self.finished(request, method, path, query, &id, text);
        match random.number(40) {
            0 => finished.authorization = None,
            1 => finished.authorization = Some("Bearer x".to_owned()),
            2 => finished.authorization = Some(UNUSUAL_SIGNATURE.to_owned()),
            3 => finished.authorization = Some("X-Matrix ".repeat(1000)),
            4 => finished.content_type = "text/plain; charset=\"",
            5 => finished.content_type = "multipart/form-data",
            _ => {}
        }
        finished
    }

    /// Adds the id of the event in the body, and the token or the signature.
    fn finished(
        &self,
        request: &ValidRequest<'_>,
        method: String,
        path: String,
        query: Option<String>,
        event_id: &str,
        body: Vec<u8>,
    ) -> Request {
        let name = percent_encode("{eventIdOfBody}");
        let path = path.replace(&name, &percent_encode(event_id));
        let target = match query {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let authorization = match request.is_federation() {
            true => self.world.authorization(&method, &target, &body),
            false => Some(format!("Bearer {}", self.world.token)),
        };
        Request {
            method,
            target,
            authorization,
            content_type: "application/json",
            body,
        }
    }

    /// Sends a request and checks that the server answers as it must whatever it is.
    fn send(&mut self, request: &Request) -> Response {
        let start = Instant::now();
        let bytes = request.to_bytes();
        // The server may answer before it has read all.
        let sent = self.client.send_bytes(&bytes);
        let response = match &*request.method {
            "HEAD" => self.client.read_head(),
            _ => self.client.read_response(),
        };
        let time = start.elapsed();
        let response = response.unwrap_or_else(|error| {
            panic!(
                "{error} ({sent:?}) after {time:?} instead of a response to {}\nafter {}\n{}",
                request.describe(),
                self.previous,
                self.log()
            )
        });
        if response.closes {
            self.client = Client::connect(self.server.port, None).unwrap();
        }
        let (status, answer) = (response.status, String::from_utf8_lossy(&response.body));
        assert!(
            status < 500 || GATEWAY_ERRORS.contains(&status),
            "{status} {answer} for {}\n{}",
            request.describe(),
            self.log()
        );
        assert!(
            time < MAX_RESPONSE_TIME,
            "{time:?} for {}",
            request.describe()
        );
        self.previous = format!("{status} for {}", request.describe());
        if let Some(line) = self.new_problem() {
            panic!("{line}\nfor {}", request.describe());
        }
        response
    }

    /// What the log has that is a fault of the server.
    fn new_problem(&mut self) -> Option<String> {
        let path = self.log_path();
        let length = fs::metadata(&path).unwrap().len();
        if length == self.log_bytes {
            return None;
        }
        let log = fs::read(&path).unwrap();
        let new = String::from_utf8_lossy(&log[self.log_bytes as usize..]).into_owned();
        self.log_bytes = length;
        let mut lines = new.lines();
        let problem = lines.find(|line| line.contains("panicked") || line.contains("ERROR"));
        problem.map(str::to_owned)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The end of the log.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The server serves as before, and has kept its memory budget.
    fn finish(mut self) {
        self.renew();
        let peak_mb = peak_memory_mb(self.server.pid());
        println!("peak of resident memory: {peak_mb} MB");
        assert!(peak_mb < MEMORY_MB, "{peak_mb} MB of {MEMORY_MB} MB");
        assert!(self.new_problem().is_none());
        assert!(self.server.stop(Signal::TERM).unwrap().success());
    }
}

fn peak_memory_mb(pid: u32) -> u64 {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse::<u64>().unwrap() / 1024
}
