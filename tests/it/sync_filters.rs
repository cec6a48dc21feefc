//! Filters and their effect on `/sync`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client_api::{
        content_of, create_room, create_room_with, event_types, join, latest_event_id, leave,
        message_bodies, next_batch, percent_encode, send_event, send_receipt, send_text, sync,
        sync_with,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const CLIENT: &str = "/_matrix/client/v3";
const FILTER: &str = "/_matrix/client/v3/user/@alice:localhost/filter";

fn sync_filtered(user: &TestUser<'_>, filter: &Value) -> Value {
    sync_with(user, &[("filter", &filter.to_string())])
}

#[test]
fn stored_filter_has_the_same_effect_as_an_inline_filter() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    send_text(&alice, &room, "hello");
    let filter = json!({ "room": { "timeline": { "types": ["m.room.message"] } } });
    let stored = format!("{CLIENT}/user/{}/filter", alice.user_id);
    let id = expect_ok(alice.post(&stored, filter.clone()));
    let id = id["filter_id"].as_str().expect("an id");
    let by_id = sync_with(&alice, &[("filter", id)]);
    for response in [by_id, sync_filtered(&alice, &filter)] {
        let timeline = &response["rooms"]["join"][&room]["timeline"]["events"];
        assert_eq!(event_types(timeline), ["m.room.message"]);
    }
}

#[test]
fn rooms_and_not_rooms_select_rooms() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let [one, other] = ["one", "other"].map(|name| create_room(&alice, json!({ "name": name })));
    let synced_rooms = |filter: Value| -> Vec<String> {
        let response = sync_filtered(&alice, &json!({ "room": filter }));
        let rooms = response["rooms"]["join"].as_object().cloned();
        rooms
            .unwrap_or_default()
            .into_iter()
            .map(|(id, _)| id)
            .collect()
    };
    assert_eq!(synced_rooms(json!({ "rooms": [one] })), [one.as_str()]);
    assert_eq!(
        synced_rooms(json!({ "not_rooms": [one] })),
        [other.as_str()]
    );
    assert!(synced_rooms(json!({ "rooms": [one], "not_rooms": [one] })).is_empty());
    // `timeline` and `state` have their own lists of rooms.
    let response = sync_filtered(
        &alice,
        &json!({ "room": {
            "timeline": { "not_rooms": [one] }, "state": { "rooms": [other] },
        } }),
    );
    let room = &response["rooms"]["join"][&one];
    assert_eq!(room["timeline"]["events"], json!([]));
    assert_eq!(room["state"]["events"], json!([]));
}

#[test]
fn types_senders_and_contains_url_select_events() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    send_text(&alice, &room, "from alice");
    send_text(&bob, &room, "from bob");
    send_event(&bob, &room, "org.example.a", json!({ "body": "a" }));
    send_event(&bob, &room, "org.example.b", json!({ "body": "b" }));
    let picture = json!({ "msgtype": "m.image", "body": "picture", "url": "mxc://x/y" });
    send_event(&bob, &room, "m.room.message", picture);
    let synced_bodies = |filter: Value| -> Vec<String> {
        let response = sync_filtered(&alice, &json!({ "room": { "timeline": filter } }));
        let events = &response["rooms"]["join"][&room]["timeline"]["events"];
        message_bodies(events)
            .into_iter()
            .map(ToOwned::to_owned)
            .collect()
    };
    assert_eq!(
        synced_bodies(json!({ "types": ["org.example.*"] })),
        ["a", "b"]
    );
    assert_eq!(
        synced_bodies(json!({ "types": ["org.*"], "not_types": ["*.b"] })),
        ["a"]
    );
    assert_eq!(
        synced_bodies(json!({ "types": ["m.room.message"] })),
        ["from alice", "from bob", "picture"]
    );
    assert!(synced_bodies(json!({ "types": [] })).is_empty());
    assert_eq!(
        synced_bodies(json!({ "senders": [alice.user_id] })),
        ["from alice"]
    );
    assert_eq!(
        synced_bodies(json!({ "not_senders": [bob.user_id] })),
        ["from alice"]
    );
    assert_eq!(synced_bodies(json!({ "contains_url": true })), ["picture"]);
    assert!(!synced_bodies(json!({ "contains_url": false })).contains(&"picture".to_owned()));
    assert_eq!(synced_bodies(json!({ "limit": 2 })), ["b", "picture"]);
}

