//! The queue of a room.

use std::{sync::atomic::Ordering, time::Duration};

use ruma::{RoomId, RoomVersionId, server_name};
use smol::{
    Timer,
    future::{self, FutureExt},
};

use super::{Peer, messages, nested, with_server};
use crate::{
    federation::inbound::{PduOutcome, event_source::FetchError},
    rooms::{self, room},
    store::{Reader, Tx, records::Waiting},
};

#[test]
fn a_queued_event_is_processed_once_its_prev_events_are_available() {
    let history = messages(&RoomVersionId::V12, 8);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 7, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        let taken = server.receive(&[last]).await;
        assert!(
            taken
                .values()
                .all(|taken| matches!(taken, Ok(PduOutcome::Queued(_))))
        );
        while server.peer.requests.load(Ordering::Relaxed) == 0 {
            future::yield_now().await;
        }
        assert_eq!(server.queued(), 1);
        server.peer.is_available.store(true, Ordering::Relaxed);
        server.wake();
        server.queue_processed().await;
        assert!(server.has(last));
    });
}

#[test]
fn queued_events_are_not_dropped_because_more_events_are_queued() {
    let history = messages(&RoomVersionId::V12, 40);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 39, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        for index in last - 12..=last {
            let requests = server.peer.requests.load(Ordering::Relaxed);
            server.receive(&[index]).await;
            while server.peer.requests.load(Ordering::Relaxed) == requests {
                future::yield_now().await;
            }
        }
        assert_eq!(server.queued(), 13);
        server.peer.is_available.store(true, Ordering::Relaxed);
        server.wake();
        server.queue_processed().await;
        assert!((last - 12..=last).all(|index| server.has(index)));
    });
}

#[test]
fn one_round_makes_one_attempt_at_a_server_that_cannot_be_reached() {
    let history = messages(&RoomVersionId::V12, 40);
    let last = history.events.len() - 1;
    let peer = Peer {
        failure: FetchError::Unreachable,
        ..Peer::new(history)
    };
    with_server(&peer, last - 39, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        let indices: Vec<usize> = (last - 12..=last).collect();
        server.receive(&indices).await;
        assert_eq!(server.queued(), 13);
        while server.peer.requests.load(Ordering::Relaxed) == 0 {
            future::yield_now().await;
        }
        for _ in 0..1000 {
            future::yield_now().await;
        }
        assert_eq!(server.peer.requests.load(Ordering::Relaxed), 1);
        server.peer.is_available.store(true, Ordering::Relaxed);
        server.wake();
        server.queue_processed().await;
        assert!(indices.iter().all(|index| server.has(*index)));
    });
}

#[test]
fn a_corrupt_queued_event_does_not_stop_the_others_after_a_restart() {
    let history = messages(&RoomVersionId::V12, 8);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 7, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        server.receive(&[last]).await;
        let room = server.room;
        let deep = format!("{{\"content\":{{\"deep\":{}}}}}", nested(5000));
        let job = move |tx: &Tx| {
            let record = Waiting {
                origin: "b.example".to_owned(),
                json: deep.clone().into_bytes(),
            };
            tx.waiting()?.put((room, "$deep"), &record)
        };
        server.store.write(job).await.expect("it is stored");
        assert_eq!(server.queued(), 2);
        server.peer.is_available.store(true, Ordering::Relaxed);
        server.wake();
        server.queue_processed().await;
        assert!(server.has(last));
    });
}

#[test]
fn events_of_a_server_that_is_not_in_the_room_are_not_queued() {
    let history = messages(&RoomVersionId::V12, 8);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 7, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        let pdus = vec![server.peer.raw(last)];
        let received = server.receiver.receive(server_name!("c.example"), pdus);
        let received = received.await.expect("the store works");
        assert_eq!(received.len(), 1);
        assert!(received.values().all(Result::is_err), "{received:?}");
        assert_eq!(server.queued(), 0);
    });
}

#[test]
fn a_queued_event_keeps_its_origin_unless_the_server_of_its_sender_sends_it() {
    let history = messages(&RoomVersionId::V12, 2);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 1, async |server| {
        let [b, c, d] = [
            server_name!("b.example"),
            server_name!("c.example"),
            server_name!("d.example"),
        ];
        for (origin, expected) in [(c, c), (d, c), (b, b), (d, b)] {
            server.enqueue(origin, last).await.expect("there is space");
            assert_eq!(server.origin(last), expected.as_str());
        }
        assert_eq!(server.queued(), 1);
    });
}

