use std::{collections::BTreeMap, time::Duration};

use ruma::{
    UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    serde::Raw,
    server_name,
    to_device::DeviceIdOrAllDevices,
    user_id,
};
use serde_json::json;

use super::{
    deliver, deliver_remote, discard_outbound,
    inbound::{Addressed, devices_of, put, remove_until},
    queue::{MAX_QUEUE_UNITS, MAX_USER_QUEUES, UNIT_BYTES},
    queue_outbound,
    request::Delivery,
    sender::{Sender, SharedRooms},
};
use crate::{
    store::{self, DeviceNum, Position, Reader, Rows, Tx, UserNum},
    users::{
        Error, devices,
        testing::{Server, alice_and_bob, with_server},
    },
};

/// `size` bytes, and a little, for each of these devices of Alice's.
fn messages(
    to: impl IntoIterator<Item = DeviceIdOrAllDevices>,
    size: usize,
) -> DirectDeviceMessages {
    let content = json!({ "text": "x".repeat(size) });
    let content = Raw::from_json_string(content.to_string()).unwrap();
    let contents = to.into_iter().map(|to| (to, content.clone()));
    [(
        user_id!("@alice:example.org").to_owned(),
        contents.collect(),
    )]
    .into()
}

const EVERY: DeviceIdOrAllDevices = DeviceIdOrAllDevices::AllDevices;

async fn create_devices(server: &Server, user: UserNum, names: Vec<String>) {
    let now_ms = server.clock.now_ms();
    let create = server.store.write(move |tx| {
        for name in &names {
            devices::get_or_create(tx, user, name.as_str().into(), None, now_ms)?;
        }
        Ok::<_, Error>(())
    });
    create.await.unwrap();
}

async fn send(server: &Server, messages: DirectDeviceMessages) -> Result<(), Error> {
    let (from, now_ms) = (user_id!("@bob:example.org"), server.clock.now_ms());
    let job = move |tx: &Tx| {
        let (mut delivery, kind) = (Delivery::default(), "org.example".into());
        let shared = |_| Ok::<_, Error>(SharedRooms::Closed);
        deliver(tx, &mut delivery, from, &kind, &messages, now_ms, shared)?;
        delivery.finish(from)
    };
    server.store.write(job).await
}

fn queue_lengths(server: &Server, user: UserNum) -> Vec<u64> {
    server.store.read(|s| {
        let devices = devices::all(s, user).unwrap().into_iter();
        let count = |device: DeviceNum| {
            let table = s.to_device().unwrap();
            table.prefix(device).unwrap().count() as u64
        };
        devices.map(|(_, device)| count(device.num)).collect()
    })
}

#[test]
fn a_request_that_is_too_large_for_its_devices_is_refused_as_a_whole() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        create_devices(
            &server,
            alice,
            (1..40).map(|n| format!("D{n:02}")).collect(),
        )
        .await;
        let refusal = send(&server, messages([EVERY], 60_000)).await;
        assert!(matches!(refusal, Err(Error::TooLarge(_))), "{refusal:?}");
        assert_eq!(queue_lengths(&server, alice), [0; 40]);
        send(&server, messages([EVERY], 40_000)).await.unwrap();
        assert_eq!(queue_lengths(&server, alice), [1; 40]);
    });
}

/// Queues `count` messages of `size` bytes for every device of `user`; returns how many fitted.
async fn put_many(
    server: &Server,
    user: UserNum,
    sender: Sender,
    count: usize,
    size: usize,
) -> usize {
    let now_ms = server.clock.now_ms();
    let job = move |tx: &Tx| {
        let message = Addressed {
            devices: devices_of(tx, user, &EVERY)?,
            json: format!("{{\"text\":\"{}\"}}", "x".repeat(size)),
        };
        let mut fitted = 0;
        for _ in 0..count {
            let delivery = &mut Delivery::default();
            fitted += usize::from(put(tx, delivery, user, &message, &sender, now_ms)?);
        }
        Ok::<_, store::Error>(fitted)
    };
    server.store.write(job).await.unwrap()
}

/// How many messages of each sender wait for the devices of `user`.
fn waiting(server: &Server, user: UserNum) -> BTreeMap<String, u64> {
    server.store.read(|s| {
        let mut waiting = BTreeMap::new();
        for (_, device) in devices::all(s, user).unwrap() {
            for row in s.to_device().unwrap().prefix(device.num).unwrap() {
                let (key, row) = row.unwrap();
                let sender = row.record(&key).unwrap().sender;
                *waiting.entry(sender).or_default() += 1;
            }
        }
        waiting
    })
}

