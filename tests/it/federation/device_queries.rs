//! Device and key queries between servers.

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

use super::device_lists::create_shared_room;
use crate::{e2ee_keys::upload_keys, test_server::TestServer};

fn user_id(id: &str) -> OwnedUserId {
    OwnedUserId::try_from(id).expect("a user id")
}

#[test]
fn device_without_keys_is_omitted() {
    let [here, there] = TestServer::federating();
    let bob = user_id(&there.register("bob").user_id);
    let unknown = user_id(&format!("@nobody:{}", there.name()));
    let (client, name) = (here.client(), there.name());
    let request = get_devices::v1::Request::new(bob.clone());
    let response = here.run(client.send(name, request)).expect("a response");
    assert_eq!((&response.user_id, response.devices.len()), (&bob, 0));
    let users = [&bob, &unknown].map(|user_id| (user_id.clone(), Vec::new()));
    let request = get_keys::v1::Request::new(BTreeMap::from(users));
    let response = here.run(client.send(name, request)).expect("a response");
    let response: Vec<_> = response.device_keys.into_iter().collect();
    assert!(matches!(&*response, [(user_id, keys)] if *user_id == bob && keys.is_empty()));
    let claims = BTreeMap::from([("DEVICE".into(), "signed_curve25519".into())]);
    let request = claim_keys::v1::Request::new(BTreeMap::from([(bob, claims)]));
    let response = here.run(client.send(name, request)).expect("a response");
    assert!(response.one_time_keys.is_empty());
}

#[test]
fn device_list_of_an_unknown_user_is_not_found() {
    let [here, there] = TestServer::federating();
    let unknown = user_id(&format!("@nobody:{}", there.name()));
    let request = get_devices::v1::Request::new(unknown);
    let response = here.run(here.client().send(there.name(), request));
    let error = response.expect_err("the user does not exist");
    assert_eq!(error.kind(), Some(&ErrorKind::NotFound));
    assert!(matches!(
        error,
        hearth::federation::Error::Status(StatusCode::NOT_FOUND, _)
    ));
}

#[test]
fn fallback_key_is_claimed_when_no_one_time_key_is_left() {
    let [here, there] = TestServer::federating();
    let bob = there.register("bob");
    let key = |name: &str| json!({ "key": name, "signatures": {} });
    let one_time_keys = json!({ "signed_curve25519:ONCE": key("once") });
    let mut fallback_keys = json!({ "signed_curve25519:LAST": key("last") });
    fallback_keys["signed_curve25519:LAST"]["fallback"] = true.into();
    upload_keys(
        &bob,
        json!({ "one_time_keys": one_time_keys, "fallback_keys": fallback_keys }),
    );
    let claim = || {
        let wanted = BTreeMap::from([(bob.device_id.as_str().into(), "signed_curve25519".into())]);
        let claims = BTreeMap::from([(user_id(&bob.user_id), wanted)]);
        let request = claim_keys::v1::Request::new(claims);
        let response = here.run(here.client().send(there.name(), request));
        let claimed = response.expect("a response").one_time_keys;
        let ids = claimed.into_values().flat_map(BTreeMap::into_values);
        let ids = ids.flat_map(BTreeMap::into_keys);
        ids.map(|id| id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(claim(), ["signed_curve25519:ONCE"]);
    assert_eq!(claim(), ["signed_curve25519:LAST"]);
    assert_eq!(claim(), ["signed_curve25519:LAST"]);
}

#[test]
fn a_server_that_shares_no_room_cannot_use_up_the_one_time_keys_of_a_device() {
    let [here, there] =
        TestServer::federating_with(|_| [const { "rate_limits = true" }; 2].map(ToOwned::to_owned));
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let key = |name: &str| json!({ "key": name, "signatures": {} });
    let mut one_time_keys = json!({});
    for number in 0..50 {
        one_time_keys[format!("signed_curve25519:K{number:02}")] = key("once");
    }
    let fallback_keys = json!({ "signed_curve25519:LAST": key("last") });
    upload_keys(
        &bob,
        json!({ "one_time_keys": one_time_keys, "fallback_keys": fallback_keys }),
    );
    let claim = || {
        let wanted = BTreeMap::from([(bob.device_id.as_str().into(), "signed_curve25519".into())]);
        let claims = BTreeMap::from([(user_id(&bob.user_id), wanted)]);
        let request = claim_keys::v1::Request::new(claims);
        let response = here.run(here.client().send(there.name(), request));
        let claimed = response.expect("a response").one_time_keys;
        let keys = claimed.into_values().flat_map(BTreeMap::into_values);
        let ids: Vec<_> = keys.flat_map(BTreeMap::into_keys).collect();
        ids[0].to_string()
    };
    let last = "signed_curve25519:LAST";
    let claimed: Vec<_> = (0..45).map(|_| claim()).collect();
    let used_up = claimed.iter().filter(|id| *id != last).count();
    assert!((1..30).contains(&used_up), "{claimed:?}");
    create_shared_room(&alice, &here, &bob);
    assert_ne!(claim(), last);
}
