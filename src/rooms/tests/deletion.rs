//! What is left of a room that the owner deletes.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ruma::{
    OwnedRoomId, RoomId, RoomVersionId, event_id,
    events::{receipt::ReceiptType, room::member::MembershipState},
    server_name,
};
use serde_json::json;
use smol::{
    Timer,
    channel::{self, Receiver, Sender},
};

use super::{
    alice, draft, local,
    world::{World, now},
};
use crate::{
    clock::Clock,
    executor::Executor,
    pool::Pool,
    rooms::{
        Actor, Error, Local,
        deletion::{
            left_rooms, pending,
            run::{OutgoingQueue, RoomDeletions},
        },
        directory::{self, aliases},
        event::{
            self,
            append::Sending,
            commit::commit_heads,
            insert::{Notify, Verdict},
            send::{ClientTransaction, send_once},
        },
        membership::change::MembershipChange,
        room, search, servers,
        state::current,
        timeline::gaps,
        unread::receipts::{self, MAIN, ReceiptKey},
    },
    store::{
        DeviceNum, Effect, EventNum, NodeNum, Options, Place, Position, Reader, RoomNum, Rows,
        ServerNum, StateKeyNum, Store, TABLES, Tx, UserNum,
        records::{
            ClaimedState, DeletionPhase, EventHeader, Gap, Media, MediaFile, OutOfBandMembership,
            PendingLeave, PendingUpgrade, Status, Waiting,
        },
    },
    users::{self, account_data},
};

const ROOM: &str = "!room:here";
const OTHER: &str = "!other:here";

/// Other servers, which have got nothing, and answer until a test says that they do not.
struct Servers {
    answer: Arc<Mutex<bool>>,
    was_asked: Arc<AtomicBool>,
    changed: Receiver<()>,
}

impl OutgoingQueue for Servers {
    fn is_reachable(&self, _: ServerNum) -> bool {
        *self.answer.lock().expect("a lock")
    }

    fn has_sent(&self, _: ServerNum, _: Position) -> bool {
        self.was_asked.store(true, Ordering::Relaxed);
        false
    }

    async fn changed(&self) {
        let _ = self.changed.recv().await;
    }
}

/// A running store with its deletions.
struct Running<'a> {
    store: &'a Store,
    answer: Arc<Mutex<bool>>,
    was_asked: Arc<AtomicBool>,
    wake: Sender<()>,
}

impl Running<'_> {
    async fn write<T: Send + 'static>(
        &self,
        job: impl Fn(&Tx) -> Result<T, Error> + Send + 'static,
    ) -> T {
        self.store.write(job).await.expect("it is written")
    }

    fn disconnect_servers(&self) {
        *self.answer.lock().expect("a lock") = false;
        let _ = self.wake.try_send(());
    }

    fn phase(&self, id: &RoomId) -> Option<DeletionPhase> {
        let deletion = self.store.read(|s| pending::load(s, id)).expect("a row");
        deletion.map(|deletion| deletion.phase)
    }

    async fn wait_until_deleted(&self, id: &RoomId) {
        self.until(|| self.phase(id).is_none()).await;
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        for _ in 0..60_000 {
            if is_so() {
                return;
            }
            Timer::after(Duration::from_millis(1)).await;
        }
        panic!("the deletion does not go on");
    }
}