/// The rows of `to_device_usage`.
fn usage(server: &Server) -> Vec<((u8, u32, String), u64)> {
    server.store.read(|s| {
        let table = s.to_device_usage().unwrap();
        let rows = table.range::<(u8, u32, &str)>(..).unwrap();
        let row = |(key, units): store::Row<'_, _, u64>| {
            let (kind, num, sender): (u8, u32, &str) = key.value();
            ((kind, num, sender.to_owned()), units.value())
        };
        rows.map(|found| row(found.unwrap())).collect()
    })
}

fn local(name: &str, shared: SharedRooms) -> Sender {
    Sender::local(
        &UserId::parse(format!("@{name}:example.org")).unwrap(),
        shared,
    )
}

fn remote(user: &str, shared: SharedRooms) -> Sender {
    Sender::remote(&UserId::parse(user).unwrap(), shared)
}

/// The clock is a day and a week later, and no device has been seen since.
fn leave_devices_unseen(server: &Server) {
    server.clock.advance(Duration::from_hours(8 * 24));
}

/// A message of so many bytes counts as ten units.
const TEN_UNITS: usize = 10 * UNIT_BYTES - 100;

#[test]
fn an_account_has_no_more_of_a_queue_than_is_free_then() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let mut fitted = Vec::new();
        let sizes = [TEN_UNITS, 4 * TEN_UNITS, TEN_UNITS, TEN_UNITS, TEN_UNITS];
        for (name, size) in ["a", "b", "c", "d", "e"].into_iter().zip(sizes) {
            let sender = local(name, SharedRooms::Closed);
            fitted.push(put_many(&server, alice, sender, 130, size).await);
        }
        // At most a quarter, and at most half of what the others leave.
        assert_eq!(fitted, [125, 31, 125, 63, 31]);
        let mut fitted = Vec::new();
        for name in ["eve", "mallory", "oscar"] {
            let sender = local(name, SharedRooms::None);
            fitted.push(put_many(&server, alice, sender, 130, TEN_UNITS).await);
        }
        // At most half of what remains of the queue for all, which is less than a quarter.
        assert_eq!(fitted, [16, 8, 4]);
    });
}

#[test]
fn a_user_of_another_server_leaves_a_part_of_its_share_to_its_other_users() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let mut fitted = Vec::new();
        let users = ["@a:b.example", "@eve:b.example", "@c:b.example"];
        for (user, count) in users.into_iter().zip([1, 130, 130]) {
            let sender = remote(user, SharedRooms::Open);
            fitted.push(put_many(&server, alice, sender, count, TEN_UNITS).await);
        }
        assert_eq!(fitted, [1, 62, 31]);
        // Of a server, those who share more rooms have a share of their own.
        let friend = remote("@friend:b.example", SharedRooms::Closed);
        assert_eq!(put_many(&server, alice, friend, 50, TEN_UNITS).await, 50);
    });
}

/// Many accounts try to fill the queue of a device, after one that shares no more rooms sent something. Returns
/// how many messages fitted.
async fn flood(server: &Server, user: UserNum, account: impl Fn(&str) -> Sender) -> usize {
    let honest = account("honest");
    let mut fitted = put_many(server, user, honest.clone(), 6, TEN_UNITS).await;
    assert_eq!(fitted, 6);
    for number in 0..200 {
        let sender = account(&format!("eve{number}"));
        match put_many(server, user, sender, 5, TEN_UNITS).await {
            0 => break,
            count => fitted += count,
        }
    }
    assert_eq!(waiting(server, user)[&honest.text], 6);
    fitted
}

#[test]
fn many_accounts_displace_nothing_and_leave_space_for_those_who_share_more_rooms() {
    with_server(async |server| {
        for (name, is_remote) in [("alice", false), ("adam", true)] {
            let login = server.register(name).await;
            let user = server.session(&login).await.user;
            let account = |name: &str, shared| match is_remote {
                true => remote(&format!("@x:{name}.example"), shared),
                false => local(name, shared),
            };
            let of_none = flood(&server, user, |name| account(name, SharedRooms::None)).await;
            assert!((120..=125).contains(&of_none), "{of_none}");
            let of_open = flood(&server, user, |name| account(name, SharedRooms::Open)).await;
            assert!((244..=250).contains(&of_open), "{of_open}");
            let late = account("late", SharedRooms::Closed);
            assert_eq!(put_many(&server, user, late, 60, TEN_UNITS).await, 60);
            let of_closed = flood(&server, user, |name| account(name, SharedRooms::Closed)).await;
            assert!(of_closed > 430, "{of_closed}");
            let sum: u64 = waiting(&server, user).values().sum();
            assert!(sum * 10 <= MAX_QUEUE_UNITS, "{sum}");
        }
    });
}

