//! `/sync`: rooms, invites, tokens and waiting.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, event_types, join, next_batch, sync},
    test_server::{TestServer, expect_error},
};

const SYNC: &str = "/_matrix/client/v3/sync";

#[test]
fn initial_sync_returns_the_room_and_incremental_sync_only_new_events() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(
        &alice,
        json!({ "preset": "public_chat", "name": "Kitchen" }),
    );
    let initial = sync(&alice, None);
    let joined = &initial["rooms"]["join"][&room];
    let timeline = event_types(&joined["timeline"]["events"]);
    assert!(
        timeline.contains(&"m.room.create") && timeline.contains(&"m.room.name"),
        "{initial}"
    );
    assert_eq!(joined["summary"]["m.joined_member_count"], 1);
    assert_eq!(joined["timeline"]["events"][0]["sender"], alice.user_id);
    let unchanged = sync(&alice, Some(next_batch(&initial)));
    assert_eq!(unchanged["rooms"], json!({}));
    join(&bob, &room);
    let incremental = sync(&alice, Some(next_batch(&unchanged)));
    let joined = &incremental["rooms"]["join"][&room];
    assert_eq!(
        event_types(&joined["timeline"]["events"]),
        ["m.room.member"]
    );
    assert_eq!(joined["timeline"]["limited"], false);
    assert_eq!(joined["summary"]["m.joined_member_count"], 2);
    assert_eq!(
        joined["timeline"]["events"][0]["unsigned"]["membership"],
        "join"
    );
}

#[test]
fn invite_has_stripped_state_and_join_returns_the_full_state() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let before = sync(&bob, None);
    let body = json!({ "preset": "private_chat", "name": "Kitchen", "invite": [bob.user_id] });
    let room = create_room(&alice, body);
    let invited = sync(&bob, Some(next_batch(&before)));
    let state = &invited["rooms"]["invite"][&room]["invite_state"]["events"];
    for kind in [
        "m.room.create",
        "m.room.name",
        "m.room.join_rules",
        "m.room.member",
    ] {
        assert!(
            event_types(state).contains(&kind),
            "{kind} is missing: {state}"
        );
    }
    assert_eq!(invited["rooms"]["join"], Value::Null);
    join(&bob, &room);
    let joined = sync(&bob, Some(next_batch(&invited)));
    let joined = &joined["rooms"]["join"][&room];
    let types = [
        event_types(&joined["state"]["events"]),
        event_types(&joined["timeline"]["events"]),
    ]
    .concat();
    assert!(
        types.contains(&"m.room.create") && types.contains(&"m.room.name"),
        "{joined}"
    );
}

#[test]
fn declined_invite_reveals_no_room_state() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let body = json!({ "preset": "private_chat", "topic": "secret", "invite": [bob.user_id] });
    let room = create_room(&alice, body);
    let invited = sync(&bob, None);
    bob.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), json!({}));
    let declined = sync(&bob, Some(next_batch(&invited)));
    let left = &declined["rooms"]["leave"][&room];
    assert_eq!(event_types(&left["timeline"]["events"]), ["m.room.member"]);
    // matrix-nio ignores a left room without `state`, so that an empty one is sent.
    assert_eq!(left["state"], json!({ "events": [] }));
}

#[test]
fn sync_token_stays_valid_after_restart() {
    let mut server = TestServer::new();
    let (token, room, since, alice_token) = {
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let room = create_room(&alice, json!({ "preset": "public_chat" }));
        let since = next_batch(&sync(&alice, None)).to_owned();
        (bob.token.clone(), room, since, alice.token.clone())
    };
    server.restart();
    let path = format!("/_matrix/client/v3/rooms/{room}/join");
    let nothing = json!({});
    let join = server.send(Method::POST, &path, Some(&token), &nothing);
    assert_eq!(server.run(join).0, 200);
    let path = format!("{SYNC}?since={since}");
    let (status, response) =
        server.run(server.send(Method::GET, &path, Some(&alice_token), &Value::Null));
    assert_eq!(status, 200);
    let timeline = &response["rooms"]["join"][&room]["timeline"];
    assert_eq!(event_types(&timeline["events"]), ["m.room.member"]);
}

