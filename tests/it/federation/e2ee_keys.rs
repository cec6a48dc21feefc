//! Device keys, one-time keys and cross-signing keys of remote users.

use std::{iter, net::TcpListener, sync::OnceLock};

use http::Request;
use serde_json::{Map, Value, json};

use super::device_lists::create_shared_room;
use crate::{
    cross_signing::{CrossSigningKeys, UPLOAD_CROSS_SIGNING_KEYS, UPLOAD_SIGNATURES},
    mock_web_server::MockWebServer,
    test_server::{TestServer, TestUser, expect_ok, parse},
};

const KEYS: &str = "/_matrix/client/v3/keys";
const ALGORITHM: &str = "signed_curve25519";
/// The name of the server that returns unrequested keys.
static NAME: OnceLock<String> = OnceLock::new();

fn device_keys(user: &TestUser<'_>) -> Value {
    let id = &user.device_id;
    json!({
        "user_id": user.user_id,
        "device_id": id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("ed25519:{id}"): "key" },
        "signatures": { &user.user_id: { format!("ed25519:{id}"): "signature" } },
        "of.the.future": { "kept": [1, 2] },
    })
}

/// Uploads device keys and the one-time keys `A` and `B`.
fn upload_keys(user: &TestUser<'_>) {
    let key = json!({ "key": "aaaa", "signatures": {} });
    let once = json!({ format!("{ALGORITHM}:A"): key, format!("{ALGORITHM}:B"): key });
    let body = json!({ "device_keys": device_keys(user), "one_time_keys": once });
    expect_ok(user.post(&format!("{KEYS}/upload"), body));
}

fn key_request(user: &TestUser<'_>, what: &str, body: &Value) -> Request<Vec<u8>> {
    Request::post(format!("{KEYS}/{what}"))
        .header("authorization", format!("Bearer {}", user.token))
        .body(body.to_string().into_bytes())
        .expect("a valid request")
}

fn claim(user: &TestUser<'_>, of: &TestUser<'_>) -> Value {
    let wanted = json!({ &of.user_id: { &of.device_id: ALGORITHM } });
    expect_ok(user.post(&format!("{KEYS}/claim"), json!({ "one_time_keys": wanted })))
}

fn claimed_ids(response: &Value, of: &TestUser<'_>) -> Vec<String> {
    let keys = response["one_time_keys"][&of.user_id][&of.device_id].as_object();
    keys.into_iter()
        .flatten()
        .map(|(id, _)| id.clone())
        .collect()
}

#[test]
fn remote_device_keys_are_returned_unchanged_and_one_time_keys_claimed_once() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let carol = there.register("carol");
    upload_keys(&bob);
    let query_body = json!({ "device_keys": { &bob.user_id: [], &alice.user_id: [] } });
    let response = expect_ok(alice.post(&format!("{KEYS}/query"), query_body));
    assert_eq!(
        response["device_keys"][&bob.user_id],
        json!({ &bob.device_id: device_keys(&bob) })
    );
    assert_eq!(response["device_keys"][&alice.user_id], json!({}));
    assert_eq!(response["failures"], json!({}));
    assert_eq!(
        claimed_ids(&claim(&alice, &bob), &bob),
        [format!("{ALGORITHM}:A")]
    );
    assert_eq!(
        claimed_ids(&claim(&carol, &bob), &bob),
        [format!("{ALGORITHM}:B")]
    );
    assert!(claimed_ids(&claim(&alice, &bob), &bob).is_empty());
}

#[test]
fn keys_of_room_members_are_cached_while_their_server_is_offline() {
    let [here, mut there] = TestServer::federating();
    let (alice, carol) = (here.register("alice"), here.register("carol"));
    let (query_body, expected) = {
        let (bob, dan) = (there.register("bob"), there.register("dan"));
        create_shared_room(&alice, &here, &bob);
        upload_keys(&bob);
        upload_keys(&dan);
        let mut expected = device_keys(&bob);
        expected["unsigned"] = json!({});
        let query_body = json!({ "device_keys": { &bob.user_id: [] } });
        let both = json!({ "device_keys": { &bob.user_id: [], &dan.user_id: [] } });
        let response = expect_ok(alice.post(&format!("{KEYS}/query"), both));
        assert_eq!(response["failures"], json!({}));
        let not_cached = &response["device_keys"][&dan.user_id][&dan.device_id];
        assert_eq!(*not_cached, device_keys(&dan));
        (
            query_body,
            json!({ &bob.user_id: { &bob.device_id: expected } }),
        )
    };
    there.stop();
    for user in [&alice, &carol] {
        let response = expect_ok(user.post(&format!("{KEYS}/query"), query_body.clone()));
        assert_eq!(response["device_keys"], expected);
        assert_eq!(response["failures"], json!({}));
    }
}

