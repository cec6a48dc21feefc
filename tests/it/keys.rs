//! Keys of devices and users.

use std::collections::{BTreeMap, BTreeSet};

use hearth::protocol::ServerKey;
use http::{Method, Request};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ruma::{CanonicalJsonObject, serde::Base64, signatures::KeyPair};
use serde_json::{Value, json};

use crate::{
    home::{Home, Person, read, refused},
    rooms::{done, next, sync, sync_with},
};

const UPLOAD: &str = "/_matrix/client/v3/keys/upload";
const QUERY: &str = "/_matrix/client/v3/keys/query";
const CLAIM: &str = "/_matrix/client/v3/keys/claim";

/// A key that signs keys.
pub struct Signing(ServerKey);

impl Signing {
    pub fn new() -> Self {
        Self(ServerKey::generate())
    }

    pub fn public(&self) -> String {
        self.0.public_key().encode()
    }

    pub fn id(&self) -> String {
        format!("ed25519:{}", self.public())
    }

    /// Adds its signature, under `id`, to those on `key`.
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

    /// The key itself, for `usage`.
    pub fn key(&self, user: &str, usage: &str) -> Value {
        json!({ "user_id": user, "usage": [usage], "keys": { self.id(): self.public() } })
    }
}

/// The keys of the person's device, with the one that it signs with.
pub fn device(who: &Person<'_>) -> (Signing, Value) {
    let (key, id) = (Signing::new(), who.device_id.as_str());
    let keys = json!({
        "user_id": who.user_id, "device_id": id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{id}"): key.public() },
    });
    let keys = key.sign_as(keys, &who.user_id, &format!("ed25519:{id}"));
    (key, keys)
}

pub fn upload_keys(who: &Person<'_>, body: Value) -> Value {
    done(who.post(UPLOAD, body))["one_time_key_counts"].clone()
}

fn one_time(names: impl IntoIterator<Item = usize>) -> Value {
    let keys = names.into_iter().map(|name| {
        let key = json!({ "key": format!("key {name}"), "signatures": {} });
        (format!("signed_curve25519:K{name:04}"), key)
    });
    json!({ "one_time_keys": keys.collect::<BTreeMap<_, _>>() })
}

/// The id of the key that `who` is given for the device of `of`.
pub fn claim(who: &Person<'_>, of: &Person<'_>) -> Option<String> {
    let wanted = json!({ &of.user_id: { &of.device_id: "signed_curve25519" } });
    let answer = done(who.post(CLAIM, json!({ "one_time_keys": wanted })));
    let keys = answer["one_time_keys"][&of.user_id][&of.device_id]
        .as_object()?
        .clone();
    assert_eq!(keys.len(), 1);
    keys.into_iter().next().map(|(id, _)| id)
}

pub fn query(who: &Person<'_>, of: &Person<'_>) -> Value {
    done(who.post(QUERY, json!({ "device_keys": { &of.user_id: [] } })))
}

#[test]
fn the_keys_of_a_device_are_everybodys_and_end_with_it() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let (_, keys) = device(&alice);
    upload_keys(&alice, json!({ "device_keys": keys }));
    upload_keys(&alice, one_time(0..3));
    let found = query(&bob, &alice)["device_keys"][&alice.user_id].clone();
    let mut shown = found[&alice.device_id].clone();
    assert!(shown["unsigned"].is_object());
    shown.as_object_mut().unwrap().remove("unsigned");
    assert_eq!(shown, keys);
    let of_another = device(&bob).1;
    refused(
        &alice.post(UPLOAD, json!({ "device_keys": of_another })),
        400,
        "M_INVALID_PARAM",
    );
    done(alice.post("/_matrix/client/v3/logout", json!({})));
    assert_eq!(
        query(&bob, &alice)["device_keys"][&alice.user_id],
        json!({})
    );
    assert_eq!(claim(&bob, &alice), None);
}

