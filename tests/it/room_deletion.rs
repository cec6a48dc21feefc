//! Rooms that the owner of the server deletes (`hearth room delete`). Unit tests cover what is left of them.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, event_types, join, joined_rooms,
        message_bodies, next_batch, percent_encode, room_path, send_event, send_text, sync,
        sync_with,
    },
    media::{get, stored_files, upload},
    media_deletion::mxc_uri,
    sliding_sync::{pos, rooms, sliding, window},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

/// Deletes the room, and waits until that is done.
pub fn delete_room(server: &TestServer, room: &str) {
    let request = json!({ "room": room, "block": false });
    expect_ok(server.administer("room/delete", &request));
    wait_until_deleted(server, room);
}

pub fn wait_until_deleted(server: &TestServer, room: &str) {
    let mut attempts = 0;
    while expect_ok(server.administer("room/deletion", &json!({ "room_id": room })))["phase"]
        != "done"
    {
        attempts += 1;
        assert!(attempts < 10_000, "the deletion never ends");
        // The server works meanwhile.
        expect_ok(server.get("/_matrix/client/versions"));
    }
}

/// The leave of `user` in a list of events, which has no other.
#[track_caller]
fn assert_is_leave(events: &Value, user: &TestUser<'_>) {
    assert_eq!(event_types(events), ["m.room.member"], "{events}");
    let leave = &events[0];
    assert_eq!(leave["content"]["membership"], "leave");
    assert_eq!(leave["state_key"], user.user_id);
    assert!(leave["event_id"].is_string(), "{leave}");
}

#[test]
fn clients_learn_from_their_next_sync_that_they_have_left_a_deleted_room_and_never_see_it_again() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let carol = server.register("carol");
    let kept = create_room_with(&[&alice, &bob]);
    let room = create_room(
        &alice,
        json!({ "preset": "public_chat", "room_alias_name": "pub", "visibility": "public" }),
    );
    join(&bob, &room);
    expect_ok(change_membership(
        &alice,
        &room,
        "invite",
        json!({ "user_id": carol.user_id }),
    ));
    let event = send_text(&alice, &room, "hello");
    let [of_alice, of_bob, of_carol] = [&alice, &bob, &carol].map(|user| sync(user, None));
    let sliding_before = sliding(&bob, None, window(0, 9));
    assert_eq!(rooms(&sliding_before).len(), 2);
    let message = room_path(&room, "send/m.room.message/t1");
    let body = json!({ "msgtype": "m.text", "body": "once" });
    expect_ok(bob.put(&message, body.clone()));

    delete_room(&server, &room);

    for (user, before) in [(&alice, of_alice), (&bob, of_bob), (&carol, of_carol)] {
        let response = sync(user, Some(next_batch(&before)));
        let in_rooms = &response["rooms"];
        assert_is_leave(&in_rooms["leave"][&room]["timeline"]["events"], user);
        for section in ["join", "invite"] {
            assert!(in_rooms[section][&room].is_null(), "{response}");
        }
        let after = sync(user, Some(next_batch(&response)));
        assert!(after["rooms"]["leave"].is_null(), "{after}");
        let with_left = r#"{"room":{"include_leave":true}}"#;
        let initial = sync_with(user, &[("filter", with_left)]);
        assert!(!initial.to_string().contains(&room), "{initial}");
    }
    let response = sliding(&bob, Some(pos(&sliding_before)), window(0, 9));
    assert_is_leave(&response["rooms"][&room]["timeline"], &bob);
    assert_eq!(response["rooms"][&room]["membership"], "leave");
    let after = sliding(&bob, Some(pos(&response)), window(0, 9));
    assert!(!rooms(&after).contains(&room.as_str()), "{after}");
    let initial = sliding(&bob, None, window(0, 9));
    assert_eq!(rooms(&initial), [&kept]);

    let listed = expect_ok(server.administer("room/list", &json!({})));
    assert_eq!(listed["total"], 1);
    expect_error(
        &server.administer("room/show", &json!({ "room": room })),
        404,
        "M_NOT_FOUND",
    );
    expect_error(
        &bob.get("/_matrix/client/v3/directory/room/%23pub:localhost"),
        404,
        "M_NOT_FOUND",
    );
    let public = expect_ok(server.get("/_matrix/client/v3/publicRooms"));
    assert_eq!(public["chunk"], json!([]));
    // The same request as before the deletion.
    let (status, _) = bob.put(&message, body);
    assert!([403, 404].contains(&status), "{status}");
    for tail in [
        "messages?dir=b",
        "state",
        "members",
        &format!("event/{event}"),
        &format!("context/{event}"),
    ] {
        let (status, response) = bob.get(&room_path(&room, tail));
        assert!([403, 404].contains(&status), "{tail}: {status} {response}");
    }
    let path = format!("/_matrix/client/v3/join/{}", percent_encode(&room));
    expect_error(&bob.post(&path, json!({})), 404, "M_NOT_FOUND");
    assert_eq!(joined_rooms(&bob).len(), 1);
}

#[test]
fn nobody_enters_a_deleted_room_that_is_blocked() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let request = json!({ "room": room, "block": true });
    expect_ok(server.administer("room/delete", &request));
    wait_until_deleted(&server, &room);
    let path = format!(
        "/_matrix/client/v3/join/{}?via=elsewhere.example",
        percent_encode(&room)
    );
    expect_error(&alice.post(&path, json!({})), 403, "M_FORBIDDEN");
    let blocked = expect_ok(server.administer("room/blocked", &json!({})));
    assert_eq!(blocked["rooms"][0]["room_id"], room);
}

#[test]
fn media_that_only_a_deleted_room_refers_to_are_deleted() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (room, other) = (
        create_room(&alice, json!({})),
        create_room(&alice, json!({})),
    );
    let [only, shared] = [1, 2].map(|byte| upload(&server, &alice, "image/png", &[byte; 100]));
    for (room, path) in [(&room, &only), (&room, &shared), (&other, &shared)] {
        let content = json!({ "msgtype": "m.image", "body": "", "url": mxc_uri(path) });
        send_event(&alice, room, "m.room.message", content);
    }
    delete_room(&server, &room);
    assert_eq!(get(&server, &alice, &only, &[]).status(), 404);
    assert_eq!(get(&server, &alice, &shared, &[]).status(), 200);
    server.wait_until(async || stored_files(&server) == 1);
}

#[test]
fn the_history_of_other_rooms_is_read_after_a_deletion_and_a_restart() {
    let mut server = TestServer::new();
    let (room, other, token) = {
        let alice = server.register("alice");
        let (other, room) = (
            create_room(&alice, json!({})),
            create_room(&alice, json!({})),
        );
        send_text(&alice, &other, "before");
        send_text(&alice, &room, "deleted");
        (room, other, alice.token)
    };
    delete_room(&server, &room);
    server.restart();
    let alice = server.user_with_token(&token);
    send_text(&alice, &other, "after");
    let path = room_path(&other, "messages?dir=b&limit=2");
    let (_, messages) = server.run(server.send(Method::GET, &path, Some(&token), &Value::Null));
    assert_eq!(message_bodies(&messages["chunk"]), ["after", "before"]);
}
