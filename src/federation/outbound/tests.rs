//! The sender over a store of its own. No destination answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{
    OwnedTransactionId,
    api::federation::transactions::edu::{DirectDeviceMessages, PresenceUpdate},
    events::ToDeviceEventType,
    presence::PresenceState,
    serde::Raw,
    server_name,
    to_device::DeviceIdOrAllDevices,
    uint, user_id,
};
use serde_json::{Value, json};
use smol::{Timer, channel, future::poll_once};

use super::{
    EphemeralEdu, Sender, backoff, destination,
    ephemeral_edus::MAX_EDUS,
    queues::{Destination, MAX_DESTINATIONS},
    sender::MAX_RESTART_ANNOUNCEMENTS,
    stored_edus::StoredEdus,
};
use crate::{
    clock::Clock,
    config::{Config, Settings},
    executor::Executor,
    federation::Client,
    pool::Pool,
    protocol::ServerKey,
    rooms::{self, Local},
    store::{
        self, Effect, EventNum, NodeNum, Options, Place, Position, Reader, RoomNum, Rows,
        ServerNum, Store, Tx, UserNum, pack_before,
        records::{Backoff, EventHeader, MemberRow, Membership, Status, ToDeviceMessage},
    },
    users::{
        device_lists,
        to_device::{self, Delivery},
    },
};

const NOW: u64 = 1_790_000_000_000;
const ROOM: RoomNum = RoomNum(7);
/// How long a test waits for a condition.
const TIMEOUT: Duration = Duration::from_secs(20);

struct World {
    store: Store,
    sender: Sender,
}

/// Runs `test` with a sender that starts with what `before` writes.
fn with_sender(before: fn(&Tx) -> Result<(), rooms::Error>, test: impl AsyncFnOnce(&World)) {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        directory: directory.path().to_owned(),
        cache: 4 << 20,
    };
    let pool = Pool::default();
    let store = Store::open(&options, pool.clone()).expect("the store opens");
    let settings = format!(
        "data_dir = {:?}\nserver_name = \"here.example\"\nlisten = [\"127.0.0.1:0\"]",
        directory.path()
    );
    let settings = Settings::parse(&settings).expect("these are settings");
    let config = Config::try_from(settings).expect("these settings fit together");
    let clock = Clock::manual(NOW);
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        store.write(before).await.expect("it is written");
        let local = Local::new(config.server_name.clone(), ServerKey::generate());
        let client = Client::new(&config, &store, &local, &clock, &pool, &executor);
        let client = client.expect("there are authorities");
        let sender = Sender::new(&store, &local, &client, true, &clock, &executor);
        sender.resume().expect("it starts");
        let world = World { store, sender };
        test(&world).await;
        world.store.close().await;
        publishing.await;
    }));
}

impl World {
    async fn write<T: Send + 'static>(
        &self,
        job: impl Fn(&Tx) -> Result<T, rooms::Error> + Send + 'static,
    ) -> T {
        self.store.write(job).await.expect("it is written")
    }

    fn next(&self, server: ServerNum) -> StoredEdus {
        let next = |s: &_| StoredEdus::next(s, server, MAX_EDUS, true);
        self.store.read(next).expect("the store can be read")
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "the condition does not come true"
            );
            Timer::after(Duration::from_millis(5)).await;
        }
    }

    fn has_destination(&self, server: ServerNum) -> bool {
        self.sender.0.lock().destinations.contains_key(&server)
    }
}

/// A server at an address that may not be connected to.
fn server(tx: &Tx, number: usize) -> Result<ServerNum, store::Error> {
    tx.server_num(&format!("127.0.0.1:{}", 1000 + number))
}

/// Alice, who is in [`ROOM`] or is not.
fn alice(tx: &Tx, membership: Membership) -> Result<UserNum, store::Error> {
    let alice = tx.user_num("@alice:here.example")?;
    let row = MemberRow {
        membership,
        event: EventNum(1),
        position: Position(1),
        since: Place(1),
        forgotten: false,
    };
    tx.memberships()?.put((alice, ROOM), &row)?;
    Ok(alice)
}

fn is_in_the_room(tx: &Tx, server: ServerNum) -> Result<(), store::Error> {
    tx.room_servers()?.insert((ROOM, server), 1)?;
    tx.server_rooms()?.insert((server, ROOM), ())
}

fn queue(tx: &Tx, server: ServerNum, json: &str) -> Result<(), store::Error> {
    let position = tx.next_position()?;
    let (sender, json) = ("+@alice:a.example".to_owned(), json.to_owned());
    tx.outbound_to_device()?
        .put((server, position), &ToDeviceMessage { sender, json })
}

