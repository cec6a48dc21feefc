//! Device keys, one-time keys and fallback keys.

use std::collections::{BTreeMap, BTreeSet};

use hearth::protocol::ServerKey;
use http::{Method, Request};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ruma::{CanonicalJsonObject, serde::Base64, signatures::KeyPair};
use serde_json::{Value, json};

use crate::{
    client_api::{next_batch, sync, sync_with},
    test_server::{TestServer, TestUser, expect_error, expect_ok, parse},
};

const UPLOAD: &str = "/_matrix/client/v3/keys/upload";
const QUERY: &str = "/_matrix/client/v3/keys/query";
const CLAIM: &str = "/_matrix/client/v3/keys/claim";

/// An Ed25519 key that signs device keys or cross-signing keys.
pub struct SigningKey(ServerKey);

impl SigningKey {
    pub fn new() -> Self {
        Self(ServerKey::generate())
    }

    pub fn public(&self) -> String {
        self.0.public_key().encode()
    }

    pub fn id(&self) -> String {
        format!("ed25519:{}", self.public())
    }

    /// Adds a signature under the key id `id` to `key`.
    pub fn sign_as(&self, mut key: Value, user: &str, id: &str) -> Value {
        let mut signed: CanonicalJsonObject = serde_json::from_value(key.clone()).unwrap();
        signed.remove("signatures");
        signed.remove("unsigned");
        let signature = self.0.sign(&serde_json::to_vec(&signed).unwrap());
        let (_, signature) = signature.into_parts();
        key["signatures"][user][id] = Base64::<ruma::serde::base64::Standard>::new(signature)
            .encode()
            .into();
        key
    }

    pub fn sign(&self, key: Value, user: &str) -> Value {
        self.sign_as(key, user, &self.id())
    }

    /// The cross-signing key object for `usage`.
    pub fn key(&self, user: &str, usage: &str) -> Value {
        json!({ "user_id": user, "usage": [usage], "keys": { self.id(): self.public() } })
    }
}

/// Signed device keys for the user's device, and the key that signed them.
pub fn device_keys(user: &TestUser<'_>) -> (SigningKey, Value) {
    let (key, id) = (SigningKey::new(), user.device_id.as_str());
    let keys = json!({
        "user_id": user.user_id, "device_id": id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{id}"): key.public() },
    });
    let keys = key.sign_as(keys, &user.user_id, &format!("ed25519:{id}"));
    (key, keys)
}

pub fn upload_keys(user: &TestUser<'_>, body: Value) -> Value {
    expect_ok(user.post(UPLOAD, body))["one_time_key_counts"].clone()
}

fn one_time_keys(names: impl IntoIterator<Item = usize>) -> Value {
    let keys = names.into_iter().map(|name| {
        let key = json!({ "key": format!("key {name}"), "signatures": {} });
        (format!("signed_curve25519:K{name:04}"), key)
    });
    json!({ "one_time_keys": keys.collect::<BTreeMap<_, _>>() })
}

/// Claims a one-time key of the device of `of`; returns the key's id.
pub fn claim(user: &TestUser<'_>, of: &TestUser<'_>) -> Option<String> {
    let wanted = json!({ &of.user_id: { &of.device_id: "signed_curve25519" } });
    let response = expect_ok(user.post(CLAIM, json!({ "one_time_keys": wanted })));
    let keys = response["one_time_keys"][&of.user_id][&of.device_id]
        .as_object()?
        .clone();
    assert_eq!(keys.len(), 1);
    keys.into_iter().next().map(|(id, _)| id)
}

pub fn query(user: &TestUser<'_>, of: &TestUser<'_>) -> Value {
    expect_ok(user.post(QUERY, json!({ "device_keys": { &of.user_id: [] } })))
}

#[test]
fn device_keys_are_public_and_deleted_on_logout() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (_, keys) = device_keys(&alice);
    upload_keys(&alice, json!({ "device_keys": keys }));
    upload_keys(&alice, one_time_keys(0..3));
    let queried = query(&bob, &alice)["device_keys"][&alice.user_id].clone();
    let mut returned = queried[&alice.device_id].clone();
    assert!(returned["unsigned"].is_object());
    returned.as_object_mut().unwrap().remove("unsigned");
    assert_eq!(returned, keys);
    let foreign_keys = device_keys(&bob).1;
    expect_error(
        &alice.post(UPLOAD, json!({ "device_keys": foreign_keys })),
        400,
        "M_INVALID_PARAM",
    );
    expect_ok(alice.post("/_matrix/client/v3/logout", json!({})));
    assert_eq!(
        query(&bob, &alice)["device_keys"][&alice.user_id],
        json!({})
    );
    assert_eq!(claim(&bob, &alice), None);
}

