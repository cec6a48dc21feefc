//! Spaces across servers.

use serde_json::{Value, json};

use crate::{
    home::{Home, refused},
    rooms::{done, make_room},
    spaces::{hierarchy, make_named, make_space, names, put_in, summary},
};

#[test]
fn a_space_leads_to_rooms_and_spaces_of_other_servers() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let via = |home: &Home, order: &str| json!({ "via": [home.name()], "order": order });
    let (space, inner) = (make_space(&alice, "space"), make_space(&bob, "inner"));
    let [near, back] = ["near", "back"].map(|name| make_named(&alice, name, "public_chat"));
    let far = make_named(&bob, "far", "public_chat");
    let secret = make_named(&bob, "secret", "private_chat");
    put_in(&alice, &space, &inner, via(&there, "a"));
    put_in(&alice, &space, &near, via(&here, "b"));
    put_in(&alice, &space, &secret, via(&there, "c"));
    put_in(&bob, &inner, &far, via(&there, "a"));
    put_in(&bob, &inner, &back, via(&here, "b"));
    put_in(&bob, &inner, &secret, via(&there, "c"));
    let answer = done(hierarchy(&alice, &space, ""));
    assert_eq!(names(&answer), ["space", "inner", "far", "back", "near"]);
    assert_eq!(answer["rooms"][1]["children_state"][0]["state_key"], far);
    // From the other side the space is asked for itself.
    let answer = done(hierarchy(&bob, &inner, ""));
    assert_eq!(names(&answer), ["inner", "far", "back", "secret"]);
}

#[test]
fn what_a_room_of_another_server_is_like_that_server_tells() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let asked = json!({ "name": "far", "preset": "public_chat", "room_alias_name": "far" });
    let far = make_room(&bob, asked);
    let via = format!("via={}", there.name());
    let told = done(summary(&alice, &far, &via));
    assert_eq!(
        (&told["name"], &told["membership"]),
        (&"far".into(), &"leave".into())
    );
    let alias = format!("#far:{}", there.name());
    assert_eq!(done(summary(&alice, &alias, ""))["room_id"], far);
    let secret = make_named(&bob, "secret", "private_chat");
    refused(&summary(&alice, &secret, &via), 404, "M_NOT_FOUND");
    assert_eq!(told["join_rule"], Value::Null);
}

#[test]
fn a_server_is_shown_the_rooms_that_somebody_of_it_could_come_into() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let via = format!("via={}", there.name());
    let banned = make_room(
        &bob,
        json!({
            "preset": "public_chat",
            "initial_state": [{
                "type": "m.room.server_acl",
                "content": { "allow": ["*"], "deny": ["localhost"] },
            }],
        }),
    );
    refused(&summary(&alice, &banned, &via), 404, "M_NOT_FOUND");
    let ours = json!({ "preset": "public_chat", "creation_content": { "m.federate": false } });
    let ours = make_room(&bob, ours);
    refused(&summary(&alice, &ours, &via), 404, "M_NOT_FOUND");
    let readable = json!({
        "preset": "private_chat",
        "initial_state": [{
            "type": "m.room.history_visibility",
            "content": { "history_visibility": "world_readable" },
        }],
    });
    let readable = make_room(&bob, readable);
    assert_eq!(
        done(summary(&alice, &readable, &via))["world_readable"],
        true
    );
}
