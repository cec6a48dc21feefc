//! Servers that do not answer are left alone.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use serde_json::json;
use smol::Async;

use crate::{
    home::Home,
    rooms::{done, escaped, make_room, say},
};

/// Waits until somebody connects, and sends them away.
async fn send_away(door: &Async<TcpListener>) {
    drop(door.accept().await.expect("somebody connects"));
}

#[test]
fn who_did_not_answer_before_a_restart_is_left_alone_after_it() {
    let [mut here, there] = Home::federating();
    let port = there.name().port().expect("its name has a port");
    let (token, room) = {
        let (alice, bob) = (here.register("alice"), there.register("bob"));
        let room = make_room(&alice, json!({ "preset": "public_chat" }));
        let join = format!("/_matrix/client/v3/join/{}", escaped(&room));
        let via = format!("{join}?via={}", here.name());
        done(bob.post(&via, json!({})));
        (alice.token, room)
    };
    drop(there);
    let door = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free again");
    let door = Async::new(door).expect("it can be waited for");
    say(&here.with_token(&token), &room, "is anybody there?");
    // It rests for two seconds at least; that is stored before it is tried again.
    here.run(send_away(&door));
    here.run(send_away(&door));
    let before = Instant::now();
    here.restart();
    here.run(send_away(&door));
    assert!(before.elapsed() >= Duration::from_secs(2));
}
