//! PDUs of a transaction.

use ruma::{RoomVersionId, server_name};
use serde_json::{json, value::RawValue};

use super::{ALICE, BOB, Peer, messages, with_server};
use crate::{
    federation::inbound::PduOutcome,
    protocol::{
        history::{Action, History},
        versions,
    },
    rooms::{self, event, timeline},
    store::Place,
};

#[test]
fn an_invalid_pdu_does_not_affect_the_others_of_its_transaction() {
    let history = messages(&RoomVersionId::V12, 4);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 3, async |server| {
        let text = |index: usize| server.peer.raw(index).get().to_owned();
        let forged = text(last - 2).replace(r#""body":"1""#, r#""body":"one""#);
        let unsigned = text(last - 1).replace("ed25519:test", "ed25519:none");
        let elsewhere = text(last).replace("\"sender\":\"@bob:b", "\"sender\":\"@bob:z");
        let pdus = [
            text(last - 3),
            forged,
            unsigned,
            elsewhere,
            "{}".into(),
            "7".into(),
        ];
        let pdus = pdus.map(|text| RawValue::from_string(text).expect("JSON"));
        let taken = server
            .receiver
            .receive(server_name!("b.example"), pdus.into())
            .await
            .expect("the store works");
        let taken: Vec<bool> = (last - 3..=last)
            .map(|index| {
                matches!(
                    taken.get(&server.peer.id(index)),
                    Some(Ok(PduOutcome::Processed))
                )
            })
            .collect();
        // The event with the wrong content hash is redacted.
        assert_eq!(taken, [true, true, false, false]);
        let redacted = server.store.read(|s| {
            let num = event::num_of(s, &server.peer.id(last - 2))?.expect("it is here");
            Ok::<_, rooms::Error>(event::load(s, num)?.json)
        });
        let redacted = String::from_utf8(redacted.expect("an event")).expect("JSON");
        assert!(redacted.contains(r#""content":{}"#), "{redacted}");
    });
}

#[test]
fn a_transaction_fails_if_its_pdus_cannot_be_stored() {
    let history = messages(&RoomVersionId::V12, 4);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 2, async |server| {
        let receive = |index: usize| {
            let pdus = vec![server.peer.raw(index)];
            server.receiver.receive(server_name!("b.example"), pdus)
        };
        receive(last - 2).await.expect("it is stored");
        server.store.close().await;
        for index in [last - 1, last] {
            let failed = receive(index).await;
            assert!(matches!(failed, Err(rooms::Error::Store(_))), "{failed:?}");
        }
    });
}

#[test]
fn a_pdu_nested_too_deep_is_redacted_and_does_not_stop_the_events_after_it() {
    for version in versions::SUPPORTED {
        let history = messages(&version, 4);
        let last = history.events.len() - 1;
        let mut peer = Peer::new(history);
        peer.deep = Some(last - 2);
        with_server(&peer, last - 3, async |server| {
            server.receive(&[last - 3, last - 2]).await;
            assert!(server.has(last - 3) && server.has(last - 2));
            for index in [last - 1, last] {
                server.receive(&[index]).await;
                server.queue_processed().await;
                assert!(server.has(index), "version {version}");
            }
            let stored = server.store.read(|s| {
                let num = event::num_of(s, &server.peer.id(last - 2))?.expect("it is stored");
                Ok::<_, rooms::Error>(event::load(s, num)?.json)
            });
            let stored = String::from_utf8(stored.expect("an event")).expect("JSON");
            assert!(stored.contains(r#""content":{}"#), "{stored}");
        });
    }
}

#[test]
fn a_pdu_too_deep_even_when_redacted_is_refused_and_the_events_after_it_are_received() {
    for version in versions::SUPPORTED {
        let mut history = messages(&version, 1);
        let before = history.events.len() - 1;
        let topic = Action::state(ALICE, "m.room.topic", "", json!({ "topic": "x" }));
        let refused = history.then(topic);
        let say = || Action::message(BOB, "m.room.message", json!({ "body": "x" }));
        let after = [0, 1].map(|_| history.then(say()));
        let mut peer = Peer::new(history);
        peer.refused = Some(refused);
        with_server(&peer, before, async |server| {
            server.receive(&[before, refused]).await;
            assert!(server.has(before));
            for index in after {
                server.receive(&[index]).await;
                server.queue_processed().await;
                assert!(server.has(index), "version {version}");
            }
            assert!(!server.knows(refused));
        });
    }
}

#[test]
fn a_pdu_received_twice_at_once_is_stored_once() {
    let history = messages(&RoomVersionId::V12, 4);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 3, async |server| {
        let again = [
            last - 3,
            last - 3,
            last - 2,
            last - 2,
            last - 3,
            last - 1,
            last,
        ];
        let taken = server.receive(&again).await;
        assert!(
            taken
                .values()
                .all(|taken| matches!(taken, Ok(PduOutcome::Processed)))
        );
        let rows = server
            .store
            .read(|s| timeline::forwards(s, server.room, Place::MIN, 100));
        assert_eq!(rows.expect("a timeline").len(), last + 1);
    });
}

#[test]
fn pdus_of_a_server_denied_by_the_server_acl_are_dropped() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    history.then(Action::join(BOB));
    let list = json!({ "allow": ["*"], "deny": ["b.example"], "allow_ip_literals": true });
    history.then(Action::state(ALICE, "m.room.server_acl", "", list));
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let last = history.then(Action::message(BOB, "m.room.message", body));
    with_server(&Peer::new(history), last, async |server| {
        assert!(server.receive(&[last]).await.is_empty());
        assert!(!server.has(last));
        let raw = vec![server.peer.raw(last)];
        server
            .receiver
            .receive(server_name!("c.example"), raw)
            .await
            .expect("the store works");
        assert!(server.has(last));
    });
}