/// Runs `test` over the store in `directory`. Other servers `answer`, or not.
fn run<T>(
    directory: &Path,
    local: &Local,
    answer: bool,
    test: impl AsyncFnOnce(&Running<'_>) -> T,
) -> T {
    let options = Options {
        directory: directory.to_owned(),
        cache: 4 << 20,
    };
    let store = Store::open(&options, Pool::default()).expect("the store opens");
    let deletions = Arc::new(RoomDeletions::default());
    let executor = Executor::default();
    let answer = Arc::new(Mutex::new(answer));
    let was_asked = Arc::new(AtomicBool::new(false));
    let (wake, changed) = channel::bounded(1);
    smol::block_on(executor.run(async {
        let applied = deletions.clone();
        let apply =
            move |effects: &[Effect]| effects.iter().for_each(|effect| applied.apply(effect));
        let publishing = executor.spawn(store.clone().publish(apply));
        let servers = Servers {
            answer: answer.clone(),
            was_asked: was_asked.clone(),
            changed,
        };
        let (at, local) = (store.clone(), local.clone());
        let working = executor.spawn(async move {
            deletions
                .run(&at, &local, &Clock::default(), &servers)
                .await
        });
        let running = Running {
            store: &store,
            answer,
            was_asked,
            wake,
        };
        let result = test(&running).await;
        drop(working);
        store.close().await;
        publishing.await;
        result
    }))
}

/// The tables that a deletion leaves with other rows than before the room was made, and why.
const STAYS: [(&str, &str); 3] = [
    ("counters", "no number is assigned again"),
    (
        "left_deleted_rooms",
        "clients still have to learn that the user has left",
    ),
    (
        "pending_deletion_files",
        "the files of deleted media are deleted after the commit",
    ),
];

/// The tables in which a room has no rows that have to go with it: those of accounts, devices and other servers,
/// what is the owner's (`reports`, `blocked_rooms`), what only holds a position in all rooms
/// (`pending_member_updates`, `pusher_states`), and what a client has received (`sliding_sync_states`), which it
/// replaces. A new table belongs here or into [`fill`].
const NOT_OF_ROOMS: &str = "
    table_versions facts signing_keys remote_keys published_keys users user_nums accounts
    account_moderation profiles devices device_ids dehydrated_devices device_lists
    device_list_log device_keys one_time_keys claimed_keys fallback_keys one_time_key_changes
    cross_signing_keys key_signatures user_signature_log backups backup_versions backup_keys
    pending_deletion_backups remote_device_list_log remote_device_lists remote_devices
    to_device to_device_usage access_tokens refresh_tokens device_tokens login_tokens
    registration_tokens openid_tokens login_networks filters sliding_sync_states pushers
    pusher_users pusher_states servers server_nums resolved_servers outbound_to_device
    device_list_cursors messages_seen messages_seen_order destination_cursors backoffs
    server_contacts unreachable_since blocked_rooms reports announcements
    pending_member_updates cached_files cached_files_lru thumbnails thumbnail_sources
    quarantined_files protected_files erased_uploaders pending_deletion_files pending_media
";

fn sending(notify: Notify) -> Sending {
    Sending {
        now: now(),
        sent_by: None,
        notify,
    }
}

fn id(text: &str) -> OwnedRoomId {
    text.try_into().expect("a room id")
}

/// An upload of alice.
fn upload(tx: &Tx, alice: &Actor, id: &str, file: u8) -> Result<(), Error> {
    let media = Media {
        file: [file; 32],
        content_type: String::new(),
        name: None,
        uploader: Some(alice.num),
        created_ts: 0,
    };
    tx.media()?.put((ServerNum::MIN, id), &media)?;
    tx.media_files()?.put([file; 32], &MediaFile { size: 10 })?;
    tx.media_of_file()?
        .insert(([file; 32], ServerNum::MIN, id), ())?;
    tx.uploads()?.insert((alice.num, id), ())?;
    let used = tx
        .media_usage()?
        .get(alice.num)?
        .map_or(0, |row| row.value());
    Ok(tx.media_usage()?.insert(alice.num, used + 10)?)
}

fn make_room(world: &World<'_>, creator: &Actor, id: &str) -> Result<RoomNum, Error> {
    let version = RoomVersionId::V11;
    let content = json!({ "room_version": version, "type": "m.space" });
    let mut create = draft(&creator.id, "m.room.create", Some(""), content);
    create.room_id = Some(id.try_into().expect("a room id"));
    let sending = sending(Notify::default());
    let created = event::append::create(world.tx, &world.local, &version, &create, &sending)?;
    world.join(creator, created.room)?;
    let rule = json!({ "join_rule": "public" });
    world.set(creator, created.room, ("m.room.join_rules", ""), &rule)?;
    Ok(created.room)
}

/// The users, and a room that stays.
fn begin(world: &World<'_>) -> Result<(), Error> {
    let tx = world.tx;
    tx.facts()?.insert("server_name", "here")?;
    let [alice, ..] = world.users(["alice", "bob", "dave"])?;
    tx.user_num("@carol:remote.example")?;
    tx.server_num("remote.example")?;
    upload(tx, &alice, "kept", 1)?;
    let other = make_room(world, &alice, OTHER)?;
    say(
        world,
        &alice,
        other,
        json!({ "msgtype": "m.image", "body": "a", "url": "mxc://here/kept" }),
    )?;
    Ok(())
}

fn say(
    world: &World<'_>,
    user: &Actor,
    room: RoomNum,
    content: serde_json::Value,
) -> Result<event::append::Appended, Error> {
    let mut message = draft(&user.id, "m.room.message", None, content);
    message.room_id = Some(room::id(world.tx, room)?);
    let verdict = Verdict {
        notify: true,
        highlight: false,
    };
    let notify = Notify {
        default: verdict,
        exceptions: vec![(world.tx.user_num("@bob:here")?, Verdict::default())],
    };
    event::append::append(world.tx, &world.local, &message, &sending(notify))
}

/// A room with rows in every table in which a room can have any.
fn fill(world: &World<'_>) -> Result<(), Error> {
    let tx = world.tx;
    let [alice, bob, dave] = world.users(["alice", "bob", "dave"])?;
    let room = make_room(world, &alice, ROOM)?;
    let other = room::num(tx, &id(OTHER))?;
    let server = tx.server_num("remote.example")?;
    servers::add_joined(tx, room, server_name!("remote.example"), 1)?;
    for user in [&bob, &dave] {
        world.join(user, room)?;
    }
    world.leave(&dave, room)?;
    let alias = ruma::room_alias_id!("#alias:here");
    aliases::create(tx, &world.local, &alice, alias, room)?;
    directory::set_listed(tx, &alice, room, true)?;

    // Messages with all that can be said of them.
    upload(tx, &alice, "only", 2)?;
    for url in ["mxc://here/only", "mxc://here/kept"] {
        say(
            world,
            &alice,
            room,
            json!({ "msgtype": "m.image", "body": "a", "url": url }),
        )?;
    }
    let first = say(
        world,
        &alice,
        room,
        json!({ "msgtype": "m.text", "body": "first" }),
    )?;
    let related = |kind: &str| json!({ "rel_type": kind, "event_id": first.id });
    let in_thread =
        json!({ "msgtype": "m.text", "body": "in a thread", "m.relates_to": related("m.thread") });
    say(world, &bob, room, in_thread)?;
    let edit = json!({
        "msgtype": "m.text", "body": "* second", "m.new_content": { "msgtype": "m.text", "body": "second" },
        "m.relates_to": related("m.replace"),
    });
    say(world, &alice, room, edit)?;
    let gone = say(
        world,
        &alice,
        room,
        json!({ "msgtype": "m.text", "body": "gone" }),
    )?;
    for redacts in [&*gone.id, event_id!("$unknown")] {
        let mut redaction = draft(&alice.id, "m.room.redaction", None, json!({}));
        redaction.room_id = Some(id(ROOM));
        redaction.redacts = Some(redacts.to_owned());
        event::append::append(tx, &world.local, &redaction, &sending(Notify::default()))?;
    }
    let transaction = ClientTransaction {
        device: DeviceNum(1),
        scope: "send".to_owned(),
        id: "m1".to_owned(),
    };
    let mut message = draft(
        &alice.id,
        "m.room.message",
        None,
        json!({ "msgtype": "m.text", "body": "x" }),
    );
    message.room_id = Some(id(ROOM));
    send_once(
        tx,
        &world.local,
        &transaction,
        &message,
        &sending(Notify::default()),
    )?;
    let key = ReceiptKey {
        kind: ReceiptType::Read,
        thread: Some(MAIN.to_owned()),
    };
    receipts::put(tx, room, bob.num, &key, &first.id, 1)?;
    account_data::put(tx, bob.num, room, "m.tag", r#"{"a":"mxc://here/kept"}"#)?;
    tx.last_own_event()?
        .insert((room, EventNum(0), bob.num), Place::FIRST)?;
    search::index::index_batch(tx, room)?;

    // What comes from other servers.
    let soft_failed = EventHeader {
        id: "$soft_failed".to_owned(),
        room,
        status: Status::SoftFailed,
        place: None,
        position: Position(1),
        state_before: NodeNum::EMPTY,
        state_key: None,
        redacted_by: None,
        sent_by: None,
    };
    let num = tx.next_event()?;
    tx.events()?
        .insert(num, &*event::row(&soft_failed, b"{}"))?;
    tx.event_nums()?.insert("$soft_failed", num)?;
    let waiting = Waiting {
        origin: "remote.example".to_owned(),
        json: Vec::new(),
    };
    tx.waiting()?.put((room, "$waiting"), &waiting)?;
    let claim = ClaimedState {
        state: NodeNum::EMPTY,
        known_upto: Place::FIRST,
    };
    tx.claimed_states()?.put((room, first.num), &claim)?;
    tx.joins()?.insert(room, (Place::FIRST, Position(1)))?;
    let gap = Gap {
        missing: vec!["$missing".to_owned()],
        opened: None,
    };
    gaps::put(tx, room, Place::FIRST, &gap)?;
    let outside = OutOfBandMembership {
        server: "remote.example".to_owned(),
        version: "11".to_owned(),
        stripped_state: Vec::new(),
    };
    tx.out_of_band_memberships()?
        .put((dave.num, room), &outside)?;
    let leave = PendingLeave {
        event: first.num,
        version: "11".to_owned(),
    };
    tx.pending_leaves()?.put((server, dave.num, room), &leave)?;

    // What is to be done in it.
    tx.server_notice_rooms()?.insert(bob.num, room)?;
    for (new, old) in [(room, other), (other, room)] {
        let upgrade = PendingUpgrade {
            old_room: old,
            upgraded_by: alice.num,
            next_key: StateKeyNum(0),
        };
        tx.pending_upgrades()?.put(new, &upgrade)?;
    }
    Ok(())
}

fn delete(tx: &Tx) -> Result<(), Error> {
    pending::start(tx, &id(ROOM), room::num(tx, &id(ROOM))?)
}

/// Runs `job` in the world.
fn in_world<T>(
    local: &Local,
    job: impl Fn(&World<'_>) -> Result<T, Error> + Send + 'static,
) -> impl Fn(&Tx) -> Result<T, Error> + Send + 'static {
    let local = local.clone();
    move |tx| {
        let local = local.clone();
        job(&World { tx, local })
    }
}

#[test]
fn nothing_is_left_of_a_deleted_room_in_any_table_however_often_the_server_stops_meanwhile() {
    let (directory, local) = (tempfile::tempdir().expect("a directory"), local());
    let (before, filled) = run(directory.path(), &local, true, async |server| {
        server.write(in_world(&local, begin)).await;
        let before = server.store.read(|s| s.dump());
        server.write(in_world(&local, fill)).await;
        (before, server.store.read(|s| s.dump()))
    });
    let tables = || TABLES.iter().map(|table| table.name);
    let unfilled: BTreeSet<_> = tables()
        .filter(|name| before[name] == filled[name])
        .collect();
    let expected = NOT_OF_ROOMS
        .split_whitespace()
        .chain(["left_deleted_rooms", "room_deletions"]);
    let expected: BTreeSet<_> = expected.collect();
    let unexpected: Vec<_> = unfilled.symmetric_difference(&expected).collect();
    assert!(
        unexpected.is_empty(),
        "of rooms, or not of rooms: {unexpected:?}"
    );

    run(directory.path(), &local, true, async |server| {
        server.write(delete).await;
    });
    let mut stops = 0;
    while run(directory.path(), &local, false, async |server| {
        let phase = server.phase(&id(ROOM));
        // Some steps.
        for _ in 0..5 {
            server
                .write(|tx| Ok(tx.facts()?.insert("a", "step")?))
                .await;
        }
        phase.is_some()
    }) {
        stops += 1;
    }
    assert!(stops > 2, "it goes on after each of {stops} stops");

    run(directory.path(), &local, true, async |server| {
        server.write(|tx| Ok(tx.facts()?.remove("a")?)).await;
        let after = server.store.read(|s| s.dump());
        let stays = STAYS.map(|(name, _)| name);
        let left: Vec<_> = tables()
            .filter(|name| after[name] != before[name] && !stays.contains(name))
            .collect();
        assert!(left.is_empty(), "rows are left in {left:?}");
        assert_eq!(after["left_deleted_rooms"].len(), 3);
        assert_eq!(
            after["pending_deletion_files"].len(),
            1,
            "of the upload that nothing else uses"
        );
    });
}

#[test]
fn nobody_enters_a_room_while_it_is_deleted_and_then_it_is_entered_as_a_new_one() {
    let (directory, local) = (tempfile::tempdir().expect("a directory"), local());
    run(directory.path(), &local, true, async |server| {
        server.write(in_world(&local, begin)).await;
        server.write(in_world(&local, fill)).await;
        let old = server.write(|tx| room::num(tx, &id(ROOM))).await;
        server.write(delete).await;
        let enter = |world: &World<'_>| {
            let bob = world.user("bob")?;
            let room = room::num(world.tx, &id(ROOM))?;
            let refused = MembershipChange::new(&bob.id, MembershipState::Join, None).send(
                world.tx,
                &world.local,
                room,
                &bob,
            );
            assert!(
                matches!(&refused, Err(Error::Forbidden(error)) if error.contains("deleting")),
                "{refused:?}"
            );
            Ok(())
        };
        server
            .until(|| matches!(server.phase(&id(ROOM)), Some(DeletionPhase::Send { .. })))
            .await;
        // Other servers do not have the leaves yet: the room is still here, and nobody is in it.
        server.write(in_world(&local, enter)).await;
        let members = server.store.read(|s| current::local_members(s, old));
        assert_eq!(members.expect("members"), []);
        assert!(server.store.read(|s| room::heads(s, old)).is_ok());
        let create = |tx: &Tx| room::create(tx, &id(ROOM), &RoomVersionId::V11);
        let refused = server.store.write(create).await;
        assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
        server.disconnect_servers();
        server.wait_until_deleted(&id(ROOM)).await;

        let alice = server.store.read(|s| users::num_of(s, alice()));
        let alice = alice.expect("read").expect("a user");
        let left = server.store.read(|s| left_rooms::load(s, alice, old));
        let left = left.expect("read").expect("the leave");
        assert!(
            left.event.get().contains(r#""membership":"leave""#),
            "{left:?}"
        );
        let again = server
            .write(in_world(&local, |world| {
                make_room(world, &world.user("alice")?, ROOM)
            }))
            .await;
        assert_ne!(again, old);
        let left = server.store.read(|s| left_rooms::load(s, alice, old));
        assert!(
            left.expect("read").is_none(),
            "the user is in the room again"
        );
    });
}

#[test]
fn what_was_decided_before_a_room_is_hidden_is_not_committed_afterwards() {
    let (directory, local) = (tempfile::tempdir().expect("a directory"), local());
    run(directory.path(), &local, true, async |server| {
        server.write(in_world(&local, begin)).await;
        server.write(in_world(&local, fill)).await;
        let commit = |world: &World<'_>| {
            let room = room::num(world.tx, &id(ROOM))?;
            let heads = room::heads(world.tx, room)?;
            let (tx, local) = (world.tx, &world.local);
            commit_heads(tx, local, room, heads.extremities.clone(), heads.state)?;
            tx.room_nums()?.remove(ROOM)?;
            let refused = commit_heads(tx, local, room, heads.extremities, heads.state);
            assert!(matches!(refused, Err(Error::UnknownRoom)), "{refused:?}");
            Ok(())
        };
        server.write(in_world(&local, commit)).await;
    });
}

#[test]
fn the_hour_in_which_other_servers_get_the_leaves_does_not_run_while_the_server_is_stopped() {
    let (directory, local) = (tempfile::tempdir().expect("a directory"), local());
    run(directory.path(), &local, true, async |server| {
        server.write(in_world(&local, begin)).await;
        server.write(in_world(&local, fill)).await;
        // Else it is only sent to the server that invited.
        server
            .write(|tx| {
                tx.pending_leaves()?
                    .remove_in((ServerNum::MIN, UserNum::MIN, RoomNum::MIN).., |_, _| true)?;
                Ok(())
            })
            .await;
        server.write(delete).await;
        server
            .until(|| matches!(server.phase(&id(ROOM)), Some(DeletionPhase::Send { .. })))
            .await;
        let long_ago = |tx: &Tx| {
            let mut deletion = pending::load(tx, &id(ROOM))?.expect("a deletion");
            if let DeletionPhase::Send { since_ts, .. } = &mut deletion.phase {
                *since_ts = 0;
            }
            Ok(tx.room_deletions()?.put(ROOM, &deletion)?)
        };
        server.write(long_ago).await;
    });
    run(directory.path(), &local, true, async |server| {
        let is_decided =
            || server.was_asked.load(Ordering::Relaxed) || server.phase(&id(ROOM)).is_none();
        server.until(is_decided).await;
        let phase = server.phase(&id(ROOM));
        assert!(
            matches!(phase, Some(DeletionPhase::Send { .. })),
            "{phase:?}"
        );
    });
}
