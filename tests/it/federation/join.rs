//! Joining rooms over federation.

use serde_json::json;

use crate::{
    client_api::{create_room, join, join_via, room_path},
    test_server::{TestServer, expect_ok},
};

#[test]
fn join_with_omitted_members_fetches_all_members() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), here.register("bob"));
    // A named room has no heroes, so that `members_omitted` leaves out all members.
    let room = create_room(
        &alice,
        json!({ "preset": "public_chat", "name": "the square" }),
    );
    join(&bob, &room);
    let carol = there.register("carol");
    join_via(&carol, &room, &here);
    let members = expect_ok(carol.get(&room_path(&room, "joined_members")))["joined"].clone();
    for member in [&alice, &bob, &carol] {
        assert!(members[member.user_id.as_str()].is_object(), "{members}");
    }
}
