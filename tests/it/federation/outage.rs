//! Recovery after outages of servers.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use http::Method;
use serde_json::{Value, json};
use smol::{Async, Timer, future};

use super::to_device::{send_note, wait_for_notes};
use crate::{
    client_api::{
        change_membership, create_room, join_via, next_batch, percent_encode, room_path, send_text,
        sync, sync_with,
    },
    test_server::{TestServer, TestUser, expect_ok},
};

/// More than the limit above which a destination only gets the latest events.
const MESSAGES: usize = 1100;
/// How often the whole history is paged through.
const MAX_ATTEMPTS: usize = 20;

pub fn wait_for_event(user: &TestUser<'_>, room: &str, event: &str, mut since: String) {
    for _ in 0..300 {
        let response = sync_with(user, &[("since", &since), ("timeout", "10000")]);
        let timeline = &response["rooms"]["join"][room]["timeline"]["events"];
        let events = timeline.as_array().into_iter().flatten();
        if events.into_iter().any(|synced| synced["event_id"] == event) {
            return;
        }
        since = next_batch(&response).to_owned();
    }
    panic!("{event} is not in the syncs of {}", user.user_id);
}

/// The ids of all events of the room, newest first.
fn history(user: &TestUser<'_>, room: &str) -> Vec<String> {
    let (mut found, mut from) = (Vec::new(), String::new());
    loop {
        let tail = format!("messages?dir=b&limit=200{from}");
        let page = expect_ok(user.get(&room_path(room, &tail)));
        let events = page["chunk"].as_array().into_iter().flatten();
        let ids = events.filter_map(|event| event["event_id"].as_str());
        found.extend(ids.map(ToOwned::to_owned));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={}", percent_encode(end)),
            None => return found,
        }
    }
}

/// More than a response that is received into memory may have.
const LARGE_CHAIN_BYTES: usize = 17_000_000;

#[test]
fn an_auth_chain_that_is_too_large_for_memory_is_received() {
    let [here, mut there] = TestServer::federating();
    let token = there.register("bob").token;
    let alice = here.register("alice");
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let since = {
        let bob = there.user_with_token(&token);
        join_via(&bob, &room, &here);
        next_batch(&sync(&bob, None)).to_owned()
    };
    there.stop();
    // Each is an auth event of the next.
    let filler = "x".repeat(60_000);
    let path = room_path(&room, &format!("state/m.room.member/{}", alice.user_id));
    let members = LARGE_CHAIN_BYTES / filler.len();
    for number in 0..members {
        let name = format!("{number}");
        let member = json!({ "membership": "join", "displayname": name, "org.example.x": filler });
        expect_ok(alice.put(&path, member));
    }
    for number in members..MESSAGES {
        send_text(&alice, &room, &format!("during the outage {number}"));
    }
    let last = send_text(&alice, &room, "the last");
    there.start();
    // Every backoff has passed.
    here.clock.advance(Duration::from_hours(2));
    let bob = there.user_with_token(&token);
    send_text(&bob, &room, "back");
    wait_for_event(&bob, &room, &last, since);
}

#[test]
fn long_outage_is_recovered_by_latest_events_and_backfill() {
    let [here, mut there] = TestServer::federating();
    let token = there.register("bob").token;
    let alice = here.register("alice");
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let since = {
        let bob = there.user_with_token(&token);
        join_via(&bob, &room, &here);
        next_batch(&sync(&bob, None)).to_owned()
    };
    let other = there.log_in("bob").token;
    let target = json!({ "user_id": format!("@bob:{}", there.name()) });
    let private = create_room(&alice, json!({ "preset": "private_chat" }));
    expect_ok(change_membership(
        &alice,
        &private,
        "invite",
        target.clone(),
    ));
    there.stop();
    expect_ok(change_membership(&alice, &private, "kick", target));
    let sent: Vec<String> = (0..MESSAGES)
        .map(|number| send_text(&alice, &room, &format!("during the outage {number}")))
        .collect();
    send_note(&alice, &format!("@bob:{}", there.name()), 1);
    there.start();
    // Every backoff has passed.
    here.clock.advance(Duration::from_hours(2));
    let bob = there.user_with_token(&token);
    send_text(&bob, &room, "back");
    wait_for_event(&bob, &room, &sent[MESSAGES - 1], since);
    let tail = format!("event/{}", percent_encode(&sent[MESSAGES / 2]));
    assert_eq!(
        bob.get(&room_path(&room, &tail)).0,
        404,
        "not every event was pushed"
    );
    // A page does not wait for a slow backfill: then the client has to scroll again.
    let mut found = Vec::new();
    for _ in 0..MAX_ATTEMPTS {
        found = history(&bob, &room);
        found.retain(|id| sent.contains(id));
        if found.len() >= sent.len() {
            break;
        }
    }
    assert!(found.into_iter().rev().eq(sent), "each once and in order");
    assert_eq!(wait_for_notes(&there.user_with_token(&other), 1), [1]);
    there.wait_until(async || {
        let path = "/_matrix/client/v3/sync";
        let synced = there.send(Method::GET, path, Some(&token), &Value::Null);
        synced.await.1["rooms"]["invite"][&private].is_null()
    });
}

#[test]
fn a_redaction_of_an_event_that_is_not_here_is_sent_and_applied_once_the_event_comes() {
    let [mut here, mut there] = TestServer::federating();
    let (alice, bob) = (here.register("alice").token, there.register("bob").token);
    let room = {
        let (alice, bob) = (here.user_with_token(&alice), there.user_with_token(&bob));
        let users = json!({ alice.user_id.clone(): 100, bob.user_id.clone(): 50 });
        let levels = json!({ "users": users });
        let room = create_room(
            &alice,
            json!({
                "preset": "public_chat",
                "room_version": "11",
                "power_level_content_override": levels,
            }),
        );
        join_via(&bob, &room, &here);
        room
    };
    there.stop();
    let event = send_text(&here.user_with_token(&alice), &room, "not yet there");
    here.stop();
    there.start();
    {
        let bob = there.user_with_token(&bob);
        let path = room_path(&room, &format!("redact/{}/1", percent_encode(&event)));
        expect_ok(bob.put(&path, json!({})));
    }
    here.start();
    // Every backoff has passed.
    here.clock.advance(Duration::from_hours(2));
    there.clock.advance(Duration::from_hours(2));
    let path = room_path(&room, &format!("event/{}", percent_encode(&event)));
    for (server, token) in [(&here, &alice), (&there, &bob)] {
        server.wait_until(async || {
            let found = server.send(Method::GET, &path, Some(token), &Value::Null);
            let redaction = &found.await.1["unsigned"]["redacted_because"];
            redaction["sender"] == format!("@bob:{}", there.name())
        });
    }
}

#[test]
fn restarted_server_contacts_the_servers_it_shares_rooms_with() {
    let [mut here, there] = TestServer::federating();
    let port = there.name().port().expect("its name has a port");
    {
        let (alice, bob) = (here.register("alice"), there.register("bob"));
        let room = create_room(&alice, json!({ "preset": "public_chat" }));
        join_via(&bob, &room, &here);
    }
    drop(there);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free again");
    let listener = Async::new(listener).expect("an asynchronous listener");
    here.restart();
    let connection = async { listener.accept().await.is_ok() };
    let timeout = async {
        Timer::after(Duration::from_secs(30)).await;
        false
    };
    assert!(
        here.run(future::or(connection, timeout)),
        "no connection was made"
    );
}
