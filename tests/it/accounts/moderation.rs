//! Locked and suspended accounts, and what administrators see of accounts.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join, leave, message_bodies, next_batch, percent_encode,
        room_path, send_text, sync,
    },
    sliding_sync::{self, pos, sliding, window},
    test_server::{JsonResponse, TestServer, TestUser, expect_error, expect_ok},
};

fn admin_path(action: &str, user: &str) -> String {
    format!("/_matrix/client/v1/admin/{action}/{}", percent_encode(user))
}

fn whois_path(user: &str) -> String {
    format!("/_matrix/client/v3/admin/whois/{}", percent_encode(user))
}

/// The property that the endpoint of `action` sets.
fn property(action: &str) -> &'static str {
    match action {
        "lock" => "locked",
        _ => "suspended",
    }
}

fn restrict(admin: &TestUser<'_>, action: &str, user: &str, is_set: bool) -> JsonResponse {
    let body = json!({ property(action): is_set });
    admin.put(&admin_path(action, user), body)
}

#[test]
fn only_an_administrator_restricts_accounts_and_no_other_administrator() {
    let server =
        TestServer::with("registration = \"open\"\nregistration_shared_secret = \"between us\"");
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    let gone = server.register("gone");
    let body = json!({});
    expect_ok(gone.request_with_password(
        Method::POST,
        "/_matrix/client/v3/account/deactivate",
        body,
    ));
    for action in ["lock", "suspend"] {
        for (user, status, errcode) in [
            ("@bob:elsewhere", 400, "M_INVALID_PARAM"),
            ("@nobody:localhost", 404, "M_NOT_FOUND"),
            (gone.user_id.as_str(), 404, "M_NOT_FOUND"),
        ] {
            expect_error(&admin.get(&admin_path(action, user)), status, errcode);
            expect_error(&restrict(&admin, action, user, true), status, errcode);
            // Nobody else learns whether there is such a user.
            expect_error(&bob.get(&admin_path(action, user)), 403, "M_FORBIDDEN");
            expect_error(&restrict(&bob, action, user, true), 403, "M_FORBIDDEN");
        }
        let own = admin.user_id.as_str();
        expect_error(&restrict(&admin, action, own, true), 403, "M_FORBIDDEN");
        let path = admin_path(action, own);
        assert_eq!(
            expect_ok(admin.get(&path)),
            json!({ property(action): false })
        );
        expect_error(&bob.get(&path), 403, "M_FORBIDDEN");
        let path = admin_path(action, &bob.user_id);
        for is_set in [true, false] {
            let expected = json!({ property(action): is_set });
            let changed = restrict(&admin, action, &bob.user_id, is_set);
            assert_eq!(expect_ok(changed), expected);
            assert_eq!(expect_ok(admin.get(&path)), expected);
        }
        expect_error(&admin.put(&path, json!({})), 400, "M_MISSING_PARAM");
    }
    let capabilities = |user: &TestUser<'_>| {
        let response = expect_ok(user.get("/_matrix/client/v3/capabilities"));
        response["capabilities"]["m.account_moderation"].clone()
    };
    assert_eq!(
        capabilities(&admin),
        json!({ "suspend": true, "lock": true })
    );
    assert_eq!(capabilities(&bob), Value::Null);
}

#[test]
fn administrators_neither_see_nor_change_restrictions_of_each_other() {
    let server = TestServer::new();
    let (admin, other) = (server.register("admin"), server.register("other"));
    expect_ok(server.administer("user/admin", &json!({ "user": "other", "is_set": true })));
    for action in ["lock", "suspend"] {
        for (one, another) in [(&admin, &other), (&other, &admin)] {
            let path = admin_path(action, &another.user_id);
            expect_error(&one.get(&path), 403, "M_FORBIDDEN");
            let restricted = restrict(one, action, &another.user_id, true);
            expect_error(&restricted, 403, "M_FORBIDDEN");
        }
    }
    assert!(admin.is_logged_in() && other.is_logged_in());
}

#[test]
fn a_lock_ends_all_waiting_syncs_at_once() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    let path = admin_path("lock", &bob.user_id);
    let since = next_batch(&sync(&bob, None)).to_owned();
    let list = sliding(&bob, None, window(0, 9));
    let wait = "timeout=100000";
    for (method, waiting, body) in [
        (
            Method::GET,
            format!("/_matrix/client/v3/sync?since={since}&{wait}"),
            Value::Null,
        ),
        (
            Method::GET,
            format!("/_matrix/client/v3/events?from={since}&timeout=60000"),
            Value::Null,
        ),
        (
            Method::POST,
            sliding_sync::path(Some(pos(&list))).replace("timeout=0", wait),
            window(0, 9),
        ),
    ] {
        let locked = json!({ "locked": true });
        let waits = server.send(method, &waiting, Some(&bob.token), &body);
        let lock = server.send(Method::PUT, &path, Some(&admin.token), &locked);
        let started = std::time::Instant::now();
        let (response, (status, _)) = server.run(smol::future::zip(waits, lock));
        assert_eq!(status, 200);
        expect_error(&response, 401, "M_USER_LOCKED");
        assert_eq!(response.1["soft_logout"], true);
        assert!(
            started.elapsed().as_secs() < 50,
            "{waiting}: it waited for the timeout"
        );
        expect_ok(restrict(&admin, "lock", &bob.user_id, false));
    }
}

