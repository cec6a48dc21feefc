//! Server-side key backups.

use serde_json::{Value, json};

use crate::test_server::{TestServer, TestUser, expect_error, expect_ok};

const PATH: &str = "/_matrix/client/v3/room_keys";
const ROOM: &str = "!room:example.org";

fn version_info(data: &str) -> Value {
    json!({
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": { "public_key": data, "of.the.future": 1 },
    })
}

fn create_version(user: &TestUser<'_>) -> String {
    let response = expect_ok(user.post(&format!("{PATH}/version"), version_info("first")));
    response["version"].as_str().expect("a version").to_owned()
}

fn key(is_verified: bool, first_message_index: u32, forwarded_count: u32) -> Value {
    json!({
        "first_message_index": first_message_index,
        "forwarded_count": forwarded_count,
        "is_verified": is_verified,
        "session_data": { "ephemeral": "aaaa", "ciphertext": "aaaa", "mac": "aaaa" },
    })
}

fn session_path(version: &str, session: &str) -> String {
    format!("{PATH}/keys/{ROOM}/{session}?version={version}")
}

#[test]
fn only_the_latest_backup_version_accepts_keys() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    expect_error(&alice.get(&format!("{PATH}/version")), 404, "M_NOT_FOUND");
    let first = create_version(&alice);
    let path = format!("{PATH}/version/{first}");
    expect_ok(alice.put(&path, version_info("changed")));
    let mut expected = version_info("changed");
    expected["version"] = json!(first);
    expected["count"] = json!(0);
    expected["etag"] = json!("0");
    assert_eq!(expect_ok(alice.get(&path)), expected);
    assert_eq!(expect_ok(alice.get(&format!("{PATH}/version"))), expected);
    expect_error(&bob.get(&path), 404, "M_NOT_FOUND");
    let other = json!({ "algorithm": "other", "auth_data": {} });
    expect_error(&alice.put(&path, other), 400, "M_INVALID_PARAM");

    let second = create_version(&alice);
    let response = alice.put(&session_path(&first, "s"), key(true, 0, 0));
    expect_error(&response, 403, "M_WRONG_ROOM_KEYS_VERSION");
    assert_eq!(response.1["current_version"], json!(second));
    expect_ok(alice.put(&session_path(&second, "s"), key(true, 0, 0)));
    expect_ok(alice.delete(&format!("{PATH}/version/{second}"), json!({})));
    expect_ok(alice.delete(&format!("{PATH}/version/{second}"), json!({})));
    expect_error(&alice.get(&session_path(&second, "s")), 404, "M_NOT_FOUND");
    let third = create_version(&alice);
    assert_ne!(third, second);
    let keys = expect_ok(alice.get(&format!("{PATH}/keys?version={third}")));
    assert_eq!(keys, json!({ "rooms": {} }));
}

#[test]
fn backup_update_with_a_mismatching_version_is_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let version = create_version(&alice);
    let path = format!("{PATH}/version/{version}");
    let with = |version: Value| {
        let mut changed = version_info("changed");
        changed["version"] = version;
        changed
    };
    for other in [json!("7"), json!(1), json!(null), json!([version])] {
        expect_error(&alice.put(&path, with(other)), 400, "M_INVALID_PARAM");
    }
    assert_eq!(
        expect_ok(alice.get(&path))["auth_data"],
        version_info("first")["auth_data"]
    );
    expect_ok(alice.put(&path, with(json!(version))));
    let returned = expect_ok(alice.get(&path));
    assert_eq!(returned["auth_data"], version_info("changed")["auth_data"]);
    assert_eq!(returned["version"], json!(version));
    let response = alice.put(&format!("{PATH}/version/7"), version_info("changed"));
    expect_error(&response, 404, "M_NOT_FOUND");
}

