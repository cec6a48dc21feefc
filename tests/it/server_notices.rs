//! Server notices: messages of the server in a room of its own with each user.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, join, joined_rooms, leave, message_bodies, next_batch,
        percent_encode, room_path, sync,
    },
    test_server::{JsonResponse, TestServer, TestUser, expect_error, expect_ok},
};

const SEND: &str = "/_synapse/admin/v1/send_server_notice";

fn notice(user_id: &str, body: &str) -> Value {
    json!({ "user_id": user_id, "content": { "msgtype": "m.text", "body": body } })
}

fn send(admin: &TestUser<'_>, user: &TestUser<'_>, body: &str) -> String {
    let sent = expect_ok(admin.post(SEND, notice(&user.user_id, body)));
    sent["event_id"].as_str().expect("an event id").to_owned()
}

/// The rooms that `user` is invited to.
fn invites(user: &TestUser<'_>) -> Vec<String> {
    let synced = sync(user, None);
    let rooms = synced["rooms"]["invite"].as_object();
    rooms.map_or_else(Vec::new, |rooms| rooms.keys().cloned().collect())
}

fn only_invite(user: &TestUser<'_>) -> String {
    let invites = invites(user);
    assert_eq!(invites.len(), 1, "{invites:?}");
    invites[0].clone()
}

fn announce(admin: &TestUser<'_>, id: &str, body: &str) -> JsonResponse {
    let path = format!("/_hearth/admin/v1/announcement/{id}");
    admin.put(&path, json!({ "body": body }))
}

/// The bodies of the messages in `room` that `user` can read.
fn messages(user: &TestUser<'_>, room: &str) -> Vec<String> {
    let page = expect_ok(user.get(&room_path(room, "messages?dir=f&limit=100")));
    let bodies = message_bodies(&page["chunk"]);
    bodies.into_iter().map(ToOwned::to_owned).collect()
}

#[test]
fn a_notice_is_in_a_tagged_room_in_which_the_user_can_only_read() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    let event = send(&admin, &bob, "hello");
    let room = only_invite(&bob);
    join(&bob, &room);
    let synced = sync(&bob, None);
    let joined = &synced["rooms"]["join"][&room];
    let tags = &joined["account_data"]["events"][0];
    assert_eq!(tags["type"], "m.tag");
    assert_eq!(tags["content"]["tags"], json!({ "m.server_notice": {} }));
    let read = expect_ok(bob.get(&room_path(
        &room,
        &format!("event/{}", percent_encode(&event)),
    )));
    assert_eq!(read["sender"], "@notices:localhost");
    assert_eq!(
        read["content"],
        json!({ "msgtype": "m.text", "body": "hello" })
    );
    let members = expect_ok(bob.get(&room_path(&room, "joined_members")));
    let members = members["joined"].as_object().expect("members");
    assert_eq!(
        members.keys().collect::<Vec<_>>(),
        ["@bob:localhost", "@notices:localhost"]
    );
    assert_eq!(
        members["@notices:localhost"]["display_name"],
        "Server notices"
    );
    let name = expect_ok(bob.get(&room_path(&room, "state/m.room.name")));
    assert_eq!(name["name"], "Server notices");

    let message = json!({ "msgtype": "m.text", "body": "an answer" });
    let sent = bob.put(&room_path(&room, "send/m.room.message/1"), message);
    expect_error(&sent, 403, "M_FORBIDDEN");
    let renamed = bob.put(
        &room_path(&room, "state/m.room.name"),
        json!({ "name": "x" }),
    );
    expect_error(&renamed, 403, "M_FORBIDDEN");
    let invited = change_membership(&bob, &room, "invite", json!({ "user_id": admin.user_id }));
    expect_error(&invited, 403, "M_FORBIDDEN");

    send(&admin, &bob, "again");
    assert_eq!(messages(&bob, &room), ["hello", "again"]);
    assert!(invites(&bob).is_empty(), "there is one room");
}

#[test]
fn the_invite_cannot_be_rejected_but_the_room_left_and_the_next_notice_invites_again() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    send(&admin, &bob, "one");
    let room = only_invite(&bob);
    let code = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM";
    expect_error(
        &change_membership(&bob, &room, "leave", json!({})),
        403,
        code,
    );
    let member = format!("state/m.room.member/{}", percent_encode(&bob.user_id));
    let left = bob.put(&room_path(&room, &member), json!({ "membership": "leave" }));
    expect_error(&left, 403, code);
    assert_eq!(only_invite(&bob), room);
    join(&bob, &room);
    leave(&bob, &room);
    expect_ok(change_membership(&bob, &room, "forget", json!({})));
    assert!(invites(&bob).is_empty());
    send(&admin, &bob, "two");
    assert_eq!(only_invite(&bob), room, "each user has one room");
    join(&bob, &room);
    assert_eq!(messages(&bob, &room), ["one", "two"]);
}