fn contents(stored: &StoredEdus) -> Vec<Value> {
    let edus = stored.edus.iter();
    edus.map(|edu| serde_json::from_str(edu.json().get()).expect("JSON"))
        .collect()
}

fn edu_types(stored: &StoredEdus) -> Vec<String> {
    let kind = |edu: Value| edu["edu_type"].as_str().expect("a type").to_owned();
    contents(stored).into_iter().map(kind).collect()
}

/// More servers than receive a transaction after a start. The last one has not received the update of
/// alice's device.
const MANY: usize = MAX_RESTART_ANNOUNCEMENTS + 30;

fn many_servers(tx: &Tx) -> Result<(), rooms::Error> {
    let alice = alice(tx, Membership::Join)?;
    device_lists::device_changed(tx, alice, "PHONE".into())?;
    let position = tx.next_position()?;
    for number in 0..=MANY {
        let server = server(tx, number)?;
        is_in_the_room(tx, server)?;
        let cursor = if number == MANY {
            Position::MIN
        } else {
            position
        };
        tx.device_list_cursors()?.insert(server, cursor)?;
    }
    Ok(())
}

#[test]
fn a_server_without_a_device_list_update_becomes_a_destination_after_a_start_and_after_a_reopening()
{
    with_sender(many_servers, async |world| {
        let last = world.write(|tx| Ok(server(tx, MANY)?)).await;
        let other = world.write(|tx| Ok(server(tx, MANY - 1)?)).await;
        world.until(|| world.has_destination(last)).await;
        assert!(!world.has_destination(other), "it has everything");
        let job = move |tx: &Tx| Ok(tx.device_list_cursors()?.insert(other, Position::MIN)?);
        world.write(job).await;
        world.sender.apply(&Effect::Reopened);
        world.until(|| world.has_destination(other)).await;
    });
}

#[test]
fn a_destination_that_failed_because_of_the_store_goes_on_after_a_reopening() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let server = world.write(|tx| Ok(server(tx, 0)?)).await;
            let (alive, woken) = channel::bounded(1);
            let mut destination = Destination::new(None, alive);
            destination.is_stuck = true;
            world
                .sender
                .0
                .lock()
                .destinations
                .insert(server, destination);
            world.sender.apply(&Effect::Reopened);
            woken.recv().await.expect("its task goes on");
        },
    );
}

#[test]
fn a_server_is_unreachable_only_after_it_has_not_answered_for_some_minutes() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let server = world.write(|tx| Ok(server(tx, 0)?)).await;
            for (interval_ms, is_reachable) in [(2_000, true), (256_000, true), (512_000, false)] {
                let backoff = Backoff {
                    interval_ms,
                    retry_at_ts: u64::MAX,
                };
                let job = move |tx: &Tx| Ok(tx.backoffs()?.put(server, &backoff)?);
                world.write(job).await;
                let found = world.sender.0.is_reachable(server);
                assert_eq!(found, is_reachable, "{interval_ms} ms");
            }
        },
    );
}

#[test]
fn a_server_that_fails_uses_the_turns_of_servers_that_share_no_room() {
    let before = |tx: &Tx| Ok(is_in_the_room(tx, server(tx, 0)?)?);
    with_sender(before, async |world| {
        let servers = world.write(|tx| Ok([server(tx, 0)?, server(tx, 1)?])).await;
        let queues = &world.sender.0;
        for (server, is_failing, turns) in
            [(0, false, 0), (0, true, 1), (1, false, 1), (1, true, 1)]
        {
            let of_server = queues.turns(servers[server], is_failing);
            assert!(Arc::ptr_eq(&of_server, &queues.turns[turns]), "{server}");
        }
    });
}

#[test]
fn with_too_many_destinations_one_that_fails_gives_way_unless_it_has_events() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let queues = &world.sender.0;
            let failing = ServerNum(1007);
            for number in 0..MAX_DESTINATIONS as u32 {
                assert!(queues.make_space());
                let (alive, _) = channel::bounded(1);
                let mut destination = Destination::new(None, alive);
                destination.is_failing = number == 7 || number == 5;
                if number == 5 {
                    destination.events.push_back((Position(1), EventNum(1)));
                }
                let mut state = queues.lock();
                state
                    .destinations
                    .insert(ServerNum(1000 + number), destination);
            }
            assert!(world.has_destination(failing));
            assert!(queues.make_space());
            assert!(!world.has_destination(failing));
            assert!(queues.make_space(), "there is space");
            let (alive, _) = channel::bounded(1);
            let other = Destination::new(None, alive);
            queues.lock().destinations.insert(failing, other);
            assert!(!queues.make_space());
            assert!(queues.lock().is_overfull);
        },
    );
}

