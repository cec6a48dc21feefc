//! What syncs tell of rooms that are left, come back to, or wanted as a whole. `sync_property` holds
//! that against what the server has.

use serde_json::{Value, json};

use crate::{
    home::Home,
    rooms::{
        bodies, done, join, leave, make_room, next, room_of, say, set, sync, sync_with, types,
    },
};

const CLIENT: &str = "/_matrix/client/v3";

#[test]
fn the_full_state_comes_when_asked_for() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = make_room(&alice, json!({ "name": "Kitchen" }));
    let first = sync(&alice, None);
    let full = sync_with(&alice, &[("since", next(&first)), ("full_state", "true")]);
    let joined = &full["rooms"]["join"][&room];
    let state = types(&joined["state"]["events"]);
    assert!(state.contains(&"m.room.create") && state.contains(&"m.room.name"));
    assert_eq!(joined["timeline"], Value::Null);
}

#[test]
fn a_room_that_was_left_is_told_once_even_if_it_was_forgotten_at_once() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let laptop = home.log_in("bob");
    let room = room_of(&[&alice, &bob]);
    let start = sync(&laptop, None);
    say(&alice, &room, "bye");
    leave(&bob, &room);
    let forget = format!("{CLIENT}/rooms/{room}/forget");
    done(bob.post(&forget, json!({})));
    say(&alice, &room, "secret");
    for parameters in [vec![], vec![("full_state", "true")]] {
        let mut parameters = parameters;
        parameters.push(("since", next(&start)));
        let left = sync_with(&laptop, &parameters);
        let timeline = &left["rooms"]["leave"][&room]["timeline"]["events"];
        assert_eq!(types(timeline), ["m.room.message", "m.room.member"]);
        assert_eq!(bodies(timeline), ["bye"]);
        let after = sync(&laptop, Some(next(&left)));
        assert_eq!(after["rooms"], json!({}));
    }
}

#[test]
fn who_comes_back_gets_the_room_anew() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let before = sync(&bob, None);
    leave(&bob, &room);
    let left = sync(&bob, Some(next(&before)));
    set(
        &alice,
        &room,
        ("m.room.topic", ""),
        json!({ "topic": "new" }),
    );
    join(&bob, &room);
    for since in [&before, &left] {
        let back = sync(&bob, Some(next(since)));
        let joined = &back["rooms"]["join"][&room];
        let told = [
            types(&joined["state"]["events"]),
            types(&joined["timeline"]["events"]),
        ]
        .concat();
        for kind in ["m.room.create", "m.room.topic", "m.room.power_levels"] {
            assert!(told.contains(&kind), "{kind} is missing: {joined}");
        }
        assert_eq!(back["rooms"]["leave"], Value::Null);
    }
}
