//! Rooms with a policy server.

use std::{
    io::BufReader,
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use hearth::protocol::{ServerKey, versions};
use http::Method;
use ruma::{CanonicalJsonObject, RoomVersionId, canonical_json::redact, signatures::sign_json};
use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::{
    mock_server::{read_body, respond},
    outage::wait_for_event,
};
use crate::{
    client_api::{
        change_membership, create_room_with, join_via, message_bodies, next_batch, percent_encode,
        room_path, send_text, set_state, sync,
    },
    mock_web_server,
    test_server::{JsonResponse, TestServer, TestUser, expect_error, expect_ok},
};

/// Signs events that do not contain `spam`, forges the signatures of those that contain `forged`, wants a token for
/// those that contain `logged out`, and does not answer while `silent` is set.
struct PolicyServer {
    name: String,
    key: ServerKey,
    asked: Mutex<Vec<Value>>,
    silent: Mutex<bool>,
}

impl PolicyServer {
    fn start(listener: TcpListener, name: &str) -> Arc<Self> {
        let key = ServerKey::from_seed([7; 32], "policy_server").expect("a key");
        // The server that has stopped did not wait for connections in this way.
        listener.set_nonblocking(false).expect("a socket can block");
        let server = Arc::new(Self {
            name: name.to_owned(),
            key,
            asked: Mutex::default(),
            silent: Mutex::default(),
        });
        let (serving, config) = (server.clone(), mock_web_server::tls_config());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serving, config) = (serving.clone(), config.clone());
                thread::spawn(move || {
                    let connection = ServerConnection::new(config).expect("a connection");
                    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
                    let Some(body) = read_body(&mut stream) else {
                        return;
                    };
                    let (status, response) = serving.answer(&body);
                    if status == 0 {
                        // Until the other side gives up.
                        read_body(&mut stream);
                        return;
                    }
                    // Fails if the client has closed the connection.
                    let _ = respond(stream.get_mut(), status, &response.to_string());
                });
            }
        });
        server
    }

    fn public_key(&self) -> String {
        self.key.public_key().encode()
    }

    fn answer(&self, body: &[u8]) -> (u16, Value) {
        let Ok(event) = serde_json::from_slice::<CanonicalJsonObject>(body) else {
            return (400, json!({ "errcode": "M_NOT_JSON", "error": "no JSON" }));
        };
        if !event.contains_key("prev_events") {
            return (200, json!({}));
        }
        let text = String::from_utf8_lossy(body).into_owned();
        let parsed = serde_json::from_slice(body).expect("JSON");
        self.asked.lock().expect("a lock").push(parsed);
        if *self.silent.lock().expect("a lock") {
            return (0, Value::Null);
        }
        if text.contains("spam") {
            let error = "this looks like spam";
            return (400, json!({ "errcode": "M_FORBIDDEN", "error": error }));
        }
        if text.contains("logged out") {
            let error = json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "who are you?" });
            return (401, error);
        }
        let rules = versions::rules(&RoomVersionId::V12).expect("a version");
        let mut redacted = redact(event, &rules.redaction, None).expect("an event");
        redacted.remove("signatures");
        redacted.remove("unsigned");
        if text.contains("forged") {
            redacted.insert("type".to_owned(), "another".into());
        }
        sign_json(&self.name, &self.key, &mut redacted).expect("it can be signed");
        (
            200,
            serde_json::to_value(&redacted["signatures"]).expect("JSON"),
        )
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().expect("a lock").clone()
    }
}

fn try_to_send(user: &TestUser<'_>, room: &str, body: &str, transaction: &str) -> JsonResponse {
    // `send_text` counts its transactions.
    let path = room_path(room, &format!("send/m.room.message/own{transaction}"));
    user.put(&path, json!({ "msgtype": "m.text", "body": body }))
}

fn seen(user: &TestUser<'_>, room: &str) -> Vec<String> {
    let response = sync(user, None);
    let bodies = message_bodies(&response["rooms"]["join"][room]["timeline"]["events"]);
    bodies.into_iter().map(str::to_owned).collect()
}

