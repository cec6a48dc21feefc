//! Keys of servers, and who vouches for them.

use std::time::Duration;

use http::Method;
use ruma::{
    CanonicalJsonObject,
    serde::Base64,
    signatures::{PublicKeyMap, verify_json},
};
use serde_json::{Value, json};

use crate::{
    home::Home,
    rooms::{done, escaped, make_room},
};

/// What a server tells of its own keys.
fn own_keys(home: &Home) -> Value {
    done(home.ask(Method::GET, "/_matrix/key/v2/server", Value::Null))
}

/// What `notary` tells of the keys of `of`.
fn vouched(notary: &Home, of: &Home) -> Vec<Value> {
    let path = format!("/_matrix/key/v2/query/{}", of.name());
    listed(done(notary.ask(Method::GET, &path, Value::Null)))
}

fn listed(mut answer: Value) -> Vec<Value> {
    serde_json::from_value(answer["server_keys"].take()).expect("a list")
}

/// Whether `keys` are signed by all these servers.
#[track_caller]
fn is_signed_by(keys: &Value, servers: &[&Home]) -> bool {
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
fn a_notary_hands_on_what_a_server_told_with_both_signatures() {
    let [notary, server] = Home::federating();
    let own = own_keys(&server);
    let keys = vouched(&notary, &server);
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0]["verify_keys"], own["verify_keys"]);
    assert!(is_signed_by(&keys[0], &[&notary, &server]));
    let asked = json!({ "server_keys": {
        server.name().as_str(): { "ed25519:nothing": {} },
        notary.name().as_str(): {},
        "localhost:1": {},
    } });
    let answer = done(notary.ask(Method::POST, "/_matrix/key/v2/query", asked));
    let keys = listed(answer);
    let mut names: Vec<_> = keys.iter().map(|keys| &keys["server_name"]).collect();
    names.sort_by_key(|name| name.to_string());
    let mut expected = [notary.name().as_str(), server.name().as_str()];
    expected.sort_unstable();
    assert_eq!(names, expected);
    let nobody = json!({ "server_keys": {} });
    let answer = done(notary.ask(Method::POST, "/_matrix/key/v2/query", nobody));
    assert_eq!(answer, json!({ "server_keys": [] }));
}

#[test]
fn a_notary_knows_the_keys_of_a_server_that_is_gone() {
    let [mut notary, server] = Home::federating();
    let before = vouched(&notary, &server);
    let name = server.name().to_owned();
    drop(server);
    notary.restart();
    notary.clock.advance(Duration::from_hours(48));
    let path = format!("/_matrix/key/v2/query/{name}");
    let keys = listed(done(notary.ask(Method::GET, &path, Value::Null)));
    assert_eq!(keys[0]["verify_keys"], before[0]["verify_keys"]);
}

#[test]
fn who_was_named_a_notary_is_believed_about_the_keys_of_a_server_that_is_gone() {
    let [gone, notary, believer, doubter] = Home::federating_with(|names| {
        let notary = format!("notaries = [\"{}\"]", names[1]);
        ["", "", &notary, ""].map(ToOwned::to_owned)
    });
    let alice = gone.register("alice");
    let room = make_room(&alice, json!({ "preset": "public_chat" }));
    let join = |home: &Home, via: &Home| {
        let path = format!("/_matrix/client/v3/join/{}", escaped(&room));
        let path = format!("{path}?via={}", via.name());
        let somebody = home.register("somebody");
        somebody.post(&path, json!({}))
    };
    done(join(&notary, &gone));
    drop(gone);
    assert_ne!(join(&doubter, &notary).0, 200);
    done(join(&believer, &notary));
}
