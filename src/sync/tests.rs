//! What a sync looks at.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedRoomId, RoomVersionId, api::client::filter::FilterDefinition, user_id};

use super::{
    LazyLoadedMembers, Notifier, Request, StateAfter, SyncToken,
    answer::{self, candidates},
};
use crate::{
    executor::Executor,
    pool::Pool,
    rooms::{self, room, typing::Typing},
    store::{
        DeviceNum, Effect, EventNum, Options, Place, Position, Reader, RoomNum, Store, Tx, UserNum,
        records::{MemberRow, Membership},
    },
};

const ALICE: UserNum = UserNum(1);
const BOB: UserNum = UserNum(2);
const ROOMS: u32 = 500;

/// Rooms that alice is in, without anything in them.
fn make_rooms(tx: &Tx) -> Result<(), rooms::Error> {
    for n in 0..ROOMS {
        let id = OwnedRoomId::try_from(format!("!room{n}:here")).expect("a room id");
        let room = room::make(tx, &id, &RoomVersionId::V12)?;
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
    let known = Arc::new(LazyLoadedMembers::default());
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
fn looked_at(store: &Store, notifier: &Notifier, since: Option<SyncToken>) -> (usize, SyncToken) {
    let request = request(since);
    let range = request.range(notifier.position(), notifier.instance(), 0);
    let found = store.read(|s| candidates(s, notifier, &Typing::default(), &request, range));
    let found = found.expect("the store can be read");
    (
        found.len(),
        answer::next_batch(notifier, range, Position::MIN),
    )
}

/// Runs `test` with a store and a notifier that is fed by it.
fn with_hub(test: impl AsyncFnOnce(&Store, &Notifier)) {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        directory: directory.path().to_owned(),
        cache: 4 << 20,
    };
    let store = Store::open(&options, Pool::default()).expect("the store opens");
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let notifier = Arc::new(Notifier::new(store.clone(), 1).expect("a notifier"));
        let publishing = executor.spawn(store.clone().publish({
            let notifier = notifier.clone();
            move |effects| notifier.apply(effects)
        }));
        test(&store, &notifier).await;
        store.close().await;
        publishing.await;
    }));
}

#[test]
fn a_sync_looks_at_the_rooms_that_changed_and_not_at_five_hundred_idle_ones() {
    with_hub(async |store, notifier| {
        store.write(make_rooms).await.expect("written");
        let (initial, token) = looked_at(store, notifier, None);
        assert_eq!(initial, ROOMS as usize);
        assert_eq!(looked_at(store, notifier, Some(token)).0, 0);
        let change = |tx: &Tx| {
            let position = tx.next_position()?;
            tx.effect(Effect::RoomChanged(RoomNum(7), position));
            Ok::<_, rooms::Error>(())
        };
        store.write(change).await.expect("written");
        let (changed, next) = looked_at(store, notifier, Some(token));
        assert_eq!(changed, 1);
        assert_eq!(looked_at(store, notifier, Some(next)).0, 0);
        // A token from before this start says nothing about what changed since.
        let before = Notifier::new(store.clone(), 2).expect("a notifier");
        let old = SyncToken {
            position: Position(token.position.0 - 1),
            ..token
        };
        assert_eq!(looked_at(store, &before, Some(old)).0, ROOMS as usize);
    });
}

#[test]
fn who_shares_many_rooms_is_not_looked_for_in_all_of_them_but_all_who_wait_are_woken() {
    with_hub(async |store, notifier| {
        store.write(make_rooms).await.expect("written");
        let is_woken = async |times: usize| {
            let waits = notifier.subscribe(BOB);
            let change = move |tx: &Tx| {
                let alice = tx.user_num("@alice:here")?;
                assert_eq!(alice, ALICE);
                for _ in 0..times {
                    tx.effect(Effect::DeviceListChanged(alice, tx.next_position()?));
                }
                Ok::<_, rooms::Error>(())
            };
            store.write(change).await.expect("written");
            waits.try_recv().is_ok()
        };
        assert!(!is_woken(1).await, "bob is in none of her rooms");
        assert!(is_woken(10).await, "that is more than one looks at");
    });
}
