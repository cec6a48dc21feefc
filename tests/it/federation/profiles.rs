//! Profiles across servers.

use std::time::Duration;

use http::Method;
use ruma::{OwnedUserId, api::federation::query::get_profile_information};
use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    rooms::{done, escaped},
};

fn path_of(person: &Person<'_>) -> String {
    format!("/_matrix/client/v3/profile/{}", escaped(&person.user_id))
}

fn set_name(person: &Person<'_>, name: &str) {
    let path = format!("{}/displayname", path_of(person));
    done(person.put(&path, json!({ "displayname": name })));
}

#[test]
fn the_profile_of_another_servers_user_is_what_that_server_tells() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    set_name(&bob, "Bob");
    let zone = format!("{}/m.tz", path_of(&bob));
    done(bob.put(&zone, json!({ "m.tz": "Europe/Berlin" })));
    assert_eq!(
        done(alice.get(&path_of(&bob))),
        json!({ "displayname": "Bob", "m.tz": "Europe/Berlin" })
    );
    assert_eq!(done(alice.get(&zone)), json!({ "m.tz": "Europe/Berlin" }));
    let avatar = format!("{}/avatar_url", path_of(&bob));
    refused(&alice.get(&avatar), 404, "M_NOT_FOUND");
}

#[test]
fn a_profile_is_asked_for_again_when_some_minutes_have_passed() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    set_name(&bob, "Bob");
    let name = || done(alice.get(&path_of(&bob)))["displayname"].clone();
    assert_eq!(name(), "Bob");
    set_name(&bob, "Robert");
    assert_eq!(name(), "Bob");
    here.clock.advance(Duration::from_mins(6));
    assert_eq!(name(), "Robert");
}

#[test]
fn who_is_not_known_to_the_own_server_has_no_profile() {
    let [here, there] = Home::federating();
    let alice = here.register("alice");
    let nobody = format!("/_matrix/client/v3/profile/@nobody:{}", there.name());
    refused(&alice.get(&nobody), 404, "M_NOT_FOUND");
}

#[test]
fn a_server_can_ask_for_one_field_of_a_profile() {
    let [here, there] = Home::federating();
    let bob = there.register("bob");
    set_name(&bob, "Bob");
    let ask = |field: &str| {
        let user = OwnedUserId::try_from(bob.user_id.as_str()).expect("a user id");
        let mut request = get_profile_information::v1::Request::new(user);
        request.field = Some(field.into());
        let answer = here.run(here.client().send(there.name(), request));
        answer.expect("an answer").into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        ask("displayname"),
        [("displayname".to_owned(), Value::from("Bob"))]
    );
    assert_eq!(ask("avatar_url"), []);
}

#[test]
fn who_need_not_say_who_they_are_cannot_have_other_servers_asked_without_end() {
    let [here, there] =
        Home::federating_with(|_| ["rate_limits = true", ""].map(ToOwned::to_owned));
    let ask = |name: usize| {
        let path = format!("/_matrix/client/v3/profile/@{name}:{}", there.name());
        here.ask(Method::GET, &path, Value::Null)
    };
    let limited = (0..100).find(|name| ask(*name).0 == 429);
    let limited = limited.expect("there is an end");
    refused(&ask(limited), 429, "M_LIMIT_EXCEEDED");
    // What is known costs nothing.
    refused(&ask(0), 404, "M_NOT_FOUND");
}
