use ruma::{
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
    user_id,
};
use serde_json::json;

use super::{
    deliver, deliver_remote,
    inbound::{Addressed, MAX_UNRELATED_UNITS, devices_of, put},
    queue::{MAX_QUEUE_UNITS, UNIT_BYTES},
    request::MAX_CONTENT_BYTES,
};
use crate::{
    store::{self, DeviceNum, Reader, Rows, Tx, UserNum},
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

fn device(name: &str) -> DeviceIdOrAllDevices {
    DeviceIdOrAllDevices::DeviceId(name.into())
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
    let job = move |tx: &Tx| deliver(tx, from, &"org.example".into(), &messages);
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

#[test]
fn the_queue_of_a_device_is_bounded_by_number_and_by_size() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        for (name, size) in [("SMALL", 10), ("LARGE", MAX_CONTENT_BYTES - 100)] {
            create_devices(&server, alice, vec![name.into()]).await;
            let job = move |tx: &Tx| {
                let message = Addressed {
                    user: alice,
                    devices: devices_of(tx, alice, &device(name))?,
                    json: "x".repeat(size),
                };
                (0..MAX_QUEUE_UNITS + 10).try_for_each(|_| put(tx, &message, || Ok(true)))
            };
            let job = server.store.write::<_, store::Error, _>(job);
            job.await.unwrap();
        }
        let large = MAX_QUEUE_UNITS / (MAX_CONTENT_BYTES / UNIT_BYTES) as u64;
        let mut waiting = queue_lengths(&server, alice);
        waiting.sort_unstable();
        assert_eq!(waiting, [0, large, MAX_QUEUE_UNITS]);
    });
}

#[test]
fn remote_users_without_a_shared_room_fill_only_a_part_of_a_queue() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let job = move |tx: &Tx| {
            let message = Addressed {
                user: alice,
                devices: devices_of(tx, alice, &EVERY)?,
                json: "{}".into(),
            };
            let unrelated = || Ok::<_, store::Error>(false);
            (0..MAX_QUEUE_UNITS).try_for_each(|_| put(tx, &message, unrelated))?;
            (0..100).try_for_each(|_| put(tx, &message, || Ok(true)))
        };
        let job = server.store.write::<_, store::Error, _>(job);
        job.await.unwrap();
        assert_eq!(queue_lengths(&server, alice), [MAX_UNRELATED_UNITS + 100]);
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
