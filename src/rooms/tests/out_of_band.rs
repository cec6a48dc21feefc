use ruma::{RoomVersionId, room_id, server_name};

use super::world::with_world;
use crate::{
    protocol::{
        Pdu,
        history::{Action, History},
        receive::Received,
    },
    rooms::{event::import, membership::out_of_band, room},
};

/// An invite of `@alice:here` to a room of another server.
fn invite(version: &RoomVersionId) -> Received {
    const MALLORY: &str = "@mallory:b.example";
    let mut room = History::public(version, MALLORY);
    let index = room.then(Action::member(MALLORY, "@alice:here", "invite"));
    let event = &room.events[index];
    Received {
        json: event.json.clone(),
        pdu: Pdu::clone(&event.pdu),
        redacted: false,
    }
}

#[test]
fn an_invite_with_a_false_room_version_does_not_decide_the_version_of_the_room() {
    with_world(|world| {
        let id = room_id!("!room:a.example");
        let [alice] = world.users(["alice"])?;
        let version = RoomVersionId::V10;
        let row = out_of_band::from_stripped_state(server_name!("b.example"), &version, []);
        out_of_band::store(world.tx, id, &invite(&version), &row)?;
        let num = room::num(world.tx, id)?;
        let stored = out_of_band::load(world.tx, alice.num, num)?.expect("alice is invited");
        assert_eq!(out_of_band::version(&stored)?, version);
        let begun = import::begin(world.tx, id, &RoomVersionId::V11)?;
        assert_eq!(begun, num);
        assert_eq!(room::version(world.tx, num)?, RoomVersionId::V11);
        Ok(())
    });
}
