use std::collections::BTreeMap;

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
    queue::{
        MAX_QUEUE_UNITS, MAX_SHARE_UNITS, MAX_UNRELATED_SHARE_UNITS, MAX_UNRELATED_UNITS,
        MAX_USER_QUEUES, Sender, UNIT_BYTES,
    },
    queue_outbound,
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
    let create = server.store.write(move |tx| {
        for name in &names {
            devices::get_or_create(tx, user, name.as_str().into(), None, 0)?;
        }
        Ok::<_, Error>(())
    });
    create.await.unwrap();
}

async fn send(server: &Server, messages: DirectDeviceMessages) -> Result<(), Error> {
    let from = user_id!("@bob:example.org");
    let job =
        move |tx: &Tx| deliver::<Error>(tx, from, &"org.example".into(), &messages, |_| Ok(true));
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

/// Queues `count` messages of `size` bytes for every device of `user`; returns how many were not refused.
async fn put_many(
    server: &Server,
    user: UserNum,
    sender: Sender,
    count: usize,
    size: usize,
) -> usize {
    let job = move |tx: &Tx| {
        let message = Addressed {
            devices: devices_of(tx, user, &EVERY)?,
            json: format!("{{\"text\":\"{}\"}}", "x".repeat(size)),
        };
        let mut accepted = 0;
        for _ in 0..count {
            accepted += usize::from(put(tx, user, &message, &sender)?);
        }
        Ok::<_, store::Error>(accepted)
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

fn local(name: &str, is_related: bool) -> Sender {
    Sender::local(
        &UserId::parse(format!("@{name}:example.org")).unwrap(),
        is_related,
    )
}

fn remote(user: &str, is_related: bool) -> Sender {
    Sender::remote(&UserId::parse(user).unwrap(), is_related)
}

#[test]
fn a_local_user_who_shares_no_room_is_refused_beyond_a_small_share_and_displaces_nobody() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        assert_eq!(
            put_many(&server, alice, local("bob", true), 5, 1000).await,
            5
        );
        let share = MAX_UNRELATED_SHARE_UNITS as usize;
        for unrelated in ["eve", "mallory"] {
            let sender = local(unrelated, false);
            assert_eq!(put_many(&server, alice, sender, 550, 10).await, share);
        }
        let waiting = waiting(&server, alice);
        assert_eq!(waiting["+@bob:example.org"], 5);
        assert_eq!(waiting["-@eve:example.org"], share as u64);
        assert_eq!(waiting["-@mallory:example.org"], share as u64);
    });
}

#[test]
fn who_fills_their_share_displaces_their_own_oldest_messages() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let sizes = [10, 3 * UNIT_BYTES];
        for (sender, size) in ["bob", "carol"].into_iter().zip(sizes) {
            let sender = local(sender, true);
            assert_eq!(put_many(&server, alice, sender, 1500, size).await, 1500);
        }
        put_many(&server, alice, remote("@a:b.example", true), 10, 10).await;
        put_many(&server, alice, remote("@eve:b.example", true), 1500, 10).await;
        let waiting = waiting(&server, alice);
        let share = MAX_SHARE_UNITS;
        let nearly = share - share / 8..=share;
        assert!(
            nearly.contains(&waiting["+@bob:example.org"]),
            "{waiting:?}"
        );
        assert!(
            nearly.contains(&(waiting["+@carol:example.org"] * 4)),
            "{waiting:?}"
        );
        assert!(
            nearly.contains(&(waiting["+b.example @eve:b.example"] + 10)),
            "{waiting:?}"
        );
        // Of the users of a server, the one who has the most.
        assert_eq!(waiting["+b.example @a:b.example"], 10);
    });
}

#[test]
fn unrelated_senders_together_fill_a_part_of_a_queue_and_the_largest_gives_way() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        put_many(&server, alice, local("bob", true), 1000, 10).await;
        put_many(&server, alice, remote("@first:small.example", false), 5, 10).await;
        for number in 0..20 {
            let sender = remote(&format!("@x:s{number}.example"), false);
            put_many(&server, alice, sender, 200, 10).await;
        }
        let waiting = waiting(&server, alice);
        assert_eq!(waiting["+@bob:example.org"], 1000);
        assert_eq!(waiting["-small.example @first:small.example"], 5);
        let of_unrelated = waiting.iter().filter(|(sender, _)| sender.starts_with('-'));
        let sum: u64 = of_unrelated.map(|(_, count)| count).sum();
        let part = MAX_UNRELATED_UNITS;
        assert!((part - part / 8..=part).contains(&sum), "{waiting:?}");
    });
}

