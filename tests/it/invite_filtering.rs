//! Invites that a user blocks or ignores by MSC4155, which Element Web writes.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, next_batch, percent_encode, room_path,
        sync,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

pub fn set_filter(user: &TestUser<'_>, content: Value) {
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/org.matrix.msc4155.invite_permission_config",
        percent_encode(&user.user_id)
    );
    expect_ok(user.put(&path, content));
}

#[test]
fn blocked_users_and_servers_cannot_invite_in_any_way_and_others_can() {
    let [here, there] = TestServer::federating();
    let (bob, carol) = (here.register("bob"), here.register("carol"));
    let eve = there.register("eve");
    let invite = |inviter: &TestUser<'_>| {
        let room = create_room(inviter, json!({}));
        change_membership(inviter, &room, "invite", json!({ "user_id": bob.user_id }))
    };
    set_filter(&bob, json!({ "blocked_users": [carol.user_id] }));
    expect_error(&invite(&carol), 403, "M_INVITE_BLOCKED");
    let body = json!({ "invite": [bob.user_id] });
    let created = carol.post("/_matrix/client/v3/createRoom", body);
    expect_error(&created, 403, "M_INVITE_BLOCKED");
    let room = create_room(&carol, json!({}));
    let member = format!("state/m.room.member/{}", percent_encode(&bob.user_id));
    let as_state = carol.put(
        &room_path(&room, &member),
        json!({ "membership": "invite" }),
    );
    expect_error(&as_state, 403, "M_INVITE_BLOCKED");
    expect_ok(invite(&eve));
    set_filter(
        &bob,
        json!({ "blocked_servers": ["localhost:*"], "allowed_users": [carol.user_id] }),
    );
    expect_error(&invite(&eve), 403, "M_INVITE_BLOCKED");
    expect_ok(invite(&carol));
    set_filter(&bob, json!({ "blocked_users": ["*"], "enabled": false }));
    expect_ok(invite(&eve));
    set_filter(&bob, json!({ "blocked_users": "no list" }));
    expect_ok(invite(&carol));
}

#[test]
fn a_knock_is_not_an_invite() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    set_filter(&alice, json!({ "blocked_users": ["*"] }));
    let rule = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = create_room(&alice, json!({ "initial_state": rule }));
    let knock = format!("/_matrix/client/v3/knock/{}", percent_encode(&room));
    expect_ok(bob.post(&knock, json!({})));
}

#[test]
fn ignored_invites_succeed_and_are_shown_in_no_sync() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let carol = server.register("carol");
    set_filter(&bob, json!({ "ignored_users": [alice.user_id] }));
    let since = sync(&bob, None);
    let since = next_batch(&since);
    let (hidden, shown) = (create_room_with(&[&alice]), create_room_with(&[&carol]));
    for (inviter, room) in [(&alice, &hidden), (&carol, &shown)] {
        let body = json!({ "user_id": bob.user_id });
        expect_ok(change_membership(inviter, room, "invite", body));
    }
    for since in [None, Some(since)] {
        let response = sync(&bob, since);
        let invites = response["rooms"]["invite"].as_object().unwrap();
        assert_eq!(invites.keys().collect::<Vec<_>>(), [&shown]);
    }
    let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let lists =
        json!({ "all": { "ranges": [[0, 10]], "timeline_limit": 1, "required_state": [] } });
    let response = expect_ok(bob.request(Method::POST, path, json!({ "lists": lists })));
    assert_eq!(response["lists"]["all"]["count"], 1);
    assert!(response["rooms"][&shown].is_object() && response["rooms"].get(&hidden).is_none());
}
