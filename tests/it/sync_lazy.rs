//! Members that are loaded lazily.

use serde_json::{Value, json};

use crate::{
    home::{Home, Person},
    rooms::{make_room, next, room_of, say, set, sync_with},
};

const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2}}}"#;
const REDUNDANT: &str = r#"{"room":{"state":{"lazy_load_members":true,
    "include_redundant_members":true},"timeline":{"limit":2}}}"#;

/// A sync with `filter`, and whose member events the room's state has.
fn members(
    who: &Person<'_>,
    room: &str,
    filter: &str,
    since: Option<&str>,
) -> (Vec<String>, String) {
    let mut parameters = vec![("filter", filter)];
    parameters.extend(since.map(|since| ("since", since)));
    let answer = sync_with(who, &parameters);
    let state = &answer["rooms"]["join"][room]["state"]["events"];
    let mut members: Vec<String> = state
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| event["state_key"].as_str().expect("a user").to_owned())
        .collect();
    members.sort();
    (members, next(&answer).to_owned())
}

#[test]
fn only_who_speaks_is_told_and_once() {
    let mut home = Home::new();
    let people = ["alice", "bob", "carol", "dave"].map(|name| home.register(name));
    let [alice, bob, carol, dave] = &people;
    let room = room_of(&[alice, bob, carol, dave]);
    set(alice, &room, ("m.room.name", ""), json!({ "name": "Pub" }));
    say(bob, &room, "one");
    say(bob, &room, "two");
    let (first, since) = members(alice, &room, LAZY, None);
    assert_eq!(first, [alice.user_id.as_str(), bob.user_id.as_str()]);
    say(bob, &room, "three");
    say(carol, &room, "four");
    let (second, later) = members(alice, &room, LAZY, Some(&since));
    assert_eq!(second, [carol.user_id.as_str()], "bob is known");
    // The same again: the answer may have got lost.
    let (again, _) = members(alice, &room, LAZY, Some(&since));
    assert_eq!(again, [carol.user_id.as_str()]);
    let (nothing, same) = members(alice, &room, REDUNDANT, Some(&later));
    assert!(nothing.is_empty());
    say(bob, &room, "five");
    let (redundant, _) = members(alice, &room, REDUNDANT, Some(&same));
    assert_eq!(redundant, [bob.user_id.as_str()]);
    let (fresh, since) = members(alice, &room, LAZY, None);
    assert_eq!(
        fresh,
        [&alice.user_id, &bob.user_id, &carol.user_id].map(String::as_str),
        "an initial sync begins anew"
    );
    let (alice, bob) = (alice.token.clone(), bob.token.clone());
    home.restart();
    let (alice, bob) = (home.with_token(&alice), home.with_token(&bob));
    say(&bob, &room, "six");
    let (restarted, _) = members(&alice, &room, LAZY, Some(&since));
    assert_eq!(restarted, [bob.user_id.as_str()], "told again");
}

#[test]
fn a_member_who_changed_is_told_again() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    set(&alice, &room, ("m.room.name", ""), json!({ "name": "Pub" }));
    say(&bob, &room, "one");
    say(&bob, &room, "two");
    let (_, since) = members(&alice, &room, LAZY, None);
    let member = json!({ "membership": "join", "displayname": "Bobby" });
    set(&bob, &room, ("m.room.member", &bob.user_id), member);
    say(&bob, &room, "three");
    say(&bob, &room, "four");
    let (changed, _) = members(&alice, &room, LAZY, Some(&since));
    assert_eq!(changed, [bob.user_id.as_str()]);
}

#[test]
fn a_room_without_a_name_comes_with_those_who_make_its_name() {
    let home = Home::new();
    let people = ["alice", "bob", "carol"].map(|name| home.register(name));
    let [alice, bob, carol] = &people;
    let room = room_of(&[alice, carol, bob]);
    for text in ["one", "two"] {
        say(alice, &room, text);
    }
    let answer = sync_with(alice, &[("filter", LAZY)]);
    let heroes = &answer["rooms"]["join"][&room]["summary"]["m.heroes"];
    assert_eq!(*heroes, json!([carol.user_id, bob.user_id]), "as they came");
    let (told, _) = members(alice, &room, LAZY, None);
    assert_eq!(told.len(), 3);
    let named = make_room(alice, json!({ "name": "" }));
    set(alice, &named, ("m.room.name", ""), json!({ "name": "" }));
    let answer = sync_with(alice, &[]);
    let summary = &answer["rooms"]["join"][&named]["summary"];
    assert_eq!(summary["m.heroes"], Value::Null, "nobody else is there");
}

#[test]
fn the_state_after_the_timeline_has_those_whom_the_timeline_is_about() {
    let home = Home::new();
    let people = ["alice", "bob", "carol"].map(|name| home.register(name));
    let [alice, bob, carol] = &people;
    let room = room_of(&[alice, bob, carol]);
    let since = next(&sync_with(carol, &[("filter", LAZY)])).to_owned();
    let kick = format!("/_matrix/client/v3/rooms/{room}/kick");
    alice.post(&kick, json!({ "user_id": bob.user_id }));
    let parameters = [
        ("filter", LAZY),
        ("since", since.as_str()),
        ("use_state_after", "true"),
    ];
    let answer = sync_with(carol, &parameters);
    let after = &answer["rooms"]["join"][&room]["state_after"]["events"];
    let bobs = after
        .as_array()
        .expect("state")
        .iter()
        .find(|event| event["state_key"] == *bob.user_id);
    assert_eq!(
        bobs.map(|event| &event["content"]["membership"]),
        Some(&json!("leave"))
    );
}
