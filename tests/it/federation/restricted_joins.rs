//! Restricted joins that another server authorizes.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, join_via, room_path, send_text, set_state},
    spaces::create_space,
    test_server::{TestServer, expect_ok},
};

/// So many that the resident server has not received all of them when the user joins.
const MESSAGES: usize = 60;

#[test]
fn restricted_join_through_another_server_does_not_replace_a_resident_room() {
    let [mut here, there] = TestServer::federating();
    let (bob, bea) = (there.register("bob"), there.register("bea"));
    let (token, room) = {
        let alice = here.register("alice");
        let club = create_space(&alice, "club");
        let rule = json!({
            "join_rule": "restricted",
            "allow": [{ "type": "m.room_membership", "room_id": club }],
        });
        let room = create_room(
            &alice,
            json!({
                "invite": [bob.user_id],
                "initial_state": [{ "type": "m.room.join_rules", "content": rule }],
                // Bob may not invite, so that his server cannot authorize the join.
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
        send_text(&bob, &room, &format!("during the outage {number}"));
    }
    let topic = json!({ "topic": "not received yet" });
    set_state(&bob, &room, ("m.room.topic", ""), topic.clone());
    here.start();
    join_via(&bea, &room, &here);
    assert_eq!(
        expect_ok(bea.get(&room_path(&room, "state/m.room.topic"))),
        topic
    );
    let alice = here.user_with_token(&token);
    let (state, empty) = (room_path(&room, "state/m.room.topic"), Value::Null);
    here.wait_until(async || {
        let response = here.send(Method::GET, &state, Some(&token), &empty).await;
        response.0 == 200
    });
    let joined = expect_ok(alice.get(&room_path(&room, "joined_members")));
    assert!(joined["joined"][bea.user_id.as_str()].is_object());
}