#[test]
fn keys_are_given_out_in_their_order_each_once_and_then_the_fallback_key() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let counts = upload_keys(&alice, one_time([2, 1]));
    assert_eq!(counts, json!({ "signed_curve25519": 2 }));
    upload_keys(&alice, one_time([0]));
    let fallback = json!({ "signed_curve25519:LAST": { "key": "last", "fallback": true } });
    upload_keys(&alice, json!({ "fallback_keys": fallback }));
    let synced = sync(&alice, None);
    assert_eq!(synced["device_one_time_keys_count"]["signed_curve25519"], 3);
    assert_eq!(
        synced["device_unused_fallback_key_types"],
        json!(["signed_curve25519"])
    );
    let given: Vec<String> = (0..5).filter_map(|_| claim(&bob, &alice)).collect();
    let expected = ["K0001", "K0002", "K0000", "LAST", "LAST"];
    assert_eq!(
        given,
        expected.map(|name| format!("signed_curve25519:{name}"))
    );
    // A sync that waits ends, because the keys are gone.
    let since = next(&synced).to_owned();
    let synced = sync_with(&alice, &[("since", &since), ("timeout", "30000")]);
    assert_eq!(synced["device_one_time_keys_count"]["signed_curve25519"], 0);
    assert_eq!(synced["device_unused_fallback_key_types"], json!([]));
}

#[test]
fn a_fallback_key_that_is_handed_in_again_stays_used() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
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
fn keys_to_be_given_out_go_with_the_keys_of_the_device_that_they_are_of() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let (_, first) = device(&alice);
    upload_keys(&alice, json!({ "device_keys": first }));
    upload_keys(&alice, one_time(0..3));
    let counts = upload_keys(&alice, json!({ "device_keys": first }));
    assert_eq!(counts, json!({ "signed_curve25519": 3 }));
    let mut body = one_time([9]);
    body["device_keys"] = device(&alice).1;
    let counts = upload_keys(&alice, body);
    assert_eq!(counts, json!({ "signed_curve25519": 1 }));
    let given = claim(&bob, &alice);
    assert_eq!(given.as_deref(), Some("signed_curve25519:K0009"));
}

#[test]
fn another_key_of_an_id_that_is_there_is_refused_and_the_same_is_taken_as_one() {
    let home = Home::new();
    let alice = home.register("alice");
    for _ in 0..2 {
        let counts = upload_keys(&alice, one_time([1]));
        assert_eq!(counts["signed_curve25519"], 1);
    }
    let other = json!({ "one_time_keys": { "signed_curve25519:K0001": { "key": "other" } } });
    refused(&alice.post(UPLOAD, other), 400, "M_INVALID_PARAM");
    let bob = home.register("bob");
    assert!(claim(&bob, &alice).is_some());
    let counts = upload_keys(&alice, one_time([1]));
    assert_eq!(counts, json!({}), "it was given out");
    let other = json!({ "one_time_keys": { "signed_curve25519:K0001": { "key": "other" } } });
    refused(&alice.post(UPLOAD, other), 400, "M_INVALID_PARAM");
    let nonsense = json!({ "one_time_keys": { "signed_curve25519:K0002": [1.5] } });
    refused(&alice.post(UPLOAD, nonsense), 400, "M_BAD_JSON");
}

/// Uploads keys just as they are written.
fn upload_text(home: &Home, who: &Person<'_>, body: &str) -> (u16, Value) {
    let request = Request::post(UPLOAD)
        .header("authorization", format!("Bearer {}", who.token))
        .body(body.into());
    read(&home.respond(request.expect("this is a request")))
}