#[test]
fn timeline_limit_counts_filtered_events_and_sets_limited() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    for n in 0..4 {
        send_text(&alice, &room, &n.to_string());
        send_event(&alice, &room, "org.example.other", json!({}));
    }
    let filter = |limit: u32| json!({ "room": { "timeline": { "limit": limit, "types": ["m.room.message"] } } });
    let response = sync_filtered(&alice, &filter(2));
    let timeline = &response["rooms"]["join"][&room]["timeline"];
    assert_eq!(message_bodies(&timeline["events"]), ["2", "3"]);
    assert_eq!(timeline["limited"], true);
    let response = sync_filtered(&alice, &filter(0));
    let timeline = &response["rooms"]["join"][&room]["timeline"];
    assert_eq!(
        (&timeline["events"], &timeline["limited"]),
        (&json!([]), &json!(true))
    );
    assert!(timeline["prev_batch"].is_string());
}

#[test]
fn event_fields_and_event_format_are_applied() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    send_text(&alice, &room, "hello");
    let last = |filter: Value| {
        let response = sync_filtered(&alice, &filter);
        let events = response["rooms"]["join"][&room]["timeline"]["events"].clone();
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
fn include_leave_returns_left_rooms() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    send_text(&alice, &room, "before");
    leave(&bob, &room);
    send_text(&alice, &room, "after");
    assert_eq!(sync(&bob, None)["rooms"], json!({}));
    let response = sync_filtered(&bob, &json!({ "room": { "include_leave": true } }));
    let left = &response["rooms"]["leave"][&room];
    assert_eq!(message_bodies(&left["timeline"]["events"]), ["before"]);
}

#[test]
fn account_data_and_ephemeral_events_are_filtered_by_type_and_room() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let user = format!("{CLIENT}/user/{}", alice.user_id);
    for kind in ["org.example.a", "org.example.b"] {
        expect_ok(alice.put(&format!("{user}/account_data/{kind}"), json!({})));
        let path = format!("{user}/rooms/{room}/account_data/{kind}");
        expect_ok(alice.put(&path, json!({})));
    }
    let event = latest_event_id(&bob, &room);
    expect_ok(send_receipt(&bob, &room, ("m.read", &event), json!({})));
    let typing = format!("{CLIENT}/rooms/{room}/typing/{}", bob.user_id);
    expect_ok(bob.put(&typing, json!({ "typing": true, "timeout": 30_000 })));
    let response = sync_filtered(
        &alice,
        &json!({
            "account_data": { "types": ["org.example.*"], "not_types": ["*.b"] },
            "room": {
                "account_data": { "not_types": ["org.example.a"] },
                "ephemeral": { "types": ["m.typing"] },
            },
        }),
    );
    assert_eq!(
        event_types(&response["account_data"]["events"]),
        ["org.example.a"]
    );
    let joined = &response["rooms"]["join"][&room];
    assert_eq!(
        event_types(&joined["account_data"]["events"]),
        ["org.example.b"]
    );
    assert_eq!(event_types(&joined["ephemeral"]["events"]), ["m.typing"]);
    let room_excluded = json!({ "room": {
        "account_data": { "not_rooms": [room] }, "ephemeral": { "not_rooms": [room] },
    } });
    let response = sync_filtered(&alice, &room_excluded);
    let joined = &response["rooms"]["join"][&room];
    assert_eq!(joined["account_data"], Value::Null);
    assert_eq!(joined["ephemeral"], Value::Null);
}