#[test]
fn one_time_keys_are_claimed_once_in_upload_order_then_the_fallback_key() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let counts = upload_keys(&alice, one_time_keys([2, 1]));
    assert_eq!(counts, json!({ "signed_curve25519": 2 }));
    upload_keys(&alice, one_time_keys([0]));
    let fallback = json!({ "signed_curve25519:LAST": { "key": "last", "fallback": true } });
    upload_keys(&alice, json!({ "fallback_keys": fallback }));
    let synced = sync(&alice, None);
    assert_eq!(synced["device_one_time_keys_count"]["signed_curve25519"], 3);
    assert_eq!(
        synced["device_unused_fallback_key_types"],
        json!(["signed_curve25519"])
    );
    let claimed: Vec<String> = (0..5).filter_map(|_| claim(&bob, &alice)).collect();
    let expected = ["K0001", "K0002", "K0000", "LAST", "LAST"];
    assert_eq!(
        claimed,
        expected.map(|name| format!("signed_curve25519:{name}"))
    );
    // A sync returns at once when the number of keys has changed.
    let since = next_batch(&synced).to_owned();
    let synced = sync_with(&alice, &[("since", &since), ("timeout", "30000")]);
    assert_eq!(synced["device_one_time_keys_count"]["signed_curve25519"], 0);
    assert_eq!(synced["device_unused_fallback_key_types"], json!([]));
}

#[test]
fn reuploaded_fallback_key_stays_used() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let unused = |fallback: &str| {
        let key = json!({ fallback: { "key": "last", "fallback": true } });
        upload_keys(&alice, json!({ "fallback_keys": key }));
        sync(&alice, None)["device_unused_fallback_key_types"].clone()
    };
    assert_eq!(
        unused("signed_curve25519:ONE"),
        json!(["signed_curve25519"])
    );
    assert!(claim(&bob, &alice).is_some());
    assert_eq!(unused("signed_curve25519:ONE"), json!([]));
    assert_eq!(
        unused("signed_curve25519:TWO"),
        json!(["signed_curve25519"])
    );
}

#[test]
fn new_device_keys_discard_earlier_one_time_keys() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (_, first) = device_keys(&alice);
    upload_keys(&alice, json!({ "device_keys": first }));
    upload_keys(&alice, one_time_keys(0..3));
    let counts = upload_keys(&alice, json!({ "device_keys": first }));
    assert_eq!(counts, json!({ "signed_curve25519": 3 }));
    let mut body = one_time_keys([9]);
    body["device_keys"] = device_keys(&alice).1;
    let counts = upload_keys(&alice, body);
    assert_eq!(counts, json!({ "signed_curve25519": 1 }));
    let claimed = claim(&bob, &alice);
    assert_eq!(claimed.as_deref(), Some("signed_curve25519:K0009"));
}

#[test]
fn different_one_time_key_under_an_existing_id_is_rejected_and_identical_one_is_idempotent() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for _ in 0..2 {
        let counts = upload_keys(&alice, one_time_keys([1]));
        assert_eq!(counts["signed_curve25519"], 1);
    }
    let other = json!({ "one_time_keys": { "signed_curve25519:K0001": { "key": "other" } } });
    expect_error(&alice.post(UPLOAD, other), 400, "M_INVALID_PARAM");
    let bob = server.register("bob");
    assert!(claim(&bob, &alice).is_some());
    let counts = upload_keys(&alice, one_time_keys([1]));
    assert_eq!(
        counts,
        json!({ "signed_curve25519": 0 }),
        "it was claimed out"
    );
    let other = json!({ "one_time_keys": { "signed_curve25519:K0001": { "key": "other" } } });
    expect_error(&alice.post(UPLOAD, other), 400, "M_INVALID_PARAM");
    let invalid = json!({ "one_time_keys": { "signed_curve25519:K0002": [1.5] } });
    expect_error(&alice.post(UPLOAD, invalid), 400, "M_BAD_JSON");
}

#[test]
fn a_key_that_is_signed_anew_is_the_same_key() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let upload = |signature: &str, more: &[usize]| {
        let signed = |key: &str| {
            let signatures = json!({ alice.user_id.as_str(): { "ed25519:A": signature } });
            json!({ "key": key, "signatures": signatures, "unsigned": { "s": signature } })
        };
        let mut body = one_time_keys(more.iter().copied());
        body["one_time_keys"]["signed_curve25519:A"] = signed("one");
        body["fallback_keys"] = json!({ "signed_curve25519:F": signed("last") });
        upload_keys(&alice, body)["signed_curve25519"].clone()
    };
    assert_eq!(upload("first", &[]), 1);
    assert_eq!(upload("second", &[1]), 2, "the rest is stored");
    for _ in 0..3 {
        // The two keys, then the fallback key.
        assert!(claim(&bob, &alice).is_some());
    }
    assert_eq!(upload("third", &[2]), 1, "a claimed key does not come back");
    let unused = sync(&alice, None)["device_unused_fallback_key_types"].clone();
    assert_eq!(unused, json!([]), "a used fallback key stays used");
}

