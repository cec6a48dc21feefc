//! Spaces, and what is told of rooms to those outside.

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    rooms::{done, escaped, make_room},
};

const CLIENT: &str = "/_matrix/client/v3";

/// A space that everybody may join.
#[track_caller]
pub fn make_space(who: &Person<'_>, name: &str) -> String {
    let creation = json!({ "type": "m.space" });
    make_room(
        who,
        json!({ "name": name, "preset": "public_chat", "creation_content": creation }),
    )
}

/// A room of this name and preset.
#[track_caller]
pub fn make_named(who: &Person<'_>, name: &str, preset: &str) -> String {
    make_room(who, json!({ "name": name, "preset": preset }))
}

/// Puts a room into a space.
#[track_caller]
pub fn put_in(who: &Person<'_>, space: &str, room: &str, content: Value) {
    let path = format!(
        "{CLIENT}/rooms/{}/state/m.space.child/{}",
        escaped(space),
        escaped(room)
    );
    done(who.put(&path, content));
}

/// What a space tells of the rooms in it, asked with these parameters.
pub fn hierarchy(who: &Person<'_>, space: &str, parameters: &str) -> (u16, Value) {
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", escaped(space));
    who.get(&format!("{path}?{parameters}"))
}

/// The names of the rooms in an answer.
pub fn names(answer: &Value) -> Vec<&str> {
    let rooms = answer["rooms"].as_array().expect("rooms").iter();
    rooms
        .map(|room| room["name"].as_str().unwrap_or("?"))
        .collect()
}

/// What is told of a room.
pub fn summary(who: &Person<'_>, room: &str, parameters: &str) -> (u16, Value) {
    who.get(&summary_path(room, parameters))
}

fn summary_path(room: &str, parameters: &str) -> String {
    let path = format!("/_matrix/client/v1/room_summary/{}", escaped(room));
    format!("{path}?{parameters}")
}

fn via() -> Value {
    json!({ "via": ["localhost"] })
}

#[test]
fn a_space_is_walked_deep_before_wide_in_the_order_of_its_rooms() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let (space, inner) = (make_space(&alice, "space"), make_space(&alice, "inner"));
    let [first, second, deep] =
        ["first", "second", "deep"].map(|name| make_named(&alice, name, "public_chat"));
    put_in(
        &alice,
        &space,
        &second,
        json!({ "via": ["localhost"], "order": "b" }),
    );
    put_in(
        &alice,
        &space,
        &first,
        json!({ "via": ["localhost"], "order": "a" }),
    );
    put_in(
        &alice,
        &space,
        &inner,
        json!({ "via": ["localhost"], "order": "aa" }),
    );
    put_in(&alice, &inner, &deep, via());
    // A loop.
    put_in(&alice, &inner, &space, via());
    let answer = done(hierarchy(&bob, &space, ""));
    assert_eq!(
        names(&answer),
        ["space", "first", "inner", "deep", "second"]
    );
    let root = &answer["rooms"][0];
    assert_eq!(root["room_type"], "m.space");
    assert_eq!(root["join_rule"], Value::Null);
    assert_eq!(root["num_joined_members"], 1);
    let child = &root["children_state"][0];
    let mut fields: Vec<_> = child.as_object().expect("an event").keys().collect();
    fields.sort();
    assert_eq!(
        fields,
        ["content", "origin_server_ts", "sender", "state_key", "type"]
    );
    assert_eq!(child["state_key"], first);
    let shallow = done(hierarchy(&bob, &space, "max_depth=1"));
    assert_eq!(names(&shallow), ["space", "first", "inner", "second"]);
    assert_eq!(
        names(&done(hierarchy(&bob, &space, "max_depth=0"))),
        ["space"]
    );
}