#[test]
fn offline_server_is_listed_in_failures() {
    let [here, mut there] = TestServer::federating();
    let offline = there.name().to_string();
    let bob = format!("@bob:{offline}");
    there.stop();
    let alice = here.register("alice");
    upload_keys(&alice);
    let query_body = json!({ "timeout": 2000, "device_keys": { &bob: [], &alice.user_id: [] } });
    let response = expect_ok(alice.post(&format!("{KEYS}/query"), query_body));
    assert!(
        response["failures"][&offline]["errcode"].is_string(),
        "{response}"
    );
    assert!(response["device_keys"][&alice.user_id][&alice.device_id].is_object());
    assert_eq!(response["device_keys"][&bob], Value::Null);
    let wanted =
        json!({ &bob: { "PHONE": ALGORITHM }, &alice.user_id: { &alice.device_id: ALGORITHM } });
    let query_body = json!({ "timeout": 2000, "one_time_keys": wanted });
    let response = expect_ok(alice.post(&format!("{KEYS}/claim"), query_body));
    assert!(
        response["failures"][&offline]["errcode"].is_string(),
        "{response}"
    );
    assert_eq!(claimed_ids(&response, &alice), [format!("{ALGORITHM}:A")]);
}

#[test]
fn unreachable_server_leaves_time_for_the_others() {
    let [here, mut offline, there] = TestServer::federating();
    let (alice, carol) = (here.register("alice"), there.register("carol"));
    upload_keys(&carol);
    let bob = offline.register("bob");
    create_shared_room(&alice, &here, &bob);
    let bob = bob.user_id.clone();
    offline.stop();
    let query_body = json!({ "timeout": 2000, "device_keys": { &bob: [], &carol.user_id: [] } });
    let response = expect_ok(alice.post(&format!("{KEYS}/query"), query_body));
    let failures = response["failures"].as_object().expect("one failed");
    assert!(failures.keys().eq([offline.name().as_str()]), "{response}");
    let of_carol = &response["device_keys"][&carol.user_id][&carol.device_id];
    assert_eq!(*of_carol, device_keys(&carol));
}

#[test]
fn unrequested_keys_in_a_remote_response_are_dropped() {
    let [here] = TestServer::federating();
    let alice = here.register("alice");
    let server = MockWebServer::with_json(0, |path| {
        let name = NAME.get()?;
        let (bob, eve) = (format!("@bob:{name}"), format!("@eve:{name}"));
        let keys = |user: &str, device: &str| {
            json!({
                "user_id": user, "device_id": device, "algorithms": [], "keys": {},
                "signatures": {},
            })
        };
        let master = |user: &str| json!({ "user_id": user, "usage": ["master"], "keys": {} });
        let devices = json!({
            "PHONE": keys(&bob, "PHONE"), "OTHER": keys(&bob, "OTHER"),
            "LAPTOP": keys(&bob, "ANOTHER"), "TABLET": keys(&eve, "TABLET"),
        });
        let key = json!({ "key": "aaaa", "signatures": {} });
        let claimed_ids = json!({
            format!("{ALGORITHM}:A"): key, format!("{ALGORITHM}:B"): key, "other:C": key,
        });
        let response = match path {
            "/_matrix/federation/v1/user/keys/query" => json!({
                "device_keys": { &bob: devices, &eve: { "PHONE": keys(&eve, "PHONE") } },
                "master_keys": { &bob: master(&eve), &eve: master(&eve) },
                "self_signing_keys": { &bob: master(&bob) },
            }),
            "/_matrix/federation/v1/user/keys/claim" => json!({
                "one_time_keys": {
                    &bob: { "PHONE": claimed_ids, "OTHER": claimed_ids, "LAPTOP": { "other:C": key } },
                    &eve: { "PHONE": claimed_ids },
                },
            }),
            _ => return None,
        };
        Some(response.to_string().into_bytes())
    });
    let name = NAME.get_or_init(|| server.name());
    let bob = format!("@bob:{name}");
    let query_body = json!({ "device_keys": { &bob: ["PHONE", "LAPTOP", "TABLET"] } });
    let response = expect_ok(alice.post(&format!("{KEYS}/query"), query_body));
    let ids = |of: &Value| -> Vec<String> {
        let of = of.as_object().into_iter().flatten();
        of.map(|(id, _)| id.clone()).collect()
    };
    assert_eq!(ids(&response["device_keys"]), [&*bob]);
    assert_eq!(ids(&response["device_keys"][&bob]), ["PHONE"]);
    assert_eq!(response["master_keys"], json!({}));
    assert_eq!(ids(&response["self_signing_keys"]), [&*bob]);
    let wanted = json!({ &bob: { "PHONE": ALGORITHM, "LAPTOP": ALGORITHM } });
    let response =
        expect_ok(alice.post(&format!("{KEYS}/claim"), json!({ "one_time_keys": wanted })));
    assert_eq!(ids(&response["one_time_keys"]), [&*bob]);
    assert_eq!(ids(&response["one_time_keys"][&bob]), ["PHONE"]);
    let claimed_ids = ids(&response["one_time_keys"][&bob]["PHONE"]);
    assert_eq!(claimed_ids, [format!("{ALGORITHM}:A")]);
}

