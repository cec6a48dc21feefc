//! Setting, listing and deleting pushers.

use serde_json::{Value, json};

use crate::{
    client_api::{next_batch, sync},
    mock_push_gateway::{pusher, pushkeys, set_pusher},
    test_server::{PASSWORD, TestServer, TestUser, expect_error, expect_ok},
};

const SET: &str = "/_matrix/client/v3/pushers/set";
const URL: &str = "https://gateway.example/_matrix/push/v1/notify";

fn delete(user: &TestUser<'_>, pushkey: &str) {
    let ids = json!({ "kind": null, "app_id": "org.example.app", "pushkey": pushkey });
    expect_ok(user.post(SET, ids));
}

#[test]
fn a_pusher_is_listed_as_it_was_set_replaced_and_deleted() {
    let mut server = TestServer::new();
    let token = server.register("alice").token;
    let alice = server.user_with_token(&token);
    let data = json!({ "url": URL, "format": "event_id_only", "default_payload": { "a": [1] } });
    let mut sent = pusher(URL, "key", json!({ "data": data, "profile_tag": "home" }));
    set_pusher(&alice, sent.clone());
    let listed = |alice: &TestUser<'_>| {
        expect_ok(alice.get("/_matrix/client/v3/pushers"))["pushers"].clone()
    };
    assert_eq!(listed(&alice), json!([sent]));
    sent["lang"] = json!("de");
    set_pusher(&alice, sent.clone());
    assert_eq!(listed(&alice), json!([sent]));
    server.restart();
    let alice = server.user_with_token(&token);
    assert_eq!(listed(&alice), json!([sent]));
    delete(&alice, "other");
    assert_eq!(pushkeys(&alice), ["key"]);
    delete(&alice, "key");
    assert_eq!(listed(&alice), json!([]));
}

#[test]
fn a_pusher_replaces_those_of_other_users_with_its_pushkey_unless_it_is_appended() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    set_pusher(&alice, pusher(URL, "key", json!({})));
    set_pusher(&alice, pusher(URL, "key", json!({ "app_id": "other" })));
    set_pusher(&bob, pusher(URL, "key", json!({ "append": true })));
    assert_eq!((pushkeys(&alice).len(), pushkeys(&bob).len()), (2, 1));
    set_pusher(&bob, pusher(URL, "key", json!({ "append": false })));
    assert_eq!((pushkeys(&alice).len(), pushkeys(&bob).len()), (1, 1));
    delete(&bob, "key");
    assert_eq!((pushkeys(&alice).len(), pushkeys(&bob).len()), (1, 0));
}

#[test]
fn a_pusher_is_removed_with_the_device_that_set_it() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let [phone, tablet, lost, other] = [(); 4].map(|()| server.log_in("alice"));
    for (device, pushkey) in [
        (&phone, "phone"),
        (&tablet, "tablet"),
        (&lost, "lost"),
        (&other, "other"),
    ] {
        set_pusher(device, pusher(URL, pushkey, json!({})));
    }
    set_pusher(&alice, pusher(URL, "alice", json!({})));
    expect_ok(phone.post("/_matrix/client/v3/logout", json!({})));
    assert_eq!(pushkeys(&alice), ["alice", "lost", "other", "tablet"]);
    let path = format!("/_matrix/client/v3/devices/{}", lost.device_id);
    let deleted = alice.request_with_password(http::Method::DELETE, &path, json!({}));
    expect_ok(deleted);
    assert_eq!(pushkeys(&alice), ["alice", "other", "tablet"]);
    // It belongs to the device that set it last.
    set_pusher(&alice, pusher(URL, "other", json!({})));
    let change = |logout: bool| {
        let body = json!({ "new_password": PASSWORD, "logout_devices": logout });
        let path = "/_matrix/client/v3/account/password";
        expect_ok(alice.request_with_password(http::Method::POST, path, body));
    };
    change(false);
    assert_eq!(pushkeys(&alice), ["alice", "other", "tablet"]);
    change(true);
    assert_eq!(pushkeys(&alice), ["alice", "other"]);
}

