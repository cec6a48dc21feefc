//! What a server gets and does in a room that it may not take part in: its server ACL denies it, or it has
//! left, or was never in it.

use http::Method;
use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::mock_origin::{MockOrigin, server_with_another_host};
use crate::{
    client_api::{
        change_membership, create_room, join, message_bodies, next_batch, percent_encode,
        send_text, set_state, sync, sync_with,
    },
    test_server::{TestServer, TestUser, expect_ok},
};

const V11: RoomVersionId = RoomVersionId::V11;

/// A public room of alice's with a message, in which bob is too.
struct World<'s> {
    here: &'s TestServer,
    alice: TestUser<'s>,
    bob: TestUser<'s>,
    room: String,
    event: String,
    origin: MockOrigin,
}

impl<'s> World<'s> {
    fn new(here: &'s TestServer) -> Self {
        let [alice, bob] = ["alice", "bob"].map(|name| here.register(name));
        let body = json!({ "preset": "public_chat", "room_version": "11" });
        let room = create_room(&alice, body);
        join(&bob, &room);
        let event = send_text(&alice, &room, "hello");
        let origin = MockOrigin::new(here);
        Self {
            here,
            alice,
            bob,
            room,
            event,
            origin,
        }
    }

    fn eve(&self) -> String {
        self.origin.user("eve")
    }

    fn deny(&self) {
        let acl = json!({ "allow": ["*"], "deny": ["localhost"] });
        set_state(&self.alice, &self.room, ("m.room.server_acl", ""), acl);
    }

    /// The statuses of requests by which a server reads the room.
    fn reads(&self) -> Vec<(&'static str, u16)> {
        let (room, event) = (percent_encode(&self.room), percent_encode(&self.event));
        let get = |path: String| {
            let path = format!("/_matrix/federation/v1/{path}");
            self.origin
                .send(self.here, Method::GET, &path, &Value::Null)
                .0
        };
        let missing = json!({
            "earliest_events": [], "latest_events": [self.event], "limit": 10, "min_depth": 0,
        });
        let path = format!("/_matrix/federation/v1/get_missing_events/{room}");
        let missing = self.origin.send(self.here, Method::POST, &path, &missing).0;
        vec![
            ("event", get(format!("event/{event}"))),
            (
                "backfill",
                get(format!("backfill/{room}?v={event}&limit=10")),
            ),
            ("missing events", missing),
            ("state", get(format!("state/{room}?event_id={event}"))),
            (
                "state ids",
                get(format!("state_ids/{room}?event_id={event}")),
            ),
            ("auth chain", get(format!("event_auth/{room}/{event}"))),
        ]
    }

    /// The statuses of requests for templates of membership events of eve.
    fn templates(&self) -> Vec<(&'static str, u16)> {
        let (room, eve) = (percent_encode(&self.room), percent_encode(&self.eve()));
        let template = |kind: &'static str| {
            let path = format!("/_matrix/federation/v1/make_{kind}/{room}/{eve}?ver=11");
            let status = self
                .origin
                .send(self.here, Method::GET, &path, &Value::Null);
            (kind, status.0)
        };
        ["join", "leave", "knock"].map(template).to_vec()
    }

    /// Sends that eve types and has read the message. Returns the ephemeral events that bob gets.
    fn send_edus(&self) -> Value {
        let since = sync_with(&self.bob, &[("set_presence", "offline")]);
        let since = next_batch(&since).to_owned();
        let eve = self.eve();
        let read = json!({ "event_ids": [self.event], "data": { "ts": 1 } });
        let edus = json!([
            {
                "edu_type": "m.typing",
                "content": { "room_id": self.room, "user_id": eve, "typing": true },
            },
            {
                "edu_type": "m.receipt",
                "content": { self.room.as_str(): { "m.read": { eve.as_str(): read } } },
            },
            {
                "edu_type": "m.direct_to_device",
                "content": {
                    "sender": eve, "type": "org.example.marker", "message_id": "1",
                    "messages": { self.bob.user_id.as_str(): { "*": {} } },
                },
            },
        ]);
        let transaction = json!({
            "origin": self.origin.name(), "origin_server_ts": 1, "pdus": [], "edus": edus,
        });
        let path = "/_matrix/federation/v1/send/1";
        expect_ok(self.origin.send(self.here, Method::PUT, path, &transaction));
        // A write that comes after that of the receipts.
        send_text(&self.bob, &self.room, "after the transaction");
        let synced = sync_with(&self.bob, &[("since", &since), ("set_presence", "offline")]);
        let marker = &synced["to_device"]["events"][0];
        assert_eq!(marker["type"], "org.example.marker", "{synced}");
        synced["rooms"]["join"][&self.room]["ephemeral"]["events"].clone()
    }

    /// Sends a message of eve.
    fn send_message(&self) {
        let state = format!(
            "/_matrix/client/v3/rooms/{}/state",
            percent_encode(&self.room)
        );
        let state = expect_ok(self.alice.get(&state));
        let id_of = |kind: &str, state_key: &str| {
            let mut events = state.as_array().expect("events").iter();
            let found = events.find(|it| it["type"] == kind && it["state_key"] == state_key);
            found.expect("a state event")["event_id"].clone()
        };
        let event = json!({
            "type": "m.room.message", "room_id": self.room, "sender": self.eve(),
            "content": { "msgtype": "m.text", "body": "by eve" },
            "auth_events": [
                id_of("m.room.create", ""),
                id_of("m.room.power_levels", ""),
                id_of("m.room.member", &self.eve()),
            ],
            "prev_events": [id_of("m.room.member", &self.eve())], "depth": 30, "origin_server_ts": 1,
        });
        let (_, event) = self.origin.event(&V11, event);
        let transaction = json!({
            "origin": self.origin.name(), "origin_server_ts": 1, "pdus": [event], "edus": [],
        });
        let path = "/_matrix/federation/v1/send/2";
        expect_ok(self.origin.send(self.here, Method::PUT, path, &transaction));
    }

    fn messages(&self) -> Vec<String> {
        let synced = sync(&self.alice, None);
        let timeline = &synced["rooms"]["join"][&self.room]["timeline"]["events"];
        let bodies = message_bodies(timeline).into_iter();
        bodies.map(ToOwned::to_owned).collect()
    }
}

