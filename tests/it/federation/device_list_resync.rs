//! Resync of device lists from servers that are slow, unreachable or return invalid lists.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use hearth::federation::DeviceUpdate;
use http::Method;
use ruma::{ServerName, api::federation::transactions::edu::Edu};
use serde_json::{Value, json};
use smol::future;

use super::device_lists::{cached_or_fetched, names_by_id, update_after, wait_for_changed};
use crate::{
    client_api::{create_room, join_via, next_batch, percent_encode, room_path, send_text, sync},
    mock_web_server::MockWebServer,
    test_server::{TestServer, expect_ok},
};

const QUERY: &str = "/_matrix/client/v3/keys/query";
const DEVICES: &str = "/_matrix/federation/v1/user/devices/";

struct Setup<const N: usize> {
    server: TestServer,
    /// Access token of a user of `server`.
    token: String,
    /// Remote users who share a room with that user.
    users: [String; N],
    /// The port of the stopped remote server.
    port: u16,
}

/// A server with a room that has members of a remote server, which is stopped afterwards.
fn set_up<const N: usize>(users: [&str; N]) -> Setup<N> {
    let [here, there] = TestServer::federating();
    let token = {
        let alice = here.register("alice");
        let room = create_room(&alice, json!({ "preset": "public_chat" }));
        for user in users {
            let user = there.register(user);
            join_via(&user, &room, &here);
            // Transactions are sent one at a time: once the second message has arrived, so has
            // everything from before the first one, such as the device list update of the join.
            for text in ["first", "second"] {
                let id = send_text(&user, &room, text);
                let path = room_path(&room, &format!("event/{}", percent_encode(&id)));
                here.wait_until(async || {
                    let get = here.send(Method::GET, &path, Some(&alice.token), &Value::Null);
                    get.await.0 == 200
                });
            }
        }
        alice.token
    };
    let users = users.map(|user| format!("@{user}:{}", there.name()));
    let port = there.name().port().expect("its name has a port");
    Setup {
        server: here,
        token,
        users,
        port,
    }
}

fn device(user: &str, id: &str) -> Value {
    json!({
        "device_id": id, "device_display_name": id,
        "keys": {
            "user_id": user, "device_id": id, "algorithms": [], "keys": {}, "signatures": {},
        },
    })
}

/// The response of `/user/devices` with these devices.
fn device_list(user: &str, stream_id: u64, devices: &[&str]) -> Value {
    let devices: Vec<Value> = devices.iter().map(|id| device(user, id)).collect();
    json!({ "user_id": user, "stream_id": stream_id, "devices": devices })
}

/// The user whose list is requested by `path`.
fn user_of_path(path: &str) -> Option<String> {
    let user = path.strip_prefix(DEVICES)?;
    Some(user.replace("%40", "@").replace("%3A", ":"))
}

/// A remote server on `port` that returns these lists.
fn remote_with(port: u16, lists: Vec<Value>) -> MockWebServer {
    let by_user = |list: Value| {
        let user = list["user_id"].as_str().expect("a user").to_owned();
        (user, list.to_string().into_bytes())
    };
    let lists: HashMap<_, _> = lists.into_iter().map(by_user).collect();
    MockWebServer::with_json(port, move |path| lists.get(&user_of_path(path)?).cloned())
}

async fn apply_update(server: &TestServer, edu: Value) {
    let update = match serde_json::from_value(edu) {
        Ok(Edu::DeviceListUpdate(update)) => DeviceUpdate::Device(update),
        other => panic!("not an update of a device: {other:?}"),
    };
    let lists = server.federation().device_lists();
    lists
        .apply_updates(vec![update])
        .await
        .expect("the store works");
}

/// Marks the remote server as reachable until `server` requests a list from it. Right after startup,
/// the stale lists may not have been loaded yet.
fn mark_reachable(server: &TestServer, remote: &str, request_count: &AtomicUsize) {
    let remote = ServerName::parse(remote).expect("a name");
    let before = request_count.load(Ordering::Relaxed);
    server.wait_until(async || {
        server.federation().device_lists().alive(&remote);
        request_count.load(Ordering::Relaxed) > before
    });
}