#[test]
fn a_space_is_read_page_by_page() {
    let home = Home::new();
    let alice = home.register("alice");
    let space = make_space(&alice, "space");
    for (name, suggested) in [("a", true), ("b", false), ("c", true)] {
        let room = make_named(&alice, name, "public_chat");
        let content = json!({ "via": ["localhost"], "order": name, "suggested": suggested });
        put_in(&alice, &space, &room, content);
    }
    let first = done(hierarchy(&alice, &space, "limit=2&suggested_only=true"));
    assert_eq!(names(&first), ["space", "a"]);
    let from = first["next_batch"].as_str().expect("there is more");
    let second = done(hierarchy(
        &alice,
        &space,
        &format!("limit=2&suggested_only=true&from={from}"),
    ));
    assert_eq!(names(&second), ["c"]);
    assert_eq!(second["next_batch"], Value::Null);
    for parameters in [format!("from={from}"), "from=nonsense".to_owned()] {
        let answer = hierarchy(&alice, &space, &parameters);
        refused(&answer, 400, "M_INVALID_PARAM");
    }
}

#[test]
fn rooms_are_shown_to_those_who_are_in_them_or_may_come_in() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let space = make_space(&alice, "space");
    let private = make_named(&alice, "private", "private_chat");
    let gone = make_named(&alice, "gone", "public_chat");
    let rule = json!({
        "join_rule": "restricted",
        "allow": [{ "type": "m.room_membership", "room_id": space }],
    });
    let restricted = make_room(
        &alice,
        json!({
            "name": "restricted", "preset": "private_chat",
            "initial_state": [{ "type": "m.room.join_rules", "content": rule }],
        }),
    );
    for (room, order) in [(&private, "a"), (&restricted, "b"), (&gone, "c")] {
        let content = json!({ "via": ["localhost"], "order": order });
        put_in(&alice, &space, room, content);
    }
    put_in(&alice, &space, &gone, json!({}));
    let seen = |who: &Person<'_>| -> Vec<String> {
        let answer = done(hierarchy(who, &space, ""));
        names(&answer).into_iter().map(ToOwned::to_owned).collect()
    };
    assert_eq!(seen(&alice), ["space", "private", "restricted"]);
    assert_eq!(seen(&bob), ["space"]);
    done(bob.post(&format!("{CLIENT}/rooms/{space}/join"), json!({})));
    assert_eq!(seen(&bob), ["space", "restricted"]);
    let invite = json!({ "user_id": bob.user_id });
    done(alice.post(&format!("{CLIENT}/rooms/{private}/invite"), invite));
    assert_eq!(seen(&bob), ["space", "private", "restricted"]);
    let carol = home.register("carol");
    refused(&hierarchy(&carol, &private, ""), 403, "M_FORBIDDEN");
    refused(
        &hierarchy(&carol, "!nowhere:localhost", ""),
        403,
        "M_FORBIDDEN",
    );
}

#[test]
fn what_a_room_is_like_is_told_to_those_who_may_come_in() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = make_room(
        &alice,
        json!({
            "name": "Pub", "preset": "public_chat", "room_alias_name": "pub",
            "room_version": "11",
        }),
    );
    let private = make_named(&alice, "private", "private_chat");
    let told = json!({
        "room_id": room, "name": "Pub", "canonical_alias": "#pub:localhost",
        "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
        "room_version": "11", "membership": "join",
    });
    assert_eq!(done(summary(&alice, &room, "")), told);
    assert_eq!(done(summary(&alice, "#pub:localhost", "")), told);
    assert_eq!(done(summary(&bob, &room, ""))["membership"], "leave");
    let anybody = |room: &str| home.ask(Method::GET, &summary_path(room, ""), Value::Null);
    assert_eq!(done(anybody(&room))["membership"], Value::Null);
    assert_eq!(done(summary(&alice, &private, ""))["join_rule"], "invite");
    for answer in [
        summary(&bob, &private, ""),
        anybody(&private),
        anybody("!nowhere:localhost"),
        anybody("#nothing:localhost"),
    ] {
        refused(&answer, 404, "M_NOT_FOUND");
    }
}