#[test]
fn a_locked_user_can_only_log_out_until_the_lock_is_lifted_also_after_a_restart() {
    let mut server = TestServer::new();
    let (admin, bob, other) = {
        let (admin, bob) = (server.register("admin"), server.register("bob"));
        let other = server.log_in("bob");
        expect_ok(restrict(&admin, "lock", &bob.user_id, true));
        (admin.token, bob.token, other.token)
    };
    server.restart();
    let (admin, bob) = (server.user_with_token(&admin), bob);
    let get = |path: &str| server.run(server.send(Method::GET, path, Some(&bob), &Value::Null));
    for path in [
        "/_matrix/client/v3/sync",
        "/_matrix/client/v3/account/whoami",
        "/_matrix/client/v3/capabilities",
        "/_matrix/client/versions",
        "/_matrix/client/v3/keys/changes?from=x&to=y",
    ] {
        let response = get(path);
        expect_error(&response, 401, "M_USER_LOCKED");
        assert_eq!(response.1["soft_logout"], true);
    }
    let response = server.log_in_with("bob", json!({}));
    expect_error(&response, 401, "M_USER_LOCKED");
    assert_eq!(response.1["soft_logout"], true);
    let response = server.log_in_with("bob", json!({ "password": "a wrong one" }));
    expect_error(&response, 403, "M_FORBIDDEN");
    let logout = "/_matrix/client/v3/logout";
    expect_ok(server.run(server.send(Method::POST, logout, Some(&other), &json!({}))));
    let again = server.run(server.send(Method::POST, logout, Some(&other), &json!({})));
    expect_error(&again, 401, "M_UNKNOWN_TOKEN");
    expect_ok(restrict(&admin, "lock", "@bob:localhost", false));
    assert_eq!(get("/_matrix/client/v3/account/whoami").0, 200);
    expect_ok(server.log_in_with("bob", json!({})));
    expect_ok(restrict(&admin, "lock", "@bob:localhost", true));
    let all = "/_matrix/client/v3/logout/all";
    expect_ok(server.run(server.send(Method::POST, all, Some(&bob), &json!({}))));
}

#[test]
fn a_locked_user_gets_no_tokens_for_a_refresh_token() {
    let server = TestServer::new();
    let admin = server.register("admin");
    server.register("bob");
    let login = expect_ok(server.log_in_with("bob", json!({ "refresh_token": true })));
    let refresh = || {
        let body = json!({ "refresh_token": login["refresh_token"] });
        server.post("/_matrix/client/v3/refresh", body)
    };
    expect_ok(restrict(&admin, "lock", "@bob:localhost", true));
    expect_error(&refresh(), 401, "M_USER_LOCKED");
    expect_ok(restrict(&admin, "lock", "@bob:localhost", false));
    expect_ok(refresh());
}