#[test]
fn device_keys_have_algorithms_keys_and_signatures_and_are_of_the_device() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (_, keys) = device_keys(&alice);
    for field in ["algorithms", "keys", "signatures", "user_id", "device_id"] {
        for wrong in [None, Some(json!("another"))] {
            let mut keys = keys.clone();
            match wrong {
                Some(wrong) => keys[field] = wrong,
                None => drop(keys.as_object_mut().unwrap().remove(field)),
            }
            let (status, body) = alice.post(UPLOAD, json!({ "device_keys": keys }));
            assert_eq!(status, 400, "{field}: {body}");
        }
    }
    let id = format!("ed25519:{}", alice.device_id);
    for (pointer, wrong) in [
        ("/algorithms/0", json!(5)),
        (&*format!("/keys/{id}"), json!(5)),
        (&format!("/signatures/{}", alice.user_id), json!("x")),
        (&format!("/signatures/{}/{id}", alice.user_id), json!({})),
        ("", Value::Null),
    ] {
        let mut keys = keys.clone();
        *keys.pointer_mut(pointer).expect("it is there") = wrong;
        let (status, body) = alice.post(UPLOAD, json!({ "device_keys": keys }));
        assert_eq!(
            (status, &body["errcode"]),
            (400, &json!("M_BAD_JSON")),
            "{pointer}: {body}"
        );
    }
    for wrong in [
        json!({ "key": 5, "signatures": {} }),
        json!({ "signatures": {} }),
        json!({ "key": "k", "signatures": { &alice.user_id: "x" } }),
    ] {
        for field in ["one_time_keys", "fallback_keys"] {
            let body = json!({ field: { "signed_curve25519:A": wrong } });
            expect_error(&alice.post(UPLOAD, body), 400, "M_BAD_JSON");
        }
    }
    expect_ok(alice.post(UPLOAD, json!({ "device_keys": keys })));
}

#[test]
fn responses_about_keys_have_their_fields_even_if_they_are_empty() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let counts = upload_keys(&alice, json!({}));
    assert_eq!(counts, json!({ "signed_curve25519": 0 }));
    let claimed = expect_ok(alice.post(CLAIM, json!({ "one_time_keys": {} })));
    assert_eq!(claimed, json!({ "one_time_keys": {}, "failures": {} }));
    let queried = expect_ok(alice.post(QUERY, json!({ "device_keys": {} })));
    let expected = json!({
        "device_keys": {}, "master_keys": {}, "self_signing_keys": {}, "user_signing_keys": {},
        "failures": {},
    });
    assert_eq!(queried, expected);
}

/// Uploads keys as this text, which is not formatted again.
fn upload_text(server: &TestServer, user: &TestUser<'_>, body: &str) -> (u16, Value) {
    let request = Request::post(UPLOAD)
        .header("authorization", format!("Bearer {}", user.token))
        .body(body.into());
    parse(&server.respond(request.expect("this is a request")))
}

#[test]
fn key_with_different_json_formatting_is_the_same_key() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let equal_bodies = [
        r#"{"one_time_keys":{"signed_curve25519:A":{"key":"a","signatures":{}}},
            "fallback_keys":{"signed_curve25519:B":{"key":"b","fallback":true}}}"#,
        r#"{"one_time_keys":{"signed_curve25519:A":{"signatures": {}, "key":"a"}},
            "fallback_keys":{"signed_curve25519:B":{"fallback":true,"key":"b"}}}"#,
    ];
    for _ in 0..2 {
        for body in equal_bodies {
            expect_ok(upload_text(&server, &alice, body));
        }
        // Claims the one-time key first, then the fallback key.
        assert!(claim(&bob, &alice).is_some());
    }
    let synced = sync(&alice, None);
    assert_eq!(synced["device_one_time_keys_count"]["signed_curve25519"], 0);
    assert_eq!(synced["device_unused_fallback_key_types"], json!([]));
}

