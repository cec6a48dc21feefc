//! Joins for which another server vouches.

use http::Method;
use serde_json::{Value, json};

use super::outage::join_via;
use crate::{
    home::Home,
    rooms::{done, escaped, make_room, say, set},
    spaces::make_space,
};

/// So much that the other server has not got all of it before it lets somebody in.
const MESSAGES: usize = 60;

#[test]
fn a_room_that_is_here_is_not_taken_over_by_a_join_through_another_server() {
    let [mut here, there] = Home::federating();
    let (bob, bea) = (there.register("bob"), there.register("bea"));
    let (token, room) = {
        let alice = here.register("alice");
        let club = make_space(&alice, "club");
        let rule = json!({
            "join_rule": "restricted",
            "allow": [{ "type": "m.room_membership", "room_id": club }],
        });
        let room = make_room(
            &alice,
            json!({
                "invite": [bob.user_id],
                "initial_state": [{ "type": "m.room.join_rules", "content": rule }],
                // Bob may not invite, so that his server cannot let anybody in.
                "power_level_content_override": {
                    "invite": 60, "users": { bob.user_id.as_str(): 50 },
                },
            }),
        );
        join_via(&bea, &club, &here);
        join_via(&bob, &room, &here);
        (alice.token, room)
    };
    here.stop();
    for number in 0..MESSAGES {
        say(&bob, &room, &format!("into the dark {number}"));
    }
    let topic = json!({ "topic": "only known there" });
    set(&bob, &room, ("m.room.topic", ""), topic.clone());
    here.start();
    join_via(&bea, &room, &here);
    let of_room = |what: &str| format!("/_matrix/client/v3/rooms/{}/{what}", escaped(&room));
    let seen = |answer: (u16, Value)| done(answer)["topic"].clone();
    assert_eq!(
        seen(bea.get(&of_room("state/m.room.topic"))),
        topic["topic"]
    );
    let alice = here.with_token(&token);
    let (state, nothing) = (of_room("state/m.room.topic"), Value::Null);
    here.run(here.until(async || {
        let answer = here.send(Method::GET, &state, Some(&token), &nothing).await;
        answer.0 == 200
    }));
    let joined = done(alice.get(&of_room("joined_members")));
    assert!(joined["joined"][bea.user_id.as_str()].is_object());
}
