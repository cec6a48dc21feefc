//! To-device messages to remote users.

use std::{net::TcpListener, time::Duration};

use http::Method;
use ruma::{
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::Raw,
};
use serde_json::{Value, json, value::to_raw_value};
use smol::{
    Async,
    future::{self, poll_once},
    io::AsyncReadExt,
};

use super::{device_lists::create_shared_room, mock_server::MockServer};
use crate::{
    client_api::{next_batch, percent_encode, sync, sync_with},
    test_server::{TestServer, TestUser, expect_ok},
};

/// Sends `{"n": n}` to every device of `to`.
pub fn send_note(user: &TestUser<'_>, to: &str, n: u64) {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example.note/t{n}");
    let messages = json!({ "messages": { to: { "*": { "n": n } } } });
    expect_ok(user.put(&path, messages));
}

/// Waits for `count` messages; returns their numbers.
pub fn wait_for_notes(user: &TestUser<'_>, count: usize) -> Vec<u64> {
    let (mut received, mut since) = (Vec::new(), None::<String>);
    for _ in 0..200 {
        let since_now = since.clone().unwrap_or_default();
        let mut parameters = vec![("timeout", "10000")];
        if since.is_some() {
            parameters.push(("since", &since_now));
        }
        let response = sync_with(user, &parameters);
        let events = response["to_device"]["events"].as_array().into_iter();
        received.extend(events.flatten().map(|event| {
            let number = &event["content"]["n"];
            number.as_u64().expect("a number")
        }));
        if received.len() >= count {
            return received;
        }
        since = Some(next_batch(&response).to_owned());
    }
    panic!("{} received only {received:?}", user.user_id);
}

/// Sends a transaction with these EDUs from `here` to `there`.
pub fn send_edus(here: &TestServer, there: &TestServer, transaction: &str, edus: &[Value]) {
    let (origin, now) = (here.name().to_owned(), here.clock.timestamp());
    let mut request = send_transaction_message::v1::Request::new(transaction.into(), origin, now);
    let raw = |edu: &Value| Raw::<Edu>::from_json_string(edu.to_string()).expect("JSON");
    request.edus = edus.iter().map(raw).collect();
    let response = here.run(here.client().send(there.name(), request));
    response.expect("the transaction is accepted");
}

fn direct_to_device(sender: &str, id: &str, to: &str, n: u64) -> Value {
    json!({
        "edu_type": "m.direct_to_device",
        "content": {
            "sender": sender,
            "type": "org.example.note",
            "message_id": id,
            "messages": { to: { "*": { "n": n } } },
        },
    })
}

#[test]
fn messages_reach_remote_devices_in_order() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let other = there.log_in("bob");
    (0..150).for_each(|n| send_note(&alice, &bob.user_id, n));
    let expected = Vec::from_iter(0..150);
    assert_eq!(wait_for_notes(&bob, 150), expected);
    assert_eq!(wait_for_notes(&other, 150), expected);
}

#[test]
fn queued_messages_survive_an_outage_of_the_destination_and_a_restart_of_the_sender() {
    let [mut here, mut there] = TestServer::federating();
    let token = there.register("bob").token;
    let to = format!("@bob:{}", there.name());
    there.stop();
    let alice = here.register("alice").token;
    (0..5).for_each(|n| send_note(&here.user_with_token(&alice), &to, n));
    here.restart();
    (5..10).for_each(|n| send_note(&here.user_with_token(&alice), &to, n));
    there.start();
    here.clock.advance(Duration::from_hours(2));
    let bob = there.user_with_token(&token);
    // A request from the destination ends the backoff.
    let alice = percent_encode(&format!("@alice:{}", here.name()));
    bob.get(&format!("/_matrix/client/v3/profile/{alice}"));
    assert_eq!(wait_for_notes(&bob, 10), Vec::from_iter(0..10));
}