#[test]
fn many_rooms_of_a_silent_server_do_not_keep_those_of_others_waiting() {
    let history = messages(&RoomVersionId::V12, 40);
    let last = history.events.len() - 1;
    let peer = Peer {
        silent: Some(server_name!("c.example")),
        ..Peer::new(history)
    };
    with_server(&peer, last - 20, async |server| {
        let version = peer.history.version.clone();
        let event = Waiting {
            origin: "c.example".to_owned(),
            json: peer.history.events[last].json.clone(),
        };
        let id = peer.id(last);
        let job = move |tx: &Tx| {
            let rooms = (0..20).map(|n| {
                let room = RoomId::parse(format!("!room{n}:c.example")).expect("an id");
                let room = room::create(tx, &room, &version)?;
                tx.waiting()?.put((room, id.as_str()), &event)?;
                Ok(room)
            });
            rooms.collect::<Result<Vec<_>, rooms::Error>>()
        };
        for room in server.store.write(job).await.expect("they are stored") {
            server.queues.wake(room, "c.example");
        }
        while server.peer.requests.load(Ordering::Relaxed) == 0 {
            future::yield_now().await;
        }
        for _ in 0..1000 {
            future::yield_now().await;
        }
        server.receive(&[last]).await;
        server.queue_processed().await;
        assert!(server.has(last));
    });
}

#[test]
fn a_full_queue_gives_each_server_its_share() {
    let history = messages(&RoomVersionId::V12, 210);
    let first = history.events.len() - 210;
    let peer = Peer::new(history);
    with_server(&peer, first, async |server| {
        let enqueue = async |origin, index| server.enqueue(origin, index).await;
        let [b, c, d] = [
            server_name!("b.example"),
            server_name!("c.example"),
            server_name!("d.example"),
        ];
        for index in 0..100 {
            enqueue(b, first + index).await.expect("there is space");
            enqueue(c, first + 100 + index)
                .await
                .expect("there is space");
        }
        enqueue(b, first + 200).await.expect_err("b has its share");
        enqueue(b, first).await.expect("it is queued already");
        enqueue(d, first + 201).await.expect("others have more");
        assert_eq!(server.queued(), 200);
    });
}

#[test]
fn events_of_a_silent_server_do_not_keep_those_of_others_in_the_room_waiting() {
    let history = messages(&RoomVersionId::V12, 10);
    let last = history.events.len() - 1;
    let peer = Peer {
        silent: Some(server_name!("c.example")),
        ..Peer::new(history)
    };
    with_server(&peer, last - 9, async |server| {
        for index in [last - 3, last - 2] {
            let queued = server.enqueue(server_name!("c.example"), index).await;
            queued.expect("there is space");
        }
        server.queues.wake(server.room, "c.example");
        while server.peer.requests.load(Ordering::Relaxed) == 0 {
            future::yield_now().await;
        }
        for _ in 0..1000 {
            future::yield_now().await;
        }
        server.receive(&[last]).await;
        while !server.has(last) {
            future::yield_now().await;
        }
    });
}

#[test]
fn an_event_that_waits_for_one_of_another_server_is_processed_after_that_one() {
    let history = messages(&RoomVersionId::V12, 3);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 2, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        let (b, c) = (server_name!("b.example"), server_name!("c.example"));
        let requests = || server.peer.requests.load(Ordering::Relaxed);
        for (origin, index) in [(b, last - 1), (c, last)] {
            let before = requests();
            server.enqueue(origin, index).await.expect("there is space");
            server.queues.wake(server.room, origin.as_str());
            while requests() == before {
                future::yield_now().await;
            }
        }
        Timer::after(Duration::from_secs(1)).await;
        server.store(last - 2).await;
        server.queues.wake(server.room, b.as_str());
        let backoff = async {
            Timer::after(Duration::from_secs(10)).await;
            panic!("the event waits for the end of a backoff");
        };
        server.queue_processed().or(backoff).await;
        assert!(server.has(last));
    });
}
