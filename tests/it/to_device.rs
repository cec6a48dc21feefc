//! To-device messages.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, join, next_batch, percent_encode, sync},
    test_server::{TestServer, TestUser, expect_error, expect_ok, parse},
};

const CLIENT: &str = "/_matrix/client/v3";

/// Sends `content` to a device of `to`, or to all of them by `*`.
pub fn send_to_device(
    user: &TestUser<'_>,
    (to, device): (&str, &str),
    transaction: &str,
    content: Value,
) -> (u16, Value) {
    let path = format!("{CLIENT}/sendToDevice/org.example.note/{transaction}");
    user.put(&path, json!({ "messages": { to: { device: content } } }))
}

fn synced_notes(response: &Value) -> Vec<u64> {
    note_numbers(&response["to_device"]["events"])
}

/// The numbers of messages sent by [`send_note`].
pub fn note_numbers(events: &Value) -> Vec<u64> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events
        .iter()
        .map(|event| event["content"]["n"].as_u64().expect("a number"))
        .collect()
}

pub fn send_note(user: &TestUser<'_>, to: &TestUser<'_>, n: u64) {
    let address = (to.user_id.as_str(), to.device_id.as_str());
    expect_ok(send_to_device(
        user,
        address,
        &format!("t{n}"),
        json!({ "n": n }),
    ));
}

#[test]
fn message_is_kept_until_the_next_sync_token_acknowledges_it_also_over_restart() {
    let mut server = TestServer::new();
    let token = {
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        send_note(&alice, &bob, 1);
        let synced = sync(&bob, None);
        let event = json!({
            "type": "org.example.note", "sender": alice.user_id, "content": { "n": 1 },
        });
        assert_eq!(synced["to_device"]["events"], json!([event]));
        send_note(&alice, &bob, 2);
        bob.token.clone()
    };
    server.restart();
    let bob = server.user_with_token(&token);
    let first = sync(&bob, None);
    assert_eq!(synced_notes(&first), [1, 2]);
    // Without a token the messages are sent again, as the response may have been lost.
    assert_eq!(synced_notes(&sync(&bob, None)), [1, 2]);
    let second = sync(&bob, Some(next_batch(&first)));
    assert_eq!(synced_notes(&second), [0; 0]);
    // A sync without a token shows whether the messages were deleted, which happens in the background.
    server.wait_until(async || {
        let path = format!("{CLIENT}/sync");
        let sync = server.send(Method::GET, &path, Some(&token), &Value::Null);
        synced_notes(&sync.await.1).is_empty()
    });
}

#[test]
fn messages_arrive_in_order_in_batches_of_100() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    (0..205).for_each(|n| send_note(&alice, &bob, n));
    let mut responses = vec![sync(&bob, None)];
    for _ in 0..3 {
        responses.push(sync(&bob, responses.last().map(next_batch)));
    }
    let counts: Vec<_> = responses
        .iter()
        .map(|response| synced_notes(response).len())
        .collect();
    assert_eq!(counts, [100, 100, 5, 0]);
    let all: Vec<_> = responses.iter().flat_map(synced_notes).collect();
    assert_eq!(all, Vec::from_iter(0..205));
}

#[test]
fn repeated_transaction_is_delivered_once_per_sending_device() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    send_note(&alice, &bob, 1);
    send_note(&alice, &bob, 1);
    let other = server.log_in("alice");
    send_note(&other, &bob, 1);
    let synced = sync(&bob, None);
    assert_eq!(
        synced_notes(&synced),
        [1, 1],
        "transaction ids are per device"
    );
}

#[test]
fn wildcard_reaches_every_device_and_unknown_device_is_ignored() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let other = server.log_in("bob");
    expect_ok(send_to_device(
        &alice,
        (&bob.user_id, "*"),
        "1",
        json!({ "n": 7 }),
    ));
    expect_ok(send_to_device(
        &alice,
        (&bob.user_id, "NONE"),
        "2",
        json!({ "n": 8 }),
    ));
    expect_ok(send_to_device(
        &alice,
        ("@no:localhost", "*"),
        "3",
        json!({ "n": 9 }),
    ));
    assert_eq!(synced_notes(&sync(&bob, None)), [7]);
    assert_eq!(synced_notes(&sync(&other, None)), [7]);
    assert_eq!(synced_notes(&sync(&alice, None)), [0; 0]);
}

