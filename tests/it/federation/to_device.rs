//! Messages to devices of other servers' users.

use std::time::Duration;

use ruma::{
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::Raw,
};
use serde_json::{Value, json};

use crate::{
    home::{Home, Person},
    rooms::{done, escaped, next, sync_with},
};

/// Sends `{"n": n}` to every device of `to`.
fn note(who: &Person<'_>, to: &str, n: u64) {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example.note/t{n}");
    let messages = json!({ "messages": { to: { "*": { "n": n } } } });
    done(who.put(&path, messages));
}

/// Waits for `count` messages; their numbers.
fn hears(who: &Person<'_>, count: usize) -> Vec<u64> {
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
