//! Typing, receipts, read markers and presence, as others see them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    rooms::{
        content, done, join, last_event, leave, make_room, next, receipt, room_of, sync, sync_with,
    },
};

const CLIENT: &str = "/_matrix/client/v3";

fn types_in(who: &Person<'_>, room: &str, body: Value) -> (u16, Value) {
    let path = format!("{CLIENT}/rooms/{room}/typing/{}", who.user_id);
    who.put(&path, body)
}

/// What a sync tells of `room` beside its events.
fn beside<'a>(answer: &'a Value, room: &str, kind: &str) -> &'a Value {
    let joined = &answer["rooms"]["join"][room];
    content(&joined["ephemeral"]["events"], kind)
}

fn status_of(who: &Person<'_>) -> String {
    format!("{CLIENT}/presence/{}/status", who.user_id)
}

#[test]
fn typing_is_seen_until_it_ends_or_its_time_is_up() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let start = sync(&alice, None);
    done(types_in(
        &bob,
        &room,
        json!({ "typing": true, "timeout": 30_000 }),
    ));
    let typing = sync(&alice, Some(next(&start)));
    assert_eq!(
        *beside(&typing, &room, "m.typing"),
        json!({ "user_ids": [bob.user_id] })
    );
    let same = sync(&alice, Some(next(&typing)));
    assert_eq!(*beside(&same, &room, "m.typing"), Value::Null);
    done(types_in(&bob, &room, json!({ "typing": false })));
    let ended = sync(&alice, Some(next(&same)));
    assert_eq!(
        *beside(&ended, &room, "m.typing"),
        json!({ "user_ids": [] })
    );
    done(types_in(
        &bob,
        &room,
        json!({ "typing": true, "timeout": 30_000 }),
    ));
    let again = sync(&alice, Some(next(&ended)));
    home.clock.advance(Duration::from_secs(29));
    let still = sync(&alice, Some(next(&again)));
    assert_eq!(*beside(&still, &room, "m.typing"), Value::Null);
    home.clock.advance(Duration::from_secs(2));
    let over = sync(&alice, Some(next(&still)));
    assert_eq!(*beside(&over, &room, "m.typing"), json!({ "user_ids": [] }));
}

#[test]
fn who_leaves_while_typing_types_no_longer() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    done(types_in(
        &bob,
        &room,
        json!({ "typing": true, "timeout": 30_000 }),
    ));
    let typing = sync(&alice, None);
    leave(&bob, &room);
    let left = sync(&alice, Some(next(&typing)));
    assert_eq!(*beside(&left, &room, "m.typing"), json!({ "user_ids": [] }));
}

#[test]
fn nobody_types_for_others_or_in_rooms_of_others() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice]);
    let typing = json!({ "typing": true, "timeout": 30_000 });
    refused(&types_in(&bob, &room, typing.clone()), 403, "M_FORBIDDEN");
    refused(
        &types_in(&bob, "!nowhere:localhost", typing.clone()),
        403,
        "M_FORBIDDEN",
    );
    let path = format!("{CLIENT}/rooms/{room}/typing/{}", bob.user_id);
    refused(&alice.put(&path, typing), 403, "M_FORBIDDEN");
}

#[test]
fn a_public_receipt_is_everybodys_and_a_private_one_its_owners() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let event = last_event(&alice, &room);
    let start = (sync(&alice, None), sync(&bob, None));
    done(receipt(&bob, &room, ("m.read", &event), json!({})));
    let seen = sync(&alice, Some(next(&start.0)));
    let told = &beside(&seen, &room, "m.receipt")[&event]["m.read"][&bob.user_id];
    assert_eq!(*told, json!({ "ts": home.clock.now_ms() }));
    done(receipt(&bob, &room, ("m.read.private", &event), json!({})));
    let others = sync(&alice, Some(next(&seen)));
    assert_eq!(*beside(&others, &room, "m.receipt"), Value::Null);
    let own = sync(&bob, Some(next(&start.1)));
    let own = &beside(&own, &room, "m.receipt")[&event];
    for kind in ["m.read", "m.read.private"] {
        assert!(own[kind][&bob.user_id]["ts"].is_u64(), "{own}");
    }
    let whole = sync(&alice, None);
    let whole = &beside(&whole, &room, "m.receipt")[&event];
    assert_eq!(whole["m.read.private"], Value::Null);
    assert!(whole["m.read"][&bob.user_id].is_object());
}

#[test]
fn a_receipt_only_moves_forward() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let earlier = last_event(&alice, &room);
    let path = format!("{CLIENT}/rooms/{room}/leave");
    bob.post(&path, json!({}));
    join(&bob, &room);
    let later = last_event(&alice, &room);
    assert_ne!(earlier, later);
    done(receipt(&bob, &room, ("m.read", &later), json!({})));
    let since = sync(&alice, None);
    done(receipt(&bob, &room, ("m.read", &earlier), json!({})));
    let after = sync(&alice, Some(next(&since)));
    assert_eq!(*beside(&after, &room, "m.receipt"), Value::Null);
}