#[test]
fn a_key_that_is_written_otherwise_is_the_same_key() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let written = [
        r#"{"one_time_keys":{"signed_curve25519:A":{"key":"a","signatures":{}}},
            "fallback_keys":{"signed_curve25519:B":{"key":"b","fallback":true}}}"#,
        r#"{"one_time_keys":{"signed_curve25519:A":{"signatures": {}, "key":"a"}},
            "fallback_keys":{"signed_curve25519:B":{"fallback":true,"key":"b"}}}"#,
    ];
    for _ in 0..2 {
        for body in written {
            done(upload_text(&home, &alice, body));
        }
        // First the one, then the other: from then on both are used.
        assert!(claim(&bob, &alice).is_some());
    }
    let synced = sync(&alice, None);
    assert_eq!(synced["device_one_time_keys_count"]["signed_curve25519"], 0);
    assert_eq!(synced["device_unused_fallback_key_types"], json!([]));
}

#[test]
fn signatures_that_come_with_keys_that_are_there_are_added() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let (_, keys) = device(&alice);
    upload_keys(&alice, json!({ "device_keys": keys }));
    let other = Signing::new();
    let signed = other.sign(keys.clone(), &alice.user_id);
    upload_keys(&alice, json!({ "device_keys": signed }));
    let found = &query(&bob, &alice)["device_keys"][&alice.user_id][&alice.device_id];
    let signatures = &found["signatures"][&alice.user_id];
    assert!(signatures[other.id()].is_string(), "{found}");
    let of_device = format!("ed25519:{}", alice.device_id);
    assert!(signatures[of_device].is_string(), "{found}");
}

#[test]
fn keys_that_arrive_as_their_device_is_logged_out_stay_nowhere() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let body = json!({ "device_keys": device(&alice).1 });
    let token = Some(alice.token.as_str());
    let ask = |path: &'static str, body| home.send(Method::POST, path, token, body);
    let none = json!({});
    let both = vec![ask("/_matrix/client/v3/logout", &none), ask(UPLOAD, &body)];
    let answers = home.run(home.all(both));
    assert_eq!(answers[0].0, 200);
    refused(&answers[1], 401, "M_UNKNOWN_TOKEN");
    let found = &query(&bob, &alice)["device_keys"][&alice.user_id];
    assert_eq!(*found, json!({}));
}

#[test]
fn whatever_happens_no_key_is_given_out_twice_and_none_is_lost() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut home = Home::new();
        let (alice_token, bob_token) = (home.register("alice").token, home.register("bob").token);
        let (mut uploaded, mut given) = (BTreeSet::new(), Vec::new());
        for _ in 0..40 {
            let (alice, bob) = (home.with_token(&alice_token), home.with_token(&bob_token));
            match random.random_range(0..4) {
                0 => {
                    let first = random.random_range(0..60);
                    // Clients hand in again what they have not heard to be there.
                    for name in first..first + 5 {
                        uploaded.insert(format!("signed_curve25519:K{name:04}"));
                    }
                    for _ in 0..random.random_range(1..3) {
                        upload_keys(&alice, one_time(first..first + 5));
                    }
                }
                1 => {
                    let device = json!({ &alice.device_id: "signed_curve25519" });
                    let wanted = json!({ "one_time_keys": { &alice.user_id: device } });
                    let token = Some(bob.token.as_str());
                    let claims = (0..3).map(|_| home.send(Method::POST, CLAIM, token, &wanted));
                    let answers = home.run(home.all(claims.collect()));
                    for answer in answers {
                        let keys = &done(answer)["one_time_keys"][&alice.user_id][&alice.device_id];
                        given.extend(
                            keys.as_object()
                                .into_iter()
                                .flatten()
                                .map(|(id, _)| id.clone()),
                        );
                    }
                }
                2 => given.extend(claim(&bob, &alice)),
                _ => home.restart(),
            }
        }
        let (alice, bob) = (home.with_token(&alice_token), home.with_token(&bob_token));
        given.extend(std::iter::from_fn(|| claim(&bob, &alice)));
        let once: BTreeSet<String> = given.iter().cloned().collect();
        assert_eq!(once.len(), given.len(), "given out twice: {given:?}");
        assert_eq!(once, uploaded, "seed {seed}");
    }
}
