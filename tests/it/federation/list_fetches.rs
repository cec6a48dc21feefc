//! Fetching the lists of devices of users whose server has its troubles.

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

use super::{
    device_lists::{fetched, hears, names, update_after},
    outage::join_via,
};
use crate::{
    home::Home,
    rooms::{done, escaped, make_room, next, sync},
    web::Web,
};

const QUERY: &str = "/_matrix/client/v3/keys/query";
const DEVICES: &str = "/_matrix/federation/v1/user/devices/";

/// A server where somebody shares a room with users of another, which is gone; somebody's token, the
/// users' ids, and the port of the other.
fn with_users<const N: usize>(users: [&str; N]) -> (Home, String, [String; N], u16) {
    let [here, there] = Home::federating();
    let token = {
        let alice = here.register("alice");
        let room = make_room(&alice, json!({ "preset": "public_chat" }));
        for user in users {
            let user = there.register(user);
            join_via(&user, &room, &here);
            // One transaction at a time: when the second message is here, so is all that was told before the
            // first, as that the user joined and has a device.
            for text in ["first", "second"] {
                let rooms = format!("/_matrix/client/v3/rooms/{}", escaped(&room));
                let message = json!({ "msgtype": "m.text", "body": text });
                let sent = user.put(&format!("{rooms}/send/m.room.message/{text}"), message);
                let id = done(sent)["event_id"].as_str().map(escaped);
                let path = format!("{rooms}/event/{}", id.expect("an event id"));
                here.run(here.until(async || {
                    let asked = here.send(Method::GET, &path, Some(&alice.token), &Value::Null);
                    asked.await.0 == 200
                }));
            }
        }
        alice.token
    };
    let users = users.map(|user| format!("@{user}:{}", there.name()));
    let port = there.name().port().expect("its name has a port");
    (here, token, users, port)
}

fn device(user: &str, id: &str) -> Value {
    json!({
        "device_id": id, "device_display_name": id,
        "keys": {
            "user_id": user, "device_id": id, "algorithms": [], "keys": {}, "signatures": {},
        },
    })
}

/// A version of the list of a user, as the user's server tells it.
fn list(user: &str, version: u64, devices: &[&str]) -> Value {
    let devices: Vec<Value> = devices.iter().map(|id| device(user, id)).collect();
    json!({ "user_id": user, "stream_id": version, "devices": devices })
}

/// Whose list is at `path`.
fn user_at(path: &str) -> Option<String> {
    let user = path.strip_prefix(DEVICES)?;
    Some(user.replace("%40", "@").replace("%3A", ":"))
}

/// A server at `port` with these lists.
fn server(port: u16, lists: Vec<Value>) -> Web {
    let by_user = |list: Value| {
        let user = list["user_id"].as_str().expect("a user").to_owned();
        (user, list.to_string().into_bytes())
    };
    let lists: HashMap<_, _> = lists.into_iter().map(by_user).collect();
    Web::answering(port, move |path| lists.get(&user_at(path)?).cloned())
}

async fn follow(server: &Home, edu: Value) {
    let update = match serde_json::from_value(edu) {
        Ok(Edu::DeviceListUpdate(update)) => DeviceUpdate::Device(update),
        other => panic!("no update of a device: {other:?}"),
    };
    let lists = server.federation().device_lists();
    lists.follow(vec![update]).await.expect("the store works");
}

/// Lets the server `name` show life until it is asked for what it tells then. Right after a start it is
/// not known yet what it is to be asked for.
fn shows_life(home: &Home, name: &str, told: &AtomicUsize) {
    let server = ServerName::parse(name).expect("a name");
    let before = told.load(Ordering::Relaxed);
    let is_asked = async || {
        home.federation().device_lists().alive(&server);
        told.load(Ordering::Relaxed) > before
    };
    home.run(home.until(is_asked));
}

#[test]
fn a_user_of_whom_a_server_tells_nothing_does_not_hide_the_others() {
    let (here, token, [bob, carol, dan], port) = with_users(["bob", "carol", "dan"]);
    let mut of_dan = list(&dan, 1, &["TABLET"]);
    let devices = of_dan["devices"].as_array_mut().expect("a list");
    devices.insert(0, json!({ "device_id": "BAD", "keys": "none" }));
    let _server = server(port, vec![list(&carol, 1, &["LAPTOP"]), of_dan]);
    let alice = here.with_token(&token);
    let asked = json!({ "device_keys": { &bob: [], &carol: [], &dan: [] } });
    let answer = done(alice.post(QUERY, asked));
    let failures = answer["failures"].as_object().expect("one failed");
    assert!(failures.keys().eq([&format!("localhost:{port}")]));
    assert_eq!(answer["device_keys"][&bob], Value::Null);
    assert!(answer["device_keys"][&carol]["LAPTOP"].is_object());
    let of_dan = answer["device_keys"][&dan].as_object();
    assert!(of_dan.expect("dan is told of").keys().eq(["TABLET"]));
}

