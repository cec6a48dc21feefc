//! Simplified sliding sync (MSC4186): rooms that this server is not in.

use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, event_types, join_via, leave, percent_encode, send_text,
        set_state,
    },
    sliding_sync::{pos, rooms, sliding, window},
    test_server::{TestServer, TestUser, expect_ok},
};

/// A list of all rooms with these filters.
fn filtered(filters: Value) -> Value {
    json!({ "lists": { "all": { "range": [0, 9], "timeline_limit": 1, "filters": filters } } })
}

fn invite(inviter: &TestUser<'_>, room: &str, invitee: &TestUser<'_>) {
    let target = json!({ "user_id": invitee.user_id });
    expect_ok(change_membership(inviter, room, "invite", target));
}

#[test]
fn an_invitation_from_another_server_is_listed_with_its_stripped_state_until_it_is_rejected() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let first = sliding(&bob, None, window(0, 9));
    let room = create_room(
        &alice,
        json!({ "preset": "private_chat", "name": "Kitchen" }),
    );
    invite(&alice, &room, &bob);
    let second = sliding(&bob, Some(pos(&first)), window(0, 9));
    let invited = &second["rooms"][&room];
    assert_eq!(
        (&invited["membership"], &invited["initial"]),
        (&json!("invite"), &json!(true))
    );
    let types = event_types(&invited["invite_state"]);
    for kind in ["m.room.create", "m.room.name", "m.room.member"] {
        assert!(types.contains(&kind), "{kind} is missing in {types:?}");
    }
    for (filters, is_in) in [
        (
            json!({ "is_invite": true, "room_name_like": "kitch" }),
            true,
        ),
        (json!({ "room_types": [null] }), true),
        (json!({ "is_invite": false }), false),
        (json!({ "room_name_like": "garden" }), false),
        (json!({ "not_room_types": [null] }), false),
        (json!({ "is_encrypted": true }), false),
    ] {
        let listed = sliding(&bob, None, filtered(filters.clone()));
        assert_eq!(rooms(&listed).contains(&room.as_str()), is_in, "{filters}");
        assert_eq!(
            listed["lists"]["all"]["count"],
            u8::from(is_in),
            "{filters}"
        );
    }
    leave(&bob, &room);
    let begun = sliding(&bob, None, window(0, 9));
    assert_eq!(begun["rooms"], json!({}));

    invite(&alice, &room, &bob);
    let again = sliding(&bob, Some(pos(&begun)), window(0, 9));
    assert_eq!(again["rooms"][&room]["membership"], "invite");
    leave(&bob, &room);
    let rejected = sliding(&bob, Some(pos(&again)), window(0, 9));
    assert_eq!(rejected["rooms"][&room]["membership"], "leave");
    let last = sliding(&bob, Some(pos(&rejected)), window(0, 9));
    assert_eq!(
        (&last["rooms"], &last["lists"]["all"]["count"]),
        (&json!({}), &json!(0))
    );
}

#[test]
fn a_knock_on_another_server_is_listed_and_becomes_a_room_when_it_is_answered() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&alice, json!({ "preset": "private_chat", "name": "Club" }));
    let rule = json!({ "join_rule": "knock" });
    set_state(&alice, &room, ("m.room.join_rules", ""), rule);
    send_text(&alice, &room, "nobody is at the door");
    let first = sliding(&bob, None, window(0, 9));
    let (id, via) = (percent_encode(&room), percent_encode(here.name().as_str()));
    expect_ok(bob.post(
        &format!("/_matrix/client/v3/knock/{id}?via={via}"),
        json!({}),
    ));
    let second = sliding(&bob, Some(pos(&first)), window(0, 9));
    let knocked = &second["rooms"][&room];
    assert_eq!(knocked["membership"], "knock");
    let types = event_types(&knocked["invite_state"]);
    assert!(
        types.contains(&"m.room.name") && types.contains(&"m.room.member"),
        "{types:?}"
    );
    assert_eq!(knocked["timeline"], Value::Null);
    let mut club = filtered(json!({ "room_name_like": "clu" }));
    club["conn_id"] = "club".into();
    let club = sliding(&bob, None, club);
    assert_eq!(rooms(&club), [&*room]);
    invite(&alice, &room, &bob);
    let third = sliding(&bob, Some(pos(&second)), window(0, 9));
    assert_eq!(third["rooms"][&room]["membership"], "invite");
    join_via(&bob, &room, &here);
    let fourth = sliding(&bob, Some(pos(&third)), window(0, 9));
    let joined = &fourth["rooms"][&room];
    assert_eq!(
        (&joined["membership"], &joined["initial"], &joined["name"]),
        (&json!("join"), &json!(true), &json!("Club"))
    );
}
