//! Rooms that the owner of a server has blocked (`hearth room block`).

use serde_json::json;

use crate::{
    client_api::{change_membership, create_room, join_via, joined_rooms, percent_encode},
    test_server::{TestServer, expect_error, expect_ok},
};

#[test]
fn invites_into_a_blocked_room_are_refused_to_other_servers_and_joins_to_local_users() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    expect_ok(there.administer("room/block", &json!({ "room": room })));
    let target = json!({ "user_id": bob.user_id });
    let invited = change_membership(&alice, &room, "invite", target.clone());
    expect_error(&invited, 403, "M_FORBIDDEN");
    let (id, via) = (percent_encode(&room), percent_encode(here.name().as_str()));
    let path = format!("/_matrix/client/v3/join/{id}?via={via}");
    expect_error(&bob.post(&path, json!({})), 403, "M_FORBIDDEN");
    expect_ok(there.administer("room/unblock", &json!({ "room": room })));
    expect_ok(change_membership(&alice, &room, "invite", target));
    join_via(&bob, &room, &here);
    assert!(joined_rooms(&bob).contains(&room));
}
