//! Membership changes while the other server is down: it learns of them when it is back.

use hearth::{federation::backoff, rooms::servers};
use http::Method;
use ruma::ServerName;
use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, join_via, leave, percent_encode, room_path, send_text,
        set_state, sync,
    },
    test_server::{TestServer, TestUser, expect_ok},
};

/// A private room of `inviter`, who invites `invitee` there.
fn invite(inviter: &TestUser<'_>, invitee: &TestUser<'_>) -> String {
    let room = create_room(inviter, json!({ "preset": "private_chat" }));
    invite_again(inviter, &room, invitee);
    room
}

fn invite_again(inviter: &TestUser<'_>, room: &str, invitee: &TestUser<'_>) {
    let target = json!({ "user_id": invitee.user_id });
    expect_ok(change_membership(inviter, room, "invite", target));
}

/// Whether `server` has failed to reach `other`, and waits until it tries again.
fn backs_off(server: &TestServer, other: &ServerName) -> bool {
    let loaded = server.store().read(|s| match servers::num(s, other)? {
        Some(other) => backoff::load(s, other),
        None => Ok(None),
    });
    loaded.expect("the store works").is_some()
}

fn is_invited(user: &TestUser<'_>, room: &str) -> bool {
    sync(user, None)["rooms"]["invite"][room] != Value::Null
}

/// Waits until `observer`, who is in the room, sees the membership of `user`.
fn wait_for_membership(
    server: &TestServer,
    observer: &TestUser<'_>,
    room: &str,
    (user, membership): (&str, &str),
) -> Value {
    let tail = format!("state/m.room.member/{}", percent_encode(user));
    let path = room_path(room, &tail);
    let token = Some(&*observer.token);
    server.wait_until(async || {
        let member = server.send(Method::GET, &path, token, &Value::Null).await.1;
        member["membership"] == membership
    });
    expect_ok(observer.get(&path))
}

#[test]
fn an_invite_that_was_rejected_while_the_inviting_server_was_down_is_rejected_there_later() {
    let [mut here, mut there] = TestServer::federating();
    let (alice, bob) = (here.register("alice").token, there.register("bob").token);
    let room = invite(&here.user_with_token(&alice), &there.user_with_token(&bob));
    here.stop();
    {
        let bob = there.user_with_token(&bob);
        let reason = json!({ "reason": "not today" });
        expect_ok(change_membership(&bob, &room, "leave", reason));
        assert!(!is_invited(&bob, &room));
    }
    there.restart();
    here.start();
    let (alice, bob) = (here.user_with_token(&alice), there.user_with_token(&bob));
    let member = wait_for_membership(&here, &alice, &room, (&bob.user_id, "leave"));
    assert_eq!(member["reason"], "not today");
    invite_again(&alice, &room, &bob);
    assert!(is_invited(&bob, &room));
}

#[test]
fn invites_that_a_deactivated_account_had_are_rejected_when_the_inviting_server_is_back() {
    let [mut here, there] = TestServer::federating();
    let alice = here.register("alice").token;
    let bob = there.register("bob");
    let room = invite(&here.user_with_token(&alice), &bob);
    here.stop();
    let path = "/_matrix/client/v3/account/deactivate";
    expect_ok(bob.request_with_password(Method::POST, path, json!({})));
    here.start();
    let alice = here.user_with_token(&alice);
    wait_for_membership(&here, &alice, &room, (&bob.user_id, "leave"));
}

#[test]
fn an_invite_that_comes_before_the_rejection_of_the_last_one_was_sent_stays() {
    let [mut here, there] = TestServer::federating();
    let alice = here.register("alice").token;
    let bob = there.register("bob");
    let room = invite(&here.user_with_token(&alice), &bob);
    here.stop();
    leave(&bob, &room);
    // An attempt that is under way could reach the server when it is back.
    there.wait_until(async || backs_off(&there, here.name()));
    here.start();
    let alice = here.user_with_token(&alice);
    invite_again(&alice, &room, &bob);
    assert!(is_invited(&bob, &room));
    join_via(&bob, &room, &here);
    // What waited for the server has arrived there with this.
    let event = send_text(&bob, &room, "here I am");
    let event = room_path(&room, &format!("event/{}", percent_encode(&event)));
    let token = Some(&*alice.token);
    here.wait_until(async || here.send(Method::GET, &event, token, &Value::Null).await.0 == 200);
    wait_for_membership(&here, &alice, &room, (&bob.user_id, "join"));
}

#[test]
fn a_knock_that_was_retracted_while_the_server_was_down_is_retracted_there_later() {
    let [mut here, mut there] = TestServer::federating();
    let (alice, bob) = (here.register("alice").token, there.register("bob").token);
    let room = {
        let (alice, bob) = (here.user_with_token(&alice), there.user_with_token(&bob));
        let room = create_room(&alice, json!({ "preset": "private_chat" }));
        let rule = json!({ "join_rule": "knock" });
        set_state(&alice, &room, ("m.room.join_rules", ""), rule);
        let via = percent_encode(here.name().as_str());
        let path = format!(
            "/_matrix/client/v3/knock/{}?via={via}",
            percent_encode(&room)
        );
        expect_ok(bob.post(&path, json!({})));
        wait_for_membership(&here, &alice, &room, (&bob.user_id, "knock"));
        room
    };
    here.stop();
    leave(&there.user_with_token(&bob), &room);
    there.restart();
    here.start();
    let (alice, bob) = (here.user_with_token(&alice), there.user_with_token(&bob));
    wait_for_membership(&here, &alice, &room, (&bob.user_id, "leave"));
}

#[test]
fn an_invite_that_was_withdrawn_while_the_invited_server_was_down_is_withdrawn_there_later() {
    let [mut here, mut there] = TestServer::federating();
    let (alice, bob) = (here.register("alice").token, there.register("bob").token);
    let room = invite(&here.user_with_token(&alice), &there.user_with_token(&bob));
    there.stop();
    let target = json!({ "user_id": format!("@bob:{}", there.name()) });
    let kicked = change_membership(&here.user_with_token(&alice), &room, "kick", target);
    expect_ok(kicked);
    here.restart();
    there.start();
    let token = Some(&*bob);
    there.wait_until(async || {
        let path = "/_matrix/client/v3/sync";
        let synced = there.send(Method::GET, path, token, &Value::Null).await.1;
        synced["rooms"]["invite"][&room].is_null()
    });
    let (alice, bob) = (here.user_with_token(&alice), there.user_with_token(&bob));
    invite_again(&alice, &room, &bob);
    assert!(is_invited(&bob, &room));
}
