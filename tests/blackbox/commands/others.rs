//! `hearth reports`, `hearth announce`, `hearth log` and `hearth push`.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Owner, client};
use crate::{
    common::{
        client_api::register,
        push_gateway::{Behaviour, MockPushGateway},
        server::{Server, command, free_port},
    },
    media::wait_until,
};

#[test]
fn reports_are_listed_with_their_reasons() {
    let owner = Owner::new();
    let server = owner.start();
    let [alice, _] = ["alice", "bob"].map(|user| register(server.port, user).unwrap());
    let path = "/_matrix/client/v3/users/@bob:localhost/report";
    let reason = json!({ "reason": "he sings" });
    let reported = client(server.port, &alice).request("POST", path, Some(&reason));
    assert_eq!(reported.unwrap().status, 200);
    let running = owner.json(&["reports"]);
    let report = &running["reports"][0];
    assert_eq!(report["reporter"], "@alice:localhost");
    assert_eq!(report["user_id"], "@bob:localhost");
    assert_eq!(report["reason"], "he sings");
    assert!(server.stop(Signal::TERM).unwrap().success());
    assert_eq!(owner.json(&["reports"]), running);
    let printed = owner.run(&["reports"]);
    assert!(printed.contains("the user @bob:localhost"), "{printed}");
}

/// The invites in the response to a first sync.
fn invites(port: u16, token: &str) -> usize {
    let sync: Value = client(port, token)
        .json("GET", "/_matrix/client/v3/sync", None)
        .unwrap();
    sync["rooms"]["invite"]
        .as_object()
        .map_or(0, serde_json::Map::len)
}

#[test]
fn an_announcement_reaches_everybody_also_if_it_was_made_while_the_server_was_stopped() {
    let owner = Owner::new();
    let server = owner.start();
    let alice = register(server.port, "alice").unwrap();
    owner.run(&["announce", "The server moves on Sunday."]);
    wait_until(|| invites(server.port, &alice) == 1);
    let bob = register(server.port, "bob").unwrap();
    assert!(server.stop(Signal::TERM).unwrap().success());
    owner.run(&["announce", "It has moved."]);
    let server = owner.start();
    wait_until(|| invites(server.port, &bob) == 1);
    owner.fails(&["announce", &"a".repeat(20_000)]);
}

#[test]
fn the_level_of_the_log_is_changed_for_a_time_while_the_server_runs() {
    let owner = Owner::new();
    let server = owner.start();
    let log = || fs::read_to_string(owner.path().join("log")).unwrap();
    let request = || register(server.port, "alice").is_ok();
    assert!(!log().contains("DEBUG"));
    owner.run(&["log", "debug"]);
    request();
    assert!(log().contains("DEBUG hearth::"), "{}", log());
    owner.run(&["log", "trace", "--for", "1ms"]);
    wait_until(|| log().contains("the log has the level INFO again"));
    let lines = log().matches("DEBUG").count();
    request();
    assert_eq!(log().matches("DEBUG").count(), lines);
    owner.fails(&["log", "loud"]);
    assert!(server.stop(Signal::TERM).unwrap().success());
    let error = owner.fails(&["log", "debug"]);
    assert!(error.contains("not running"), "{error}");
}

#[test]
fn push_gateways_are_tried_and_their_answers_shown_without_the_pushkey() {
    let gateway = MockPushGateway::new();
    let owner = Owner::new();
    let port = free_port().unwrap();
    let server = Server::start_with(command(), owner.path(), port, &gateway.setting()).unwrap();
    let alice = register(port, "alice").unwrap();
    let pusher = json!({
        "kind": "http",
        "app_id": "app",
        "pushkey": "the-secret-key",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "data": { "url": gateway.url(), "format": "event_id_only" },
    });
    let path = "/_matrix/client/v3/pushers/set";
    let set = client(port, &alice).request("POST", path, Some(&pusher));
    assert_eq!(set.unwrap().status, 200);
    let test = || owner.json(&["push", "test", "alice"])["pushers"][0].clone();
    assert_eq!(test()["works"], true);
    assert_eq!(gateway.received().len(), 1);
    gateway.set(Behaviour::Fail(503));
    let failed = test();
    assert_eq!(failed["works"], false);
    assert!(
        failed["error"].as_str().unwrap().contains("503"),
        "{failed}"
    );
    gateway.set(Behaviour::Accept(vec!["the-secret-key".to_owned()]));
    assert!(test()["error"].as_str().unwrap().contains("open the app"));
    let shown = owner.run(&["push", "show", "alice"]);
    assert!(
        shown.contains("Phone") && shown.contains("127.0.0.1"),
        "{shown}"
    );
    let all = format!("{shown}{}", owner.json(&["push", "show", "alice"]));
    assert!(!all.contains("the-secret-key"), "{all}");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let stopped = owner.json(&["push", "show", "alice"]);
    assert_eq!(stopped["pushers"][0]["device"], "Phone");
    owner.fails(&["push", "test", "nobody"]);
}

#[test]
fn the_status_names_what_uses_memory_the_queues_and_the_connections_of_a_running_server() {
    let owner = Owner::new();
    let server = owner.start();
    let alice = register(server.port, "alice").unwrap();
    let _connected = client(server.port, &alice);
    let status = owner.json(&["status"]);
    let names = |rows: &Value| -> Vec<String> {
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let consumers = status["memory"]["consumers"].as_array().unwrap();
    let mut caches = consumers
        .iter()
        .filter(|row| row["name"] == "cache of the database");
    let cache = caches.next().unwrap();
    assert!(cache["used"].as_u64() > Some(0), "{status}");
    assert_eq!(
        cache["max"], status["memory"]["database_cache_max"],
        "{status}"
    );
    for consumer in [
        "bodies of requests",
        "responses of other servers",
        "rate limits",
    ] {
        let named = names(&status["memory"]["consumers"]);
        assert!(named.contains(&consumer.to_owned()), "{status}");
    }
    for queue in ["events for other servers", "push notifications"] {
        assert!(
            names(&status["queues"]).contains(&queue.to_owned()),
            "{status}"
        );
    }
    assert!(
        status["connections"]["used"].as_u64() >= Some(1),
        "{status}"
    );
    let printed = owner.run(&["status"]);
    assert!(printed.contains("MEMORY FOR"), "{printed}");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let stopped = owner.json(&["status"]);
    assert_eq!(stopped["memory"]["consumers"], Value::Null, "{stopped}");
}
