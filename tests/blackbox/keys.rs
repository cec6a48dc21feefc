//! Keys that are given out once, whatever is killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{
    http::Client,
    people::register,
    server::{Server, command, free_port},
};

const CLIENT: &str = "/_matrix/client/v3";
const ALGORITHM: &str = "signed_curve25519";
/// How often the server that has the keys ends, how many times keys are handed in before each end, and
/// how many at once: fewer in all than a device can have.
const ENDS: usize = 9;
const BATCHES: usize = 7;
const BATCH: usize = 7;

/// Where a server is, and what it keeps, from one start to the next.
struct Place {
    directory: TempDir,
    port: u16,
    settings: String,
}

impl Place {
    fn new() -> Self {
        let (port, tls) = (free_port().unwrap(), free_port().unwrap());
        let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests");
        let settings = format!(
            "server_name = \"localhost:{tls}\"\n\
             tls_listen = [\"127.0.0.1:{tls}\"]\n\
             tls_certificate = \"{certificates}/localhost.pem\"\n\
             tls_key = \"{certificates}/localhost.key.pem\"\n\
             extra_ca = \"{certificates}/root.pem\"\n\
             allow_private_addresses = true\n\
             notaries = []\n"
        );
        Self {
            directory: TempDir::new().unwrap(),
            port,
            settings,
        }
    }

    fn start(&self) -> Server {
        let directory = self.directory.path();
        Server::start_with(command(), directory, self.port, &self.settings).unwrap()
    }

    /// Asks as whoever has `token`; nothing if the server did not answer, or not with success.
    fn ask(
        &self,
        token: &str,
        (method, path): (&str, &str),
        body: Option<&Value>,
    ) -> Option<Value> {
        let token = format!("Bearer {token}");
        let mut client = Client::connect(self.port, Some(&token)).ok()?;
        let path = format!("{CLIENT}{path}");
        client.json(method, &path, body).ok()
    }
}

/// What became of the keys.
#[derive(Default)]
struct Keys {
    /// Those that were handed in, and are there for sure.
    uploaded: BTreeSet<String>,
    given: Vec<String>,
    /// How many claims had no answer: each may have taken a key with it.
    unheard: usize,
}

/// Asks for a key of a device; nothing if whether one was given is not known.
fn claim(place: &Place, token: &str, (user, device): (&str, &str)) -> Option<Option<String>> {
    let body = json!({ "one_time_keys": { user: { device: ALGORITHM } } });
    let answer = place.ask(token, ("POST", "/keys/claim"), Some(&body))?;
    let failures = answer["failures"].as_object();
    if failures.is_some_and(|failures| !failures.is_empty()) {
        return None;
    }
    let keys = answer["one_time_keys"][user][device].as_object();
    Some(keys.and_then(|keys| keys.keys().next().cloned()))
}

/// The names of keys that are handed in together.
fn batch(number: usize) -> BTreeSet<String> {
    let names = number * BATCH..(number + 1) * BATCH;
    names
        .map(|name| format!("{ALGORITHM}:K{name:06}"))
        .collect()
}

fn upload(place: &Place, token: &str, number: usize) -> bool {
    let key = |name: String| (name.clone(), json!({ "key": name, "signatures": {} }));
    let keys: BTreeMap<_, _> = batch(number).into_iter().map(key).collect();
    let body = json!({ "one_time_keys": keys });
    place
        .ask(token, ("POST", "/keys/upload"), Some(&body))
        .is_some()
}

/// Claims until there is no answer, and tells each that there was.
fn claim_on(
    (place, token): (&Place, &str),
    device: (&str, &str),
    heard: &Sender<()>,
) -> (Vec<String>, usize) {
    let mut given = Vec::new();
    while let Some(key) = claim(place, token, device) {
        given.extend(key);
        // Nobody counts any more once it has ended.
        let _ = heard.send(());
    }
    (given, 1)
}

#[test]
fn whoever_is_killed_no_key_is_given_out_twice_and_none_is_lost_that_was_not_given_out() {
    let (near, far) = (Place::new(), Place::new());
    let (mut server, mut other) = (near.start(), far.start());
    let alice = register(near.port, "alice").unwrap();
    let bob = register(near.port, "bob").unwrap();
    let carol = register(far.port, "carol").unwrap();
    let who = near.ask(&alice, ("GET", "/account/whoami"), None).unwrap();
    let device = (
        who["user_id"].as_str().unwrap(),
        who["device_id"].as_str().unwrap(),
    );
    let mut keys = Keys::default();
    let next = AtomicUsize::new(0);
    let mut of_far = 0;

    for end in 0..ENDS {
        let (heard, answers) = mpsc::channel();
        let (server_then, other_then) = (server, other);
        thread::scope(|scope| {
            let claims: Vec<_> = [(&near, &bob), (&near, &alice), (&far, &carol)]
                .map(|(place, token)| {
                    let heard = heard.clone();
                    scope.spawn(move || claim_on((place, token), device, &heard))
                })
                .into();
            let uploads = scope.spawn(|| {
                let mut tried = Vec::new();
                for _ in 0..BATCHES {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    tried.push(number);
                    if !upload(&near, &alice, number) {
                        break;
                    }
                }
                tried
            });
            drop(heard);
            for _ in 0..25 + 7 * end {
                answers.recv().expect("somebody is answered");
            }
            if end % 3 == 1 {
                other_then.kill().unwrap();
                answers
                    .recv()
                    .expect("the other server's end is not this one's");
            } else {
                drop(other_then.stop(Signal::TERM));
            }
            if end % 3 == 2 {
                assert!(server_then.stop(Signal::TERM).unwrap().success());
            } else {
                server_then.kill().unwrap();
            }
            for (number, claims) in claims.into_iter().enumerate() {
                let (given, unheard) = claims.join().unwrap();
                of_far += if number == 2 { given.len() } else { 0 };
                keys.given.extend(given);
                keys.unheard += unheard;
            }
            for number in uploads.join().unwrap() {
                keys.uploaded.extend(batch(number));
            }
        });
        (server, other) = (near.start(), far.start());
        // A client hands in again what it has not heard to be there; this one all of the last round.
        let last = next.load(Ordering::Relaxed);
        for number in last.saturating_sub(3)..last {
            assert!(upload(&near, &alice, number));
        }
    }

    for _ in 0..=keys.uploaded.len() {
        keys.given
            .extend(claim(&near, &bob, device).expect("it answers"));
    }
    assert!(of_far > 0, "the other server was given none");
    let once: BTreeSet<String> = keys.given.iter().cloned().collect();
    assert_eq!(once.len(), keys.given.len(), "given out twice");
    assert!(once.is_subset(&keys.uploaded));
    let lost = keys.uploaded.len() - once.len();
    assert!(
        lost <= keys.unheard,
        "{lost} lost, {} claims unheard",
        keys.unheard
    );
    drop((server, other));
}
