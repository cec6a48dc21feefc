//! The room after events were received.

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use ruma::{RoomVersionId, server_name};
use serde_json::json;

use super::{ALICE, BOB, Peer, messages, with_server};
use crate::{
    federation::inbound::Room,
    protocol::{
        history::{Action, History},
        versions,
    },
    rooms::{
        self,
        event::{self, receive},
        room,
    },
    store::records::Status,
};

#[test]
fn events_received_in_any_order_give_the_state_of_full_state_resolution() {
    for version in versions::SUPPORTED {
        let mut order: Vec<usize> = (8..60).collect();
        order.shuffle(&mut StdRng::seed_from_u64(3));
        receive_and_compare_state(History::random(&version, 21, 60), &order, 5);
    }
}

#[test]
fn a_chain_of_events_gives_the_state_of_full_state_resolution() {
    for version in versions::SUPPORTED {
        for seed in 0..3 {
            let order: Vec<usize> = (8..60).collect();
            receive_and_compare_state(History::random(&version, seed, 60), &order, 50);
        }
    }
}

/// Takes the events of a history in this order, so many at once, and compares the state at its end.
fn receive_and_compare_state(history: History, order: &[usize], together: usize) {
    let peer = Peer::new(history);
    let history = &peer.history;
    with_server(&peer, 8, async |server| {
        for some in order.chunks(together) {
            // Whether anybody here is in the room changes on the way.
            let raw = some.iter().map(|index| peer.raw(*index)).collect();
            let room = server.store.read(|s| Room::load(s, server.room));
            let (origin, room) = (server_name!("b.example"), room.expect("a room"));
            let taken = server
                .receiver
                .receive_in_room(origin, &room, raw, true)
                .await
                .expect("the store works");
            server.wake();
            assert!(taken.values().all(Result::is_ok), "{taken:?}");
        }
        server.queue_processed().await;
        for index in 0..history.events.len() {
            assert!(
                server.knows(index),
                "version {}, event {index}",
                history.version
            );
        }
        let ends = server
            .store
            .read(|s| room::heads(s, server.room))
            .expect("a room");
        let ends: Vec<usize> = ends
            .extremities
            .iter()
            .map(|num| server.index(*num))
            .collect();
        let expected = history.state_after_all(&ends);
        assert_eq!(
            server.current(),
            server.named(&expected),
            "version {}",
            history.version
        );
    });
}

#[test]
fn a_soft_failed_event_leaves_no_forward_extremity_behind_it() {
    const CAROL: &str = "@carol:c.example";
    let mut history = History::public(&RoomVersionId::V11, ALICE);
    history.then(Action::join(BOB));
    let joined = history.then(Action::join(CAROL));
    let say = |who| Action::message(who, "m.room.message", json!({ "body": "" }));
    let ban = history.after(&[joined], Action::member(ALICE, BOB, "ban"));
    let fork = history.after(&[joined], say(CAROL));
    let by_banned = history.after(&[fork], say(BOB));
    let behind = history.after(&[by_banned], say(CAROL));
    with_server(&Peer::new(history), joined + 1, async |server| {
        for index in [ban, fork, by_banned, behind] {
            server.receive(&[index]).await;
        }
        let ends = server.store.read(|s| room::heads(s, server.room));
        let ends = ends.expect("a room").extremities;
        let ends: Vec<usize> = ends.into_iter().map(|num| server.index(num)).collect();
        assert_eq!(ends, [ban, behind]);
    });
}

#[test]
fn a_banned_users_event_on_an_old_branch_is_soft_failed() {
    let version = RoomVersionId::V12;
    let mut history = messages(&version, 2);
    let end = history.events.len() - 1;
    history.then(Action::member(ALICE, BOB, "ban"));
    let banned = history.events.len() - 1;
    // On the branch without the ban.
    let body = json!({ "msgtype": "m.text", "body": "still here" });
    let late = history.append(&[end], Action::message(BOB, "m.room.message", body));
    with_server(&Peer::new(history), banned + 1, async |server| {
        server.receive(&[late]).await;
        let status = server.store.read(|s| {
            let num = event::num_of(s, &server.peer.id(late))?.expect("it is here");
            Ok::<_, rooms::Error>(event::header(s, num)?.status)
        });
        assert_eq!(status.expect("an event"), Status::SoftFailed);
        let claimed = server.store.read(|s| {
            let ids = [server.peer.id(0), server.peer.id(1)];
            receive::claimed_state(s, server.room, &ids).map(drop)
        });
        assert!(claimed.is_ok());
    });
}