#[test]
fn receipts_that_make_no_sense_are_refused() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice]);
    let event = last_event(&alice, &room);
    let ask = |kind, body| receipt(&alice, &room, (kind, &*event), body);
    for (kind, body) in [
        ("m.seen", json!({})),
        ("m.read", json!({ "thread_id": "" })),
        ("m.read", json!({ "thread_id": "thread" })),
        ("m.read", json!({ "thread_id": "$nothing" })),
        ("m.fully_read", json!({ "thread_id": "main" })),
    ] {
        refused(&ask(kind, body), 400, "M_INVALID_PARAM");
    }
    done(ask("m.read", json!({ "thread_id": "main" })));
    let nowhere = receipt(&alice, &room, ("m.read", "$nothing"), json!({}));
    refused(&nowhere, 404, "M_NOT_FOUND");
    let outside = receipt(&bob, &room, ("m.read", &event), json!({}));
    refused(&outside, 403, "M_FORBIDDEN");
}

#[test]
fn read_markers_move_everything_at_once() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let event = last_event(&alice, &room);
    let start = (sync(&alice, None), sync(&bob, None));
    let path = format!("{CLIENT}/rooms/{room}/read_markers");
    let markers = json!({ "m.fully_read": event, "m.read": event, "m.read.private": event });
    done(bob.post(&path, markers));
    let own = sync(&bob, Some(next(&start.1)));
    let data = &own["rooms"]["join"][&room]["account_data"]["events"];
    assert_eq!(*content(data, "m.fully_read"), json!({ "event_id": event }));
    let others = sync(&alice, Some(next(&start.0)));
    let joined = &others["rooms"]["join"][&room];
    assert_eq!(joined["account_data"], Value::Null);
    assert!(beside(&others, &room, "m.receipt")[&event]["m.read"].is_object());
    done(receipt(&alice, &room, ("m.fully_read", &event), json!({})));
    let path = format!(
        "{CLIENT}/user/{}/rooms/{room}/account_data/m.fully_read",
        alice.user_id
    );
    assert_eq!(done(alice.get(&path)), json!({ "event_id": event }));
}

#[test]
fn presence_is_for_those_who_share_a_room() {
    let home = Home::new();
    let people = ["alice", "bob", "carol"].map(|name| home.register(name));
    let [alice, bob, carol] = &people;
    room_of(&[alice, bob]);
    let body = json!({ "presence": "unavailable", "status_msg": "asleep" });
    done(bob.put(&status_of(bob), body.clone()));
    home.clock.advance(Duration::from_secs(7));
    let expected = json!({
        "presence": "unavailable",
        "status_msg": "asleep",
        "last_active_ago": 7000,
        "currently_active": false,
    });
    assert_eq!(done(alice.get(&status_of(bob))), expected);
    let told = sync_with(alice, &[("set_presence", "offline")]);
    let told = told["presence"]["events"].as_array().expect("presence");
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&told[0]["sender"], &told[0]["content"]),
        (&json!(bob.user_id), &expected)
    );
    refused(&carol.get(&status_of(bob)), 403, "M_FORBIDDEN");
    let nobody = format!("{CLIENT}/presence/@nobody:localhost/status");
    refused(&alice.get(&nobody), 403, "M_FORBIDDEN");
    refused(&alice.put(&status_of(bob), body), 403, "M_FORBIDDEN");
    let wrong = json!({ "presence": "elsewhere" });
    refused(&bob.put(&status_of(bob), wrong), 400, "M_INVALID_PARAM");
    let quiet = sync_with(carol, &[("set_presence", "offline")]);
    assert_eq!(quiet["presence"], Value::Null);
}

#[test]
fn a_sync_makes_online_and_silence_offline() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    room_of(&[&alice, &bob]);
    assert_eq!(
        done(alice.get(&status_of(&bob))),
        json!({ "presence": "offline" })
    );
    sync(&bob, None);
    let online = done(alice.get(&status_of(&bob)));
    assert_eq!(
        (&online["presence"], &online["currently_active"]),
        (&json!("online"), &json!(true))
    );
    home.clock.advance(Duration::from_secs(3600));
    let silent = done(alice.get(&status_of(&bob)));
    assert_eq!(silent["presence"], "offline");
}

#[test]
fn presence_that_the_filter_does_not_want_is_not_told() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    make_room(&alice, json!({}));
    room_of(&[&alice, &bob]);
    sync(&bob, None);
    for filter in [
        json!({ "presence": { "not_types": ["m.*"] } }),
        json!({ "presence": { "not_senders": [bob.user_id, alice.user_id] } }),
        json!({ "presence": { "senders": ["@nobody:localhost"] } }),
    ] {
        let answer = sync_with(&alice, &[("filter", &filter.to_string())]);
        assert_eq!(answer["presence"], Value::Null, "{filter}");
    }
}
