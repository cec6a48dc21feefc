use ruma::RoomVersionId;
use serde_json::json;

use super::world::with_world;
use crate::{
    rooms::{Actor, room::id, servers::shared_rooms::shared_with},
    users::to_device::SharedRooms,
};

#[test]
fn a_shared_room_is_open_if_anybody_may_join_it_or_a_room_whose_members_may() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let shared = |other: &Actor| shared_with(world.tx, alice.num, &other.id);
        assert_eq!(shared(&bob)?, SharedRooms::None);
        let lobby = world.public(&alice, &RoomVersionId::V12)?;
        assert_eq!(shared(&bob)?, SharedRooms::None);
        world.join(&bob, lobby)?;
        assert_eq!(shared(&bob)?, SharedRooms::Open);

        let room = world.create(&alice, &json!({ "preset": "private_chat" }))?;
        world.invite(&alice, &bob, room)?;
        assert_eq!(shared(&bob)?, SharedRooms::Open);
        world.join(&bob, room)?;
        assert_eq!(shared(&bob)?, SharedRooms::Closed);
        let set_rule = |content| world.set(&alice, room, ("m.room.join_rules", ""), &content);
        let allow = |room: &str| json!([{ "type": "m.room_membership", "room_id": room }]);
        let restricted = |room: &str| json!({ "join_rule": "restricted", "allow": allow(room) });
        let lobby_id = id(world.tx, lobby)?;
        for (content, expected) in [
            (json!({ "join_rule": "public" }), SharedRooms::Open),
            (json!({ "join_rule": "knock" }), SharedRooms::Closed),
            (restricted(lobby_id.as_str()), SharedRooms::Open),
            // It may be open.
            (restricted("!elsewhere:there"), SharedRooms::Open),
            (
                json!({ "join_rule": "restricted", "allow": [] }),
                SharedRooms::Closed,
            ),
        ] {
            set_rule(content.clone())?;
            assert_eq!(shared(&bob)?, expected, "{content}");
        }
        let closed = json!({ "join_rule": "invite" });
        world.set(&alice, lobby, ("m.room.join_rules", ""), &closed)?;
        set_rule(restricted(lobby_id.as_str()))?;
        assert_eq!(shared(&bob)?, SharedRooms::Closed);
        world.leave(&bob, room)?;
        world.leave(&bob, lobby)?;
        assert_eq!(shared(&bob)?, SharedRooms::None);
        Ok(())
    });
}