/// A room of Alice here, Bob there, and a user of a server that becomes a policy server.
struct World {
    here: TestServer,
    there: TestServer,
    policy: Arc<PolicyServer>,
    /// Which the policy server has taken over.
    _stopped: TestServer,
    alice: String,
    bob: String,
    room: String,
}

fn world() -> World {
    let [here, there, mut stopped] = TestServer::federating();
    let (alice, bob, room) = {
        let (alice, bob) = (here.register("alice"), there.register("bob"));
        let judge = stopped.register("judge");
        let room = create_room_with(&[&alice]);
        join_via(&bob, &room, &here);
        join_via(&judge, &room, &here);
        let since = next_batch(&sync(&judge, None)).to_owned();
        let event = send_text(&alice, &room, "all are here");
        wait_for_event(&judge, &room, &event, since);
        (alice.token, bob.token, room)
    };
    let listener = stopped.federation_listener();
    stopped.stop();
    let policy = PolicyServer::start(listener, stopped.name().as_str());
    World {
        here,
        there,
        policy,
        _stopped: stopped,
        alice,
        bob,
        room,
    }
}

impl World {
    fn alice(&self) -> TestUser<'_> {
        self.here.user_with_token(&self.alice)
    }

    fn bob(&self) -> TestUser<'_> {
        self.there.user_with_token(&self.bob)
    }

    fn enable(&self) {
        let content = json!({
            "via": self.policy.name, "public_keys": { "ed25519": self.policy.public_key() },
        });
        set_state(&self.alice(), &self.room, ("m.room.policy", ""), content);
    }
}

#[test]
fn events_of_local_users_are_sent_only_with_the_signature_of_the_policy_server() {
    let world = world();
    let (alice, bob, room) = (world.alice(), world.bob(), &world.room);
    assert!(world.policy.asked().is_empty());
    world.enable();
    // Its own configuration is not its business.
    assert!(world.policy.asked().is_empty());
    let since = next_batch(&sync(&bob, None)).to_owned();
    let event = send_text(&alice, room, "hello");
    wait_for_event(&bob, room, &event, since);
    let asked = world.policy.asked();
    assert!(
        asked
            .iter()
            .any(|event| event["content"]["body"] == "hello")
    );
    let refused = try_to_send(&alice, room, "spam", "1");
    expect_error(&refused, 400, "M_FORBIDDEN");
    assert_eq!(refused.1["error"], "this looks like spam");
    expect_error(&try_to_send(&alice, room, "forged", "2"), 502, "M_UNKNOWN");
    let topic = alice.put(
        &room_path(room, "state/m.room.topic"),
        json!({ "topic": "spam" }),
    );
    expect_error(&topic, 400, "M_FORBIDDEN");
    let target = json!({ "user_id": bob.user_id, "reason": "spam" });
    expect_error(
        &change_membership(&alice, room, "kick", target),
        400,
        "M_FORBIDDEN",
    );
    // It is no session of the policy server that the client has.
    let logged_out = try_to_send(&alice, room, "logged out", "3");
    expect_error(&logged_out, 403, "M_FORBIDDEN");
    let alias = format!("#club:{}", world.here.name());
    let directory = format!(
        "/_matrix/client/v3/directory/room/{}",
        percent_encode(&alias)
    );
    expect_ok(alice.put(&directory, json!({ "room_id": room })));
    let canonical = json!({ "alias": alias });
    set_state(&alice, room, ("m.room.canonical_alias", ""), canonical);
    expect_ok(alice.delete(&directory, json!({})));
    let since = next_batch(&sync(&bob, None)).to_owned();
    let event = send_text(&alice, room, "after all that");
    wait_for_event(&bob, room, &event, since);
    assert_eq!(
        seen(&alice, room),
        ["all are here", "hello", "after all that"]
    );
    // What was signed came with the signature, so the other server did not ask again.
    let asked = world.policy.asked();
    let count = asked
        .iter()
        .filter(|event| event["content"]["body"] == "after all that");
    assert_eq!(count.count(), 1);
}

