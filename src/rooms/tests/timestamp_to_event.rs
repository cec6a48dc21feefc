use ruma::{MilliSecondsSinceUnixEpoch, RoomVersionId, UInt, api::Direction};
use serde::Deserialize;
use serde_json::json;

use super::world::{World, with_world};
use crate::{
    rooms::{Actor, Error, event::StoredEvent, timeline::timestamp_to_event},
    store::RoomNum,
};

const START: u64 = 1_700_000_000;

/// A room with `count` events, one every ten milliseconds, with a wrong timestamp where `is_wrong`.
fn room(world: &World, count: u64, is_wrong: impl Fn(u64) -> bool) -> Result<RoomNum, Error> {
    let alice = world.user("alice")?;
    let room = world.public(&alice, &RoomVersionId::V12)?;
    for number in 1..=count {
        let time = match (is_wrong(number), number % 2) {
            (false, _) => START + 10 * number,
            (true, 0) => 5,
            (true, _) => 10 * START,
        };
        let alice = Actor {
            now: MilliSecondsSinceUnixEpoch(UInt::new_saturating(time)),
            ..alice.clone()
        };
        let content = json!({ "number": number, "wrong": is_wrong(number) });
        world.set(&alice, room, ("org.example.tick", ""), &content)?;
    }
    Ok(room)
}

fn find(
    world: &World,
    room: RoomNum,
    ts: u64,
    dir: Direction,
    accepts: impl Fn(&StoredEvent) -> bool,
) -> Result<Option<u64>, Error> {
    let nearest = timestamp_to_event::nearest(world.tx, room, ts, dir, |event| Ok(accepts(event)))?;
    assert_eq!(nearest.gap, None);
    Ok(nearest.event.map(|(_, time)| time))
}

#[test]
fn the_nearest_event_is_found_in_a_long_history() {
    with_world(|world| {
        let room = room(world, 700, |_| false)?;
        let end = START + 7000;
        for ts in [START + 10, START + 11, START + 3333, START + 6991, end] {
            let later = find(world, room, ts, Direction::Forward, |_| true)?;
            assert_eq!(later, Some(ts.next_multiple_of(10)), "{ts}");
            let earlier = find(world, room, ts, Direction::Backward, |_| true)?;
            assert_eq!(earlier, Some(ts / 10 * 10), "{ts}");
        }
        let all = |_: &StoredEvent| true;
        assert_eq!(find(world, room, 0, Direction::Forward, all)?, Some(START));
        assert_eq!(
            find(world, room, START - 1, Direction::Backward, all)?,
            None
        );
        assert_eq!(find(world, room, end + 1, Direction::Forward, all)?, None);
        assert_eq!(
            find(world, room, u64::MAX, Direction::Backward, all)?,
            Some(end)
        );
        Ok(())
    });
}

#[test]
fn events_that_are_not_accepted_are_skipped() {
    #[derive(Deserialize)]
    struct Tick {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        number: u64,
    }
    with_world(|world| {
        let room = room(world, 500, |_| false)?;
        let number = |event: &StoredEvent| {
            let tick = event.parse::<Tick>();
            tick.map_or(0, |tick| tick.content.number)
        };
        let outside = |event: &StoredEvent| !(50..450).contains(&number(event));
        let (later, earlier) = (START + 4500, START + 490);
        let found = find(world, room, START + 1000, Direction::Forward, outside)?;
        assert_eq!(found, Some(later));
        let found = find(world, room, START + 4000, Direction::Backward, outside)?;
        assert_eq!(found, Some(earlier));
        Ok(())
    });
}

#[test]
fn wrong_timestamps_of_some_events_do_not_mislead_the_search() {
    with_world(|world| {
        let room = room(world, 700, |number| number % 5 == 0)?;
        let is_right = |event: &StoredEvent| {
            let json = String::from_utf8_lossy(&event.json);
            json.contains(r#""wrong":false"#)
        };
        for number in [1, 58, 333, 412, 699] {
            let ts = START + 10 * number;
            for dir in [Direction::Forward, Direction::Backward] {
                let found = find(world, room, ts, dir, is_right)?;
                assert_eq!(found, Some(ts), "{number}");
            }
        }
        Ok(())
    });
}
