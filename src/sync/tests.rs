//! What a sync looks at.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedRoomId, RoomVersionId, api::client::filter::FilterDefinition, user_id};
use smol::Executor;

use super::{
    Hub, KnownMembers, Request, StateAfter, SyncToken,
    answer::{self, candidates},
};
use crate::{
    pool::Pool,
    rooms::{self, typing::Typing},
    store::{
        DeviceNum, Effect, EventNum, Options, Place, Position, Reader, RoomNum, Store, Tx, UserNum,
        records::{MemberRow, Membership},
    },
};

const ALICE: UserNum = UserNum(1);
const ROOMS: u32 = 500;

/// Rooms that alice is in, without anything in them.
fn make_rooms(tx: &Tx) -> Result<(), rooms::Error> {
    for n in 0..ROOMS {
        let id = OwnedRoomId::try_from(format!("!room{n}:here")).expect("a room id");
        let room = rooms::make(tx, &id, &RoomVersionId::V12)?;
        let row = MemberRow {
            membership: Membership::Join,
            event: EventNum(1),
            position: tx.next_position()?,
            since: Place::FIRST,
            forgotten: false,
        };
        tx.memberships()?.put((ALICE, room), &row)?;
        tx.effect(Effect::RoomChanged(room, row.position));
    }
    Ok(())
}

fn request(since: Option<SyncToken>) -> Request {
    let known = Arc::new(KnownMembers::default());
    Request {
        user: ALICE,
        user_id: user_id!("@alice:here").to_owned(),
        device: DeviceNum(1),
        filter: FilterDefinition::default(),
        since,
        full_state: false,
        state_after: StateAfter::No,
        ignored: BTreeSet::new(),
        known: known.begin(DeviceNum(1), since.map(|since| since.position)),
    }
}

/// How many rooms a sync from `since` looks at, and where the next one goes on.
fn looked_at(store: &Store, hub: &Hub, since: Option<SyncToken>) -> (usize, SyncToken) {
    let request = request(since);
    let span = request.span(hub.now(), hub.start(), 0);
    let found = store.read(|s| candidates(s, hub, &Typing::default(), &request, span));
    let found = found.expect("the store can be read");
    (found.len(), answer::next_batch(hub, span, Position::MIN))
}

#[test]
fn a_sync_looks_at_the_rooms_that_changed_and_not_at_five_hundred_idle_ones() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        directory: directory.path().to_owned(),
        cache: 4 << 20,
    };
    let store = Store::open(&options, Pool::default()).expect("the store opens");
    let executor = Executor::new();
    smol::block_on(executor.run(async {
        let hub = Arc::new(Hub::new(store.clone(), 1).expect("a hub"));
        let publishing = executor.spawn(store.clone().publish({
            let hub = hub.clone();
            move |effects| hub.apply(effects)
        }));
        store.write(make_rooms).await.expect("written");
        let (initial, token) = looked_at(&store, &hub, None);
        assert_eq!(initial, ROOMS as usize);
        assert_eq!(looked_at(&store, &hub, Some(token)).0, 0);
        let change = |tx: &Tx| {
            let position = tx.next_position()?;
            tx.effect(Effect::RoomChanged(RoomNum(7), position));
            Ok::<_, rooms::Error>(())
        };
        store.write(change).await.expect("written");
        let (changed, next) = looked_at(&store, &hub, Some(token));
        assert_eq!(changed, 1);
        assert_eq!(looked_at(&store, &hub, Some(next)).0, 0);
        // A token from before this start says nothing about what changed since.
        let before = Hub::new(store.clone(), 2).expect("a hub");
        let old = SyncToken {
            position: Position(token.position.0 - 1),
            ..token
        };
        assert_eq!(looked_at(&store, &before, Some(old)).0, ROOMS as usize);
        store.close().await;
        publishing.await;
    }));
}