#[test]
fn better_session_key_replaces_a_worse_one() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let version = create_version(&alice);
    let path = session_path(&version, "s");
    let mut etag = Value::Null;
    for (next, replaces) in [
        (key(false, 5, 5), true),
        (key(false, 6, 0), false),
        (key(false, 5, 5), false),
        (key(false, 5, 4), true),
        (key(false, 4, 9), true),
        (key(true, 9, 9), true),
        (key(false, 0, 0), false),
    ] {
        let response = expect_ok(alice.put(&path, next.clone()));
        assert_eq!(response["count"], 1);
        assert_eq!(response["etag"] != etag, replaces, "{next}");
        etag = response["etag"].clone();
        assert_eq!(
            expect_ok(alice.get(&path)) == next,
            replaces || next == key(false, 5, 5)
        );
    }
}

#[test]
fn session_data_is_opaque_but_the_fields_of_a_key_are_validated() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let body = json!({ "algorithm": "org.example.later", "auth_data": {} });
    let response = expect_ok(alice.post(&format!("{PATH}/version"), body));
    let version = response["version"].as_str().expect("a version");
    let path = session_path(version, "s");
    let mut stored = key(true, 0, 0);
    stored["session_data"] = json!({ "encrypted": "in another way" });
    expect_ok(alice.put(&path, stored.clone()));
    assert_eq!(expect_ok(alice.get(&path)), stored);
    for (field, value) in [
        ("session_data", json!("a text")),
        ("session_data", json!([])),
        ("is_verified", json!(1)),
        ("first_message_index", json!(-1)),
        ("forwarded_count", json!("1")),
    ] {
        let mut invalid = key(true, 0, 0);
        invalid[field] = value;
        expect_error(&alice.put(&path, invalid.clone()), 400, "M_BAD_JSON");
        invalid.as_object_mut().expect("an object").remove(field);
        expect_error(&alice.put(&path, invalid), 400, "M_BAD_JSON");
    }
    assert_eq!(expect_ok(alice.get(&path)), stored);
}

#[test]
fn unknown_backup_version_is_not_found() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let latest = create_version(&alice);
    for version in ["7", "0", "01", "one", ""] {
        let all = format!("{PATH}/keys?version={version}");
        let room = format!("{PATH}/keys/{ROOM}?version={version}");
        let one = session_path(version, "s");
        let sessions = json!({ "sessions": { "s": key(true, 0, 0) } });
        for (path, body) in [
            (&all, json!({ "rooms": { ROOM: sessions } })),
            (&room, sessions.clone()),
            (&one, key(true, 0, 0)),
        ] {
            expect_error(&alice.put(path, body), 404, "M_NOT_FOUND");
            expect_error(&alice.get(path), 404, "M_NOT_FOUND");
            expect_error(&alice.delete(path, json!({})), 404, "M_NOT_FOUND");
        }
        if !version.is_empty() {
            let path = format!("{PATH}/version/{version}");
            expect_error(&alice.delete(&path, json!({})), 404, "M_NOT_FOUND");
        }
    }
    let returned = expect_ok(alice.get(&format!("{PATH}/version/{latest}")));
    assert_eq!(returned["count"], 0);
}

#[test]
fn keys_are_stored_read_and_deleted_by_session_room_and_version() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let version = create_version(&alice);
    let all = format!("{PATH}/keys?version={version}");
    let room = format!("{PATH}/keys/{ROOM}?version={version}");
    let keys = |names: &[&str]| {
        let keys = names
            .iter()
            .map(|name| ((*name).to_owned(), key(true, 1, 0)));
        json!({ "sessions": serde_json::Map::from_iter(keys) })
    };
    let stored = json!({ "rooms": { ROOM: keys(&["a", "b"]), "!other": keys(&["a"]) } });
    assert_eq!(expect_ok(alice.put(&all, stored.clone()))["count"], 3);
    assert_eq!(expect_ok(alice.get(&all)), stored);
    assert_eq!(
        expect_ok(alice.put(&room, keys(&["\u{10ffff}c"])))["count"],
        4
    );
    assert_eq!(
        expect_ok(alice.get(&room)),
        keys(&["a", "b", "\u{10ffff}c"])
    );
    assert_eq!(
        expect_ok(alice.delete(&session_path(&version, "b"), json!({})))["count"],
        3
    );
    expect_error(&alice.get(&session_path(&version, "b")), 404, "M_NOT_FOUND");
    assert_eq!(expect_ok(alice.delete(&room, json!({})))["count"], 1);
    assert_eq!(expect_ok(alice.get(&room)), json!({ "sessions": {} }));
    let remaining = json!({ "rooms": { "!other": keys(&["a"]) } });
    assert_eq!(expect_ok(alice.get(&all)), remaining);
    assert_eq!(expect_ok(alice.delete(&all, json!({})))["count"], 0);
}

