//! Joining rooms of other servers.

use serde_json::json;

use super::outage::join_via;
use crate::{
    home::Home,
    rooms::{done, escaped, join, make_room},
};

#[test]
fn who_joins_gets_all_members_although_the_first_answer_leaves_them_out() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), here.register("bob"));
    // Of a room with a name, no member is needed to call it something.
    let room = make_room(
        &alice,
        json!({ "preset": "public_chat", "name": "the square" }),
    );
    join(&bob, &room);
    let carol = there.register("carol");
    join_via(&carol, &room, &here);
    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", escaped(&room));
    let members = done(carol.get(&path))["joined"].clone();
    for member in [&alice, &bob, &carol] {
        assert!(members[member.user_id.as_str()].is_object(), "{members}");
    }
}