#[test]
fn signature_on_a_remote_users_key_is_checked_and_shown_to_its_signer() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    create_shared_room(&alice, &here, &bob);
    let (alice_keys, bob_keys, other) = (
        CrossSigningKeys::new(),
        CrossSigningKeys::new(),
        CrossSigningKeys::new(),
    );
    expect_ok(alice.post(
        UPLOAD_CROSS_SIGNING_KEYS,
        alice_keys.upload_body(&alice.user_id),
    ));
    expect_ok(bob.post(
        UPLOAD_CROSS_SIGNING_KEYS,
        bob_keys.upload_body(&bob.user_id),
    ));
    let query = || {
        let query_body = json!({ "device_keys": { &bob.user_id: [] } });
        expect_ok(alice.post(&format!("{KEYS}/query"), query_body))["master_keys"][&bob.user_id]
            .clone()
    };
    assert!(query().is_object());
    let sign = |device_keys: &CrossSigningKeys| {
        let master = device_keys.master.key(&bob.user_id, "master");
        let signed = alice_keys.user_signing.sign(master, &alice.user_id);
        let uploaded = json!({ &bob.user_id: { device_keys.master.public(): signed } });
        let failures = expect_ok(alice.post(UPLOAD_SIGNATURES, uploaded))["failures"].clone();
        failures[&bob.user_id][device_keys.master.public()]["errcode"].clone()
    };
    assert_eq!(sign(&other), "M_INVALID_PARAM");
    assert_eq!(sign(&bob_keys), Value::Null);
    assert!(query()["signatures"][&alice.user_id][alice_keys.user_signing.id()].is_string());
}

#[test]
fn keys_of_a_healthy_server_do_not_wait_for_the_silent_servers_that_other_users_name() {
    let [here, there] = TestServer::federating();
    let users = ["alice", "carl"].map(|name| here.register(name));
    let (bob, dora) = (here.register("bob"), there.register("dora"));
    // Connections are accepted by the system, and nobody answers.
    let silent: Vec<TcpListener> = (0..40)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free"))
        .collect();
    let names = silent.iter().map(|listener| {
        let address = listener.local_addr().expect("it has an address");
        format!("@x:{address}")
    });
    let names: Vec<String> = names.collect();
    let mut requests = Vec::new();
    for user in &users {
        let wanted = |value: Value| names.iter().cloned().zip(iter::repeat(value));
        let (query, claim) = (wanted(json!([])), wanted(json!({ "D": ALGORITHM })));
        let (query, claim): (Map<_, _>, Map<_, _>) = (query.collect(), claim.collect());
        let query = json!({ "device_keys": query, "timeout": 6000 });
        let claim = json!({ "one_time_keys": claim, "timeout": 6000 });
        requests.extend([
            key_request(user, "query", &query),
            key_request(user, "claim", &claim),
        ]);
    }
    let healthy = json!({ "device_keys": { &dora.user_id: [] }, "timeout": 3000 });
    requests.push(key_request(&bob, "query", &healthy));
    let responses = here.respond_all(requests);
    let last = responses.last().map(parse);
    let (_, response) = last.expect("there is a response");
    assert!(
        response["device_keys"][&dora.user_id].is_object(),
        "{response}"
    );
    let (_, of_silent) = parse(&responses[0]);
    assert_eq!(of_silent["failures"].as_object().map(Map::len), Some(40));
}

#[test]
fn a_user_cannot_request_the_keys_of_ever_more_users_before_servers_have_answered() {
    let [here, _there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), here.register("bob"));
    // Connections are accepted by the system, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let server = silent.local_addr().expect("it has an address");
    let wanted = |count: usize, value: Value| -> Map<String, Value> {
        let users = (0..count).map(|n| (format!("@u{n}:{server}"), value.clone()));
        users.collect()
    };
    let query = |user: &TestUser<'_>, count| {
        let body = json!({ "device_keys": wanted(count, json!([])), "timeout": 5000 });
        key_request(user, "query", &body)
    };
    let claim =
        json!({ "one_time_keys": wanted(8000, json!({ "D": ALGORITHM })), "timeout": 5000 });
    let requests = vec![
        query(&alice, 8000),
        query(&alice, 8000),
        key_request(&alice, "claim", &claim),
        query(&bob, 7000),
        query(&alice, 0),
    ];
    let responses: Vec<_> = here.respond_all(requests).iter().map(parse).collect();
    let statuses: Vec<_> = responses.iter().map(|(status, _)| *status).collect();
    let of_alice = statuses[..3].iter().filter(|status| **status == 200);
    assert_eq!((of_alice.count(), &statuses[3..]), (1, &[200, 200][..]));
    let mut refusals = responses.iter().filter(|(status, _)| *status != 200);
    assert!(
        refusals
            .all(|(status, body)| (*status, &body["errcode"]) == (429, &json!("M_LIMIT_EXCEEDED")))
    );
    let later = here.respond_all(vec![query(&alice, 8000)]);
    assert_eq!(parse(&later[0]).0, 200);
}
