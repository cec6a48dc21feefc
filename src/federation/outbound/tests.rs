//! The senders over a store of their own; nobody whom they send to answers.

use std::time::{Duration, Instant};

use ruma::{
    OwnedTransactionId,
    api::federation::transactions::edu::{DirectDeviceMessages, PresenceUpdate},
    events::ToDeviceEventType,
    presence::PresenceState,
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
    uint, user_id,
};
use serde_json::{Value, json};
use smol::Timer;

use super::{EDUS, Edus, Happening, Sender, durable::Durable, rest};
use crate::{
    clock::Clock,
    config::{Config, Settings},
    executor::Executor,
    federation::Client,
    pool::Pool,
    protocol::ServerKey,
    rooms::{self, Local},
    store::{
        self, Effect, EventNum, Options, Place, Position, Reader, RoomNum, Rows, ServerNum, Store,
        Tx, UserNum,
        records::{MemberRow, Membership, ToDeviceMessage},
    },
    users::{device_lists, to_device},
};

const NOW: u64 = 1_790_000_000_000;
const ROOM: RoomNum = RoomNum(7);
/// How long a test waits for what must come about.
const PATIENCE: Duration = Duration::from_secs(20);

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
        let client = Client::new(&config, (&store, &local), (&clock, &pool), &executor);
        let client = client.expect("there are authorities");
        let sender = Sender::start((&store, &local), (&client, &clock), &executor);
        let sender = sender.expect("it starts");
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

    /// What `server` is to get next of what lasts.
    fn next(&self, server: ServerNum) -> Durable {
        let next = |s: &_| Durable::next(s, server, EDUS);
        self.store.read(next).expect("the store can be read")
    }

    async fn until(&self, come_about: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !come_about() {
            assert!(Instant::now() < deadline, "it did not come about");
            Timer::after(Duration::from_millis(5)).await;
        }
    }

    fn is_addressed(&self, server: ServerNum) -> bool {
        self.sender.lock().destinations.contains_key(&server)
    }
}

/// A server at an address where nobody may be led.
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

fn letter(tx: &Tx, server: ServerNum, json: &str) -> Result<(), store::Error> {
    let position = tx.next_position()?;
    let (index, json) = (position.0, json.to_owned());
    tx.outbound_to_device()?
        .put((server, position), &ToDeviceMessage { index, json })
}

fn told(durable: &Durable) -> Vec<Value> {
    let edus = durable.edus.iter();
    edus.map(|edu| serde_json::from_str(edu.json().get()).expect("JSON"))
        .collect()
}

fn kinds(durable: &Durable) -> Vec<String> {
    let kind = |edu: Value| edu["edu_type"].as_str().expect("a type").to_owned();
    told(durable).into_iter().map(kind).collect()
}

/// More servers than are greeted, of which the last has not been told of alice's device.
const MANY: usize = super::GREETED + 30;

fn many_servers(tx: &Tx) -> Result<(), rooms::Error> {
    let alice = alice(tx, Membership::Join)?;
    device_lists::device_changed(tx, alice, "PHONE".into())?;
    let position = tx.next_position()?;
    for number in 0..=MANY {
        let server = server(tx, number)?;
        is_in_the_room(tx, server)?;
        let told = if number == MANY {
            Position::MIN
        } else {
            position
        };
        tx.told_lists()?.insert(server, told)?;
    }
    Ok(())
}

#[test]
fn who_has_not_been_told_of_a_device_is_sent_to_after_a_start_and_when_the_store_is_open_again() {
    with_sender(many_servers, async |world| {
        let last = world.write(|tx| Ok(server(tx, MANY)?)).await;
        let other = world.write(|tx| Ok(server(tx, MANY - 1)?)).await;
        world.until(|| world.is_addressed(last)).await;
        assert!(!world.is_addressed(other), "it has everything");
        let job = move |tx: &Tx| Ok(tx.told_lists()?.insert(other, Position::MIN)?);
        world.write(job).await;
        world.sender.apply(&Effect::Reopened);
        world.until(|| world.is_addressed(other)).await;
    });
}

#[test]
fn who_waits_because_something_is_wrong_here_goes_on_soon_after_that_is_mended() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let job = |tx: &Tx| {
                let server = server(tx, 0)?;
                letter(tx, server, "no JSON")?;
                Ok(server)
            };
            let server = world.write(job).await;
            world.sender.apply(&Effect::ServerAddressed(server));
            let is_stuck = || {
                let state = world.sender.lock();
                state
                    .destinations
                    .get(&server)
                    .is_some_and(|is| is.is_stuck)
            };
            world.until(is_stuck).await;
            let job =
                move |tx: &Tx| Ok(to_device::remove_outbound_until(tx, server, Position::MAX)?);
            world.write(job).await;
            world.sender.apply(&Effect::Reopened);
            world.until(|| !world.is_addressed(server)).await;
        },
    );
}

#[test]
fn a_message_that_cannot_be_sent_is_left_out_and_blocks_nobody() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let bad = [
                "{\"n\":1.5}".to_owned(),
                "{\"n\":9007199254740993}".to_owned(),
                format!("{}{}", "[".repeat(125), "]".repeat(125)),
            ];
            let job = move |tx: &Tx| {
                let server = server(tx, 0)?;
                letter(tx, server, &bad[0])?;
                letter(tx, server, "{\"n\":1}")?;
                letter(tx, server, &bad[1])?;
                letter(tx, server, &bad[2])?;
                Ok(server)
            };
            let server = world.write(job).await;
            let next = world.next(server);
            let expected = json!({ "edu_type": "m.direct_to_device", "content": { "n": 1 } });
            assert_eq!(told(&next), [expected]);
            world.write(move |tx| next.taken(tx, server)).await;
            world
                .write(move |tx| Ok(letter(tx, server, "{\"n\":0.1}")?))
                .await;
            let next = world.sender.durable(server, EDUS).await;
            let next = next.expect("the store works");
            assert!(next.edus.is_empty() && !next.is_to_be_noted());
            let waits = |s: &_| to_device::outbound(s, server, EDUS);
            assert!(world.store.read(waits).expect("it can be read").is_none());
        },
    );
}

