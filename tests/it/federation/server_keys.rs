//! Signing keys of servers, and notaries.

use std::{net::TcpListener, time::Duration};

use hearth::{
    protocol::ServerKey,
    rooms::Local,
    store::{Reader, Records},
};
use http::{HeaderValue, Method, Request};
use ruma::{
    CanonicalJsonObject, RoomVersionId,
    serde::Base64,
    signatures::{PublicKeyMap, hash_and_sign_event, verify_json},
};
use serde_json::{Value, json};

use super::mock_origin::MockOrigin;
use crate::{
    client_api::{create_room, message_bodies, percent_encode, room_path, sync},
    mock_web_server::MockWebServer,
    test_server::{TestServer, expect_error, expect_ok, parse},
};

fn own_keys(server: &TestServer) -> Value {
    expect_ok(server.get("/_matrix/key/v2/server"))
}

fn queried_keys(notary: &TestServer, server: &TestServer) -> Vec<Value> {
    let path = format!("/_matrix/key/v2/query/{}", server.name());
    server_keys(expect_ok(notary.get(&path)))
}

fn server_keys(mut response: Value) -> Vec<Value> {
    serde_json::from_value(response["server_keys"].take()).expect("a list")
}

#[track_caller]
fn is_signed_by(keys: &Value, servers: &[&TestServer]) -> bool {
    let mut known = PublicKeyMap::new();
    for server in servers {
        let own = own_keys(server);
        let own = own["verify_keys"].as_object().expect("keys");
        let own = own.iter().map(|(id, key)| {
            let key = key["key"].as_str().expect("a key");
            (id.clone(), Base64::parse(key).expect("Base64"))
        });
        known.insert(server.name().to_string(), own.collect());
    }
    let keys: CanonicalJsonObject = serde_json::from_value(keys.clone()).expect("an object");
    servers.iter().all(|server| {
        let signatures = keys["signatures"].as_object().expect("signatures");
        signatures.contains_key(server.name().as_str())
    }) && verify_json(&known, &keys).is_ok()
}

#[test]
fn notary_returns_server_keys_with_both_signatures() {
    let [notary, server] = TestServer::federating();
    let own = own_keys(&server);
    let keys = queried_keys(&notary, &server);
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["verify_keys"], own["verify_keys"]);
    assert!(is_signed_by(&keys[0], &[&notary, &server]));
    let query = json!({ "server_keys": {
        server.name().as_str(): { "ed25519:nothing": {} },
        notary.name().as_str(): {},
        "localhost:1": {},
    } });
    let response = expect_ok(notary.request(Method::POST, "/_matrix/key/v2/query", query));
    let keys = server_keys(response);
    let mut names: Vec<_> = keys.iter().map(|keys| &keys["server_name"]).collect();
    names.sort_by_key(|name| name.to_string());
    let mut expected = [notary.name().as_str(), server.name().as_str()];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let empty = json!({ "server_keys": {} });
    let response = expect_ok(notary.request(Method::POST, "/_matrix/key/v2/query", empty));
    assert_eq!(response, json!({ "server_keys": [] }));
}

#[test]
fn notary_returns_cached_keys_of_an_offline_server() {
    let [mut notary, server] = TestServer::federating();
    let first_response = queried_keys(&notary, &server);
    let name = server.name().to_owned();
    drop(server);
    notary.restart();
    notary.clock.advance(Duration::from_hours(48));
    let path = format!("/_matrix/key/v2/query/{name}");
    let keys = server_keys(expect_ok(notary.get(&path)));
    assert_eq!(keys[0]["verify_keys"], first_response[0]["verify_keys"]);
}

#[test]
fn keys_of_an_offline_server_are_accepted_from_a_configured_notary_only() {
    let [offline, notary, trusting, distrusting] = TestServer::federating_with(|names| {
        let notary = format!("notaries = [\"{}\"]", names[1]);
        ["", "", &notary, ""].map(ToOwned::to_owned)
    });
    let alice = offline.register("alice");
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let join = |server: &TestServer, via: &TestServer| {
        let path = format!("/_matrix/client/v3/join/{}", percent_encode(&room));
        let path = format!("{path}?via={}", via.name());
        let user = server.register("user");
        user.post(&path, json!({}))
    };
    expect_ok(join(&notary, &offline));
    drop(offline);
    assert_ne!(join(&distrusting, &notary).0, 200);
    expect_ok(join(&trusting, &notary));
}

#[test]
fn a_key_that_its_server_does_not_publish_is_requested_once_in_five_minutes() {
    let [here] = TestServer::federating();
    let origin = MockWebServer::with_json(0, |_| None);
    let expect_refusals = || {
        for _ in 0..3 {
            let signature = format!(
                "X-Matrix origin=\"{}\",key=\"ed25519:none\",sig=\"c2lnbmF0dXJl\"",
                origin.name()
            );
            let request = Request::get("/_matrix/federation/v1/query/profile?user_id=@a:b")
                .header("authorization", signature)
                .body(Vec::new());
            let responses = here.respond_all(vec![request.expect("a valid request")]);
            expect_error(&parse(&responses[0]), 401, "M_UNAUTHORIZED");
        }
    };
    expect_refusals();
    let requests = origin.request_count();
    assert_ne!(requests, 0);
    expect_refusals();
    assert_eq!(origin.request_count(), requests);
    here.clock.advance(Duration::from_mins(6));
    expect_refusals();
    assert!(origin.request_count() > requests);
}