#[test]
fn rooms_without_a_policy_server_ask_none() {
    let world = world();
    world.enable();
    let alice = world.alice();
    let asked = world.policy.asked().len();
    let other = create_room_with(&[&alice]);
    send_text(&alice, &other, "spam");
    // A policy server without a user in the room is none.
    let content = json!({
        "via": world.policy.name, "public_keys": { "ed25519": world.policy.public_key() },
    });
    set_state(&alice, &other, ("m.room.policy", ""), content);
    send_text(&alice, &other, "spam again");
    // Nor is one after it was disabled.
    set_state(&alice, &world.room, ("m.room.policy", ""), json!({}));
    send_text(&alice, &world.room, "spam at last");
    assert_eq!(world.policy.asked().len(), asked);
}

#[test]
fn a_silent_policy_server_holds_up_the_room_once_and_is_asked_again_later() {
    let world = world();
    world.enable();
    let (alice, room) = (world.alice(), &world.room);
    *world.policy.silent.lock().expect("a lock") = true;
    let asked = world.policy.asked().len();
    let responses = ["1", "2", "3"].map(|number| try_to_send(&alice, room, "anybody?", number));
    let statuses = responses.each_ref().map(|(status, _)| *status);
    assert_eq!(statuses, [504; 3]);
    assert_eq!(world.policy.asked().len(), asked + 1);
    // Other rooms are not concerned.
    send_text(&alice, &create_room_with(&[&alice]), "elsewhere");
    *world.policy.silent.lock().expect("a lock") = false;
    world.here.clock.advance(Duration::from_secs(31));
    send_text(&alice, room, "there you are");
}

/// The leaves of a deactivated user are sent without a signature.
#[test]
fn an_event_that_is_received_without_a_signature_is_soft_failed_unless_the_policy_server_signs_it()
{
    let world = world();
    let room = &world.room;
    let users = ["spammer", "robert"].map(|name| world.there.register(name));
    for user in &users {
        join_via(user, room, &world.here);
    }
    world.enable();
    for user in &users {
        let path = "/_matrix/client/v3/account/deactivate";
        expect_ok(user.request_with_password(Method::POST, path, json!({})));
    }
    let messages = room_path(room, "messages?dir=b&limit=100");
    let left = async || {
        let response = world
            .here
            .send(Method::GET, &messages, Some(&world.alice), &Value::Null);
        let events = response.await.1["chunk"].take();
        let events = events.as_array().expect("events").iter();
        let left = events.filter(|event| event["content"]["membership"] == "leave");
        left.map(|event| event["state_key"].clone())
            .collect::<Vec<_>>()
    };
    // The second leave came after the first.
    let expected = users[1].user_id.as_str();
    world
        .here
        .wait_until(async || left().await.contains(&json!(expected)));
    assert_eq!(world.here.run(left()), [expected]);
}

#[test]
fn a_change_of_a_profile_is_sent_only_with_the_signature_of_the_policy_server() {
    let world = world();
    let (alice, bob, room) = (world.alice(), world.bob(), &world.room);
    let since = next_batch(&sync(&bob, None)).to_owned();
    world.enable();
    let event = send_text(&alice, room, "now there is a policy server");
    wait_for_event(&bob, room, &event, since);
    let rename = |name: &str| {
        let path = format!("/_matrix/client/v3/profile/{}/displayname", bob.user_id);
        expect_ok(bob.put(&path, json!({ "displayname": name })));
        let asked = || world.policy.asked().into_iter();
        let is_asked = || asked().any(|event| event["content"]["displayname"] == name);
        world.there.wait_until(async || is_asked());
    };
    rename("spam");
    rename("Robert");
    // It came after the other.
    let members = room_path(room, "joined_members");
    let name = async || {
        let response = world
            .here
            .send(Method::GET, &members, Some(&alice.token), &Value::Null);
        response.await.1["joined"][&bob.user_id]["display_name"].clone()
    };
    world.here.wait_until(async || name().await == "Robert");
    let page = expect_ok(alice.get(&room_path(room, "messages?dir=b&limit=100")));
    let events = page["chunk"].as_array().unwrap().iter();
    let names: Vec<_> = events
        .map(|event| &event["content"]["displayname"])
        .collect();
    assert!(
        names.contains(&&json!("Robert")) && !names.contains(&&json!("spam")),
        "{names:?}"
    );
}
