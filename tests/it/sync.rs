//! `/sync` as clients see it.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, refused},
    rooms::{join, make_room, next, sync, types},
};

const SYNC: &str = "/_matrix/client/v3/sync";

#[test]
fn a_new_room_comes_with_its_events_and_then_with_what_is_new() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = make_room(
        &alice,
        json!({ "preset": "public_chat", "name": "Kitchen" }),
    );
    let first = sync(&alice, None);
    let joined = &first["rooms"]["join"][&room];
    let timeline = types(&joined["timeline"]["events"]);
    assert!(
        timeline.contains(&"m.room.create") && timeline.contains(&"m.room.name"),
        "{first}"
    );
    assert_eq!(joined["summary"]["m.joined_member_count"], 1);
    assert_eq!(joined["timeline"]["events"][0]["sender"], alice.user_id);
    let nothing = sync(&alice, Some(next(&first)));
    assert_eq!(nothing["rooms"], json!({}));
    join(&bob, &room);
    let second = sync(&alice, Some(next(&nothing)));
    let joined = &second["rooms"]["join"][&room];
    assert_eq!(types(&joined["timeline"]["events"]), ["m.room.member"]);
    assert_eq!(joined["timeline"]["limited"], Value::Null);
    assert_eq!(joined["summary"]["m.joined_member_count"], 2);
    assert_eq!(
        joined["timeline"]["events"][0]["unsigned"]["membership"],
        "join"
    );
}

#[test]
fn an_invitation_shows_what_room_it_is_and_turns_into_the_room() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let before = sync(&bob, None);
    let asked = json!({ "preset": "private_chat", "name": "Kitchen", "invite": [bob.user_id] });
    let room = make_room(&alice, asked);
    let invited = sync(&bob, Some(next(&before)));
    let state = &invited["rooms"]["invite"][&room]["invite_state"]["events"];
    for kind in [
        "m.room.create",
        "m.room.name",
        "m.room.join_rules",
        "m.room.member",
    ] {
        assert!(types(state).contains(&kind), "{kind} is missing: {state}");
    }
    assert_eq!(invited["rooms"]["join"], Value::Null);
    join(&bob, &room);
    let joined = sync(&bob, Some(next(&invited)));
    let joined = &joined["rooms"]["join"][&room];
    let told = [
        types(&joined["state"]["events"]),
        types(&joined["timeline"]["events"]),
    ]
    .concat();
    assert!(
        told.contains(&"m.room.create") && told.contains(&"m.room.name"),
        "{joined}"
    );
}

#[test]
fn who_declines_an_invitation_learns_nothing_more_of_the_room() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let asked = json!({ "preset": "private_chat", "topic": "secret", "invite": [bob.user_id] });
    let room = make_room(&alice, asked);
    let invited = sync(&bob, None);
    bob.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), json!({}));
    let declined = sync(&bob, Some(next(&invited)));
    let left = &declined["rooms"]["leave"][&room];
    assert_eq!(types(&left["timeline"]["events"]), ["m.room.member"]);
    // Empty, but there: matrix-nio takes no room that was left without it.
    assert_eq!(left["state"], json!({ "events": [] }));
}

#[test]
fn a_token_from_before_a_restart_goes_on_where_it_ended() {
    let mut home = Home::new();
    let (token, room, since, alice_token) = {
        let (alice, bob) = (home.register("alice"), home.register("bob"));
        let room = make_room(&alice, json!({ "preset": "public_chat" }));
        let since = next(&sync(&alice, None)).to_owned();
        (bob.token.clone(), room, since, alice.token.clone())
    };
    home.restart();
    let path = format!("/_matrix/client/v3/rooms/{room}/join");
    let nothing = json!({});
    let join = home.send(Method::POST, &path, Some(&token), &nothing);
    assert_eq!(home.run(join).0, 200);
    let path = format!("{SYNC}?since={since}");
    let (status, answer) =
        home.run(home.send(Method::GET, &path, Some(&alice_token), &Value::Null));
    assert_eq!(status, 200);
    let timeline = &answer["rooms"]["join"][&room]["timeline"];
    assert_eq!(types(&timeline["events"]), ["m.room.member"]);
}