#[test]
fn a_new_invitation_keeps_the_tags_that_the_user_gave_the_room() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    send(&admin, &bob, "one");
    let room = only_invite(&bob);
    join(&bob, &room);
    let tags = format!(
        "/_matrix/client/v3/user/{}/rooms/{}/tags",
        bob.user_id,
        percent_encode(&room)
    );
    expect_ok(bob.put(&format!("{tags}/u.work"), json!({ "order": 0.5 })));
    expect_ok(bob.delete(&format!("{tags}/m.server_notice"), json!({})));
    leave(&bob, &room);
    send(&admin, &bob, "two");
    assert_eq!(only_invite(&bob), room);
    assert_eq!(
        expect_ok(bob.get(&tags))["tags"],
        json!({ "m.server_notice": {}, "u.work": { "order": 0.5 } })
    );
}

#[test]
fn notices_reach_users_who_block_invites_but_not_the_deactivated() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        percent_encode(&bob.user_id)
    );
    expect_ok(bob.put(&path, json!({ "default_action": "block" })));
    send(&admin, &bob, "hello");
    only_invite(&bob);
    let deactivate = "/_matrix/client/v3/account/deactivate";
    expect_ok(bob.request_with_password(Method::POST, deactivate, json!({})));
    let sent = admin.post(SEND, notice(&bob.user_id, "too late"));
    expect_error(&sent, 404, "M_NOT_FOUND");
}

#[test]
fn only_administrators_send_notices_and_only_to_users_of_this_server() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    let sent = bob.post(SEND, notice(&admin.user_id, "boo"));
    expect_error(&sent, 403, "M_FORBIDDEN");
    expect_error(&announce(&bob, "1", "boo"), 403, "M_FORBIDDEN");
    let sent = admin.post(SEND, notice("@carol:elsewhere.org", "hello"));
    expect_error(&sent, 400, "M_INVALID_PARAM");
    for nobody in ["@nobody:localhost", "@notices:localhost"] {
        let sent = admin.post(SEND, notice(nobody, "hello"));
        expect_error(&sent, 404, "M_NOT_FOUND");
    }
    expect_error(
        &admin.post(SEND, json!({ "user_id": bob.user_id })),
        400,
        "M_MISSING_PARAM",
    );
    assert!(invites(&admin).is_empty() && invites(&bob).is_empty());
}

#[test]
fn a_notice_is_sent_once_for_each_transaction_id() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    let put = |id: &str, body: &str| {
        let path = format!("{SEND}/{id}");
        expect_ok(admin.put(&path, notice(&bob.user_id, body)))["event_id"].clone()
    };
    let first = put("1", "hello");
    assert_eq!(put("1", "hello"), first);
    assert_ne!(put("2", "hello"), first);
    let room = only_invite(&bob);
    join(&bob, &room);
    assert_eq!(messages(&bob, &room), ["hello", "hello"]);
    let since = next_batch(&sync(&bob, None)).to_owned();
    let topic = json!({
        "user_id": bob.user_id, "type": "m.room.topic", "state_key": "",
        "content": { "topic": "read me" },
    });
    expect_ok(admin.post(SEND, topic));
    let synced = sync(&bob, Some(&since));
    let event = &synced["rooms"]["join"][&room]["timeline"]["events"][0];
    assert_eq!(event["state_key"], "");
    assert_eq!(event["content"]["topic"], "read me");
}

#[test]
fn an_announcement_reaches_every_user_once_also_after_a_restart() {
    let mut server = TestServer::new();
    let mut tokens = Vec::new();
    {
        let admin = server.register("admin");
        tokens.push(admin.token.clone());
        for number in 0..20 {
            tokens.push(server.register(&format!("user{number}")).token.clone());
        }
        for _ in 0..2 {
            expect_ok(announce(&admin, "1", "the server moves"));
        }
        expect_error(
            &announce(&admin, "2", &"x".repeat(20_000)),
            413,
            "M_TOO_LARGE",
        );
    }
    server.restart();
    for token in &tokens {
        let user = server.user_with_token(token);
        server.wait_until(async || !invites(&user).is_empty());
        let room = only_invite(&user);
        join(&user, &room);
        assert_eq!(messages(&user, &room), ["the server moves"]);
    }
    let admin = server.user_with_token(&tokens[0]);
    expect_ok(announce(&admin, "1", "the server moves"));
    let user = server.user_with_token(&tokens[20]);
    expect_ok(announce(&admin, "2", "it has moved"));
    let rooms = joined_rooms(&user);
    let room = rooms.first().expect("the room");
    server.wait_until(async || messages(&user, room) == ["the server moves", "it has moved"]);
}

#[test]
fn nobody_is_the_sender_of_notices() {
    let server =
        TestServer::with("registration = \"open\"\nserver_notices_localpart = \"announcer\"");
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    for name in ["announcer", "Announcer"] {
        let path = format!("/_matrix/client/v3/register/available?username={name}");
        expect_error(&server.get(&path), 400, "M_EXCLUSIVE");
    }
    send(&admin, &bob, "hello");
    let room = only_invite(&bob);
    join(&bob, &room);
    let login = server.log_in_with("announcer", json!({ "password": "guess" }));
    expect_error(&login, 403, "M_FORBIDDEN");
    let room = create_room(&admin, json!({}));
    let user_id = json!({ "user_id": "@announcer:localhost" });
    let invited = change_membership(&admin, &room, "invite", user_id);
    expect_error(&invited, 404, "M_NOT_FOUND");
}
