//! Rooms that the owner of a server deletes (`hearth room delete`) while other servers are in them.

use serde_json::{Value, json};

use super::outage::wait_for_event;
use crate::{
    client_api::{
        change_membership, create_room, join_via, joined_rooms, next_batch, room_path, send_text,
        sync,
    },
    room_deletion::delete_room,
    test_server::{TestServer, TestUser, expect_ok},
};

fn membership(user: &TestUser<'_>, room: &str, of: &TestUser<'_>) -> Value {
    let path = room_path(room, &format!("state/m.room.member/{}", of.user_id));
    expect_ok(user.get(&path))["membership"].clone()
}

#[test]
fn other_servers_get_the_leaves_of_a_deleted_room_and_can_invite_its_users_again() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let carol = here.register("carol");
    let anybody_invites = json!({ "invite": 0 });
    let room = create_room(
        &alice,
        json!({ "preset": "public_chat", "power_level_content_override": anybody_invites }),
    );
    for _ in 0..3 {
        send_text(&alice, &room, "before");
    }
    join_via(&bob, &room, &here);
    let target = json!({ "user_id": carol.user_id });
    expect_ok(change_membership(&alice, &room, "invite", target));

    delete_room(&here, &room);

    // The room is deleted here only when the invitation and the leaves are there.
    assert_eq!(membership(&bob, &room, &alice), "leave");
    assert_eq!(membership(&bob, &room, &carol), "leave");
    assert!(joined_rooms(&alice).is_empty());
    send_text(&bob, &room, "to nobody");

    let before = sync(&alice, None);
    let target = json!({ "user_id": alice.user_id });
    expect_ok(change_membership(&bob, &room, "invite", target));
    let invited = sync(&alice, Some(next_batch(&before)));
    assert!(invited["rooms"]["invite"][&room].is_object(), "{invited}");
    join_via(&alice, &room, &there);
    assert!(joined_rooms(&alice).contains(&room));
    let since = next_batch(&sync(&alice, None)).to_owned();
    let event = send_text(&bob, &room, "welcome back");
    wait_for_event(&alice, &room, &event, since);
    let since = next_batch(&sync(&bob, None)).to_owned();
    let event = send_text(&alice, &room, "thanks");
    wait_for_event(&bob, &room, &event, since);
}