/// Uploads keys of `count` sessions in several requests; returns all of them.
fn upload_keys(user: &TestUser<'_>, version: &str, count: usize) -> Value {
    let mut rooms = serde_json::Map::new();
    let ids: Vec<usize> = (0..count).collect();
    for batch in ids.chunks(1000) {
        let mut uploaded = serde_json::Map::new();
        for id in batch {
            let room = format!("!room {}:example.org", id % 7);
            let session = format!("\"{id}\\ü");
            for rooms in [&mut uploaded, &mut rooms] {
                let room = rooms.entry(&room).or_insert(json!({ "sessions": {} }));
                room["sessions"][&session] = key(true, u32::try_from(*id).expect("few"), 0);
            }
        }
        let path = format!("{PATH}/keys?version={version}");
        expect_ok(user.put(&path, json!({ "rooms": uploaded })));
    }
    json!({ "rooms": rooms })
}

#[test]
fn large_backup_is_read_completely_and_deleted_in_batches() {
    const COUNT: usize = 3000;
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let version = create_version(&alice);
    let stored = upload_keys(&alice, &version, COUNT);
    assert_eq!(create_version(&bob), version);
    let stored_by_bob = upload_keys(&bob, &version, 10);
    let all = format!("{PATH}/keys?version={version}");
    assert_eq!(expect_ok(alice.get(&all)), stored);
    let mut remaining = COUNT;
    for name in ["!room%203:example.org", "!room%206:example.org"] {
        let room = format!("{PATH}/keys/{name}?version={version}");
        let id = name.replace("%20", " ");
        assert_eq!(expect_ok(alice.get(&room)), stored["rooms"][&id]);
        let sessions = stored["rooms"][&id]["sessions"].as_object();
        remaining -= sessions.expect("sessions").len();
        assert_eq!(
            expect_ok(alice.delete(&room, json!({})))["count"],
            remaining
        );
        assert_eq!(expect_ok(alice.get(&room)), json!({ "sessions": {} }));
    }
    let mut remaining = stored.clone();
    let rooms = remaining["rooms"].as_object_mut().expect("rooms");
    rooms.retain(|room, _| !room.contains('3') && !room.contains('6'));
    assert_eq!(expect_ok(alice.get(&all)), remaining);
    assert_eq!(expect_ok(alice.delete(&all, json!({})))["count"], 0);
    assert_eq!(expect_ok(alice.get(&all)), json!({ "rooms": {} }));
    assert_eq!(expect_ok(bob.get(&all)), stored_by_bob);
}

#[test]
fn older_backup_version_stays_readable_until_deleted() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let older = create_version(&alice);
    let stored = upload_keys(&alice, &older, 20);
    let latest = create_version(&alice);
    expect_ok(alice.put(&session_path(&latest, "s"), key(true, 0, 0)));
    let all = format!("{PATH}/keys?version={older}");
    assert_eq!(expect_ok(alice.get(&all)), stored);
    let session = format!("{PATH}/keys/!room%200:example.org/%220%5C%C3%BC?version={older}");
    assert_eq!(expect_ok(alice.get(&session)), key(true, 0, 0));
    assert_eq!(expect_ok(alice.delete(&session, json!({})))["count"], 19);
    expect_error(&alice.get(&session), 404, "M_NOT_FOUND");
    let path = format!("{PATH}/version/{older}");
    assert_eq!(expect_ok(alice.get(&path))["count"], 19);
    expect_ok(alice.delete(&path, json!({})));
    for path in [&path, &all, &session] {
        expect_error(&alice.get(path), 404, "M_NOT_FOUND");
    }
    let returned = expect_ok(alice.get(&format!("{PATH}/version")));
    assert_eq!(
        (&returned["version"], &returned["count"]),
        (&json!(latest), &json!(1))
    );
    expect_ok(alice.get(&session_path(&latest, "s")));
}

