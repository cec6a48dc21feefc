//! Messages from device to device.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, Person, read, refused},
    rooms::{done, escaped, next, sync},
};

const CLIENT: &str = "/_matrix/client/v3";

/// Sends `content` to a device of `to`, or to all of them, as the transaction `id`.
pub fn send(
    who: &Person<'_>,
    (to, device): (&str, &str),
    id: &str,
    content: Value,
) -> (u16, Value) {
    let path = format!("{CLIENT}/sendToDevice/org.example.note/{id}");
    who.put(&path, json!({ "messages": { to: { device: content } } }))
}

/// The numbers in the messages that a sync tells.
fn numbers(answer: &Value) -> Vec<u64> {
    numbers_of(&answer["to_device"]["events"])
}

/// The numbers in messages.
pub fn numbers_of(events: &Value) -> Vec<u64> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events
        .iter()
        .map(|event| event["content"]["n"].as_u64().expect("a number"))
        .collect()
}

pub fn note(who: &Person<'_>, to: &Person<'_>, n: u64) {
    let address = (to.user_id.as_str(), to.device_id.as_str());
    done(send(who, address, &format!("t{n}"), json!({ "n": n })));
}

#[test]
fn a_message_waits_until_a_sync_says_that_it_has_arrived_also_over_a_restart() {
    let mut home = Home::new();
    let token = {
        let (alice, bob) = (home.register("alice"), home.register("bob"));
        note(&alice, &bob, 1);
        let told = sync(&bob, None);
        let event = json!({
            "type": "org.example.note", "sender": alice.user_id, "content": { "n": 1 },
        });
        assert_eq!(told["to_device"]["events"], json!([event]));
        note(&alice, &bob, 2);
        bob.token.clone()
    };
    home.restart();
    let bob = home.with_token(&token);
    let first = sync(&bob, None);
    assert_eq!(numbers(&first), [1, 2]);
    // The answer was lost: it is told again.
    assert_eq!(numbers(&sync(&bob, None)), [1, 2]);
    let second = sync(&bob, Some(next(&first)));
    assert_eq!(numbers(&second), [0; 0]);
    // A sync from the beginning shows whether it was forgotten, which does not happen at once.
    home.run(home.until(async || {
        let path = format!("{CLIENT}/sync");
        let sync = home.send(Method::GET, &path, Some(&token), &Value::Null);
        numbers(&sync.await.1).is_empty()
    }));
}

#[test]
fn messages_come_in_order_and_a_hundred_at_a_time() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    (0..205).for_each(|n| note(&alice, &bob, n));
    let mut told = vec![sync(&bob, None)];
    for _ in 0..3 {
        told.push(sync(&bob, told.last().map(next)));
    }
    let counts: Vec<_> = told.iter().map(|answer| numbers(answer).len()).collect();
    assert_eq!(counts, [100, 100, 5, 0]);
    let all: Vec<_> = told.iter().flat_map(numbers).collect();
    assert_eq!(all, Vec::from_iter(0..205));
}

#[test]
fn a_transaction_that_is_sent_again_is_delivered_once() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    note(&alice, &bob, 1);
    note(&alice, &bob, 1);
    let other = home.log_in("alice");
    note(&other, &bob, 1);
    let told = sync(&bob, None);
    assert_eq!(numbers(&told), [1, 1], "another device counts for itself");
}

#[test]
fn a_star_means_every_device_and_a_device_that_is_not_there_nobody() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let other = home.log_in("bob");
    done(send(&alice, (&bob.user_id, "*"), "1", json!({ "n": 7 })));
    done(send(&alice, (&bob.user_id, "NONE"), "2", json!({ "n": 8 })));
    done(send(&alice, ("@no:localhost", "*"), "3", json!({ "n": 9 })));
    assert_eq!(numbers(&sync(&bob, None)), [7]);
    assert_eq!(numbers(&sync(&other, None)), [7]);
    assert_eq!(numbers(&sync(&alice, None)), [0; 0]);
}