#[test]
fn repeated_message_id_is_deduplicated_and_sender_of_another_server_is_ignored() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let [to, from] = [&bob.user_id, &alice.user_id];
    send_edus(&here, &there, "1", &[direct_to_device(from, "m1", to, 1)]);
    let second_transaction = [
        direct_to_device(from, "m1", to, 1),
        direct_to_device("@alice:elsewhere.example", "m2", to, 2),
        direct_to_device(from, &"m".repeat(300), to, 3),
        direct_to_device(from, "m4", to, 4),
    ];
    send_edus(&here, &there, "2", &second_transaction);
    assert_eq!(wait_for_notes(&bob, 2), [1, 4]);
}

#[test]
fn transactions_shrink_on_413_and_an_oversized_message_is_dropped() {
    const MAX_SIZE: usize = 40_000;
    let remote = MockServer::with_status(|body| if body.len() > MAX_SIZE { 413 } else { 200 });
    let [here] = TestServer::federating();
    let alice = here.register("alice");
    let to = format!("@bob:{}", remote.name());
    // Together the messages exceed the limit. One of them exceeds it alone.
    let message = |n: usize| {
        let length = if n == 7 { 2 * MAX_SIZE } else { 10_000 };
        let text = "x".repeat(length.min(60_000));
        json!({ "n": n, "text": text })
    };
    let send = |n: usize| {
        let path = format!("/_matrix/client/v3/sendToDevice/org.example.note/t{n}");
        let body = json!({ "messages": { &to: { "*": message(n) } } });
        let token = alice.token.clone();
        let here = &here;
        async move { here.send(Method::PUT, &path, Some(&token), &body).await }
    };
    let responses = here.run(here.join_all((0..20).map(send).collect()));
    assert!(responses.iter().all(|(status, _)| *status == 200));
    let received = || {
        let edus = remote.accepted_edus().into_iter();
        let numbers = edus.filter_map(|edu| edu["content"]["messages"][&to]["*"]["n"].as_u64());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        numbers
    };
    here.wait_until(async || received().len() >= 19);
    let expected: Vec<u64> = (0..20).filter(|n| *n != 7).collect();
    assert_eq!(received(), expected);
}

#[test]
fn edus_do_not_wait_for_the_signing_keys_of_pdus() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let since = next_batch(&sync(&bob, None)).to_owned();
    // The third server accepts connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port();
    let listener = Async::new(listener).expect("an asynchronous listener");
    let third = format!("localhost:{port}");
    let event = json!({
        "type": "m.room.message", "room_id": room, "sender": format!("@x:{third}"),
        "content": { "body": "hm", "msgtype": "m.text" }, "depth": 9, "origin_server_ts": 9,
        "prev_events": [], "auth_events": [], "hashes": { "sha256": "A".repeat(43) },
        "signatures": { &third: { "ed25519:1": "A".repeat(86) } },
    });
    let (origin, now) = (here.name().to_owned(), here.clock.timestamp());
    let mut request = send_transaction_message::v1::Request::new("slow".into(), origin, now);
    request.pdus = vec![to_raw_value(&event).expect("JSON")];
    let edu = direct_to_device(&alice.user_id, "m1", &bob.user_id, 1);
    request.edus = vec![Raw::from_json_string(edu.to_string()).expect("JSON")];
    let path = format!("/_matrix/client/v3/sync?timeout=20000&since={since}");
    let rejected = async {
        let response = here.client().send(there.name(), request).await;
        panic!("it did not wait for the keys: {response:?}");
    };
    let received = async {
        loop {
            let (_, response) = there
                .send(Method::GET, &path, Some(&bob.token), &Value::Null)
                .await;
            let events = &response["to_device"]["events"];
            if events[0]["content"]["n"] == 1 {
                break;
            }
        }
    };
    // The message arrives while the server still waits for the keys.
    let received = async {
        received.await;
        let (mut connection, _) = listener.accept().await.expect("a request for the keys");
        let mut buffer = [0; 4096];
        loop {
            match poll_once(connection.read(&mut buffer)).await {
                Some(Ok(1..)) => {}
                Some(_) => panic!("the server closed the connection"),
                None => break,
            }
        }
    };
    here.run(future::or(received, rejected));
}