#[test]
fn a_waiting_sync_is_woken_by_what_happens() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = make_room(&alice, json!({ "preset": "public_chat" }));
    let since = next(&sync(&alice, None)).to_owned();
    let path = format!("{SYNC}?since={since}&timeout=100000");
    let waiting = home.send(Method::GET, &path, Some(&alice.token), &Value::Null);
    let path = format!("/_matrix/client/v3/rooms/{room}/join");
    let body = json!({});
    let happening = async {
        home.clock.advance(Duration::from_secs(10));
        home.send(Method::POST, &path, Some(&bob.token), &body)
            .await
    };
    let started = std::time::Instant::now();
    let ((status, answer), (joined, _)) = home.run(smol::future::zip(waiting, happening));
    assert_eq!((status, joined), (200, 200));
    let timeline = &answer["rooms"]["join"][&room]["timeline"];
    assert_eq!(types(&timeline["events"]), ["m.room.member"]);
    assert_eq!(timeline["events"][0]["unsigned"]["age"], 0);
    assert!(
        started.elapsed().as_secs() < 50,
        "it did not wait for its time to be up"
    );
}

#[test]
fn a_token_that_is_none_is_refused() {
    let home = Home::new();
    let alice = home.register("alice");
    for since in ["", "nonsense", "s1_1", "p1_5"] {
        refused(
            &alice.get(&format!("{SYNC}?since={since}")),
            400,
            "M_INVALID_PARAM",
        );
    }
}

#[test]
fn the_state_after_the_timeline_comes_under_the_name_that_was_asked_for() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = make_room(&alice, json!({ "name": "Kitchen" }));
    for (parameter, field) in [
        ("use_state_after", "state_after"),
        (
            "org.matrix.msc4222.use_state_after",
            "org.matrix.msc4222.state_after",
        ),
    ] {
        let (status, answer) = alice.get(&format!("{SYNC}?{parameter}=true"));
        assert_eq!(status, 200);
        let joined = &answer["rooms"]["join"][&room];
        assert!(
            types(&joined[field]["events"]).contains(&"m.room.name"),
            "{answer}"
        );
        assert_eq!(joined["state"], Value::Null);
    }
}

#[test]
fn lazily_loaded_the_state_after_the_timeline_has_the_members_who_changed_in_it() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = make_room(&alice, json!({ "invite": [bob.user_id] }));
    let filter = "filter=%7B%22room%22:%7B%22state%22:%7B%22lazy_load_members%22:true%7D%7D%7D";
    let (_, answer) = alice.get(&format!("{SYNC}?use_state_after=true&{filter}"));
    let state = answer["rooms"]["join"][&room]["state_after"]["events"].clone();
    let of_bob = |event: &&Value| event["state_key"] == bob.user_id.as_str();
    let members: Vec<_> = state
        .as_array()
        .into_iter()
        .flatten()
        .filter(of_bob)
        .collect();
    assert_eq!(members.len(), 1, "{answer}");
}

#[test]
fn a_sync_ends_at_once_when_its_device_is_logged_out() {
    let home = Home::new();
    let phone = home.register("alice");
    let ways = [
        (Method::POST, "/logout", "itself"),
        (Method::DELETE, "/devices/{deviceId}", "another"),
        (Method::POST, "/logout/all", "another"),
    ];
    for (method, path, by) in ways {
        let laptop = home.log_in("alice");
        let path = path.replace("{deviceId}", &laptop.device_id);
        let path = format!("/_matrix/client/v3{path}");
        let mut body = json!({});
        if method == Method::DELETE {
            let (_, asked) = phone.delete(&path, json!({}));
            body["auth"] = phone.password_stage(&asked["session"]);
        }
        let by = if by == "itself" { &laptop } else { &phone };
        let since = next(&sync(&laptop, None)).to_owned();
        let sync = format!("{SYNC}?since={since}&timeout=100000");
        let waiting = home.send(Method::GET, &sync, Some(&laptop.token), &Value::Null);
        let logging_out = home.send(method, &path, Some(&by.token), &body);
        let started = std::time::Instant::now();
        let (answer, (out, _)) = home.run(smol::future::zip(waiting, logging_out));
        assert_eq!(out, 200, "{path}");
        refused(&answer, 401, "M_UNKNOWN_TOKEN");
        assert!(
            started.elapsed().as_secs() < 50,
            "{path}: it did not wait for its time to be up"
        );
    }
}
