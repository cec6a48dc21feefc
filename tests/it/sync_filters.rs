//! What a sync leaves out because the client does not want it.

use serde_json::{Value, json};

use crate::{
    home::{Home, Person},
    rooms::{
        bodies, content, done, join, last_event, leave, make_room, next, receipt, room_of, say,
        send, sync, sync_with, types,
    },
};

const CLIENT: &str = "/_matrix/client/v3";

fn filtered(who: &Person<'_>, filter: &Value) -> Value {
    sync_with(who, &[("filter", &filter.to_string())])
}

#[test]
fn a_filter_that_is_stored_is_the_same_as_one_that_is_sent() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = make_room(&alice, json!({}));
    say(&alice, &room, "hello");
    let filter = json!({ "room": { "timeline": { "types": ["m.room.message"] } } });
    let stored = format!("{CLIENT}/user/{}/filter", alice.user_id);
    let id = done(alice.post(&stored, filter.clone()));
    let id = id["filter_id"].as_str().expect("an id");
    let by_id = sync_with(&alice, &[("filter", id)]);
    for answer in [by_id, filtered(&alice, &filter)] {
        let timeline = &answer["rooms"]["join"][&room]["timeline"]["events"];
        assert_eq!(types(timeline), ["m.room.message"]);
    }
    let (status, _) = alice.get(&format!("{CLIENT}/sync?filter=999"));
    assert_eq!(status, 404);
}

#[test]
fn rooms_can_be_chosen_and_left_out() {
    let home = Home::new();
    let alice = home.register("alice");
    let [one, other] = ["one", "other"].map(|name| make_room(&alice, json!({ "name": name })));
    let told = |filter: Value| -> Vec<String> {
        let answer = filtered(&alice, &json!({ "room": filter }));
        let rooms = answer["rooms"]["join"].as_object().cloned();
        rooms
            .unwrap_or_default()
            .into_iter()
            .map(|(id, _)| id)
            .collect()
    };
    assert_eq!(told(json!({ "rooms": [one] })), [one.as_str()]);
    assert_eq!(told(json!({ "not_rooms": [one] })), [other.as_str()]);
    assert!(told(json!({ "rooms": [one], "not_rooms": [one] })).is_empty());
    // The same for each kind of events.
    let answer = filtered(
        &alice,
        &json!({ "room": {
            "timeline": { "not_rooms": [one] }, "state": { "rooms": [other] },
        } }),
    );
    let room = &answer["rooms"]["join"][&one];
    assert_eq!(room["timeline"], Value::Null);
    assert_eq!(room["state"]["events"], json!([]));
}

#[test]
fn types_senders_and_urls_choose_events() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    say(&alice, &room, "from alice");
    say(&bob, &room, "from bob");
    send(&bob, &room, "org.example.a", json!({ "body": "a" }));
    send(&bob, &room, "org.example.b", json!({ "body": "b" }));
    let picture = json!({ "msgtype": "m.image", "body": "picture", "url": "mxc://x/y" });
    send(&bob, &room, "m.room.message", picture);
    let told = |filter: Value| -> Vec<String> {
        let answer = filtered(&alice, &json!({ "room": { "timeline": filter } }));
        let events = &answer["rooms"]["join"][&room]["timeline"]["events"];
        bodies(events).into_iter().map(ToOwned::to_owned).collect()
    };
    assert_eq!(told(json!({ "types": ["org.example.*"] })), ["a", "b"]);
    assert_eq!(
        told(json!({ "types": ["org.*"], "not_types": ["*.b"] })),
        ["a"]
    );
    assert_eq!(
        told(json!({ "types": ["m.room.message"] })),
        ["from alice", "from bob", "picture"]
    );
    assert!(told(json!({ "types": [] })).is_empty());
    assert_eq!(told(json!({ "senders": [alice.user_id] })), ["from alice"]);
    assert_eq!(
        told(json!({ "not_senders": [bob.user_id] })),
        ["from alice"]
    );
    assert_eq!(told(json!({ "contains_url": true })), ["picture"]);
    assert!(!told(json!({ "contains_url": false })).contains(&"picture".to_owned()));
    assert_eq!(told(json!({ "limit": 2 })), ["b", "picture"]);
}

#[test]
fn the_limit_counts_what_is_wanted_and_says_that_there_is_more() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = make_room(&alice, json!({}));
    for n in 0..4 {
        say(&alice, &room, &n.to_string());
        send(&alice, &room, "org.example.noise", json!({}));
    }
    let filter = |limit: u32| json!({ "room": { "timeline": { "limit": limit, "types": ["m.room.message"] } } });
    let answer = filtered(&alice, &filter(2));
    let timeline = &answer["rooms"]["join"][&room]["timeline"];
    assert_eq!(bodies(&timeline["events"]), ["2", "3"]);
    assert_eq!(timeline["limited"], true);
    let answer = filtered(&alice, &filter(0));
    let timeline = &answer["rooms"]["join"][&room]["timeline"];
    assert_eq!(
        (&timeline["events"], &timeline["limited"]),
        (&json!([]), &json!(true))
    );
    assert!(timeline["prev_batch"].is_string());
}