#[test]
fn etag_changes_only_when_keys_change() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let version = create_version(&alice);
    let path = format!("{PATH}/version/{version}");
    let (one, all) = (
        session_path(&version, "s"),
        format!("{PATH}/keys?version={version}"),
    );
    let mut etag = expect_ok(alice.get(&path))["etag"].clone();
    let mut after = |response: Value, is_changed: bool| {
        assert_eq!(response["etag"] != etag, is_changed, "{response}");
        etag = response["etag"].clone();
        assert_eq!(expect_ok(alice.get(&path))["etag"], etag);
    };
    after(expect_ok(alice.put(&one, key(true, 0, 0))), true);
    after(expect_ok(alice.put(&one, key(true, 0, 0))), false);
    after(
        expect_ok(alice.delete(&session_path(&version, "t"), json!({}))),
        false,
    );
    after(expect_ok(alice.delete(&one, json!({}))), true);
    after(expect_ok(alice.delete(&all, json!({}))), false);
    after(expect_ok(alice.put(&one, key(true, 0, 0))), true);
    after(expect_ok(alice.delete(&all, json!({}))), true);
}

#[test]
fn backup_survives_restart_and_logout_of_its_device() {
    let mut server = TestServer::new();
    let alice = server.register("alice");
    let version = create_version(&alice);
    let stored = upload_keys(&alice, &version, 100);
    let deleted = create_version(&alice);
    upload_keys(&alice, &deleted, 1000);
    expect_ok(alice.delete(&format!("{PATH}/version/{deleted}"), json!({})));
    let before = expect_ok(alice.get(&format!("{PATH}/version")));
    expect_ok(alice.post("/_matrix/client/v3/logout", json!({})));
    server.restart();
    let alice = server.log_in("alice");
    assert_eq!(expect_ok(alice.get(&format!("{PATH}/version"))), before);
    assert_eq!(
        expect_ok(alice.get(&format!("{PATH}/keys?version={version}"))),
        stored
    );
    let path = format!("{PATH}/keys?version={deleted}");
    expect_error(&alice.get(&path), 404, "M_NOT_FOUND");
    assert!(![version, deleted].contains(&create_version(&alice)));
}

#[test]
fn backup_of_another_user_is_not_found() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let version = create_version(&alice);
    let one = session_path(&version, "s");
    let all = format!("{PATH}/keys?version={version}");
    expect_ok(alice.put(&one, key(true, 0, 0)));
    for path in [&one, &all] {
        expect_error(&bob.get(path), 404, "M_NOT_FOUND");
        expect_error(&bob.delete(path, json!({})), 404, "M_NOT_FOUND");
    }
    expect_error(&bob.put(&one, key(true, 0, 0)), 404, "M_NOT_FOUND");
    assert_eq!(create_version(&bob), version);
    assert_eq!(expect_ok(bob.get(&all)), json!({ "rooms": {} }));
    expect_error(&bob.get(&one), 404, "M_NOT_FOUND");
    assert_eq!(expect_ok(bob.delete(&all, json!({})))["count"], 0);
    expect_ok(bob.delete(&format!("{PATH}/version/{version}"), json!({})));
    assert_eq!(expect_ok(alice.get(&one)), key(true, 0, 0));
}

#[test]
fn oversized_keys_are_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let version = create_version(&alice);
    let mut large = key(true, 0, 0);
    large["session_data"]["ciphertext"] = json!("a".repeat(8 * 1024));
    let response = alice.put(&session_path(&version, "s"), large);
    expect_error(&response, 413, "M_TOO_LARGE");
    let session = session_path(&version, &"s".repeat(256));
    let response = alice.put(&session, key(true, 0, 0));
    expect_error(&response, 413, "M_TOO_LARGE");
    let path = format!("{PATH}/version/{version}");
    assert_eq!(expect_ok(alice.get(&path))["count"], 0);
}