#[test]
fn a_full_queue_loses_the_oldest_of_the_largest_sender() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        put_many(&server, alice, local("bob", true), 100, 10).await;
        for number in 0..6 {
            put_many(&server, alice, local(&format!("u{number}"), true), 1100, 10).await;
        }
        let waiting = waiting(&server, alice);
        assert_eq!(waiting["+@bob:example.org"], 100);
        let sum: u64 = waiting.values().sum();
        assert!(
            (MAX_QUEUE_UNITS - 200..=MAX_QUEUE_UNITS).contains(&sum),
            "{waiting:?}"
        );
        assert!(waiting.values().all(|count| *count > 0), "{waiting:?}");
    });
}

#[test]
fn what_waits_for_all_devices_of_a_user_is_bounded() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let names = (1..10).map(|n| format!("D{n}"));
        create_devices(&server, alice, names.collect()).await;
        for number in 0..3 {
            let sender = local(&format!("u{number}"), true);
            put_many(&server, alice, sender, 70, 15 * UNIT_BYTES - 100).await;
        }
        let key = (1, alice.0, String::new());
        let sums: BTreeMap<_, _> = usage(&server).into_iter().collect();
        let max = MAX_QUEUE_UNITS * MAX_USER_QUEUES;
        assert!((max - 400..=max).contains(&sums[&key]), "{sums:?}");
        assert_eq!(put_many(&server, alice, local("bob", true), 1, 10).await, 1);
        assert_eq!(waiting(&server, alice)["+@bob:example.org"], 10);
    });
}

#[test]
fn who_shares_no_room_displaces_nobody_who_does_on_any_device() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let names = (1..50).map(|n| format!("D{n}"));
        create_devices(&server, alice, names.collect()).await;
        put_many(&server, alice, local("bob", true), 300, 10).await;
        for number in 0..3 {
            let unrelated = remote(&format!("@eve:e{number}.example"), false);
            put_many(&server, alice, unrelated, 290, 10).await;
        }
        assert_eq!(waiting(&server, alice)["+@bob:example.org"], 300 * 50);
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
                let from = UserId::parse(from).unwrap();
                (0..count).try_for_each(|n| {
                    let (kind, id) = ("org.example".into(), format!("m{n}").into());
                    let to = server_name!("b.example");
                    queue_outbound(tx, to, &from, &kind, &id, &messages([EVERY], 10))
                })
            };
            send("@bob:example.org", 10)?;
            send("@eve:example.org", 6000)?;
            tx.server_num("b.example")
        };
        let to = server.store.write::<_, store::Error, _>(job).await.unwrap();
        let sums: BTreeMap<_, _> = usage(&server).into_iter().collect();
        assert_eq!(sums[&(3, to.0, "+@bob:example.org".into())], 10);
        assert_eq!(
            sums[&(3, to.0, "+@eve:example.org".into())] + 10,
            sums[&(3, to.0, "".into())]
        );
        assert!(sums[&(3, to.0, "".into())] <= MAX_QUEUE_UNITS);
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
        put_many(&server, alice, local("bob", true), 3, 10).await;
        put_many(&server, alice, remote("@a:b.example", false), 2, UNIT_BYTES).await;
        let [one, other] = server.store.read(|s| {
            let all = devices::all(s, alice).unwrap();
            let other = all.iter().position(|(id, _)| *id == "OTHER").unwrap();
            [all[1 - other].1.num, all[other].1.num]
        });
        let of_device = |device: DeviceNum, local: u64| {
            [
                ((2, device.0, String::new()), local + 4),
                ((2, device.0, "+@bob:example.org".into()), local),
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
                    deliver_remote(tx, server, &contents, next, |_, _| Ok(true))
                };
                next = server.store.write::<_, store::Error, _>(job).await.unwrap();
                jobs.push(next);
            }
        }
        assert_eq!(jobs, [2, 4, 2, 4]);
        assert_eq!(queue_lengths(&server, alice), [3; 20]);
    });
}