#[test]
fn failed_fetch_for_one_user_does_not_affect_the_others() {
    let setup = set_up(["bob", "carol", "dan"]);
    let (here, port, [bob, carol, dan]) = (setup.server, setup.port, setup.users);
    let mut dans_list = device_list(&dan, 1, &["TABLET"]);
    let devices = dans_list["devices"].as_array_mut().expect("a list");
    devices.insert(0, json!({ "device_id": "BAD", "keys": "none" }));
    let _remote = remote_with(port, vec![device_list(&carol, 1, &["LAPTOP"]), dans_list]);
    let alice = here.user_with_token(&setup.token);
    let body = json!({ "device_keys": { &bob: [], &carol: [], &dan: [] } });
    let response = expect_ok(alice.post(QUERY, body));
    let failures = response["failures"].as_object().expect("one failed");
    assert!(failures.keys().eq([&format!("localhost:{port}")]));
    assert_eq!(response["device_keys"][&bob], Value::Null);
    assert!(response["device_keys"][&carol]["LAPTOP"].is_object());
    let dans_list = response["device_keys"][&dan].as_object();
    assert!(
        dans_list
            .expect("the valid devices of dan")
            .keys()
            .eq(["TABLET"])
    );
}

#[test]
fn stale_device_list_is_returned_with_failures_and_reported_as_changed_after_resync() {
    let setup = set_up(["bob"]);
    let (mut here, token, port, [bob]) = (setup.server, setup.token, setup.port, setup.users);
    let query = |here: &TestServer| {
        let body = json!({ "device_keys": { &bob: [] } });
        expect_ok(here.user_with_token(&token).post(QUERY, body))
    };
    let name = format!("localhost:{port}");
    let response = query(&here);
    assert!(response["failures"][&name].is_object());
    assert_eq!(
        response["device_keys"][&bob],
        Value::Null,
        "it was never fetched"
    );
    // The requested list is still marked as stale after a restart.
    here.restart();
    let since = next_batch(&sync(&here.user_with_token(&token), None)).to_owned();
    // The remote server fails while this is 0.
    let stream_id = Arc::new(AtomicUsize::new(1));
    let served = Arc::<AtomicUsize>::default();
    let (current, count, user) = (stream_id.clone(), served.clone(), bob.clone());
    let _remote = MockWebServer::with_json(port, move |path| {
        let stream_id = current.load(Ordering::Relaxed);
        let is_served = stream_id > 0 && user_of_path(path)? == user;
        count.fetch_add(usize::from(is_served), Ordering::Relaxed);
        let list = device_list(&user, stream_id as u64, &["PHONE"]);
        is_served.then(|| list.to_string().into_bytes())
    });
    mark_reachable(&here, &name, &served);
    let since = wait_for_changed(&here.user_with_token(&token), &bob, since);
    assert!(query(&here)["device_keys"][&bob]["PHONE"].is_object());

    stream_id.store(0, Ordering::Relaxed);
    here.run(apply_update(&here, update_after(&bob, "NEW", 3, &[2])));
    let since = wait_for_changed(&here.user_with_token(&token), &bob, since);
    let response = query(&here);
    assert!(response["failures"][&name].is_object());
    assert!(response["device_keys"][&bob]["PHONE"].is_object());
    stream_id.store(3, Ordering::Relaxed);
    here.clock.advance(Duration::from_mins(2));
    mark_reachable(&here, &name, &served);
    wait_for_changed(&here.user_with_token(&token), &bob, since);
    assert_eq!(query(&here)["failures"], json!({}));
}

/// A remote server that returns the next of some lists of a user whenever the test lets it.
struct PausedRemote {
    request_count: Arc<AtomicUsize>,
    permits: mpsc::Sender<()>,
    _server: MockWebServer,
}

