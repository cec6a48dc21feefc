//! Notification counts of `/sync`.

use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room_with, join, leave, next_batch, percent_encode, room_path, send_event,
        send_in_thread, send_receipt, send_text, sync, sync_with,
    },
    media_deletion::redact,
    test_server::{TestServer, TestUser, expect_ok},
};

const BY_THREAD: &str = r#"{"room":{"timeline":{"unread_thread_notifications":true}}}"#;

/// `notification_count` and `highlight_count` of a room.
fn unread_counts(user: &TestUser<'_>, room: &str) -> (u64, u64) {
    counts(&sync(user, None)["rooms"]["join"][room]["unread_notifications"])
}

fn counts(response: &Value) -> (u64, u64) {
    let count = |name: &str| response[name].as_u64().expect("a count");
    (count("notification_count"), count("highlight_count"))
}

#[test]
fn messages_of_others_count_until_a_receipt_or_an_own_message() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    assert_eq!(unread_counts(&bob, &room), (0, 0));
    let first = send_text(&alice, &room, "one");
    send_text(&alice, &room, "two");
    let mention = json!({
        "msgtype": "m.text", "body": "three", "m.mentions": { "user_ids": [bob.user_id] },
    });
    send_event(&alice, &room, "m.room.message", mention);
    assert_eq!(unread_counts(&bob, &room), (3, 1));
    assert_eq!(unread_counts(&alice, &room), (0, 0));
    expect_ok(send_receipt(&bob, &room, ("m.read", &first), json!({})));
    assert_eq!(unread_counts(&bob, &room), (2, 1));
    send_text(&bob, &room, "four");
    assert_eq!(unread_counts(&bob, &room), (0, 0));
    assert_eq!(unread_counts(&alice, &room), (1, 0));
}

#[test]
fn counts_are_synced_with_new_events_and_with_receipts_of_other_devices() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let laptop = server.log_in("bob");
    let room = create_room_with(&[&alice, &bob]);
    let before = sync(&bob, None);
    let event = send_text(&alice, &room, "hello");
    let response = sync(&bob, Some(next_batch(&before)));
    let joined = &response["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["events"][0]["event_id"], *event);
    assert_eq!(counts(&joined["unread_notifications"]), (1, 0));
    // The count is also synced to a client whose filter excludes receipts.
    let filter = r#"{"room":{"ephemeral":{"not_types":["*"]}}}"#;
    expect_ok(send_receipt(
        &laptop,
        &room,
        ("m.read.private", &event),
        json!({}),
    ));
    let read = sync_with(
        &bob,
        &[("since", next_batch(&response)), ("filter", filter)],
    );
    let joined = &read["rooms"]["join"][&room];
    assert_eq!(counts(&joined["unread_notifications"]), (0, 0));
    assert_eq!(joined["ephemeral"], Value::Null);
}

#[test]
fn thread_notifications_are_counted_separately_if_requested() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let root = send_text(&alice, &room, "root");
    let first = send_in_thread(&alice, &room, &root, "a");
    send_in_thread(&alice, &room, &root, "b");
    assert_eq!(unread_counts(&bob, &room), (3, 0));
    let by_thread = || {
        let response = sync_with(&bob, &[("filter", BY_THREAD)]);
        let joined = &response["rooms"]["join"][&room];
        let threads = &joined["unread_thread_notifications"];
        let in_thread = threads[&root].is_object().then(|| counts(&threads[&root]));
        (counts(&joined["unread_notifications"]), in_thread)
    };
    assert_eq!(by_thread(), ((1, 0), Some((2, 0))));
    let main = json!({ "thread_id": "main" });
    expect_ok(send_receipt(&bob, &room, ("m.read", &root), main));
    assert_eq!(by_thread(), ((0, 0), Some((2, 0))));
    let thread = json!({ "thread_id": root });
    expect_ok(send_receipt(&bob, &room, ("m.read", &first), thread));
    assert_eq!(by_thread(), ((0, 0), Some((1, 0))));
    let last = send_text(&alice, &room, "main again");
    assert_eq!(by_thread(), ((1, 0), Some((1, 0))));
    expect_ok(send_receipt(&bob, &room, ("m.read", &last), json!({})));
    assert_eq!(by_thread(), ((0, 0), None));
}

