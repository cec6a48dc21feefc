//! Messages to devices of other servers' users.

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

use super::{device_lists::share, peer::Peer};
use crate::{
    home::{Home, Person},
    rooms::{done, escaped, next, sync, sync_with},
};

/// Sends `{"n": n}` to every device of `to`.
pub fn note(who: &Person<'_>, to: &str, n: u64) {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example.note/t{n}");
    let messages = json!({ "messages": { to: { "*": { "n": n } } } });
    done(who.put(&path, messages));
}

/// Waits for `count` messages; their numbers.
pub fn hears(who: &Person<'_>, count: usize) -> Vec<u64> {
    let (mut heard, mut since) = (Vec::new(), None::<String>);
    for _ in 0..200 {
        let since_now = since.clone().unwrap_or_default();
        let mut parameters = vec![("timeout", "10000")];
        if since.is_some() {
            parameters.push(("since", &since_now));
        }
        let answer = sync_with(who, &parameters);
        let events = answer["to_device"]["events"].as_array().into_iter();
        heard.extend(events.flatten().map(|event| {
            let number = &event["content"]["n"];
            number.as_u64().expect("a number")
        }));
        if heard.len() >= count {
            return heard;
        }
        since = Some(next(&answer).to_owned());
    }
    panic!("{} hears only {heard:?}", who.user_id);
}

/// Hands `there` a transaction of `here` with these EDUs.
pub fn tell(here: &Home, there: &Home, id: &str, edus: &[Value]) {
    let (origin, now) = (here.name().to_owned(), here.clock.timestamp());
    let mut request = send_transaction_message::v1::Request::new(id.into(), origin, now);
    let raw = |edu: &Value| Raw::<Edu>::from_json_string(edu.to_string()).expect("JSON");
    request.edus = edus.iter().map(raw).collect();
    let answer = here.run(here.client().send(there.name(), request));
    answer.expect("it takes the transaction");
}

fn direct(sender: &str, id: &str, to: &str, n: u64) -> Value {
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
fn messages_reach_the_devices_of_another_servers_user_in_order() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let other = there.log_in("bob");
    (0..150).for_each(|n| note(&alice, &bob.user_id, n));
    let expected = Vec::from_iter(0..150);
    assert_eq!(hears(&bob, 150), expected);
    assert_eq!(hears(&other, 150), expected);
}

#[test]
fn messages_wait_for_a_server_that_is_away_also_over_a_restart_of_the_sender() {
    let [mut here, mut there] = Home::federating();
    let token = there.register("bob").token;
    let to = format!("@bob:{}", there.name());
    there.stop();
    let alice = here.register("alice").token;
    (0..5).for_each(|n| note(&here.with_token(&alice), &to, n));
    here.restart();
    (5..10).for_each(|n| note(&here.with_token(&alice), &to, n));
    there.start();
    here.clock.advance(Duration::from_hours(2));
    let bob = there.with_token(&token);
    // That it is there again is heard by the one who rests.
    let seen = format!(
        "/_matrix/client/v3/profile/{}",
        escaped(&format!("@alice:{}", here.name()))
    );
    bob.get(&seen);
    assert_eq!(hears(&bob, 10), Vec::from_iter(0..10));
}

#[test]
fn a_message_that_comes_again_is_delivered_once_and_another_servers_not_at_all() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let [to, from] = [&bob.user_id, &alice.user_id];
    tell(&here, &there, "1", &[direct(from, "m1", to, 1)]);
    let again = [
        direct(from, "m1", to, 1),
        direct("@alice:elsewhere.example", "m2", to, 2),
        direct(from, &"m".repeat(300), to, 3),
        direct(from, "m4", to, 4),
    ];
    tell(&here, &there, "2", &again);
    assert_eq!(hears(&bob, 2), [1, 4]);
}

#[test]
fn a_server_that_takes_less_at_once_gets_less_and_not_what_is_too_large_alone() {
    const TAKES: usize = 40_000;
    let peer = Peer::answering(|size| if size > TAKES { 413 } else { 200 });
    let [here] = Home::federating();
    let alice = here.register("alice");
    let to = format!("@bob:{}", peer.name());
    // One that is too large is among many that are so together, and all come at once.
    let message = |n: usize| {
        let length = if n == 7 { 2 * TAKES } else { 10_000 };
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
    let answers = here.run(here.all((0..20).map(send).collect()));
    assert!(answers.iter().all(|(status, _)| *status == 200));
    let heard = || {
        let taken = peer.has_taken().into_iter();
        let numbers = taken.filter_map(|edu| edu["content"]["messages"][&to]["*"]["n"].as_u64());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        numbers
    };
    here.run(here.until(async || heard().len() >= 19));
    let expected: Vec<u64> = (0..20).filter(|n| *n != 7).collect();
    assert_eq!(heard(), expected);
}

#[test]
fn messages_do_not_wait_for_the_keys_that_events_need() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = share(&alice, &here, &bob);
    let since = next(&sync(&bob, None)).to_owned();
    // It is there, and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = silent.local_addr().expect("it has an address").port();
    let silent = Async::new(silent).expect("it can be waited for");
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
    let edu = direct(&alice.user_id, "m1", &bob.user_id, 1);
    request.edus = vec![Raw::from_json_string(edu.to_string()).expect("JSON")];
    let path = format!("/_matrix/client/v3/sync?timeout=20000&since={since}");
    let answered = async {
        let answer = here.client().send(there.name(), request).await;
        panic!("it did not need the keys: {answer:?}");
    };
    let heard = async {
        loop {
            let (_, answer) = there
                .send(Method::GET, &path, Some(&bob.token), &Value::Null)
                .await;
            let events = &answer["to_device"]["events"];
            if events[0]["content"]["n"] == 1 {
                break;
            }
        }
    };
    // The message is there while the server still waits for the keys.
    let heard = async {
        heard.await;
        let (mut asked, _) = silent.accept().await.expect("it is asked");
        let mut hello = [0; 4096];
        loop {
            match poll_once(asked.read(&mut hello)).await {
                Some(Ok(1..)) => {}
                Some(_) => panic!("the server waits no more"),
                None => break,
            }
        }
    };
    here.run(future::or(heard, answered));
}