#[test]
fn to_device_message_wakes_a_waiting_sync() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let before = sync(&bob, None);
    let path = format!(
        "{CLIENT}/sync?since={}&timeout=60000",
        percent_encode(next_batch(&before))
    );
    let send_path = format!("{CLIENT}/sendToDevice/org.example.note/1");
    let messages = json!({ "messages": { bob.user_id.clone(): { "*": { "n": 3 } } } });
    let (synced, sent) = server.run(smol::future::zip(
        server.send(Method::GET, &path, Some(&bob.token), &Value::Null),
        async {
            smol::Timer::after(Duration::from_millis(50)).await;
            server
                .send(Method::PUT, &send_path, Some(&alice.token), &messages)
                .await
        },
    ));
    expect_ok(sent);
    assert_eq!(synced_notes(&expect_ok(synced)), [3]);
}

#[test]
fn deleting_a_device_deletes_its_messages() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    send_note(&alice, &bob, 1);
    expect_ok(bob.post(&format!("{CLIENT}/logout"), json!({})));
    let again = expect_ok(server.log_in_with("bob", json!({ "device_id": bob.device_id })));
    assert_eq!(
        synced_notes(&sync(&server.user_from_login(&again), None)),
        [0; 0]
    );
}

#[test]
fn oversized_message_is_rejected() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let long = json!({ "n": 1, "text": "x".repeat(70_000) });
    let response = send_to_device(&alice, (&bob.user_id, "*"), "1", long);
    expect_error(&response, 413, "M_TOO_LARGE");
    assert_eq!(synced_notes(&sync(&bob, None)), [0; 0]);
}