#[test]
fn a_stale_list_is_shown_with_the_failure_of_its_server_and_told_again_when_it_is_there() {
    let (mut here, token, [bob], port) = with_users(["bob"]);
    let query = |here: &Home| {
        let asked = json!({ "device_keys": { &bob: [] } });
        done(here.with_token(&token).post(QUERY, asked))
    };
    let name = format!("localhost:{port}");
    let answer = query(&here);
    assert!(answer["failures"][&name].is_object());
    assert_eq!(
        answer["device_keys"][&bob],
        Value::Null,
        "it was never told"
    );
    // It is remembered that somebody wanted it.
    here.restart();
    let since = next(&sync(&here.with_token(&token), None)).to_owned();
    let is_there = Arc::new(AtomicUsize::new(1));
    let told = Arc::<AtomicUsize>::default();
    let (asked, tells, of_bob) = (is_there.clone(), told.clone(), bob.clone());
    let _server = Web::answering(port, move |path| {
        let version = asked.load(Ordering::Relaxed);
        let is_told = version > 0 && user_at(path)? == of_bob;
        tells.fetch_add(usize::from(is_told), Ordering::Relaxed);
        let list = list(&of_bob, version as u64, &["PHONE"]);
        is_told.then(|| list.to_string().into_bytes())
    });
    shows_life(&here, &name, &told);
    let since = hears(&here.with_token(&token), &bob, since);
    assert!(query(&here)["device_keys"][&bob]["PHONE"].is_object());

    is_there.store(0, Ordering::Relaxed);
    here.run(follow(&here, update_after(&bob, "NEW", 3, &[2])));
    let since = hears(&here.with_token(&token), &bob, since);
    let answer = query(&here);
    assert!(answer["failures"][&name].is_object());
    assert!(answer["device_keys"][&bob]["PHONE"].is_object());
    is_there.store(3, Ordering::Relaxed);
    here.clock.advance(Duration::from_mins(2));
    shows_life(&here, &name, &told);
    hears(&here.with_token(&token), &bob, since);
    assert_eq!(query(&here)["failures"], Value::Null);
}

/// A server that tells of a user, whenever the test lets it, the next of some lists.
struct Hesitant {
    asked: Arc<AtomicUsize>,
    go: mpsc::Sender<()>,
    _web: Web,
}

impl Hesitant {
    fn at(port: u16, user: &str, lists: Vec<Value>) -> Self {
        let ((go, may_go), asked) = (mpsc::channel(), Arc::<AtomicUsize>::default());
        let (user, counts) = (user.to_owned(), asked.clone());
        let next = Mutex::new((may_go, lists.into_iter()));
        let web = Web::answering(port, move |path| {
            if user_at(path)? != user {
                return None;
            }
            counts.fetch_add(1, Ordering::Relaxed);
            let mut next = next.lock().ok()?;
            next.0.recv().ok()?;
            Some(next.1.next()?.to_string().into_bytes())
        });
        Self {
            asked,
            go,
            _web: web,
        }
    }

    /// Waits until it has been asked so often.
    async fn is_asked(&self, home: &Home, often: usize) {
        let is_asked = async || self.asked.load(Ordering::Relaxed) >= often;
        home.until(is_asked).await;
    }

    fn answers(&self) {
        self.go.send(()).expect("it still runs");
    }
}

#[test]
fn a_list_that_an_update_overtakes_while_it_is_fetched_is_fetched_again() {
    let (here, _, [bob], port) = with_users(["bob"]);
    let lists = vec![list(&bob, 1, &["OLD"]), list(&bob, 2, &["OLD", "NEW"])];
    let server = Hesitant::at(port, &bob, lists);
    let update = async {
        server.is_asked(&here, 1).await;
        follow(&here, update_after(&bob, "NEW", 2, &[1])).await;
        server.answers();
        server.is_asked(&here, 2).await;
        server.answers();
    };
    let (list, ()) = here.run(future::zip(fetched(&here, &bob), update));
    let both = json!({ "OLD": "OLD", "NEW": "NEW" });
    assert_eq!(list.map(names), Some(both));
}

#[test]
fn an_answer_that_an_update_has_overtaken_does_not_take_its_place() {
    let (here, _, [bob], port) = with_users(["bob"]);
    let lists = vec![
        list(&bob, 1, &["OLD"]),
        list(&bob, 1, &["OLD"]),
        list(&bob, 3, &["NEWEST"]),
    ];
    let server = Hesitant::at(port, &bob, lists);
    server.answers();
    let kept = || here.run(fetched(&here, &bob)).map(names);
    assert_eq!(kept(), Some(json!({ "OLD": "OLD" })));
    here.clock.advance(Duration::from_hours(8 * 24));
    assert_eq!(kept(), Some(json!({ "OLD": "OLD" })), "it is refreshed now");
    here.run(server.is_asked(&here, 2));
    here.run(follow(&here, update_after(&bob, "NEW", 2, &[1])));
    let both = Some(json!({ "OLD": "OLD", "NEW": "NEW" }));
    assert_eq!(kept(), both);
    server.answers();
    here.run(server.is_asked(&here, 3));
    assert_eq!(kept(), both);
    server.answers();
    let newest = Some(json!({ "NEWEST": "NEWEST" }));
    here.run(here.until(async || fetched(&here, &bob).await.map(names) == newest));
}

#[test]
fn who_wants_the_same_list_waits_for_the_same_fetch() {
    let (here, _, [bob], port) = with_users(["bob"]);
    let server = Hesitant::at(port, &bob, vec![list(&bob, 1, &["PHONE"])]);
    let answer = async {
        server.is_asked(&here, 1).await;
        server.answers();
    };
    let both = future::zip(fetched(&here, &bob), fetched(&here, &bob));
    let ((one, other), ()) = here.run(future::zip(both, answer));
    assert!(one.is_some() && other.is_some());
    assert_eq!(server.asked.load(Ordering::Relaxed), 1);
}