#[test]
fn new_event_wakes_a_waiting_sync() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let since = next_batch(&sync(&alice, None)).to_owned();
    let path = format!("{SYNC}?since={since}&timeout=100000");
    let waiting = server.send(Method::GET, &path, Some(&alice.token), &Value::Null);
    let path = format!("/_matrix/client/v3/rooms/{room}/join");
    let body = json!({});
    let join = async {
        server.clock.advance(Duration::from_secs(10));
        server
            .send(Method::POST, &path, Some(&bob.token), &body)
            .await
    };
    let started = std::time::Instant::now();
    let ((status, response), (joined, _)) = server.run(smol::future::zip(waiting, join));
    assert_eq!((status, joined), (200, 200));
    let timeline = &response["rooms"]["join"][&room]["timeline"];
    assert_eq!(event_types(&timeline["events"]), ["m.room.member"]);
    assert_eq!(timeline["events"][0]["unsigned"]["age"], 0);
    assert!(
        started.elapsed().as_secs() < 50,
        "it waited for the timeout"
    );
}

#[test]
fn malformed_sync_token_is_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for since in ["nonsense", "s1_1", "p1_5"] {
        expect_error(
            &alice.get(&format!("{SYNC}?since={since}")),
            400,
            "M_INVALID_PARAM",
        );
    }
}

#[test]
fn state_after_is_returned_under_its_stable_or_unstable_name() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({ "name": "Kitchen" }));
    for (parameter, field) in [
        ("use_state_after", "state_after"),
        (
            "org.matrix.msc4222.use_state_after",
            "org.matrix.msc4222.state_after",
        ),
    ] {
        let (status, response) = alice.get(&format!("{SYNC}?{parameter}=true"));
        assert_eq!(status, 200);
        let joined = &response["rooms"]["join"][&room];
        assert!(
            event_types(&joined[field]["events"]).contains(&"m.room.name"),
            "{response}"
        );
        assert_eq!(joined["state"], Value::Null);
    }
}

#[test]
fn lazy_loaded_state_after_includes_members_changed_in_the_timeline() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({ "invite": [bob.user_id] }));
    let filter = "filter=%7B%22room%22:%7B%22state%22:%7B%22lazy_load_members%22:true%7D%7D%7D";
    let (_, response) = alice.get(&format!("{SYNC}?use_state_after=true&{filter}"));
    let state = response["rooms"]["join"][&room]["state_after"]["events"].clone();
    let of_bob = |event: &&Value| event["state_key"] == bob.user_id.as_str();
    let members: Vec<_> = state
        .as_array()
        .into_iter()
        .flatten()
        .filter(of_bob)
        .collect();
    assert_eq!(members.len(), 1, "{response}");
}

#[test]
fn logout_ends_a_waiting_sync_at_once() {
    enum Device {
        Own,
        Other,
    }
    let server = TestServer::new();
    let phone = server.register("alice");
    let cases = [
        (Method::POST, "/logout", Device::Own),
        (Method::DELETE, "/devices/{deviceId}", Device::Other),
        (Method::POST, "/logout/all", Device::Other),
    ];
    for (method, path, by) in cases {
        let laptop = server.log_in("alice");
        let path = path.replace("{deviceId}", &laptop.device_id);
        let path = format!("/_matrix/client/v3{path}");
        let mut body = json!({});
        if method == Method::DELETE {
            let (_, challenge) = phone.delete(&path, json!({}));
            body["auth"] = phone.password_auth(&challenge["session"]);
        }
        let by = match by {
            Device::Own => &laptop,
            Device::Other => &phone,
        };
        let since = next_batch(&sync(&laptop, None)).to_owned();
        let sync = format!("{SYNC}?since={since}&timeout=100000");
        let waiting = server.send(Method::GET, &sync, Some(&laptop.token), &Value::Null);
        let logging_out = server.send(method, &path, Some(&by.token), &body);
        let started = std::time::Instant::now();
        let (response, (logged_out, _)) = server.run(smol::future::zip(waiting, logging_out));
        assert_eq!(logged_out, 200, "{path}");
        expect_error(&response, 401, "M_UNKNOWN_TOKEN");
        assert!(
            started.elapsed().as_secs() < 50,
            "{path}: it waited for the timeout"
        );
    }
}
