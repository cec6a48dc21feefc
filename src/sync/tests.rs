use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedRoomId, RoomVersionId, api::client::filter::FilterDefinition, user_id};

use super::{
    LazyLoadedMembers, Notifier, Request, StateAfter, SyncToken, changes::Changes,
    rooms::candidates as rooms_of,
};
use crate::{
    executor::Executor,
    pool::Pool,
    rooms::{self, room, typing::Typing},
    store::{
        DeviceNum, Effect, EventNum, Options, Place, Position, Reader, RoomNum, Store, Tx, UserNum,
        records::{MemberRow, Membership},
    },
    users::presence::Presence,
};

const ALICE: UserNum = UserNum(1);
const BOB: UserNum = UserNum(2);
const ROOMS: u32 = 500;

/// Empty rooms that Alice is joined to.
fn make_rooms(tx: &Tx) -> Result<(), rooms::Error> {
    for n in 0..ROOMS {
        let id = OwnedRoomId::try_from(format!("!room{n}:here")).expect("a room id");
        let room = room::create(tx, &id, &RoomVersionId::V12)?;
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
    let lazy_loaded = Arc::new(LazyLoadedMembers::default());
    Request {
        user: ALICE,
        user_id: user_id!("@alice:here").to_owned(),
        device: DeviceNum(1),
        filter: FilterDefinition::default(),
        since,
        full_state: false,
        state_after: StateAfter::No,
        ignored: BTreeSet::new(),
        lazy_loaded: lazy_loaded.begin(DeviceNum(1), since.map(|since| since.position)),
    }
}

/// The number of candidates of a sync from `since`, and the token of the next one.
fn candidates(store: &Store, notifier: &Notifier, since: Option<SyncToken>) -> (usize, SyncToken) {
    let request = request(since);
    let range = request.range(notifier.position(), 0);
    let (typing, presence) = (Typing::default(), Presence::default());
    let changes = Changes::since(notifier, &typing, &presence, &request, range);
    let found = store.read(|s| rooms_of(s, &changes, &request, range));
    let found = found.expect("the store can be read");
    (found.len(), range.end.token(Position::MIN))
}

fn with_notifier(test: impl AsyncFnOnce(&Store, &Notifier)) {
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
fn an_incremental_sync_looks_only_at_rooms_that_changed() {
    with_notifier(async |store, notifier| {
        store.write(make_rooms).await.expect("written");
        let (initial, token) = candidates(store, notifier, None);
        assert_eq!(initial, ROOMS as usize);
        assert_eq!(candidates(store, notifier, Some(token)).0, 0);
        let change = |tx: &Tx| {
            let position = tx.next_position()?;
            tx.effect(Effect::RoomChanged(RoomNum(7), position));
            Ok::<_, rooms::Error>(())
        };
        store.write(change).await.expect("written");
        let (changed, next) = candidates(store, notifier, Some(token));
        assert_eq!(changed, 1);
        assert_eq!(candidates(store, notifier, Some(next)).0, 0);
        // A token from before this start is not covered by the index.
        let before = Notifier::new(store.clone(), 2).expect("a notifier");
        let old = SyncToken {
            position: Position(token.position.0 - 1),
            ..token
        };
        assert_eq!(candidates(store, &before, Some(old)).0, ROOMS as usize);
    });
}

#[test]
fn a_device_list_change_wakes_all_waiting_syncs_if_the_owner_has_too_many_rooms() {
    with_notifier(async |store, notifier| {
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
        assert!(!is_woken(1).await, "Bob shares no room with her");
        assert!(is_woken(10).await, "more rows than are read");
    });
}
