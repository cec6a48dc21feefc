use ruma::{serde::Raw, user_id};
use serde_json::json;

use super::*;
use crate::{
    store::Rows,
    users::testing::{Server, alice_and_bob, with_server},
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

async fn enter(server: &Server, user: UserNum, names: Vec<String>) {
    let enter = server.store.write(move |tx| {
        for name in &names {
            devices::get_or_create(tx, user, name.as_str().into(), None, 0)?;
        }
        Ok::<_, Error>(())
    });
    enter.await.unwrap();
}

async fn send(server: &Server, messages: DirectDeviceMessages) -> Result<(), Error> {
    let from = user_id!("@bob:example.org");
    let job = move |tx: &Tx| deliver(tx, (from, &"org.example".into()), &messages);
    server.store.write(job).await
}

fn waiting_for(server: &Server, user: UserNum) -> Vec<u64> {
    server.store.read(|s| {
        let devices = devices::all(s, user).unwrap().into_iter();
        let count = |device: DeviceNum| {
            let table = s.to_device().unwrap();
            let range = (device, Position::MIN)..=(device, Position::MAX);
            table.range(range).unwrap().count() as u64
        };
        devices.map(|(_, device)| count(device.num)).collect()
    })
}

#[test]
fn too_much_for_so_many_devices_is_refused_as_a_whole() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        enter(
            &server,
            alice,
            (1..40).map(|n| format!("D{n:02}")).collect(),
        )
        .await;
        let refusal = send(&server, messages([EVERY], 60_000)).await;
        assert!(matches!(refusal, Err(Error::TooLarge(_))), "{refusal:?}");
        assert_eq!(waiting_for(&server, alice), [0; 40]);
        send(&server, messages([EVERY], 40_000)).await.unwrap();
        assert_eq!(waiting_for(&server, alice), [1; 40]);
    });
}

#[test]
fn what_waits_for_a_device_has_an_end_by_number_and_by_size() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        for (name, size) in [("SMALL", 10), ("LARGE", MAX_CONTENT_BYTES - 100)] {
            enter(&server, alice, vec![name.into()]).await;
            let job = move |tx: &Tx| {
                let letters = Letters {
                    user: alice,
                    devices: addressed(tx, alice, &device(name))?,
                    json: "x".repeat(size),
                };
                (0..WAITING + 10).try_for_each(|_| put(tx, &letters, || Ok(true)))
            };
            let job = server.store.write::<_, store::Error, _>(job);
            job.await.unwrap();
        }
        let large = WAITING / (MAX_CONTENT_BYTES / UNIT) as u64;
        let mut waiting = waiting_for(&server, alice);
        waiting.sort_unstable();
        assert_eq!(waiting, [0, large, WAITING]);
    });
}

#[test]
fn a_stranger_does_not_fill_the_place_of_those_whom_one_knows() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        let job = move |tx: &Tx| {
            let letters = Letters {
                user: alice,
                devices: addressed(tx, alice, &EVERY)?,
                json: "{}".into(),
            };
            let stranger = || Ok::<_, store::Error>(false);
            (0..WAITING).try_for_each(|_| put(tx, &letters, stranger))?;
            (0..100).try_for_each(|_| put(tx, &letters, || Ok(true)))
        };
        let job = server.store.write::<_, store::Error, _>(job);
        job.await.unwrap();
        assert_eq!(waiting_for(&server, alice), [FOR_STRANGERS + 100]);
    });
}

#[test]
fn what_a_server_sends_is_taken_in_pieces_each_message_once() {
    with_server(async |server| {
        let [alice, _] = alice_and_bob(&server).await;
        enter(
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
        let mut pieces = Vec::new();
        for _ in 0..2 {
            let mut next = 0;
            while next < contents.len() {
                let contents = contents.clone();
                let job = move |tx: &Tx| {
                    let server = tx.server_num("elsewhere.example")?;
                    deliver_remote(tx, server, (&contents, next), |_, _| Ok(true))
                };
                next = server.store.write::<_, store::Error, _>(job).await.unwrap();
                pieces.push(next);
            }
        }
        assert_eq!(pieces, [2, 4, 2, 4]);
        assert_eq!(waiting_for(&server, alice), [3; 20]);
    });
}
