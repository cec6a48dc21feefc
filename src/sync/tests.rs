use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{OwnedRoomId, RoomVersionId, presence::PresenceState, user_id};
use serde_json::{Value, json};
use smol::future::poll_once;

use super::{
    LazyLoadedMembers, Notifier, Request, StateAfter, SyncHandler, SyncToken,
    changes::Changes,
    response::{Fields, Sources, Unwritten},
    rooms::candidates as rooms_of,
};
use crate::{
    clock::Clock,
    config::{Config, Settings},
    executor::Executor,
    federation::Federation,
    pool::Pool,
    rooms::{
        self, Local, event::append, room, tests as rooms_tests, timeline::filter::SyncFilter,
        typing::Typing,
    },
    stop,
    store::{
        DeviceNum, Effect, EventNum, Options, PIECE_BYTES, Pieces, Place, Position, Reader,
        RoomNum, Store, Tx, UserNum,
        records::{MemberRow, Membership},
    },
    users::{
        account_data::{ignored_users::IgnoredUsers, invite_permissions::InvitePermissions},
        presence::{Presence, UserPresence},
    },
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

pub(super) fn request(since: Option<SyncToken>) -> Request {
    let lazy_loaded = Arc::new(LazyLoadedMembers::default());
    Request {
        user: ALICE,
        user_id: user_id!("@alice:here").to_owned(),
        device: DeviceNum(1),
        filter: SyncFilter::default(),
        since,
        full_state: false,
        state_after: StateAfter::No,
        ignored: IgnoredUsers::default(),
        invites: InvitePermissions::default(),
        lazy_loaded: lazy_loaded
            .begin((DeviceNum(1), None), since.map(|since| (0, since.position))),
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

fn with_notifier(test: impl AsyncFnOnce(&Store, &Arc<Notifier>, &Executor)) {
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
        test(&store, &notifier, &executor).await;
        store.close().await;
        publishing.await;
    }));
}