#[test]
fn a_corrupt_to_device_message_does_not_stop_the_others() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let job = move |tx: &Tx| {
                let server = server(tx, 0)?;
                queue(tx, server, "no JSON")?;
                queue(tx, server, "{\"n\":0.5}")?;
                queue(tx, server, "no JSON")?;
                Ok(server)
            };
            let server = world.write(job).await;
            let next = world.next(server);
            let expected = json!({ "edu_type": "m.direct_to_device", "content": { "n": 0.5 } });
            assert_eq!(contents(&next), [expected]);
            world.write(move |tx| next.acknowledged(tx, server)).await;
            let waits = |s: &_| to_device::outbound(s, server, MAX_EDUS);
            assert!(world.store.read(waits).expect("it can be read").is_none());
        },
    );
}

/// Stores the row of an event in the table `events`.
fn event(tx: &Tx, id: &str, json: &str) -> Result<EventNum, store::Error> {
    let num = tx.next_event()?;
    let header = EventHeader {
        id: id.to_owned(),
        room: ROOM,
        status: Status::Accepted,
        place: None,
        position: Position(1),
        state_before: NodeNum(0),
        state_key: None,
        redacted_by: None,
        sent_by: None,
    };
    tx.events()?
        .insert(num, &*pack_before(&header, json.as_bytes()))?;
    Ok(num)
}

#[test]
fn a_stored_event_that_cannot_be_sent_does_not_stop_the_others() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let job = |tx: &Tx| {
                let deep = format!("{{\"a\":{}{}}}", "[".repeat(125), "]".repeat(125));
                let good = event(tx, "$good", "{\"a\":1}")?;
                let deep = event(tx, "$deep", &deep)?;
                let corrupt = event(tx, "$corrupt", "no JSON")?;
                Ok([good, deep, corrupt, EventNum(1000), good])
            };
            let events = world.write(job).await;
            let pdus = |is_checked| {
                let name = server_name!("b.example");
                let load = |s: &_| destination::load_pdus(s, name, &events, is_checked);
                world.store.read(load).expect("the store works").len()
            };
            assert_eq!((pdus(false), pdus(true)), (3, 2));
        },
    );
}

#[test]
fn stored_edus_displace_ephemeral_ones() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let server = world.write(|tx| Ok(server(tx, 0)?)).await;
            let user = user_id!("@alice:here.example").to_owned();
            let update = PresenceUpdate::new(user, PresenceState::Online, uint!(1));
            let edu = EphemeralEdu::Presence(update);
            world
                .sender
                .enqueue_edu(vec![server], &edu)
                .await
                .expect("it is queued");
            let next = world.sender.0.next(server, 2 * MAX_EDUS, MAX_EDUS);
            assert!(next.edus.is_empty());
            let next = world.sender.0.next(server, 2 * MAX_EDUS, MAX_EDUS - 1);
            assert_eq!(next.edus.len(), 1);
        },
    );
}

#[test]
fn an_edu_reaches_all_servers_although_its_caller_stops_waiting() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let servers = |tx: &Tx| {
                let servers = (0..MANY).map(|number| server(tx, number));
                Ok(servers.collect::<Result<Vec<_>, _>>()?)
            };
            let servers = world.write(servers).await;
            let last = servers[MANY - 1];
            let user = user_id!("@alice:here.example").to_owned();
            let update = PresenceUpdate::new(user, PresenceState::Online, uint!(1));
            let send = world
                .sender
                .send_edu(servers, EphemeralEdu::Presence(update));
            assert!(poll_once(Box::pin(send)).await.is_none());
            world.until(|| world.has_destination(last)).await;
        },
    );
}

/// Changes more of alice's devices than are kept, after her signing keys changed.
fn many_changes_of_alice(tx: &Tx) -> Result<(), rooms::Error> {
    let alice = alice(tx, Membership::Join)?;
    is_in_the_room(tx, server(tx, 0)?)?;
    let key = json!({ "user_id": "@alice:here.example", "usage": ["master"], "keys": {} });
    tx.cross_signing_keys()?
        .insert((alice, "master"), &*key.to_string())?;
    device_lists::cross_signing_keys_changed(tx, alice)?;
    for _ in 0..40 {
        device_lists::device_changed(tx, alice, "PHONE".into())?;
    }
    Ok(())
}

