//! Server ACLs in memory.

use std::sync::Arc;

use ruma::{RoomVersionId, server_name};
use serde_json::json;

use super::{alice, draft, local, open_room, send, with_store};
use crate::{
    clock::Clock,
    rooms::{Error, event, servers::server_acl::ServerAcls, stored_event},
    store::{Reader, RoomNum, Store, Tx},
};

/// Where the room's parsed ACL is in memory, and whether it allows another server.
fn look_up(store: &Store, acls: &ServerAcls, room: RoomNum) -> (Option<usize>, bool) {
    let looked_up = store.read(|s| {
        let acl = acls.of_room(s, room)?;
        let allows = acls.allow(s, room, server_name!("there"))?;
        Ok::<_, Error>((acl.map(|acl| Arc::as_ptr(&acl).addr()), allows))
    });
    looked_up.expect("the room is here")
}

#[test]
fn an_acl_is_parsed_once_until_it_is_replaced_or_redacted() {
    with_store(async |store| {
        let acls = ServerAcls::new(&Clock::default());
        let here = local();
        let job = move |tx: &Tx| open_room(tx, &here, &RoomVersionId::V11);
        let room = store.write(job).await.expect("a room");
        let look_up = || look_up(store, &acls, room.room);
        assert_eq!(look_up(), (None, true));
        let set = async |content: serde_json::Value| {
            let (here, room) = (local(), room.clone());
            let job = move |tx: &Tx| {
                let acl = draft(alice(), "m.room.server_acl", Some(""), content.clone());
                send(tx, &here, &room, acl)
            };
            store.write(job).await.expect("the ACL is sent")
        };
        set(json!({ "allow": ["*"], "deny": ["ther?"] })).await;
        let denying = look_up();
        assert!(denying.0.is_some() && !denying.1);
        assert_eq!(look_up(), denying);
        let acl = set(json!({ "allow": ["*"] })).await;
        let allowing = look_up();
        assert!(allowing.0 != denying.0 && allowing.1);
        assert_eq!(look_up(), allowing);
        let redact = move |tx: &Tx| {
            let num = event::num_of(tx, &acl.id)?.expect("it is stored");
            let mut stored = event::load(tx, num)?;
            stored.header.redacted_by = Some(num);
            let row = stored_event::row(&stored.header, br#"{"content":{}}"#);
            Ok::<_, Error>(tx.events()?.insert(num, &row[..])?)
        };
        store.write(redact).await.expect("it is redacted");
        assert!(!look_up().1);
    });
}