#[test]
fn events_have_the_fields_and_the_format_that_are_wanted() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = make_room(&alice, json!({}));
    say(&alice, &room, "hello");
    let last = |filter: Value| {
        let answer = filtered(&alice, &filter);
        let events = answer["rooms"]["join"][&room]["timeline"]["events"].clone();
        events
            .as_array()
            .and_then(|events| events.last().cloned())
            .expect("an event")
    };
    assert_eq!(
        last(json!({ "event_fields": ["type", "content.body"] })),
        json!({ "type": "m.room.message", "content": { "body": "hello" } })
    );
    let federation = last(json!({ "event_format": "federation" }));
    assert!(federation["prev_events"].is_array() && federation["signatures"].is_object());
    let client = last(json!({ "event_format": "client", "event_fields": [] }));
    assert_eq!(client["prev_events"], Value::Null);
    assert!(client["unsigned"]["age"].is_i64());
}

#[test]
fn rooms_that_were_left_come_if_they_are_wanted() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    say(&alice, &room, "before");
    leave(&bob, &room);
    say(&alice, &room, "after");
    assert_eq!(sync(&bob, None)["rooms"], json!({}));
    let answer = filtered(&bob, &json!({ "room": { "include_leave": true } }));
    let left = &answer["rooms"]["leave"][&room];
    assert_eq!(bodies(&left["timeline"]["events"]), ["before"]);
}

#[test]
fn account_data_typing_and_receipts_are_filtered_by_type_and_room() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let user = format!("{CLIENT}/user/{}", alice.user_id);
    for kind in ["org.example.a", "org.example.b"] {
        done(alice.put(&format!("{user}/account_data/{kind}"), json!({})));
        let path = format!("{user}/rooms/{room}/account_data/{kind}");
        done(alice.put(&path, json!({})));
    }
    let event = last_event(&bob, &room);
    done(receipt(&bob, &room, ("m.read", &event), json!({})));
    let typing = format!("{CLIENT}/rooms/{room}/typing/{}", bob.user_id);
    done(bob.put(&typing, json!({ "typing": true, "timeout": 30_000 })));
    let answer = filtered(
        &alice,
        &json!({
            "account_data": { "types": ["org.example.*"], "not_types": ["*.b"] },
            "room": {
                "account_data": { "not_types": ["org.example.a"] },
                "ephemeral": { "types": ["m.typing"] },
            },
        }),
    );
    assert_eq!(types(&answer["account_data"]["events"]), ["org.example.a"]);
    let joined = &answer["rooms"]["join"][&room];
    assert_eq!(types(&joined["account_data"]["events"]), ["org.example.b"]);
    assert_eq!(types(&joined["ephemeral"]["events"]), ["m.typing"]);
    let nowhere = json!({ "room": {
        "account_data": { "not_rooms": [room] }, "ephemeral": { "not_rooms": [room] },
    } });
    let answer = filtered(&alice, &nowhere);
    let joined = &answer["rooms"]["join"][&room];
    assert_eq!(joined["account_data"], Value::Null);
    assert_eq!(joined["ephemeral"], Value::Null);
}

#[test]
fn who_is_ignored_is_not_heard_but_keeps_their_place_in_the_state() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let start = sync(&alice, None);
    let path = format!(
        "{CLIENT}/user/{}/account_data/m.ignored_user_list",
        alice.user_id
    );
    let ignored = json!({ "ignored_users": { bob.user_id.clone(): {} } });
    done(alice.put(&path, ignored));
    say(&bob, &room, "spam");
    let member = format!("{CLIENT}/rooms/{room}/state/m.room.member/{}", bob.user_id);
    done(bob.put(&member, json!({ "membership": "join", "displayname": "B" })));
    make_room(&bob, json!({ "invite": [alice.user_id] }));
    let answer = sync(&alice, Some(next(&start)));
    let joined = &answer["rooms"]["join"][&room];
    assert_eq!(types(&joined["timeline"]["events"]), ["m.room.member"]);
    assert_eq!(answer["rooms"]["invite"], Value::Null);
    assert_eq!(joined["unread_notifications"]["notification_count"], 0);
}

#[test]
fn who_comes_into_a_room_hears_who_types_has_read_and_is_online_there() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice]);
    let event = last_event(&alice, &room);
    done(receipt(&alice, &room, ("m.read", &event), json!({})));
    let typing = format!("{CLIENT}/rooms/{room}/typing/{}", alice.user_id);
    done(alice.put(&typing, json!({ "typing": true, "timeout": 30_000 })));
    let start = (sync(&bob, None), sync(&alice, None));
    join(&bob, &room);
    let answer = sync(&bob, Some(next(&start.0)));
    let ephemeral = &answer["rooms"]["join"][&room]["ephemeral"]["events"];
    assert!(
        content(ephemeral, "m.receipt")[&event].is_object(),
        "{answer}"
    );
    assert_eq!(
        *content(ephemeral, "m.typing"),
        json!({ "user_ids": [alice.user_id] })
    );
    let senders = |answer: &Value| -> Vec<String> {
        let events = answer["presence"]["events"].as_array().cloned();
        let sender = |event: &Value| event["sender"].as_str().expect("a user").to_owned();
        events.unwrap_or_default().iter().map(sender).collect()
    };
    assert!(senders(&answer).contains(&alice.user_id), "{answer}");
    let other = sync(&alice, Some(next(&start.1)));
    assert!(senders(&other).contains(&bob.user_id), "{other}");
}
