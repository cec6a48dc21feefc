//! One-time keys while servers are killed.

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
    client_api::register,
    http::Client,
    server::{Server, command, free_port},
};

const CLIENT: &str = "/_matrix/client/v3";
const ALGORITHM: &str = "signed_curve25519";
/// The keys of all rounds together are fewer than a device may have.
const ROUNDS: usize = 9;
const UPLOADS_PER_ROUND: usize = 7;
const KEYS_PER_UPLOAD: usize = 7;

/// The settings of a server that others on this machine reach at this port.
pub fn federating_settings(tls: u16) -> String {
    let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests");
    format!(
        "server_name = \"localhost:{tls}\"\n\
         tls_listen = [\"127.0.0.1:{tls}\"]\n\
         tls_certificate = \"{certificates}/localhost.pem\"\n\
         tls_key = \"{certificates}/localhost.key.pem\"\n\
         extra_ca = \"{certificates}/root.pem\"\n\
         allow_private_addresses = true\n\
         notaries = []\n"
    )
}

/// A server that is started again and again with the same data, port and settings.
struct RestartableServer {
    directory: TempDir,
    port: u16,
    settings: String,
}

impl RestartableServer {
    fn new() -> Self {
        let (port, tls) = (free_port().unwrap(), free_port().unwrap());
        let settings = federating_settings(tls);
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

    /// `None` if there was no response, or an error.
    fn request(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Value> {
        let token = format!("Bearer {token}");
        let mut client = Client::connect(self.port, Some(&token)).ok()?;
        let path = format!("{CLIENT}{path}");
        client.json(method, &path, body).ok()
    }
}

#[derive(Default)]
struct Keys {
    /// Confirmed by a response to an upload.
    uploaded: BTreeSet<String>,
    claimed: Vec<String>,
    /// The number of claims without a response: each may have claimed a key.
    unanswered_claims: usize,
}

/// Claims a one-time key of a device. `Some(None)` if the device has none, `None` if there was no
/// response.
fn claim(
    server: &RestartableServer,
    token: &str,
    (user, device): (&str, &str),
) -> Option<Option<String>> {
    let body = json!({ "one_time_keys": { user: { device: ALGORITHM } } });
    let response = server.request(token, "POST", "/keys/claim", Some(&body))?;
    let failures = response["failures"].as_object();
    if failures.is_some_and(|failures| !failures.is_empty()) {
        return None;
    }
    let keys = response["one_time_keys"][user][device].as_object();
    Some(keys.and_then(|keys| keys.keys().next().cloned()))
}

/// The ids of the keys of an upload.
fn key_ids(upload: usize) -> BTreeSet<String> {
    let numbers = upload * KEYS_PER_UPLOAD..(upload + 1) * KEYS_PER_UPLOAD;
    numbers
        .map(|number| format!("{ALGORITHM}:K{number:06}"))
        .collect()
}

fn upload(server: &RestartableServer, token: &str, number: usize) -> bool {
    let key = |id: String| (id.clone(), json!({ "key": id, "signatures": {} }));
    let keys: BTreeMap<_, _> = key_ids(number).into_iter().map(key).collect();
    let body = json!({ "one_time_keys": keys });
    server
        .request(token, "POST", "/keys/upload", Some(&body))
        .is_some()
}

/// Claims keys until there is no response, and reports each response to `responded`.
fn claim_until_killed(
    server: &RestartableServer,
    token: &str,
    device: (&str, &str),
    responded: &Sender<()>,
) -> Vec<String> {
    let mut claimed = Vec::new();
    while let Some(key) = claim(server, token, device) {
        claimed.extend(key);
        // Fails once the server is killed.
        let _ = responded.send(());
    }
    claimed
}

#[test]
fn one_time_keys_are_never_claimed_twice_or_lost_when_servers_are_killed() {
    let (local, remote) = (RestartableServer::new(), RestartableServer::new());
    let (mut local_process, mut remote_process) = (local.start(), remote.start());
    let alice = register(local.port, "alice").unwrap();
    let bob = register(local.port, "bob").unwrap();
    let carol = register(remote.port, "carol").unwrap();
    let whoami = local
        .request(&alice, "GET", "/account/whoami", None)
        .unwrap();
    let device = (
        whoami["user_id"].as_str().unwrap(),
        whoami["device_id"].as_str().unwrap(),
    );
    let mut keys = Keys::default();
    let next_upload = AtomicUsize::new(0);
    let mut claimed_by_remote = 0;

    for round in 0..ROUNDS {
        let (responded, responses) = mpsc::channel();
        thread::scope(|scope| {
            let claims: Vec<_> = [(&local, &bob), (&local, &alice), (&remote, &carol)]
                .map(|(server, token)| {
                    let responded = responded.clone();
                    scope.spawn(move || claim_until_killed(server, token, device, &responded))
                })
                .into();
            let uploads = scope.spawn(|| {
                let mut attempted = Vec::new();
                for _ in 0..UPLOADS_PER_ROUND {
                    let number = next_upload.fetch_add(1, Ordering::Relaxed);
                    attempted.push(number);
                    if !upload(&local, &alice, number) {
                        break;
                    }
                }
                attempted
            });
            drop(responded);
            for _ in 0..25 + 7 * round {
                responses.recv().expect("a response");
            }
            if round % 3 == 1 {
                remote_process.kill().unwrap();
                responses.recv().expect("the local server still responds");
            } else {
                drop(remote_process.stop(Signal::TERM));
            }
            if round % 3 == 2 {
                assert!(local_process.stop(Signal::TERM).unwrap().success());
            } else {
                local_process.kill().unwrap();
            }
            for (number, claims) in claims.into_iter().enumerate() {
                let claimed = claims.join().unwrap();
                claimed_by_remote += if number == 2 { claimed.len() } else { 0 };
                keys.claimed.extend(claimed);
                keys.unanswered_claims += 1;
            }
            for number in uploads.join().unwrap() {
                keys.uploaded.extend(key_ids(number));
            }
        });
        (local_process, remote_process) = (local.start(), remote.start());
        // A client repeats uploads whose response was lost. This one repeats the last ones.
        let end = next_upload.load(Ordering::Relaxed);
        for number in end.saturating_sub(3)..end {
            assert!(upload(&local, &alice, number));
        }
    }

    for _ in 0..=keys.uploaded.len() {
        keys.claimed
            .extend(claim(&local, &bob, device).expect("a response"));
    }
    assert!(claimed_by_remote > 0, "the remote server claimed no key");
    let unique: BTreeSet<String> = keys.claimed.iter().cloned().collect();
    assert_eq!(unique.len(), keys.claimed.len(), "claimed twice");
    assert!(unique.is_subset(&keys.uploaded));
    let lost = keys.uploaded.len() - unique.len();
    assert!(
        lost <= keys.unanswered_claims,
        "{lost} lost, {} unanswered claims",
        keys.unanswered_claims
    );
    drop((local_process, remote_process));
}
