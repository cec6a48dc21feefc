//! Remote profiles.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OwnedUserId,
    api::{
        error::ErrorKind,
        federation::query::{get_custom_information, get_profile_information},
    },
};
use serde_json::{Value, json};

use crate::{
    client_api::percent_encode,
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

fn profile_path(person: &TestUser<'_>) -> String {
    format!(
        "/_matrix/client/v3/profile/{}",
        percent_encode(&person.user_id)
    )
}

fn set_name(person: &TestUser<'_>, name: &str) {
    let path = format!("{}/displayname", profile_path(person));
    expect_ok(person.put(&path, json!({ "displayname": name })));
}

#[test]
fn remote_profile_is_queried_from_its_server() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    set_name(&bob, "Bob");
    let zone = format!("{}/m.tz", profile_path(&bob));
    expect_ok(bob.put(&zone, json!({ "m.tz": "Europe/Berlin" })));
    assert_eq!(
        expect_ok(alice.get(&profile_path(&bob))),
        json!({ "displayname": "Bob", "m.tz": "Europe/Berlin" })
    );
    assert_eq!(
        expect_ok(alice.get(&zone)),
        json!({ "m.tz": "Europe/Berlin" })
    );
    let avatar = format!("{}/avatar_url", profile_path(&bob));
    expect_error(&alice.get(&avatar), 404, "M_NOT_FOUND");
}

#[test]
fn cached_remote_profile_expires_after_minutes() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    set_name(&bob, "Bob");
    let name = || expect_ok(alice.get(&profile_path(&bob)))["displayname"].clone();
    assert_eq!(name(), "Bob");
    set_name(&bob, "Robert");
    assert_eq!(name(), "Bob");
    here.clock.advance(Duration::from_mins(6));
    assert_eq!(name(), "Robert");
}

#[test]
fn remote_profile_of_an_unknown_user_is_not_found() {
    let [here, there] = TestServer::federating();
    let alice = here.register("alice");
    let unknown = format!("/_matrix/client/v3/profile/@nobody:{}", there.name());
    expect_error(&alice.get(&unknown), 404, "M_NOT_FOUND");
}

#[test]
fn a_query_of_an_unknown_type_is_not_found() {
    let [here, there] = TestServer::federating();
    let request = get_custom_information::v1::Request::new("weather".into(), BTreeMap::new());
    let response = here.run(here.client().send(there.name(), request));
    let error = response.expect_err("there is no such query");
    assert_eq!(error.kind(), Some(&ErrorKind::NotFound));
}

#[test]
fn profile_query_returns_a_single_field() {
    let [here, there] = TestServer::federating();
    let bob = there.register("bob");
    set_name(&bob, "Bob");
    let query = |field: &str| {
        let user = OwnedUserId::try_from(bob.user_id.as_str()).expect("a user id");
        let mut request = get_profile_information::v1::Request::new(user);
        request.field = Some(field.into());
        let response = here.run(here.client().send(there.name(), request));
        response
            .expect("a response")
            .into_iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        query("displayname"),
        [("displayname".to_owned(), Value::from("Bob"))]
    );
    assert_eq!(query("avatar_url"), []);
}

#[test]
fn unauthenticated_remote_profile_queries_are_rate_limited() {
    let [here, there] =
        TestServer::federating_with(|_| ["rate_limits = true", ""].map(ToOwned::to_owned));
    let get_profile = |name: usize| {
        let path = format!("/_matrix/client/v3/profile/@{name}:{}", there.name());
        here.get(&path)
    };
    let limited = (0..100).find(|name| get_profile(*name).0 == 429);
    let limited = limited.expect("a request was limited");
    expect_error(&get_profile(limited), 429, "M_LIMIT_EXCEEDED");
    // A cached response does not count.
    expect_error(&get_profile(0), 404, "M_NOT_FOUND");
}