#[test]
fn messages_and_invites_of_an_ignored_user_are_omitted_but_state_is_kept() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let before = sync(&alice, None);
    let path = format!(
        "{CLIENT}/user/{}/account_data/m.ignored_user_list",
        alice.user_id
    );
    let ignored = json!({ "ignored_users": { bob.user_id.clone(): {} } });
    expect_ok(alice.put(&path, ignored));
    send_text(&bob, &room, "spam");
    let member = format!("{CLIENT}/rooms/{room}/state/m.room.member/{}", bob.user_id);
    expect_ok(bob.put(&member, json!({ "membership": "join", "displayname": "B" })));
    create_room(&bob, json!({ "invite": [alice.user_id] }));
    let response = sync(&alice, Some(next_batch(&before)));
    let joined = &response["rooms"]["join"][&room];
    assert_eq!(
        event_types(&joined["timeline"]["events"]),
        ["m.room.member"]
    );
    assert_eq!(response["rooms"]["invite"], Value::Null);
    assert_eq!(joined["unread_notifications"]["notification_count"], 0);
}

#[test]
fn messages_of_an_ignored_user_are_not_read_in_any_other_way() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let own = send_text(&alice, &room, "hello");
    let spam = send_text(&bob, &room, "spam");
    let path = format!(
        "{CLIENT}/user/{}/account_data/m.ignored_user_list",
        alice.user_id
    );
    let bodies = || {
        let page = expect_ok(alice.get(&format!("{CLIENT}/rooms/{room}/messages?dir=b")));
        let types = event_types(&page["chunk"]).join(" ");
        assert!(types.contains("m.room.member"), "state is sent: {types}");
        let context = format!("{CLIENT}/rooms/{room}/context/{}", percent_encode(&own));
        let context = expect_ok(alice.get(&context));
        let after = message_bodies(&context["events_after"]).len();
        let event = format!("{CLIENT}/rooms/{room}/event/{}", percent_encode(&spam));
        (
            message_bodies(&page["chunk"]).len(),
            after,
            alice.get(&event).0,
        )
    };
    assert_eq!(bodies(), (2, 1, 200));
    let ignored = json!({ "ignored_users": { bob.user_id.clone(): {} } });
    expect_ok(alice.put(&path, ignored));
    assert_eq!(bodies(), (1, 0, 404));
}

#[test]
fn own_messages_are_read_although_the_user_ignores_themself() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let before = sync(&alice, None);
    ignore(&alice, &alice);
    let own = send_text(&alice, &room, "hello");
    let synced = sync(&alice, Some(next_batch(&before)));
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(message_bodies(timeline), ["hello"]);
    expect_ok(alice.get(&format!(
        "{CLIENT}/rooms/{room}/event/{}",
        percent_encode(&own)
    )));
    let page = expect_ok(alice.get(&format!("{CLIENT}/rooms/{room}/messages?dir=b")));
    assert_eq!(message_bodies(&page["chunk"]), ["hello"]);
}

#[test]
fn timestamp_to_event_passes_over_messages_of_ignored_users() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    server.clock.advance(Duration::from_secs(1));
    let own = send_text(&alice, &room, "hello");
    server.clock.advance(Duration::from_secs(1));
    let spam = send_text(&bob, &room, "spam");
    let newest = || {
        let path =
            format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?dir=b&ts=9999999999999");
        expect_ok(alice.get(&path))["event_id"].clone()
    };
    assert_eq!(newest(), json!(spam));
    ignore(&alice, &bob);
    assert_eq!(newest(), json!(own));
}

fn ignore(user: &TestUser<'_>, ignored: &TestUser<'_>) {
    let path = format!(
        "{CLIENT}/user/{}/account_data/m.ignored_user_list",
        user.user_id
    );
    let list = json!({ "ignored_users": { ignored.user_id.clone(): {} } });
    expect_ok(user.put(&path, list));
}

