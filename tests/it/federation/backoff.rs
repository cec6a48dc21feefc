//! Backoff of unreachable servers.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use serde_json::json;
use smol::Async;

use crate::{
    client_api::{create_room, join_via, send_text},
    test_server::{TestServer, expect_ok},
};
use hearth::store::{Reader, Rows};

/// Waits for a connection and closes it.
async fn close_next_connection(listener: &Async<TcpListener>) {
    drop(listener.accept().await.expect("a connection"));
}

#[test]
fn backoff_of_an_unreachable_server_survives_restart() {
    let [mut here, there] = TestServer::federating();
    let port = there.name().port().expect("its name has a port");
    let (token, room) = {
        let (alice, bob) = (here.register("alice"), there.register("bob"));
        let room = create_room(&alice, json!({ "preset": "public_chat" }));
        join_via(&bob, &room, &here);
        (alice.token, room)
    };
    drop(there);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free again");
    let listener = Async::new(listener).expect("an asynchronous listener");
    send_text(&here.user_with_token(&token), &room, "hello");
    // The backoff is at least two seconds. It is stored before the next attempt.
    here.run(close_next_connection(&listener));
    here.run(close_next_connection(&listener));
    let before = Instant::now();
    here.restart();
    here.run(close_next_connection(&listener));
    assert!(before.elapsed() >= Duration::from_secs(2));
}

#[test]
fn how_a_server_took_the_last_transaction_is_known_after_a_restart() {
    let [mut here, mut there] = TestServer::federating();
    {
        let (alice, bob) = (here.register("alice"), there.register("bob"));
        let room = create_room(&alice, json!({ "preset": "public_chat" }));
        join_via(&bob, &room, &here);
        send_text(&alice, &room, "hello");
    }
    here.wait_until(async || {
        let contacts = here.store().read(|s| s.server_contacts()?.len());
        contacts.is_ok_and(|rows| rows == 1)
    });
    let server = json!({ "server": there.name() });
    let before = expect_ok(here.administer("federation/show", &server));
    assert!(before["last_success_ts"].is_u64(), "{before}");
    // The other server must not take a transaction after the restart.
    there.stop();
    here.restart();
    let after = expect_ok(here.administer("federation/show", &server));
    assert_eq!(after["last_success_ts"], before["last_success_ts"]);
}
