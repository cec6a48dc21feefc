//! What servers tell each other of their users' devices.

use std::collections::BTreeMap;

use http::StatusCode;
use ruma::{
    OwnedUserId,
    api::{
        error::ErrorKind,
        federation::{
            device::get_devices,
            keys::{claim_keys, get_keys},
        },
    },
};

use serde_json::json;

use crate::{home::Home, keys::upload_keys};

fn user(id: &str) -> OwnedUserId {
    OwnedUserId::try_from(id).expect("a user id")
}

#[test]
fn a_device_without_keys_is_not_told_of() {
    let [here, there] = Home::federating();
    let bob = user(&there.register("bob").user_id);
    let nobody = user(&format!("@nobody:{}", there.name()));
    let (client, name) = (here.client(), there.name());
    let request = get_devices::v1::Request::new(bob.clone());
    let told = here.run(client.send(name, request)).expect("an answer");
    assert_eq!((&told.user_id, told.devices.len()), (&bob, 0));
    let asked = [&bob, &nobody].map(|user| (user.clone(), Vec::new()));
    let request = get_keys::v1::Request::new(BTreeMap::from(asked));
    let told = here.run(client.send(name, request)).expect("an answer");
    let told: Vec<_> = told.device_keys.into_iter().collect();
    assert!(matches!(&*told, [(user, keys)] if *user == bob && keys.is_empty()));
    let claims = BTreeMap::from([("DEVICE".into(), "signed_curve25519".into())]);
    let request = claim_keys::v1::Request::new(BTreeMap::from([(bob, claims)]));
    let told = here.run(client.send(name, request)).expect("an answer");
    assert!(told.one_time_keys.is_empty());
}

#[test]
fn who_has_no_account_has_no_devices() {
    let [here, there] = Home::federating();
    let nobody = user(&format!("@nobody:{}", there.name()));
    let request = get_devices::v1::Request::new(nobody);
    let answer = here.run(here.client().send(there.name(), request));
    let error = answer.expect_err("there is no such user");
    assert_eq!(error.kind(), Some(&ErrorKind::NotFound));
    assert!(matches!(
        error,
        hearth::federation::Error::Status(StatusCode::NOT_FOUND, _)
    ));
}

#[test]
fn a_fallback_key_is_given_to_other_servers_when_there_is_no_other() {
    let [here, there] = Home::federating();
    let bob = there.register("bob");
    let key = |name: &str| json!({ "key": name, "signatures": {} });
    let once = json!({ "signed_curve25519:ONCE": key("once") });
    let mut last = json!({ "signed_curve25519:LAST": key("last") });
    last["signed_curve25519:LAST"]["fallback"] = true.into();
    upload_keys(
        &bob,
        json!({ "one_time_keys": once, "fallback_keys": last }),
    );
    let claim = || {
        let wanted = BTreeMap::from([(bob.device_id.as_str().into(), "signed_curve25519".into())]);
        let claims = BTreeMap::from([(user(&bob.user_id), wanted)]);
        let request = claim_keys::v1::Request::new(claims);
        let answer = here.run(here.client().send(there.name(), request));
        let given = answer.expect("an answer").one_time_keys;
        let ids = given.into_values().flat_map(BTreeMap::into_values);
        let ids = ids.flat_map(BTreeMap::into_keys);
        ids.map(|id| id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(claim(), ["signed_curve25519:ONCE"]);
    assert_eq!(claim(), ["signed_curve25519:LAST"]);
    assert_eq!(claim(), ["signed_curve25519:LAST"]);
}