#[test]
fn who_shares_more_rooms_displaces_first_those_who_share_none() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        for (name, shared) in [("eve", SharedRooms::None), ("olga", SharedRooms::Open)] {
            put_many(&server, alice, local(name, shared), 40, TEN_UNITS).await;
        }
        for number in 0..8 {
            let sender = local(&format!("friend{number}"), SharedRooms::Closed);
            put_many(&server, alice, sender, 70, TEN_UNITS).await;
        }
        let waiting = waiting(&server, alice);
        assert_eq!(waiting.get("-@eve:example.org"), None);
        assert!(waiting["+@olga:example.org"] < 40, "{waiting:?}");
    });
}

#[test]
fn messages_for_a_device_that_was_not_seen_for_a_week_give_way_to_newer_ones() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let bob = local("bob", SharedRooms::Closed);
        put_many(&server, alice, bob, 10, TEN_UNITS).await;
        leave_devices_unseen(&server);
        for number in 0..6 {
            let sender = local(&format!("u{number}"), SharedRooms::Closed);
            assert_eq!(put_many(&server, alice, sender, 130, TEN_UNITS).await, 130);
        }
        let waiting = waiting(&server, alice);
        // The largest accounts give way, not those who sent little.
        assert_eq!(waiting["*@bob:example.org"], 10);
        assert_eq!(waiting.len(), 7, "{waiting:?}");
        assert!(waiting.values().all(|count| *count <= 125), "{waiting:?}");
        let sum: u64 = waiting.values().sum();
        assert!((430..=500).contains(&sum), "{waiting:?}");
    });
}

#[test]
fn a_request_of_which_nothing_fits_is_refused_and_a_full_device_does_not_stop_others() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let full: DeviceIdOrAllDevices = server.store.read(|s| {
            let all = devices::all(s, alice).unwrap();
            DeviceIdOrAllDevices::DeviceId(all[0].0.clone())
        });
        let bob = local("bob", SharedRooms::Closed);
        put_many(&server, alice, bob, 125, TEN_UNITS).await;
        create_devices(&server, alice, vec!["OTHER".into()]).await;
        let refusal = send(&server, messages([full.clone()], 10)).await;
        assert!(matches!(refusal, Err(Error::QueueFull)), "{refusal:?}");
        let other = DeviceIdOrAllDevices::DeviceId("OTHER".into());
        send(&server, messages([full, other], 10)).await.unwrap();
        let mut lengths = queue_lengths(&server, alice);
        lengths.sort_unstable();
        assert_eq!(lengths, [1, 125]);
    });
}

#[test]
fn what_waits_for_all_devices_of_a_user_is_bounded() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let names = (1..10).map(|n| format!("D{n}"));
        create_devices(&server, alice, names.collect()).await;
        let put = async |name: &str| {
            let sender = local(name, SharedRooms::Closed);
            put_many(&server, alice, sender, 70, 15 * UNIT_BYTES - 100).await
        };
        assert_eq!(put("u0").await, 70);
        assert!(put("u1").await < 70);
        let key = (1, alice.0, String::new());
        let max = MAX_QUEUE_UNITS * MAX_USER_QUEUES;
        let sums: BTreeMap<_, _> = usage(&server).into_iter().collect();
        assert!((max - 400..=max).contains(&sums[&key]), "{sums:?}");
        // There is space again at the cost of devices that have not been seen.
        assert_eq!(put("u2").await, 0);
        leave_devices_unseen(&server);
        assert_eq!(put("u2").await, 70);
        let sums: BTreeMap<_, _> = usage(&server).into_iter().collect();
        assert!(sums[&key] <= max, "{sums:?}");
    });
}

#[test]
fn who_shares_no_room_displaces_nobody_who_does_on_any_device() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let names = (1..50).map(|n| format!("D{n}"));
        create_devices(&server, alice, names.collect()).await;
        let bob = local("bob", SharedRooms::Closed);
        put_many(&server, alice, bob, 30, TEN_UNITS).await;
        for number in 0..3 {
            let unrelated = remote(&format!("@eve:e{number}.example"), SharedRooms::None);
            put_many(&server, alice, unrelated, 29, TEN_UNITS).await;
        }
        assert_eq!(waiting(&server, alice)["*@bob:example.org"], 30 * 50);
        let sums: BTreeMap<_, _> = usage(&server).into_iter().collect();
        let max = MAX_QUEUE_UNITS * MAX_USER_QUEUES;
        assert!(sums[&(1, alice.0, String::new())] <= max, "{sums:?}");
    });
}