#[test]
fn what_lasts_goes_ahead_of_what_does_not_and_takes_its_place() {
    let happening = || {
        let user = user_id!("@alice:here.example").to_owned();
        Happening::Presence(PresenceUpdate::new(user, PresenceState::Online, uint!(1)))
    };
    with_sender(
        |_| Ok(()),
        async |world| {
            let server = world.write(|tx| Ok(server(tx, 0)?)).await;
            let mut destination = world.sender.destination(server, None);
            destination.edus = Edus::default();
            destination.edus.put(happening());
            world.sender.lock().destinations.insert(server, destination);
            let next = world.sender.next(server, 2 * EDUS, EDUS);
            assert!(next.edus.is_empty());
            let next = world.sender.next(server, 2 * EDUS, EDUS - 1);
            assert_eq!(next.edus.len(), 1);
        },
    );
}

/// Changes more of alice's devices than are kept, after her signing keys changed.
fn much_of_alice(tx: &Tx) -> Result<(), rooms::Error> {
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
fn who_lacks_changes_that_are_not_kept_is_told_the_last_device_and_the_signing_keys() {
    with_sender(much_of_alice, async |world| {
        let server = world.write(|tx| Ok(server(tx, 0)?)).await;
        let whole = ["m.device_list_update", "m.signing_key_update"];
        for told in [None, Some(Position(1))] {
            let job = move |tx: &Tx| {
                let mut lists = tx.told_lists()?;
                lists.remove(server)?;
                if let Some(told) = told {
                    lists.insert(server, told)?;
                }
                Ok(())
            };
            world.write(job).await;
            assert_eq!(kinds(&world.next(server)), whole, "told {told:?}");
        }
        let next = world.next(server);
        world.write(move |tx| next.taken(tx, server)).await;
        assert!(!world.next(server).is_to_be_noted());
    });
}

fn alice_elsewhere(tx: &Tx) -> Result<(), rooms::Error> {
    let alice = alice(tx, Membership::Leave)?;
    let server = server(tx, 0)?;
    is_in_the_room(tx, server)?;
    device_lists::device_changed(tx, alice, "PHONE".into())?;
    let position = tx.next_position()?;
    Ok(tx.told_lists()?.insert(server, position)?)
}

#[test]
fn who_is_new_to_a_server_is_shown_to_it_by_the_last_change_once_more() {
    with_sender(alice_elsewhere, async |world| {
        let server = world.write(|tx| Ok(server(tx, 0)?)).await;
        assert!(kinds(&world.next(server)).is_empty());
        let job = |tx: &Tx| {
            let alice = alice(tx, Membership::Join)?;
            let before = device_lists::stream_id(tx, alice)?;
            device_lists::reannounce(tx, alice)?;
            Ok(before)
        };
        let before = world.write(job).await;
        let told = &told(&world.next(server))[0]["content"];
        assert_eq!(told["device_id"], "PHONE");
        assert_eq!(told["prev_id"], json!([before.0]));
    });
}

#[test]
fn messages_do_not_wait_for_a_server_that_has_been_silent_for_a_month() {
    with_sender(
        |_| Ok(()),
        async |world| {
            let month = 31 * 24 * 60 * 60 * 1000;
            let fail = async |now: u64| {
                let job = move |tx: &Tx| {
                    let server = server(tx, 0)?;
                    rest::put(tx, server, &rest::next(None, now, 0.0), now)
                };
                world.write(job).await;
            };
            let waits = async || {
                let server = world.write(|tx| Ok(server(tx, 0)?)).await;
                !world.next(server).edus.is_empty()
            };
            let post = |tx: &Tx| Ok(letter(tx, server(tx, 0)?, "{}")?);
            world.write(post).await;
            fail(NOW).await;
            fail(NOW + month / 2).await;
            assert!(waits().await);
            fail(NOW + month).await;
            assert!(!waits().await);
            // Who has answered meanwhile has a month again.
            world.write(post).await;
            world.write(|tx| rest::end(tx, server(tx, 0)?)).await;
            fail(NOW + 2 * month).await;
            assert!(waits().await);
        },
    );
}

#[test]
fn what_waits_for_a_server_is_capped_by_its_bytes() {
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
                    to_device::queue_outbound(tx, name, (alice, &kind), (&id, &messages))?;
                }
                Ok(tx.outbound_to_device()?.len()?)
            };
            let waiting = world.write(job).await;
            assert!((300..350).contains(&waiting), "{waiting}");
        },
    );
}

#[test]
fn a_change_of_another_servers_user_addresses_nobody() {
    with_sender(many_servers, async |world| {
        let job = |tx: &Tx| Ok(tx.user_num("@x:127.0.0.1:1000")?);
        let foreign = world.write(job).await;
        let alice = world.write(|tx| Ok(alice(tx, Membership::Join)?)).await;
        for (user, is_told) in [(foreign, false), (alice, true)] {
            let change = Effect::DeviceListChanged(user, Position(1));
            world.sender.apply(&change);
            let of_whom = world.sender.lock().unheard.users.clone();
            assert_eq!(of_whom.contains(&user), is_told);
        }
    });
}