#[test]
fn a_limit_may_be_written_with_a_point() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    for body in ["a", "b", "c"] {
        send_text(&alice, &room, body);
    }
    let filter = json!({
        "presence": { "limit": 5.0 }, "room": { "timeline": { "limit": 2.0 } }, "org.example": 0.5,
    });
    let path = format!("{CLIENT}/user/{}/filter", alice.user_id);
    let id = expect_ok(alice.post(&path, filter.clone()))["filter_id"].clone();
    let id = id.as_str().unwrap();
    assert_eq!(expect_ok(alice.get(&format!("{path}/{id}"))), filter);
    for filter in [id.to_owned(), filter.to_string()] {
        let synced = sync_with(&alice, &[("filter", &filter)]);
        let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
        assert_eq!(message_bodies(timeline), ["b", "c"], "{filter}");
    }
    let page = percent_encode(r#"{"limit":10.0,"types":["m.room.message"]}"#);
    let page = format!("{CLIENT}/rooms/{room}/messages?dir=b&filter={page}");
    assert_eq!(
        message_bodies(&expect_ok(alice.get(&page))["chunk"]),
        ["c", "b", "a"]
    );
    let fraction = json!({ "room": { "timeline": { "limit": 0.5 } } });
    expect_error(&alice.post(&path, fraction), 400, "M_BAD_JSON");
}

#[test]
fn joining_returns_typing_receipts_and_presence_of_the_room() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let event = latest_event_id(&alice, &room);
    expect_ok(send_receipt(&alice, &room, ("m.read", &event), json!({})));
    let typing = format!("{CLIENT}/rooms/{room}/typing/{}", alice.user_id);
    expect_ok(alice.put(&typing, json!({ "typing": true, "timeout": 30_000 })));
    let before = (sync(&bob, None), sync(&alice, None));
    join(&bob, &room);
    let response = sync(&bob, Some(next_batch(&before.0)));
    let ephemeral = &response["rooms"]["join"][&room]["ephemeral"]["events"];
    assert!(
        content_of(ephemeral, "m.receipt")[&event].is_object(),
        "{response}"
    );
    assert_eq!(
        *content_of(ephemeral, "m.typing"),
        json!({ "user_ids": [alice.user_id] })
    );
    let senders = |response: &Value| -> Vec<String> {
        let events = response["presence"]["events"].as_array().cloned();
        let sender = |event: &Value| event["sender"].as_str().expect("a user").to_owned();
        events.unwrap_or_default().iter().map(sender).collect()
    };
    assert!(senders(&response).contains(&alice.user_id), "{response}");
    let synced_by_alice = sync(&alice, Some(next_batch(&before.1)));
    assert!(
        senders(&synced_by_alice).contains(&bob.user_id),
        "{synced_by_alice}"
    );
}

#[test]
fn identical_filters_get_the_same_id() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let filter = json!({
        "room": {"timeline": {"limit": 10, "types": ["m.room.message"]}},
        "presence": {"types": []},
    });
    let (status, one) = alice.post(FILTER, filter.clone());
    assert_eq!(status, 200, "{one}");
    assert_eq!(alice.post(FILTER, filter.clone()).1, one);
    let (_, two) = alice.post(FILTER, json!({}));
    assert_ne!(one, two);
    let id = one["filter_id"].as_str().unwrap();
    assert!(!id.starts_with('{'));
    assert_eq!(alice.get(&format!("{FILTER}/{id}")), (200, filter));
}

#[test]
fn filter_of_another_user_or_unknown_id_is_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let bob = server.register("bob");
    let (_, one) = alice.post(FILTER, json!({}));
    let id = one["filter_id"].as_str().unwrap();
    expect_error(&bob.get(&format!("{FILTER}/{id}")), 403, "M_FORBIDDEN");
    expect_error(&bob.post(FILTER, json!({})), 403, "M_FORBIDDEN");
    expect_error(&alice.get(&format!("{FILTER}/17")), 404, "M_NOT_FOUND");
    expect_error(&alice.get(&format!("{FILTER}/x")), 404, "M_NOT_FOUND");
    for id in ["17", "x", "[]"] {
        let path = format!("/_matrix/client/v3/sync?filter={}", percent_encode(id));
        expect_error(&alice.get(&path), 400, "M_INVALID_PARAM");
    }
    expect_error(&alice.post(FILTER, json!({"room": 3})), 400, "M_BAD_JSON");
}