fn with_status(status: u16, requests: &[(&'static str, u16)]) -> Vec<&'static str> {
    let found = requests.iter().filter(|(_, found)| *found == status);
    found.map(|(name, _)| *name).collect()
}

#[test]
fn a_server_in_the_room_reads_it_and_its_users_type_read_and_send() {
    let here = server_with_another_host();
    let world = World::new(&here);
    world.origin.join(&here, &V11, (&world.eve(), &world.room));
    let reads = world.reads();
    assert_eq!(with_status(200, &reads).len(), reads.len(), "{reads:?}");
    let ephemeral = world.send_edus();
    let events = ephemeral.as_array().expect("events");
    let typing = events.iter().find(|event| event["type"] == "m.typing");
    let typing = typing.expect("eve types");
    assert_eq!(typing["content"]["user_ids"], json!([world.eve()]));
    here.wait_until(async || {
        let path = "/_matrix/client/v3/sync?set_presence=offline";
        let token = Some(&*world.bob.token);
        let synced = here.send(Method::GET, path, token, &Value::Null).await.1;
        let events = &synced["rooms"]["join"][&world.room]["ephemeral"]["events"];
        let mut events = events.as_array().into_iter().flatten();
        events.any(|event| event["type"] == "m.receipt")
    });
    world.send_message();
    assert!(world.messages().contains(&"by eve".to_owned()));
}

#[test]
fn a_server_that_the_server_acl_denies_reads_nothing_and_its_users_do_nothing() {
    let here = server_with_another_host();
    let world = World::new(&here);
    world.origin.join(&here, &V11, (&world.eve(), &world.room));
    world.deny();
    let reads = world.reads();
    assert_eq!(with_status(403, &reads).len(), reads.len(), "{reads:?}");
    let templates = world.templates();
    let refused = with_status(403, &templates);
    assert_eq!(refused.len(), templates.len(), "{templates:?}");
    assert_eq!(world.send_edus(), Value::Null);
    world.send_message();
    assert!(!world.messages().contains(&"by eve".to_owned()));
}

#[test]
fn a_server_that_is_not_in_the_room_or_has_left_reads_nothing() {
    let here = server_with_another_host();
    let world = World::new(&here);
    let reads = world.reads();
    assert_eq!(with_status(403, &reads).len(), reads.len(), "{reads:?}");
    world.origin.join(&here, &V11, (&world.eve(), &world.room));
    let kick = json!({ "user_id": world.eve() });
    expect_ok(change_membership(&world.alice, &world.room, "kick", kick));
    let reads = world.reads();
    assert_eq!(with_status(403, &reads).len(), reads.len(), "{reads:?}");
    assert_eq!(world.send_edus(), Value::Null);
}