impl PausedRemote {
    fn new(port: u16, user: &str, lists: Vec<Value>) -> Self {
        let (permits, granted) = mpsc::channel();
        let request_count = Arc::<AtomicUsize>::default();
        let (user, count) = (user.to_owned(), request_count.clone());
        let next = Mutex::new((granted, lists.into_iter()));
        let server = MockWebServer::with_json(port, move |path| {
            if user_of_path(path)? != user {
                return None;
            }
            count.fetch_add(1, Ordering::Relaxed);
            let mut next = next.lock().ok()?;
            next.0.recv().ok()?;
            Some(next.1.next()?.to_string().into_bytes())
        });
        Self {
            request_count,
            permits,
            _server: server,
        }
    }

    /// Waits until this many requests have arrived.
    async fn wait_for_requests(&self, server: &TestServer, count: usize) {
        let arrived = async || self.request_count.load(Ordering::Relaxed) >= count;
        server.eventually(arrived).await;
    }

    /// Answers one request.
    fn respond(&self) {
        self.permits.send(()).expect("the server runs");
    }
}

#[test]
fn update_during_a_fetch_triggers_another_fetch() {
    let setup = set_up(["bob"]);
    let (here, [bob]) = (setup.server, setup.users);
    let lists = vec![
        device_list(&bob, 1, &["OLD"]),
        device_list(&bob, 2, &["OLD", "NEW"]),
    ];
    let remote = PausedRemote::new(setup.port, &bob, lists);
    let update = async {
        remote.wait_for_requests(&here, 1).await;
        apply_update(&here, update_after(&bob, "NEW", 2, &[1])).await;
        remote.respond();
        remote.wait_for_requests(&here, 2).await;
        remote.respond();
    };
    let (list, ()) = here.run(future::zip(cached_or_fetched(&here, &bob), update));
    let both = json!({ "OLD": "OLD", "NEW": "NEW" });
    assert_eq!(list.map(names_by_id), Some(both));
}

#[test]
fn outdated_fetch_response_does_not_replace_a_newer_list() {
    let setup = set_up(["bob"]);
    let (here, [bob]) = (setup.server, setup.users);
    let lists = vec![
        device_list(&bob, 1, &["OLD"]),
        device_list(&bob, 1, &["OLD"]),
        device_list(&bob, 3, &["NEWEST"]),
    ];
    let remote = PausedRemote::new(setup.port, &bob, lists);
    remote.respond();
    let cached_names = || here.run(cached_or_fetched(&here, &bob)).map(names_by_id);
    assert_eq!(cached_names(), Some(json!({ "OLD": "OLD" })));
    here.clock.advance(Duration::from_hours(8 * 24));
    assert_eq!(
        cached_names(),
        Some(json!({ "OLD": "OLD" })),
        "the refresh runs in the background"
    );
    here.run(remote.wait_for_requests(&here, 2));
    here.run(apply_update(&here, update_after(&bob, "NEW", 2, &[1])));
    let both = Some(json!({ "OLD": "OLD", "NEW": "NEW" }));
    assert_eq!(cached_names(), both);
    remote.respond();
    here.run(remote.wait_for_requests(&here, 3));
    assert_eq!(cached_names(), both);
    remote.respond();
    let newest = Some(json!({ "NEWEST": "NEWEST" }));
    here.wait_until(async || cached_or_fetched(&here, &bob).await.map(names_by_id) == newest);
}

#[test]
fn concurrent_fetches_of_one_device_list_are_single_flight() {
    let setup = set_up(["bob"]);
    let (here, [bob]) = (setup.server, setup.users);
    let remote = PausedRemote::new(setup.port, &bob, vec![device_list(&bob, 1, &["PHONE"])]);
    let response = async {
        remote.wait_for_requests(&here, 1).await;
        remote.respond();
    };
    let both = future::zip(
        cached_or_fetched(&here, &bob),
        cached_or_fetched(&here, &bob),
    );
    let ((one, other), ()) = here.run(future::zip(both, response));
    assert!(one.is_some() && other.is_some());
    assert_eq!(remote.request_count.load(Ordering::Relaxed), 1);
}