#[test]
fn what_is_too_long_or_not_allowed_in_a_pusher_is_refused() {
    let server = TestServer::with("registration = \"open\"\npush_gateways = [\"ntfy.lan\"]");
    let alice = server.register("alice");
    let long = "x".repeat(64);
    for fields in [
        json!({ "app_id": format!("{long}x") }),
        json!({ "app_id": "" }),
        // It is in log lines.
        json!({ "app_id": "app\nERROR" }),
        json!({ "pushkey": "x".repeat(513) }),
        json!({ "pushkey": "" }),
        json!({ "lang": "x".repeat(256) }),
        json!({ "profile_tag": "x".repeat(256) }),
        json!({ "data": { "url": URL, "more": "x".repeat(9000) } }),
        json!({ "kind": "email", "app_id": "m.email", "data": {} }),
        json!({ "kind": "pigeon" }),
    ] {
        let response = alice.post(SET, pusher(URL, "key", fields));
        expect_error(&response, 400, "M_INVALID_PARAM");
    }
    for url in [
        "http://gateway.example/_matrix/push/v1/notify",
        "https://gateway.example/",
        "https://gateway.example/_matrix/push/v1/notify/x",
        "https://127.0.0.1/_matrix/push/v1/notify",
        "https://[::1]:443/_matrix/push/v1/notify",
        "https://192.168.1.1/_matrix/push/v1/notify",
        "ftp://ntfy.lan/_matrix/push/v1/notify",
        "gateway.example",
        "",
    ] {
        let response = alice.post(SET, pusher(url, "key", json!({})));
        expect_error(&response, 400, "M_INVALID_PARAM");
    }
    for missing in [
        "app_id",
        "pushkey",
        "kind",
        "lang",
        "data",
        "app_display_name",
    ] {
        let mut body = pusher(URL, "key", json!({}));
        body.as_object_mut().expect("an object").remove(missing);
        expect_error(&alice.post(SET, body), 400, "M_MISSING_PARAM");
    }
    assert_eq!(pushkeys(&alice), [""; 0]);
    set_pusher(
        &alice,
        pusher(URL, &"x".repeat(512), json!({ "app_id": long })),
    );
    for url in [
        "http://ntfy.lan/_matrix/push/v1/notify",
        "https://ntfy.lan:8443/_matrix/push/v1/notify",
        "https://gateway.example:8443/_matrix/push/v1/notify?token=1",
    ] {
        set_pusher(&alice, pusher(url, "key", json!({})));
    }
}

#[test]
fn the_pusher_that_was_set_longest_ago_gives_way_to_the_51st() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    set_pusher(&bob, pusher(URL, "bob", json!({})));
    for number in 0..51 {
        server.clock.advance(std::time::Duration::from_secs(1));
        set_pusher(&alice, pusher(URL, &format!("{number:02}"), json!({})));
    }
    let left = pushkeys(&alice);
    assert_eq!((left.len(), left[0].as_str()), (50, "01"));
    assert_eq!(pushkeys(&bob), ["bob"]);
}

#[test]
fn the_notification_settings_of_a_device_are_removed_with_it() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let phone = server.log_in("alice");
    let path = |prefix: &str, device: &TestUser<'_>| {
        let (user, device) = (&alice.user_id, &device.device_id);
        format!(
            "/_matrix/client/v3/user/{user}/account_data/{prefix}.local_notification_settings.{device}"
        )
    };
    for prefix in ["m", "org.matrix.msc3890"] {
        for device in [&alice, &phone] {
            expect_ok(alice.put(&path(prefix, device), json!({ "is_silenced": true })));
        }
    }
    let before = sync(&alice, None);
    expect_ok(phone.post("/_matrix/client/v3/logout", json!({})));
    let update = sync(&alice, Some(next_batch(&before)));
    let all = sync(&alice, None);
    for prefix in ["m", "org.matrix.msc3890"] {
        expect_error(&alice.get(&path(prefix, &phone)), 404, "M_NOT_FOUND");
        let settings: Value = expect_ok(alice.get(&path(prefix, &alice)));
        assert_eq!(settings, json!({ "is_silenced": true }));
        // Who has them gets to know that they are gone, others do not get them.
        let synced = |response: &Value, device: &TestUser<'_>| {
            let kind = format!("{prefix}.local_notification_settings.{}", device.device_id);
            let mut events = response["account_data"]["events"].as_array().into_iter();
            let event = events.find_map(|all| all.iter().find(|event| event["type"] == *kind));
            event.map(|event| event["content"].clone())
        };
        assert_eq!(synced(&update, &phone), Some(json!({})));
        assert_eq!(synced(&all, &phone), None);
        assert_eq!(synced(&all, &alice), Some(json!({ "is_silenced": true })));
    }
}