#[test]
fn a_redacted_event_counts_no_more_in_its_room_and_thread() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let mention = |body: &str| json!({ "msgtype": "m.text", "body": body, "m.mentions": { "user_ids": [bob.user_id] } });
    let root = send_text(&alice, &room, "root");
    let first = send_event(&alice, &room, "m.room.message", mention("one"));
    let reply = send_in_thread(&alice, &room, &root, "a");
    send_in_thread(&alice, &room, &root, "b");
    let loud = json!({ "pattern": "cake", "actions": ["notify", { "set_tweak": "highlight" }] });
    expect_ok(bob.put("/_matrix/client/v3/pushrules/global/content/cake", loud));
    let cake = send_text(&alice, &room, "cake");
    let quiet = format!(
        "/_matrix/client/v3/pushrules/global/sender/{}",
        alice.user_id
    );
    expect_ok(bob.put(&quiet, json!({ "actions": [] })));
    let muted = send_text(&alice, &room, "muted");
    expect_ok(bob.delete(&quiet, json!({})));
    let last = send_text(&alice, &room, "last");

    let mut since = next_batch(&sync(&bob, None)).to_owned();
    let mut redacted = |event: &str| {
        redact(&alice, &room, event);
        let response = sync_with(&bob, &[("since", &since), ("filter", BY_THREAD)]);
        since = next_batch(&response).to_owned();
        let joined = &response["rooms"]["join"][&room];
        let threads = &joined["unread_thread_notifications"];
        let in_thread = threads[&root].is_object().then(|| counts(&threads[&root]));
        (
            counts(&joined["unread_notifications"]),
            in_thread,
            unread_counts(&bob, &room),
        )
    };
    assert_eq!(unread_counts(&bob, &room), (6, 2));
    assert_eq!(redacted(&first), ((3, 1), Some((2, 0)), (5, 1)));
    assert_eq!(redacted(&reply), ((3, 1), Some((1, 0)), (4, 1)));
    assert_eq!(redacted(&cake), ((2, 0), Some((1, 0)), (3, 0)));
    assert_eq!(redacted(&muted), ((2, 0), Some((1, 0)), (3, 0)));
    let again = room_path(&room, &format!("redact/{first}/2"));
    expect_ok(alice.put(&again, json!({})));
    assert_eq!(unread_counts(&bob, &room), (3, 0), "redacted twice");
    // What was read before or after it was redacted counts once.
    expect_ok(send_receipt(&bob, &room, ("m.read", &cake), json!({})));
    assert_eq!(unread_counts(&bob, &room), (1, 0));
    assert_eq!(redacted(&root), ((1, 0), None, (1, 0)));
    assert_eq!(redacted(&last), ((0, 0), None, (0, 0)));
}

#[test]
fn thread_id_of_a_receipt_must_match_its_event() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let root = send_text(&alice, &room, "root");
    let response = send_in_thread(&alice, &room, &root, "a");
    let receipt_status = |event: &str, thread: &str| {
        send_receipt(
            &bob,
            &room,
            ("m.read", event),
            json!({ "thread_id": thread }),
        )
        .0
    };
    assert_eq!(receipt_status(&response, &root), 200);
    assert_eq!(receipt_status(&root, "main"), 200);
    assert_eq!(receipt_status(&root, &root), 200);
    assert_eq!(receipt_status(&response, "main"), 400);
    assert_eq!(
        receipt_status(&response, &response),
        200,
        "the event may become the root of a thread"
    );
    let other = send_text(&alice, &room, "other");
    assert_eq!(receipt_status(&other, &root), 400);
    for target in [&root, &response] {
        let relation = json!({ "rel_type": "m.annotation", "event_id": target, "key": "+" });
        let content = json!({ "m.relates_to": relation });
        let reaction = send_event(&alice, &room, "m.reaction", content);
        assert_eq!(
            receipt_status(&reaction, &root),
            200,
            "a reaction is in the thread"
        );
    }
    let response = sync(&alice, None);
    let ephemeral = &response["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"];
    assert_eq!(
        ephemeral[&root]["m.read"][&bob.user_id]["thread_id"], "main",
        "{ephemeral}"
    );
}

#[test]
fn events_before_join_and_while_away_do_not_count() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    send_text(&alice, &room, "before");
    join(&bob, &room);
    assert_eq!(unread_counts(&bob, &room), (0, 0));
    send_text(&alice, &room, "here");
    assert_eq!(unread_counts(&bob, &room), (1, 0));
    // A profile change does not count as reading.
    let path = format!("/_matrix/client/v3/profile/{}/displayname", bob.user_id);
    expect_ok(bob.put(&path, json!({ "displayname": "Bobby" })));
    assert_eq!(unread_counts(&bob, &room), (1, 0));
    leave(&bob, &room);
    send_text(&alice, &room, "away");
    join(&bob, &room);
    assert_eq!(unread_counts(&bob, &room), (0, 0));
}

#[test]
fn push_rule_changes_apply_to_later_events() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    send_text(&alice, &room, "counted");
    let mute = format!(
        "/_matrix/client/v3/pushrules/global/room/{}",
        percent_encode(&room)
    );
    expect_ok(bob.put(&mute, json!({ "actions": [] })));
    send_text(&alice, &room, "not counted");
    let cake = "/_matrix/client/v3/pushrules/global/content/cake";
    let highlight = json!({ "set_tweak": "highlight" });
    expect_ok(bob.put(
        cake,
        json!({ "pattern": "cake", "actions": ["notify", highlight] }),
    ));
    send_text(&alice, &room, "there is Cake");
    assert_eq!(unread_counts(&bob, &room), (2, 1));
}