#[test]
fn a_sync_that_waits_is_woken_by_a_message() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let start = sync(&bob, None);
    let waits = format!(
        "{CLIENT}/sync?since={}&timeout=60000",
        escaped(next(&start))
    );
    let sends = format!("{CLIENT}/sendToDevice/org.example.note/1");
    let messages = json!({ "messages": { bob.user_id.clone(): { "*": { "n": 3 } } } });
    let (told, sent) = home.run(smol::future::zip(
        home.send(Method::GET, &waits, Some(&bob.token), &Value::Null),
        async {
            smol::Timer::after(Duration::from_millis(50)).await;
            home.send(Method::PUT, &sends, Some(&alice.token), &messages)
                .await
        },
    ));
    done(sent);
    assert_eq!(numbers(&done(told)), [3]);
}

#[test]
fn a_device_that_is_deleted_takes_its_messages_along() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    note(&alice, &bob, 1);
    done(bob.post(&format!("{CLIENT}/logout"), json!({})));
    let login = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "bob" },
        "password": crate::home::PASSWORD,
        "device_id": bob.device_id,
    });
    let again = done(home.ask(Method::POST, &format!("{CLIENT}/login"), login));
    assert_eq!(numbers(&sync(&home.person(&again), None)), [0; 0]);
}

#[test]
fn a_message_that_is_too_long_is_refused() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let long = json!({ "n": 1, "text": "x".repeat(70_000) });
    let answer = send(&alice, (&bob.user_id, "*"), "1", long);
    refused(&answer, 413, "M_TOO_LARGE");
    assert_eq!(numbers(&sync(&bob, None)), [0; 0]);
}

/// Texts that pass for JSON, of which no event can be made.
const NOTHING: &[&str] = &[r#""\ud800""#, "1e400", "1.5", "9007199254740993", "[NEST]"];

#[test]
fn what_no_event_can_be_made_of_is_refused_and_syncs_go_on() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let put = |path: &str, body: String| {
        let request = http::Request::put(path)
            .header("authorization", format!("Bearer {}", alice.token))
            .body(body.into_bytes());
        read(&home.respond(request.expect("this is a request")))
    };
    let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
    for (number, text) in NOTHING.iter().enumerate() {
        let content = format!(r#"{{"n":{}}}"#, text.replace("[NEST]", &nested));
        let path = format!("{CLIENT}/sendToDevice/org.example.note/{number}");
        for to in [&bob.user_id, "@carol:elsewhere.example"] {
            let body = format!(r#"{{"messages":{{"{to}":{{"*":{content}}}}}}}"#);
            refused(&put(&path, body), 400, "M_BAD_JSON");
        }
        let path = format!("{CLIENT}/user/{}/account_data/org.example", alice.user_id);
        let (status, answer) = put(&path, content);
        let is_a_number = ["1.5", "9007199254740993"].contains(text);
        assert_eq!(status, if is_a_number { 200 } else { 400 }, "{answer}");
    }
    let path = format!("{CLIENT}/sendToDevice/org.example.note/list");
    let list = format!(r#"{{"messages":{{"{}":{{"*":[]}}}}}}"#, bob.user_id);
    refused(&put(&path, list), 400, "M_BAD_JSON");
    note(&alice, &bob, 1);
    assert_eq!(numbers(&sync(&bob, None)), [1]);
    sync(&alice, None);
}

#[test]
fn one_message_is_delivered_once_however_often_it_is_sent_also_over_a_restart() {
    let mut home = Home::new();
    let tokens = {
        let (alice, bob) = (home.register("alice"), home.register("bob"));
        done(send(&alice, (&bob.user_id, "*"), "same", json!({ "n": 1 })));
        [alice.token.clone(), bob.token.clone()]
    };
    home.restart();
    let [alice, bob] = tokens.each_ref().map(|token| home.with_token(token));
    done(send(&alice, (&bob.user_id, "*"), "same", json!({ "n": 1 })));
    done(send(
        &alice,
        (&bob.user_id, "*"),
        "other",
        json!({ "n": 2 }),
    ));
    assert_eq!(numbers(&sync(&bob, None)), [1, 2]);
}
