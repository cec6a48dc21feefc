//! Servers that were away.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use serde_json::{Value, json};
use smol::{Async, Timer, future};

use super::to_device::{self, note};
use crate::{
    home::{Home, Person},
    rooms::{done, escaped, make_room, next, say, sync, sync_with},
};

/// More than a server is told one by one.
const MESSAGES: usize = 1100;

pub fn join_via(who: &Person<'_>, room: &str, server: &Home) {
    let (room, via) = (escaped(room), escaped(server.name().as_str()));
    let path = format!("/_matrix/client/v3/join/{room}?via={via}");
    done(who.post(&path, json!({})));
}

/// Waits until a sync tells `who` of the event.
fn hears(who: &Person<'_>, room: &str, event: &str, mut since: String) {
    for _ in 0..300 {
        let answer = sync_with(who, &[("since", &since), ("timeout", "10000")]);
        let timeline = &answer["rooms"]["join"][room]["timeline"]["events"];
        let heard = timeline.as_array().into_iter().flatten();
        if heard.into_iter().any(|told| told["event_id"] == event) {
            return;
        }
        since = next(&answer).to_owned();
    }
    panic!("{} has not heard of {event}", who.user_id);
}

/// All that paging back shows, the newest first.
fn history(who: &Person<'_>, room: &str) -> Vec<Value> {
    let (mut found, mut from) = (Vec::new(), String::new());
    loop {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=200{from}",
            escaped(room)
        );
        let page = done(who.get(&path));
        found.extend(page["chunk"].as_array().cloned().unwrap_or_default());
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", escaped(end)),
            None => return found,
        }
    }
}

#[test]
fn a_server_that_was_away_for_long_is_told_how_things_stand_and_finds_the_rest_itself() {
    let [here, mut there] = Home::federating();
    let token = there.register("bob").token;
    let alice = here.register("alice");
    let room = make_room(&alice, json!({ "preset": "public_chat" }));
    let since = {
        let bob = there.with_token(&token);
        join_via(&bob, &room, &here);
        next(&sync(&bob, None)).to_owned()
    };
    let other = there.log_in("bob").token;
    there.stop();
    let said: Vec<String> = (0..MESSAGES)
        .map(|number| say(&alice, &room, &format!("into the dark {number}")))
        .collect();
    note(&alice, &format!("@bob:{}", there.name()), 1);
    there.start();
    // So long that nobody rests any more.
    here.clock.advance(Duration::from_hours(2));
    let bob = there.with_token(&token);
    say(&bob, &room, "here again");
    hears(&bob, &room, &said[MESSAGES - 1], since);
    let path = format!(
        "/_matrix/client/v3/rooms/{}/event/{}",
        escaped(&room),
        escaped(&said[MESSAGES / 2])
    );
    assert_eq!(bob.get(&path).0, 404, "not everything was sent");
    let history = history(&bob, &room);
    let found = history
        .iter()
        .filter_map(|event| event["event_id"].as_str());
    let found: Vec<&str> = found
        .filter(|id| said.iter().any(|said| said == id))
        .collect();
    assert!(found.into_iter().rev().eq(&said), "each once and in order");
    assert_eq!(to_device::hears(&there.with_token(&other), 1), [1]);
}

#[test]
fn a_server_that_is_back_says_so_to_those_with_whom_it_shares_rooms() {
    let [mut here, there] = Home::federating();
    let port = there.name().port().expect("its name has a port");
    {
        let (alice, bob) = (here.register("alice"), there.register("bob"));
        let room = make_room(&alice, json!({ "preset": "public_chat" }));
        join_via(&bob, &room, &here);
    }
    drop(there);
    let door = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free again");
    let door = Async::new(door).expect("it can be waited for");
    here.restart();
    let comes = async { door.accept().await.is_ok() };
    let late = async {
        Timer::after(Duration::from_secs(30)).await;
        false
    };
    assert!(here.run(future::or(comes, late)), "nobody says anything");
}