#[test]
fn a_suspended_user_reads_leaves_and_redacts_own_events_and_does_nothing_else_in_rooms() {
    let mut server = TestServer::new();
    let (room, other_room, own, theirs, admin, bob) = {
        let (admin, bob) = (server.register("admin"), server.register("bob"));
        let room = create_room_with(&[&admin, &bob]);
        let other_room = create_room(&admin, json!({ "preset": "public_chat" }));
        let levels = json!({ "users": { bob.user_id.clone(): 100 } });
        expect_ok(admin.put(&room_path(&room, "state/m.room.power_levels"), levels));
        let own = send_text(&bob, &room, "mine");
        let theirs = send_text(&admin, &room, "not mine");
        expect_ok(restrict(&admin, "suspend", &bob.user_id, true));
        (room, other_room, own, theirs, admin.token, bob.token)
    };
    server.restart();
    let (admin, bob) = (server.user_with_token(&admin), server.user_with_token(&bob));
    let redact = |event: &str| room_path(&room, &format!("redact/{}/1", percent_encode(event)));
    let member = format!("state/m.room.member/{}", percent_encode(&bob.user_id));
    let profile = format!(
        "/_matrix/client/v3/profile/{}/displayname",
        percent_encode(&bob.user_id)
    );
    let typing = room_path(&room, &format!("typing/{}", percent_encode(&bob.user_id)));
    let join_other = format!("/_matrix/client/v3/join/{}", percent_encode(&other_room));
    let knock = format!("/_matrix/client/v3/knock/{}", percent_encode(&other_room));
    let forbidden: Vec<(Method, String, Value)> = vec![
        (
            Method::POST,
            "/_matrix/client/v3/createRoom".into(),
            json!({}),
        ),
        (Method::POST, room_path(&other_room, "join"), json!({})),
        (Method::POST, join_other, json!({})),
        (Method::POST, knock, json!({})),
        (
            Method::POST,
            room_path(&room, "invite"),
            json!({ "user_id": "@x:localhost" }),
        ),
        (
            Method::POST,
            room_path(&room, "kick"),
            json!({ "user_id": admin.user_id }),
        ),
        (
            Method::POST,
            room_path(&room, "ban"),
            json!({ "user_id": admin.user_id }),
        ),
        (
            Method::POST,
            room_path(&room, "unban"),
            json!({ "user_id": admin.user_id }),
        ),
        (
            Method::POST,
            room_path(&room, "upgrade"),
            json!({ "new_version": "11" }),
        ),
        (
            Method::PUT,
            room_path(&room, "send/m.room.message/1"),
            json!({ "body": "x" }),
        ),
        (
            Method::PUT,
            room_path(&room, "send/m.room.redaction/1"),
            json!({ "redacts": theirs }),
        ),
        (
            Method::PUT,
            room_path(&room, "state/m.room.name"),
            json!({ "name": "x" }),
        ),
        (
            Method::PUT,
            room_path(&room, &member),
            json!({ "membership": "join", "displayname": "x" }),
        ),
        (Method::PUT, redact(&theirs), json!({})),
        (Method::PUT, profile.clone(), json!({ "displayname": "x" })),
        (Method::DELETE, profile, json!({})),
        (
            Method::PUT,
            typing,
            json!({ "typing": true, "timeout": 1000 }),
        ),
    ];
    for (method, path, body) in &forbidden {
        let response = bob.request(method.clone(), path, body.clone());
        expect_error(&response, 403, "M_USER_SUSPENDED");
    }
    send_text(&admin, &room, "do you hear me?");
    let seen = sync(&bob, None);
    let events = &seen["rooms"]["join"][&room]["timeline"]["events"];
    assert!(message_bodies(events).contains(&"do you hear me?"));
    expect_ok(bob.get(&room_path(&room, "messages?dir=b")));
    expect_ok(server.log_in_with("bob", json!({})));
    expect_ok(bob.put(&redact(&own), json!({})));
    // Devices are verified by to-device messages. NOTSPEC: as in Synapse, presence is no profile.
    let to_device = "/_matrix/client/v3/sendToDevice/m.key.verification.request/1";
    let messages = json!({ "messages": { bob.user_id.clone(): { "*": {} } } });
    expect_ok(bob.put(to_device, messages));
    let presence = format!("/_matrix/client/v3/presence/{}/status", bob.user_id);
    expect_ok(bob.put(&presence, json!({ "presence": "online" })));
    expect_ok(bob.put(&room_path(&room, &member), json!({ "membership": "leave" })));
    expect_ok(restrict(&admin, "suspend", &bob.user_id, false));
    join(&bob, &other_room);
    send_text(&bob, &other_room, "here again");
    expect_ok(restrict(&admin, "suspend", &bob.user_id, true));
    leave(&bob, &other_room);
}

#[test]
fn whois_shows_the_devices_of_a_user_to_the_user_and_to_administrators() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    let second = server.log_in("bob");
    for asker in [&admin, &bob] {
        let response = expect_ok(asker.get(&whois_path(&bob.user_id)));
        assert_eq!(response["user_id"], bob.user_id);
        let devices = response["devices"].as_object().unwrap();
        assert_eq!(devices.len(), 2);
        assert!(devices.contains_key(&second.device_id));
        let connection = &devices[&bob.device_id]["sessions"][0]["connections"][0];
        assert!(connection.is_object(), "{connection}");
    }
    // It is written with the next commit.
    create_room(&bob, json!({}));
    let response = expect_ok(admin.get(&whois_path(&bob.user_id)));
    let connection = &response["devices"][&bob.device_id]["sessions"][0]["connections"][0];
    assert_eq!(connection["ip"], "127.0.0.1");
    assert!(connection["last_seen"].is_u64());
    expect_error(&bob.get(&whois_path(&admin.user_id)), 403, "M_FORBIDDEN");
    expect_error(&admin.get(&whois_path("@no:localhost")), 404, "M_NOT_FOUND");
    expect_error(
        &admin.get(&whois_path("@no:elsewhere")),
        400,
        "M_INVALID_PARAM",
    );
}