/// JSON values that some parsers cannot read.
const UNREADABLE: &[&str] = &[r#""\ud800""#, "1e400", "[NEST]"];

#[test]
fn unreadable_json_is_rejected_and_later_syncs_succeed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let put = |path: &str, body: String| {
        let request = http::Request::put(path)
            .header("authorization", format!("Bearer {}", alice.token))
            .body(body.into_bytes());
        parse(&server.respond(request.expect("this is a request")))
    };
    let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for (number, text) in UNREADABLE.iter().enumerate() {
        let content = format!(r#"{{"n":{}}}"#, text.replace("[NEST]", &nested));
        let path = format!("{CLIENT}/sendToDevice/org.example.note/{number}");
        for to in [&bob.user_id, "@carol:elsewhere.example"] {
            let body = format!(r#"{{"messages":{{"{to}":{{"*":{content}}}}}}}"#);
            expect_error(&put(&path, body), 400, "M_BAD_JSON");
        }
        let path = format!("{CLIENT}/user/{}/account_data/org.example", alice.user_id);
        expect_error(&put(&path, content), 400, "M_BAD_JSON");
    }
    let path = format!("{CLIENT}/sendToDevice/org.example.note/list");
    let list = format!(r#"{{"messages":{{"{}":{{"*":[]}}}}}}"#, bob.user_id);
    expect_error(&put(&path, list), 400, "M_BAD_JSON");
    send_note(&alice, &bob, 1);
    assert_eq!(synced_notes(&sync(&bob, None)), [1]);
    sync(&alice, None);
}

#[test]
fn repeated_transaction_is_delivered_once_also_over_restart() {
    let mut server = TestServer::new();
    let tokens = {
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        expect_ok(send_to_device(
            &alice,
            (&bob.user_id, "*"),
            "same",
            json!({ "n": 1 }),
        ));
        [alice.token.clone(), bob.token.clone()]
    };
    server.restart();
    let [alice, bob] = tokens.each_ref().map(|token| server.user_with_token(token));
    expect_ok(send_to_device(
        &alice,
        (&bob.user_id, "*"),
        "same",
        json!({ "n": 1 }),
    ));
    expect_ok(send_to_device(
        &alice,
        (&bob.user_id, "*"),
        "other",
        json!({ "n": 2 }),
    ));
    assert_eq!(synced_notes(&sync(&bob, None)), [1, 2]);
}

#[test]
fn who_shares_no_room_cannot_make_a_device_lose_the_messages_of_others() {
    let server = TestServer::new();
    let [aaron, alice, bob, eve] =
        ["aaron", "alice", "bob", "eve"].map(|name| server.register(name));
    let room = create_room(&bob, json!({ "preset": "public_chat" }));
    expect_ok(alice.post(
        &format!("{CLIENT}/join/{}", percent_encode(&room)),
        json!({}),
    ));
    let content = |n: u64| json!({ "n": n, "text": "x".repeat(61_000) });
    let mut accepted = Vec::new();
    for n in 0..60 {
        let (status, response) =
            send_to_device(&eve, (&alice.user_id, "*"), &n.to_string(), content(n));
        match status {
            200 => accepted.push(n),
            _ => {
                expect_error(&(status, response.clone()), 429, "M_LIMIT_EXCEEDED");
                assert!(response["retry_after_ms"].is_u64(), "{response}");
            }
        }
    }
    assert!(!accepted.is_empty() && accepted.len() < 40, "{accepted:?}");
    // What is not answered with 200 is not stored, not even in part.
    let path = format!("{CLIENT}/sendToDevice/org.example.note/both");
    let note = json!({ "*": { "n": 1000 } });
    let large = json!({ "*": content(1001) });
    let messages = json!({ "messages": { &aaron.user_id: note, &alice.user_id: large } });
    expect_error(&eve.put(&path, messages), 429, "M_LIMIT_EXCEEDED");
    for n in 100..140 {
        expect_ok(send_to_device(
            &bob,
            (&alice.user_id, "*"),
            &n.to_string(),
            content(n),
        ));
    }
    accepted.extend(100..140);
    assert_eq!(all_notes(&alice), accepted);
    assert_eq!(synced_notes(&sync(&aaron, None)), [0; 0]);
}

/// All notes that wait for `user`, in order.
fn all_notes(user: &TestUser<'_>) -> Vec<u64> {
    let (mut received, mut since) = (Vec::new(), None);
    loop {
        let response = sync(user, since.as_deref());
        let notes = synced_notes(&response);
        if notes.is_empty() {
            return received;
        }
        received.extend(notes);
        since = Some(next_batch(&response).to_owned());
    }
}

#[test]
fn many_accounts_of_an_open_room_displace_nothing_and_keep_out_nobody_of_a_closed_room() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let open = create_room(&alice, json!({ "preset": "public_chat" }));
    join(&bob, &open);
    let closed = create_room(&carol, json!({ "invite": [&alice.user_id] }));
    join(&alice, &closed);
    let (mut accepted, mut next) = (Vec::new(), 0);
    let mut send_many = |user: &TestUser<'_>, count: usize| {
        let mut refused = 0;
        for _ in 0..count {
            next += 1;
            let content = json!({ "n": next, "text": "x".repeat(61_000) });
            let to = (alice.user_id.as_str(), alice.device_id.as_str());
            let response = send_to_device(user, to, &next.to_string(), content);
            if response.0 == 200 {
                accepted.push(next);
            } else {
                expect_error(&response, 429, "M_LIMIT_EXCEEDED");
                refused += 1;
            }
        }
        refused
    };
    assert_eq!(send_many(&bob, 20), 0);
    let mut refused = 0;
    for number in 0..30 {
        let eve = server.register(&format!("eve{number}"));
        join(&eve, &open);
        refused += send_many(&eve, 12);
    }
    assert!(refused > 100, "{refused}");
    assert_eq!(send_many(&carol, 20), 0);
    assert_eq!(all_notes(&alice), accepted);
}

/// Others have a part of the queue of an invited user that those who share no room cannot fill.
#[test]
fn the_keys_of_a_room_reach_whoever_is_invited_to_it_though_accounts_that_share_no_room_send_much()
{
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let room = create_room(&bob, json!({ "invite": [&alice.user_id] }));
    let invite = json!({ "user_id": carol.user_id });
    let path = format!("{CLIENT}/rooms/{}/invite", percent_encode(&room));
    expect_ok(bob.post(&path, invite));
    join(&carol, &room);
    let content = json!({ "text": "x".repeat(61_000) });
    let mut refused = 0;
    for number in 0..12 {
        let eve = server.register(&format!("eve{number}"));
        for n in 0..12 {
            let response =
                send_to_device(&eve, (&alice.user_id, "*"), &n.to_string(), content.clone());
            refused += usize::from(response.0 == 429);
        }
    }
    assert!(refused > 0);
    let note = json!({ "*": { "n": 1 } });
    let messages = json!({ "messages": { &alice.user_id: note, &carol.user_id: note } });
    let path = format!("{CLIENT}/sendToDevice/org.example.note/key");
    expect_ok(bob.put(&path, messages));
    assert_eq!(all_notes(&carol), [1]);
    let mut of_bob = Vec::new();
    let mut since = None;
    while of_bob.is_empty() {
        let response = sync(&alice, since.as_deref());
        let events = response["to_device"]["events"].as_array().cloned();
        let events = events
            .filter(|events| !events.is_empty())
            .expect("messages");
        of_bob = events;
        of_bob.retain(|event| event["sender"] == *bob.user_id);
        since = Some(next_batch(&response).to_owned());
    }
}