#[test]
fn a_server_that_lacks_truncated_changes_receives_the_last_device_and_the_cross_signing_keys() {
    with_sender(many_changes_of_alice, async |world| {
        let server = world.write(|tx| Ok(server(tx, 0)?)).await;
        let whole = ["m.device_list_update", "m.signing_key_update"];
        for cursor in [None, Some(Position(1))] {
            let job = move |tx: &Tx| {
                let mut lists = tx.device_list_cursors()?;
                lists.remove(server)?;
                if let Some(cursor) = cursor {
                    lists.insert(server, cursor)?;
                }
                Ok(())
            };
            world.write(job).await;
            assert_eq!(edu_types(&world.next(server)), whole, "cursor {cursor:?}");
        }
        let next = world.next(server);
        world.write(move |tx| next.acknowledged(tx, server)).await;
        assert!(!world.next(server).advances());
    });
}

fn alice_left(tx: &Tx) -> Result<(), rooms::Error> {
    let alice = alice(tx, Membership::Leave)?;
    let server = server(tx, 0)?;
    is_in_the_room(tx, server)?;
    device_lists::device_changed(tx, alice, "PHONE".into())?;
    let position = tx.next_position()?;
    Ok(tx.device_list_cursors()?.insert(server, position)?)
}

#[test]
fn a_user_who_is_new_to_a_server_is_announced_by_the_last_change_again() {
    with_sender(alice_left, async |world| {
        let server = world.write(|tx| Ok(server(tx, 0)?)).await;
        assert!(edu_types(&world.next(server)).is_empty());
        let job = |tx: &Tx| {
            let alice = alice(tx, Membership::Join)?;
            let before = device_lists::stream_id(tx, alice)?;
            device_lists::reannounce(tx, alice)?;
            Ok(before)
        };
        let before = world.write(job).await;
        let update = &contents(&world.next(server))[0]["content"];
        assert_eq!(update["device_id"], "PHONE");
        assert_eq!(update["prev_id"], json!([before.0]));
    });
}

#[test]
fn to_device_messages_for_a_server_that_is_unreachable_for_a_month_are_dropped() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let month = 31 * 24 * 60 * 60 * 1000;
            let fail = async |now: u64| {
                let job = move |tx: &Tx| {
                    let server = server(tx, 0)?;
                    backoff::save(tx, server, &backoff::next(None, now, 0.0), now)
                };
                world.write(job).await;
            };
            let waits = async || {
                let server = world.write(|tx| Ok(server(tx, 0)?)).await;
                !world.next(server).edus.is_empty()
            };
            let queue_one = |tx: &Tx| Ok(queue(tx, server(tx, 0)?, "{}")?);
            world.write(queue_one).await;
            fail(NOW).await;
            fail(NOW + month / 2).await;
            assert!(waits().await);
            fail(NOW + month).await;
            assert!(!waits().await);
            // A server that has answered meanwhile has a month again.
            world.write(queue_one).await;
            world.write(|tx| backoff::clear(tx, server(tx, 0)?)).await;
            fail(NOW + 2 * month).await;
            assert!(waits().await);
        },
    );
}

#[test]
fn to_device_messages_for_a_server_are_limited_by_size() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let job = |tx: &Tx| {
                let (alice, bob) = (user_id!("@a:here.example"), user_id!("@b:127.0.0.1:1000"));
                let content = json!({ "text": "x".repeat(60_000) }).to_string();
                let content = Raw::from_json_string(content).expect("JSON");
                let mut messages = DirectDeviceMessages::new();
                let to = DeviceIdOrAllDevices::AllDevices;
                messages.entry(bob.into()).or_default().insert(to, content);
                let kind = ToDeviceEventType::from("org.example.note");
                for number in 0..400 {
                    let id = OwnedTransactionId::from(format!("{number}"));
                    let name = bob.server_name();
                    let delivery = &mut Delivery::default();
                    to_device::queue_outbound(tx, delivery, name, alice, &kind, &id, &messages)?;
                }
                Ok(tx.outbound_to_device()?.len()?)
            };
            let waiting = world.write(job).await;
            assert!((150..175).contains(&waiting), "{waiting}");
        },
    );
}

#[test]
fn a_device_list_update_of_a_remote_user_has_no_destinations() {
    with_sender(many_servers, async |world| {
        let job = |tx: &Tx| Ok(tx.user_num("@x:127.0.0.1:1000")?);
        let foreign = world.write(job).await;
        let alice = world.write(|tx| Ok(alice(tx, Membership::Join)?)).await;
        for (user, is_pending) in [(foreign, false), (alice, true)] {
            let change = Effect::DeviceListChanged(user, Position(1));
            world.sender.apply(&change);
            let changed = world.sender.0.lock().changes.users.clone();
            assert_eq!(changed.contains(&user), is_pending);
        }
    });
}
