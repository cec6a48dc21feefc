//! What is unread, as syncs tell it.

use serde_json::{Value, json};

use crate::{
    home::{Home, Person},
    rooms::{done, join, leave, next, receipt, reply, room_of, say, send, sync, sync_with},
};

const BY_THREAD: &str = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;

/// How many events are unread, and how many of them highlighted.
fn unread(who: &Person<'_>, room: &str) -> (u64, u64) {
    counts(&sync(who, None)["rooms"]["join"][room]["unread_notifications"])
}

fn counts(told: &Value) -> (u64, u64) {
    let count = |name: &str| told[name].as_u64().expect("a count");
    (count("notification_count"), count("highlight_count"))
}

#[test]
fn what_others_say_is_unread_until_a_receipt_or_an_answer() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    assert_eq!(unread(&bob, &room), (0, 0));
    let first = say(&alice, &room, "one");
    say(&alice, &room, "two");
    let mention = json!({
        "msgtype": "m.text", "body": "three", "m.mentions": { "user_ids": [bob.user_id] },
    });
    send(&alice, &room, "m.room.message", mention);
    assert_eq!(unread(&bob, &room), (3, 1));
    assert_eq!(unread(&alice, &room), (0, 0));
    done(receipt(&bob, &room, ("m.read", &first), json!({})));
    assert_eq!(unread(&bob, &room), (2, 1));
    say(&bob, &room, "four");
    assert_eq!(unread(&bob, &room), (0, 0));
    assert_eq!(unread(&alice, &room), (1, 0));
}

#[test]
fn the_count_comes_with_the_event_and_with_the_receipt_of_another_device() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let laptop = home.log_in("bob");
    let room = room_of(&[&alice, &bob]);
    let start = sync(&bob, None);
    let event = say(&alice, &room, "hello");
    let told = sync(&bob, Some(next(&start)));
    let joined = &told["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["events"][0]["event_id"], *event);
    assert_eq!(counts(&joined["unread_notifications"]), (1, 0));
    // Even a client that wants no receipts learns that less is unread.
    let filter = r#"{"room":{"ephemeral":{"not_types":["*"]}}}"#;
    done(receipt(
        &laptop,
        &room,
        ("m.read.private", &event),
        json!({}),
    ));
    let read = sync_with(&bob, &[("since", next(&told)), ("filter", filter)]);
    let joined = &read["rooms"]["join"][&room];
    assert_eq!(counts(&joined["unread_notifications"]), (0, 0));
    assert_eq!(joined["ephemeral"], Value::Null);
}

#[test]
fn threads_are_counted_apart_for_clients_that_want_it() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let root = say(&alice, &room, "root");
    let first = reply(&alice, &room, &root, "a");
    reply(&alice, &room, &root, "b");
    assert_eq!(unread(&bob, &room), (3, 0));
    let by_thread = || {
        let answer = sync_with(&bob, &[("filter", BY_THREAD)]);
        let joined = &answer["rooms"]["join"][&room];
        let threads = &joined["unread_thread_notifications"];
        let in_thread = threads[&root].is_object().then(|| counts(&threads[&root]));
        (counts(&joined["unread_notifications"]), in_thread)
    };
    assert_eq!(by_thread(), ((1, 0), Some((2, 0))));
    let main = json!({ "thread_id": "main" });
    done(receipt(&bob, &room, ("m.read", &root), main));
    assert_eq!(by_thread(), ((0, 0), Some((2, 0))));
    let thread = json!({ "thread_id": root });
    done(receipt(&bob, &room, ("m.read", &first), thread));
    assert_eq!(by_thread(), ((0, 0), Some((1, 0))));
    let last = say(&alice, &room, "main again");
    assert_eq!(by_thread(), ((1, 0), Some((1, 0))));
    done(receipt(&bob, &room, ("m.read", &last), json!({})));
    assert_eq!(by_thread(), ((0, 0), None));
}

#[test]
fn a_receipt_names_the_thread_that_its_event_is_in() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let root = say(&alice, &room, "root");
    let answer = reply(&alice, &room, &root, "a");
    let ask = |event: &str, thread: &str| {
        receipt(
            &bob,
            &room,
            ("m.read", event),
            json!({ "thread_id": thread }),
        )
        .0
    };
    assert_eq!(ask(&answer, &root), 200);
    assert_eq!(ask(&root, "main"), 200);
    assert_eq!(ask(&root, &root), 200);
    assert_eq!(ask(&answer, "main"), 400);
    assert_eq!(
        ask(&answer, &answer),
        200,
        "as the root of a thread to come"
    );
    let other = say(&alice, &room, "other");
    assert_eq!(ask(&other, &root), 400);
    let told = sync(&alice, None);
    let ephemeral = &told["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"];
    assert_eq!(
        ephemeral[&root]["m.read"][&bob.user_id]["thread_id"], "main",
        "{ephemeral}"
    );
}

#[test]
fn what_happened_before_one_came_or_while_away_is_not_unread() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice]);
    say(&alice, &room, "before");
    join(&bob, &room);
    assert_eq!(unread(&bob, &room), (0, 0));
    say(&alice, &room, "here");
    assert_eq!(unread(&bob, &room), (1, 0));
    // A new name is no look at the room.
    let path = format!("/_matrix/client/v3/profile/{}/displayname", bob.user_id);
    done(bob.put(&path, json!({ "displayname": "Bobby" })));
    assert_eq!(unread(&bob, &room), (1, 0));
    leave(&bob, &room);
    say(&alice, &room, "away");
    join(&bob, &room);
    assert_eq!(unread(&bob, &room), (0, 0));
}

#[test]
fn own_push_rules_decide_what_is_unread_from_then_on() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    say(&alice, &room, "heard");
    let mute = format!(
        "/_matrix/client/v3/pushrules/global/room/{}",
        crate::rooms::escaped(&room)
    );
    done(bob.put(&mute, json!({ "actions": [] })));
    say(&alice, &room, "not heard");
    let cake = "/_matrix/client/v3/pushrules/global/content/cake";
    let highlight = json!({ "set_tweak": "highlight" });
    done(bob.put(
        cake,
        json!({ "pattern": "cake", "actions": ["notify", highlight] }),
    ));
    say(&alice, &room, "there is Cake");
    assert_eq!(unread(&bob, &room), (2, 1));
}