#[test]
fn a_request_signed_with_a_key_that_has_expired_is_refused() {
    let [here] = TestServer::federating();
    let origin = MockOrigin::with_key_for(&here, 3_600_000);
    let path = format!(
        "/_matrix/federation/v1/query/profile?user_id=@nobody:{}",
        here.name()
    );
    let request = || origin.send(&here, Method::GET, &path, &Value::Null);
    expect_error(&request(), 404, "M_NOT_FOUND");
    here.clock.advance(Duration::from_mins(61));
    expect_error(&request(), 401, "M_UNAUTHORIZED");
}

#[test]
fn the_keys_of_a_new_server_do_not_wait_for_the_silent_servers_that_many_networks_name() {
    let [here] = TestServer::federating();
    // Connections are accepted by the system, and nobody answers.
    let silent: Vec<TcpListener> = (0..120)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free"))
        .collect();
    let path = "/_matrix/federation/v1/query/profile?user_id=@a:b";
    let unsigned = silent.iter().enumerate().map(|(number, listener)| {
        let origin = listener.local_addr().expect("it has an address");
        let signature =
            format!("X-Matrix origin=\"{origin}\",key=\"ed25519:none\",sig=\"c2lnbmF0dXJl\"");
        let request = Request::get(path)
            .header("authorization", signature)
            .header("x-forwarded-for", format!("10.{}.0.1", number % 40));
        request.body(Vec::new()).expect("a valid request")
    });
    let honest = MockOrigin::new(&here);
    let mut signed = honest.request(&here, Method::GET, path, &Value::Null);
    let network = HeaderValue::from_static("10.99.0.1");
    signed.headers_mut().insert("x-forwarded-for", network);
    let (response, waiting) = here.respond_before(unsigned.collect(), signed);
    assert_ne!(parse(&response).0, 401);
    // Each network waited for the honest server with two requests at least, but for a few that had two slots.
    assert!(waiting > 48, "{waiting}");
}

#[test]
fn after_a_rotation_the_old_key_is_published_as_old_and_signs_no_new_events() {
    let [mut here] = TestServer::federating();
    let origin = MockOrigin::new(&here);
    let version = RoomVersionId::V11;
    let (token, room) = {
        let alice = here.register("alice");
        let body = json!({ "preset": "public_chat", "room_version": version });
        (alice.token.clone(), create_room(&alice, body))
    };
    let eve = origin.user("eve");
    origin.join(&here, &version, (&eve, &room));
    let rotate = Local::rotate_key(here.store(), here.name().to_owned(), here.clock.now_ms());
    let (old, new) = here.run(rotate).expect("the key is rotated");
    let old = old.expect("there was a key");
    here.restart();
    let keys = own_keys(&here);
    let ids = |field: &str| {
        let keys = keys[field].as_object().expect("keys");
        keys.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(ids("verify_keys"), [new]);
    assert_eq!(ids("old_verify_keys"), std::slice::from_ref(&old));
    // Who has the old key makes up a message of alice's.
    let row = here.store().read(|s| s.signing_keys()?.load(&*old));
    let seed = row.expect("a read").expect("the key is kept").seed;
    let (_, name) = old.split_once(':').expect("an algorithm and a name");
    let key = ServerKey::from_seed(seed, name).expect("a key");
    let alice = here.user_with_token(&token);
    let state = expect_ok(alice.get(&room_path(&room, "state")));
    let id_of = |kind: &str, state_key: &str| {
        let events = state.as_array().expect("events");
        let found = events
            .iter()
            .find(|event| event["type"] == kind && event["state_key"] == state_key);
        found.expect("an event")["event_id"].clone()
    };
    let send = |seconds: i64| {
        let ts = i64::try_from(here.clock.now_ms()).expect("a time") + 1000 * seconds;
        let event = json!({
            "type": "m.room.message", "room_id": room, "sender": alice.user_id,
            "content": { "msgtype": "m.text", "body": format!("{seconds}") },
            "auth_events": [
                id_of("m.room.create", ""),
                id_of("m.room.power_levels", ""),
                id_of("m.room.member", &alice.user_id),
            ],
            "prev_events": [id_of("m.room.member", &eve)], "depth": 20, "origin_server_ts": ts,
        });
        let rules = version.rules().expect("a known version");
        let mut event: CanonicalJsonObject = serde_json::from_value(event).expect("an object");
        hash_and_sign_event(here.name().as_str(), &key, &mut event, &rules.redaction)
            .expect("it is signed");
        let path = format!("/_matrix/federation/v1/send/{}", seconds.abs());
        let transaction = json!({
            "origin": origin.name(), "origin_server_ts": ts, "pdus": [event], "edus": [],
        });
        let response = expect_ok(origin.send(&here, Method::PUT, &path, &transaction));
        let results = response["pdus"].as_object().expect("results");
        results.values().all(|result| result["error"].is_null())
    };
    assert!(!send(1), "the key had expired");
    assert!(send(-1), "the key was valid");
    let synced = sync(&alice, None);
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(message_bodies(timeline), ["-1"]);
}
