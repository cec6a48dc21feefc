//! `GET /notifications`.

use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, join, leave, percent_encode, room_path,
        send_event, send_in_thread, send_receipt, send_text,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const PATH: &str = "/_matrix/client/v3/notifications";

/// All pages of `limit` notifications each.
fn pages(user: &TestUser<'_>, parameters: &str, limit: usize) -> Vec<Value> {
    let (mut all, mut from) = (Vec::new(), String::new());
    loop {
        let response = expect_ok(user.get(&format!("{PATH}?limit={limit}{parameters}{from}")));
        let page = response["notifications"].as_array().expect("a list");
        assert!(page.len() <= limit, "{response}");
        all.extend(page.iter().cloned());
        match response["next_token"].as_str() {
            Some(token) => from = format!("&from={}", percent_encode(token)),
            None => return all,
        }
    }
}

fn bodies(notifications: &[Value]) -> Vec<&str> {
    let bodies = notifications
        .iter()
        .map(|notification| notification["event"]["content"]["body"].as_str());
    bodies.map(|body| body.expect("a body")).collect()
}

#[test]
fn notifications_of_all_rooms_are_listed_newest_first_in_pages() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rooms = [(); 3].map(|()| create_room_with(&[&alice, &bob]));
    let mut root = String::new();
    for number in 0..10 {
        let room = &rooms[number % 3];
        let body = number.to_string();
        if number == 4 {
            root = send_text(&alice, room, &body);
        } else if number == 7 {
            send_in_thread(&alice, room, &root, &body);
        } else {
            send_text(&alice, room, &body);
        }
        send_event(&alice, room, "m.reaction", json!({}));
    }
    let expected = ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"];
    for limit in [1, 3, 10, 100] {
        assert_eq!(bodies(&pages(&bob, "", limit)), expected, "{limit}");
    }
    assert_eq!(pages(&alice, "", 10), [Value::Null; 0]);
    expect_error(&bob.get(&format!("{PATH}?from=x")), 400, "M_INVALID_PARAM");
}

#[test]
fn a_notification_has_its_room_event_actions_and_whether_it_was_read() {
    let server = TestServer::new();
    let (alice, bob, carol) = (
        server.register("alice"),
        server.register("bob"),
        server.register("carol"),
    );
    let room = create_room_with(&[&alice, &bob, &carol]);
    let read = send_text(&alice, &room, "read");
    expect_ok(send_receipt(
        &bob,
        &room,
        ("m.read.private", &read),
        json!({}),
    ));
    let mentions = json!({ "user_ids": [bob.user_id] });
    let mention = json!({ "msgtype": "m.text", "body": "bob!", "m.mentions": mentions });
    let mention = send_event(&alice, &room, "m.room.message", mention);
    let all = pages(&bob, "", 10);
    let shown = |notification: &Value| {
        let fields = ["room_id", "read", "actions", "ts"];
        let mut shown = vec![notification["event"]["event_id"].clone()];
        shown.extend(fields.map(|field| notification[field].clone()));
        shown
    };
    let highlight = json!(["notify", { "set_tweak": "sound", "value": "default" }, { "set_tweak": "highlight" }]);
    let ts = |notification: &Value| notification["event"]["origin_server_ts"].clone();
    assert_eq!(
        all.iter().map(shown).collect::<Vec<_>>(),
        [
            vec![
                json!(mention),
                json!(room),
                json!(false),
                highlight,
                ts(&all[0])
            ],
            vec![
                json!(read),
                json!(room),
                json!(true),
                json!(["notify"]),
                ts(&all[1])
            ],
        ]
    );
    assert_eq!(all[0]["event"]["room_id"], Value::Null);
    let highlights = pages(&bob, "&only=highlight", 1);
    assert_eq!(bodies(&highlights), ["bob!"]);
}

#[test]
fn what_the_user_does_not_see_any_more_is_not_listed() {
    let server = TestServer::new();
    let (alice, bob, carol) = (
        server.register("alice"),
        server.register("bob"),
        server.register("carol"),
    );
    let room = create_room_with(&[&alice, &carol]);
    send_text(&alice, &room, "before");
    join(&bob, &room);
    send_text(&alice, &room, "seen");
    let redacted = send_text(&alice, &room, "redacted");
    expect_ok(alice.put(
        &room_path(&room, &format!("redact/{redacted}/1")),
        json!({}),
    ));
    send_text(&carol, &room, "of carol");
    send_text(&bob, &room, "own");
    let left = create_room_with(&[&alice, &bob]);
    send_text(&alice, &left, "left");
    assert_eq!(bodies(&pages(&bob, "", 1)), ["left", "of carol", "seen"]);
    leave(&bob, &left);
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        bob.user_id
    );
    expect_ok(bob.put(&path, json!({ "ignored_users": { (carol.user_id): {} } })));
    assert_eq!(bodies(&pages(&bob, "", 1)), ["seen"]);
}

/// The notifications as what they are: an event's body, or the membership of a member event.
fn kinds(notifications: &[Value]) -> Vec<&str> {
    let kinds = notifications.iter().map(|notification| {
        let content = &notification["event"]["content"];
        let kind = content["body"].as_str();
        kind.or_else(|| content["membership"].as_str())
    });
    kinds
        .map(|kind| kind.expect("a body or a membership"))
        .collect()
}

#[test]
fn an_invite_is_listed_until_the_user_responds_to_it() {
    let [here, there] = TestServer::federating();
    let (alice, bob, carol) = (
        here.register("alice"),
        here.register("bob"),
        there.register("carol"),
    );
    let room = create_room_with(&[&alice, &bob]);
    send_text(&alice, &room, "before");
    let invite = |inviter: &TestUser<'_>| {
        let room = create_room(inviter, json!({}));
        let invitee = json!({ "user_id": bob.user_id });
        expect_ok(change_membership(inviter, &room, "invite", invitee));
        room
    };
    let invited = invite(&alice);
    send_text(&alice, &room, "between");
    let invited_elsewhere = invite(&carol);
    send_text(&alice, &room, "after");
    let expected = ["after", "invite", "between", "invite", "before"];
    for limit in [1, 2, 10] {
        assert_eq!(kinds(&pages(&bob, "", limit)), expected, "{limit}");
    }
    let all = pages(&bob, "", 10);
    for (notification, room, sender) in [
        (&all[1], &invited_elsewhere, &carol),
        (&all[3], &invited, &alice),
    ] {
        assert_eq!(notification["room_id"], **room);
        assert_eq!(notification["read"], false);
        assert_eq!(notification["event"]["sender"], *sender.user_id);
        assert_eq!(notification["event"]["state_key"], *bob.user_id);
        let sound = json!({ "set_tweak": "sound", "value": "default" });
        assert_eq!(notification["actions"], json!(["notify", sound]));
    }
    assert_eq!(kinds(&pages(&bob, "&only=highlight", 1)), [""; 0]);
    leave(&bob, &invited_elsewhere);
    join(&bob, &invited);
    assert_eq!(kinds(&pages(&bob, "", 10)), ["after", "between", "before"]);
    let mute = "/_matrix/client/v3/pushrules/global/override/.m.rule.invite_for_me/enabled";
    expect_ok(bob.put(mute, json!({ "enabled": false })));
    invite(&alice);
    assert_eq!(
        kinds(&pages(&bob, "", 10)),
        ["after", "between", "before"],
        "one that is muted"
    );
}