#[test]
fn the_queue_of_a_server_is_shared_by_local_users() {
    with_server(async |server| {
        let job = |tx: &Tx| {
            let send = |from: &str, count: usize| {
                let (from, to) = (UserId::parse(from).unwrap(), server_name!("b.example"));
                let (kind, messages) = ("org.example".into(), messages([EVERY], 10));
                (0..count)
                    .map(|n| {
                        let (mut delivery, id) = (Delivery::default(), format!("m{n}").into());
                        queue_outbound(tx, &mut delivery, to, &from, &kind, &id, &messages)?;
                        Ok(usize::from(delivery.finish(&from).is_ok()))
                    })
                    .sum::<Result<usize, store::Error>>()
            };
            assert_eq!(send("@bob:example.org", 10)?, 10);
            assert_eq!(send("@eve:example.org", 2600)?, 2495);
            assert_eq!(send("@late:example.org", 1300)?, 1247);
            tx.server_num("b.example")
        };
        let to = server.store.write::<_, store::Error, _>(job).await.unwrap();
        let sums: BTreeMap<_, _> = usage(&server).into_iter().collect();
        assert_eq!(sums[&(3, to.0, "+@bob:example.org".into())], 10);
        assert_eq!(sums[&(3, to.0, "".into())], 10 + 2495 + 1247);
        for _ in 0..5 {
            let job = move |tx: &Tx| discard_outbound(tx, to);
            server.store.write(job).await.unwrap();
        }
        assert_eq!(usage(&server), []);
    });
}

#[test]
fn the_sums_are_those_of_the_messages_that_wait() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        create_devices(&server, alice, vec!["OTHER".into()]).await;
        put_many(&server, alice, local("bob", SharedRooms::Closed), 3, 10).await;
        let unrelated = remote("@a:b.example", SharedRooms::None);
        put_many(&server, alice, unrelated, 2, UNIT_BYTES).await;
        let [one, other] = server.store.read(|s| {
            let all = devices::all(s, alice).unwrap();
            let other = all.iter().position(|(id, _)| *id == "OTHER").unwrap();
            [all[1 - other].1.num, all[other].1.num]
        });
        let of_device = |device: DeviceNum, local: u64| {
            [
                ((2, device.0, String::new()), local + 4),
                ((2, device.0, "*@bob:example.org".into()), local),
                ((2, device.0, "-b.example @a:b.example".into()), 4),
            ]
        };
        let mut both = [of_device(one, 3), of_device(other, 3)].concat();
        both.sort();
        let totals = |units| {
            vec![
                ((0, 0, String::new()), units),
                ((1, alice.0, String::new()), units),
            ]
        };
        assert_eq!(usage(&server), [totals(14), both].concat());
        // The first message of one device is acknowledged, all of the other, which is then removed.
        let first = server.store.read(|s| {
            let table = s.to_device().unwrap();
            table
                .prefix(one)
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .0
                .value()
                .1
        });
        let job = move |tx: &Tx| remove_until(tx, one, first);
        server.store.write(job).await.unwrap();
        let job = move |tx: &Tx| devices::remove(tx, alice, "OTHER".into()).map(drop);
        server.store.write(job).await.unwrap();
        let left = of_device(one, 2).to_vec();
        assert_eq!(usage(&server), [totals(6), left].concat());
        let job = move |tx: &Tx| remove_until(tx, one, Position::MAX);
        server.store.write(job).await.unwrap();
        assert_eq!(usage(&server), []);
    });
}

#[test]
fn messages_of_a_server_are_delivered_in_several_jobs_and_deduplicated() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        create_devices(
            &server,
            alice,
            (1..20).map(|n| format!("D{n:02}")).collect(),
        )
        .await;
        let content = |n: usize, size| {
            let sender = user_id!("@carol:elsewhere.example").to_owned();
            let id = format!("m{n}").into();
            let mut content = DirectDeviceContent::new(sender, "org.example".into(), id);
            content.messages = messages([EVERY], size);
            content
        };
        // The second is too much at once.
        let sizes = [60_000, 200_000, 60_000, 10];
        let contents: Vec<_> = (0..).zip(sizes).map(|(n, size)| content(n, size)).collect();
        let mut jobs = Vec::new();
        for _ in 0..2 {
            let mut next = 0;
            while next < contents.len() {
                let contents = contents.clone();
                let job = move |tx: &Tx| {
                    let server = tx.server_num("elsewhere.example")?;
                    let shared = |_, _: &UserId| Ok(SharedRooms::Closed);
                    deliver_remote(tx, server, &contents, next, 0, shared)
                };
                next = server.store.write::<_, store::Error, _>(job).await.unwrap();
                jobs.push(next);
            }
        }
        assert_eq!(jobs, [2, 4, 2, 4]);
        assert_eq!(queue_lengths(&server, alice), [3; 20]);
    });
}
