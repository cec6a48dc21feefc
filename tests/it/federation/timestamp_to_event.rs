//! `/timestamp_to_event`, from local and from remote history.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client_api::{create_room, create_room_with, join_via, percent_encode, room_path, send_text},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const HOUR: Duration = Duration::from_hours(1);

fn timestamp_to_event(user: &TestUser<'_>, room: &str, ts: u64, dir: &str) -> (u16, Value) {
    let room = percent_encode(room);
    let path = format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event");
    user.get(&format!("{path}?ts={ts}&dir={dir}"))
}

/// Sends a message every hour; returns event ids and timestamps.
fn send_hourly(
    server: &TestServer,
    user: &TestUser<'_>,
    room: &str,
    count: usize,
) -> Vec<(String, u64)> {
    let messages = (0..count).map(|number| {
        server.clock.advance(HOUR);
        let id = send_text(user, room, &number.to_string());
        (id, server.clock.now_ms())
    });
    messages.collect()
}

#[test]
fn closest_event_is_found_in_each_direction() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let sent = send_hourly(&server, &alice, &room, 3);
    let (first, second) = (&sent[0], &sent[1]);
    let expected = |(id, ts): &(String, u64)| json!({ "event_id": id, "origin_server_ts": ts });
    let between = first.1 + 1;
    assert_eq!(
        expect_ok(timestamp_to_event(&alice, &room, between, "f")),
        expected(second)
    );
    assert_eq!(
        expect_ok(timestamp_to_event(&alice, &room, between, "b")),
        expected(first)
    );
    assert_eq!(
        expect_ok(timestamp_to_event(&alice, &room, first.1, "f")),
        expected(first)
    );
    assert_eq!(
        expect_ok(timestamp_to_event(&alice, &room, first.1, "b")),
        expected(first)
    );
    expect_error(
        &timestamp_to_event(&alice, &room, 1, "b"),
        404,
        "M_NOT_FOUND",
    );
    let future = server.clock.now_ms() + 1;
    expect_error(
        &timestamp_to_event(&alice, &room, future, "f"),
        404,
        "M_NOT_FOUND",
    );
    expect_error(
        &timestamp_to_event(&bob, &room, between, "f"),
        403,
        "M_FORBIDDEN",
    );
}

#[test]
fn event_from_before_own_join_is_backfilled() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&bob, json!({ "preset": "public_chat" }));
    let sent = send_hourly(&there, &bob, &room, 30);
    join_via(&alice, &room, &there);
    let (id, ts) = &sent[3];
    let found = expect_ok(timestamp_to_event(&alice, &room, ts - 1, "f"));
    assert_eq!(found["event_id"], id.as_str());
    let context = room_path(&room, &format!("context/{}", percent_encode(id)));
    assert_eq!(
        expect_ok(alice.get(&context))["event"]["content"]["body"],
        "3"
    );
}