#[test]
fn reuploaded_device_keys_add_their_signatures() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (_, keys) = device_keys(&alice);
    upload_keys(&alice, json!({ "device_keys": keys }));
    let other = SigningKey::new();
    let signed = other.sign(keys.clone(), &alice.user_id);
    upload_keys(&alice, json!({ "device_keys": signed }));
    let queried = &query(&bob, &alice)["device_keys"][&alice.user_id][&alice.device_id];
    let signatures = &queried["signatures"][&alice.user_id];
    assert!(signatures[other.id()].is_string(), "{queried}");
    let device_key_id = format!("ed25519:{}", alice.device_id);
    assert!(signatures[device_key_id].is_string(), "{queried}");
}

#[test]
fn key_upload_concurrent_with_logout_stores_nothing() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let body = json!({ "device_keys": device_keys(&alice).1 });
    let token = Some(alice.token.as_str());
    let send = |path: &'static str, body| server.send(Method::POST, path, token, body);
    let empty = json!({});
    let requests = vec![
        send("/_matrix/client/v3/logout", &empty),
        send(UPLOAD, &body),
    ];
    let responses = server.run(server.join_all(requests));
    assert_eq!(responses[0].0, 200);
    expect_error(&responses[1], 401, "M_UNKNOWN_TOKEN");
    let queried = &query(&bob, &alice)["device_keys"][&alice.user_id];
    assert_eq!(*queried, json!({}));
}

#[test]
fn one_user_cannot_claim_all_one_time_keys_of_a_device() {
    let server = TestServer::with("registration = \"open\"\nrate_limits = true");
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let carol = server.register("carol");
    let mut keys = one_time_keys(0..40);
    keys["fallback_keys"] = json!({ "signed_curve25519:F": { "key": "f", "signatures": {} } });
    upload_keys(&alice, keys);
    let claimed: Vec<_> = (0..40).filter_map(|_| claim(&bob, &alice)).collect();
    assert_eq!(claimed.len(), 40);
    let fallback = "signed_curve25519:F";
    let one_time = claimed.iter().filter(|id| *id != fallback);
    assert_eq!(one_time.count(), 10);
    assert_ne!(claim(&carol, &alice).as_deref(), Some(fallback));
}

#[test]
fn one_time_keys_are_never_claimed_twice_or_lost() {
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut server = TestServer::new();
        let (alice_token, bob_token) =
            (server.register("alice").token, server.register("bob").token);
        let (mut uploaded, mut claimed) = (BTreeSet::new(), Vec::new());
        for _ in 0..40 {
            let (alice, bob) = (
                server.user_with_token(&alice_token),
                server.user_with_token(&bob_token),
            );
            match rng.random_range(0..4) {
                0 => {
                    let first = rng.random_range(0..60);
                    // Clients repeat an upload whose response was lost.
                    for name in first..first + 5 {
                        uploaded.insert(format!("signed_curve25519:K{name:04}"));
                    }
                    for _ in 0..rng.random_range(1..3) {
                        upload_keys(&alice, one_time_keys(first..first + 5));
                    }
                }
                1 => {
                    let device = json!({ &alice.device_id: "signed_curve25519" });
                    let wanted = json!({ "one_time_keys": { &alice.user_id: device } });
                    let token = Some(bob.token.as_str());
                    let claims = (0..3).map(|_| server.send(Method::POST, CLAIM, token, &wanted));
                    let responses = server.run(server.join_all(claims.collect()));
                    for response in responses {
                        let keys =
                            &expect_ok(response)["one_time_keys"][&alice.user_id][&alice.device_id];
                        claimed.extend(
                            keys.as_object()
                                .into_iter()
                                .flatten()
                                .map(|(id, _)| id.clone()),
                        );
                    }
                }
                2 => claimed.extend(claim(&bob, &alice)),
                _ => server.restart(),
            }
        }
        let (alice, bob) = (
            server.user_with_token(&alice_token),
            server.user_with_token(&bob_token),
        );
        claimed.extend(std::iter::from_fn(|| claim(&bob, &alice)));
        let unique: BTreeSet<String> = claimed.iter().cloned().collect();
        assert_eq!(
            unique.len(),
            claimed.len(),
            "claimed out twice: {claimed:?}"
        );
        assert_eq!(unique, uploaded, "seed {seed}");
    }
}

#[test]
fn a_request_for_more_keys_than_the_limit_is_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let users = |count: usize| -> Value {
        let users = (0..count).map(|number| (format!("@{number}:localhost"), json!({ "D": "x" })));
        Value::Object(users.collect())
    };
    for (count, expected) in [(10_000, 200), (10_001, 413)] {
        let body = json!({ "one_time_keys": users(count) });
        let (status, answer) = alice.post("/_matrix/client/v3/keys/claim", body);
        assert_eq!(status, expected, "{answer}");
    }
}