#[test]
fn an_incremental_sync_looks_only_at_rooms_that_changed() {
    with_notifier(async |store, notifier, _| {
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
    with_notifier(async |store, notifier, _| {
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

/// A room that Alice made and has joined.
fn make_room(tx: &Tx, local: &Local, id: &str) -> Result<append::Appended, rooms::Error> {
    let content = json!({ "room_version": "11" });
    let alice = rooms_tests::alice();
    let mut create = rooms_tests::draft(alice, "m.room.create", Some(""), content);
    create.room_id = Some(id.try_into().expect("a room id"));
    let sending = rooms_tests::sending();
    let created = append::create(tx, local, &RoomVersionId::V11, &create, &sending)?;
    rooms_tests::join(tx, local, &created, alice)?;
    Ok(created)
}

#[test]
fn the_pieces_of_a_response_are_one_json_document() {
    const UNCHANGED: usize = 40;
    const STATE_EVENTS: usize = 60;
    let large = "x".repeat(PIECE_BYTES / 16);
    with_notifier(async |store, notifier, _| {
        let unchanged = |tx: &Tx| {
            let local = rooms_tests::local();
            for n in 0..UNCHANGED {
                make_room(tx, &local, &format!("!unchanged{n}:here"))?;
            }
            Ok::<_, rooms::Error>(())
        };
        store.write(unchanged).await.expect("written");
        let (_, token) = candidates(store, notifier, None);
        let changed = move |tx: &Tx| {
            let local = rooms_tests::local();
            let room = make_room(tx, &local, "!new:here")?;
            for n in 0..STATE_EVENTS {
                let content = json!({ "body": large });
                let alice = rooms_tests::alice();
                let event = rooms_tests::draft(alice, "a.b", Some(&n.to_string()), content);
                rooms_tests::send(tx, &local, &room, event)?;
            }
            Ok::<_, rooms::Error>(())
        };
        store.write(changed).await.expect("written");

        let request = request(Some(token));
        let range = request.range(notifier.position(), 0);
        let changes = Changes {
            rooms: None,
            own: false,
            presence: Vec::new(),
        };
        let rooms = store.read(|s| rooms_of(s, &changes, &request, range));
        let rooms = rooms.expect("the store can be read");
        assert_eq!(rooms.len(), UNCHANGED + 1);
        let sources = Sources {
            typing: Arc::default(),
            request: Arc::new(request),
            range,
        };
        let mut unwritten = Unwritten::new(rooms, sources);
        unwritten.enclose(token, Vec::new(), &Fields::default(), Vec::new());
        let mut pieces = Vec::new();
        while !unwritten.is_complete() {
            let piece = store.read(|s| unwritten.next_piece(s));
            pieces.push(piece.expect("the store can be read"));
        }
        let (first, rest) = pieces.split_first().expect("a piece");
        assert!(first.len() < 100, "it has rooms without updates only");
        assert!(
            rest.iter()
                .filter(|piece| piece.len() > PIECE_BYTES)
                .count()
                >= 2
        );
        let response: Value = serde_json::from_slice(&pieces.concat()).expect("JSON");
        let joined = response["rooms"]["join"].as_object().expect("rooms");
        assert_eq!(joined.len(), 1);
        let events = |part: &str| {
            let events = joined["!new:here"][part]["events"].as_array();
            events
                .expect("events")
                .iter()
                .filter(|event| event["type"] == "a.b")
        };
        assert_eq!(
            events("state").chain(events("timeline")).count(),
            STATE_EVENTS
        );
    });
}

#[test]
fn a_few_changes_of_presence_are_few_unless_the_user_is_in_many_rooms() {
    let changes = |users: u32| {
        let presence = UserPresence {
            state: PresenceState::Online,
            status_msg: None,
            last_active_ts: 0,
        };
        Changes {
            rooms: Some(BTreeSet::new()),
            own: false,
            presence: (0..users).map(|n| (UserNum(n), presence.clone())).collect(),
        }
    };
    with_notifier(async |store, _, _| {
        store.write(make_rooms).await.expect("written");
        let are_few = |changes: &Changes, user| {
            let few = store.read(|s| changes.are_few(s, user));
            few.expect("the store can be read")
        };
        assert!(are_few(&changes(0), ALICE));
        assert!(are_few(&changes(2), ALICE));
        assert!(!are_few(&changes(3), ALICE), "{ROOMS} rooms each");
        assert!(are_few(&changes(64), BOB));
    });
}

#[test]
fn presence_is_announced_although_the_client_of_the_sync_hangs_up() {
    with_notifier(async |store, notifier, executor| {
        let make = |tx: &Tx| {
            let local = rooms_tests::local();
            let room = rooms_tests::open_room(tx, &local, &RoomVersionId::V11)?;
            rooms_tests::join(tx, &local, &room, rooms_tests::bob())?;
            Ok::<_, rooms::Error>((tx.user_num("@alice:here")?, tx.user_num("@bob:here")?))
        };
        let (alice, bob) = store.write(make).await.expect("written");
        let (clock, local, pool) = (
            Clock::manual(1_000_000),
            rooms_tests::local(),
            Pool::default(),
        );
        let config = Config::try_from(Settings::local()).expect("settings");
        let federation = Federation::new(&config, store, &local, &clock, &pool, executor);
        let federation = Arc::new(federation.expect("it starts"));
        let (_stop, stopping) = stop::channel();
        let presence = Arc::new(Presence::default());
        let handler = SyncHandler {
            store,
            local: &local,
            clock: &clock,
            notifier,
            typing: &Arc::default(),
            presence: &presence,
            federation: &federation,
            stopping: &stopping,
        };
        let waits = notifier.subscribe(bob);
        let request = Request {
            user: alice,
            ..request(None)
        };
        let sync = handler.sync(request, &PresenceState::Online, Duration::ZERO);
        drop(poll_once(Box::pin(sync)).await);
        waits.recv().await.expect("Bob's sync is woken");
        assert!(presence.get(alice).is_some());
    });
}
