//! Backups of room keys.

use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    rooms::done,
};

const PATH: &str = "/_matrix/client/v3/room_keys";
const ROOM: &str = "!room:example.org";

fn info(data: &str) -> Value {
    json!({
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": { "public_key": data, "of.the.future": 1 },
    })
}

fn create(who: &Person<'_>) -> String {
    let answer = done(who.post(&format!("{PATH}/version"), info("first")));
    answer["version"].as_str().expect("a version").to_owned()
}

/// A key that is verified or not, with its first index and how often it was forwarded.
fn key(is_verified: bool, first: u32, forwarded: u32) -> Value {
    json!({
        "first_message_index": first,
        "forwarded_count": forwarded,
        "is_verified": is_verified,
        "session_data": { "ephemeral": "aaaa", "ciphertext": "aaaa", "mac": "aaaa" },
    })
}

fn of_session(version: &str, session: &str) -> String {
    format!("{PATH}/keys/{ROOM}/{session}?version={version}")
}

#[test]
fn a_backup_has_versions_of_which_the_latest_is_written_to() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    refused(&alice.get(&format!("{PATH}/version")), 404, "M_NOT_FOUND");
    let first = create(&alice);
    let path = format!("{PATH}/version/{first}");
    done(alice.put(&path, info("changed")));
    let mut told = info("changed");
    told["version"] = json!(first);
    told["count"] = json!(0);
    told["etag"] = json!("0");
    assert_eq!(done(alice.get(&path)), told);
    assert_eq!(done(alice.get(&format!("{PATH}/version"))), told);
    refused(&bob.get(&path), 404, "M_NOT_FOUND");
    let other = json!({ "algorithm": "other", "auth_data": {} });
    refused(&alice.put(&path, other), 400, "M_INVALID_PARAM");

    let second = create(&alice);
    let answer = alice.put(&of_session(&first, "s"), key(true, 0, 0));
    refused(&answer, 403, "M_WRONG_ROOM_KEYS_VERSION");
    assert_eq!(answer.1["current_version"], json!(second));
    done(alice.put(&of_session(&second, "s"), key(true, 0, 0)));
    done(alice.delete(&format!("{PATH}/version/{second}"), json!({})));
    done(alice.delete(&format!("{PATH}/version/{second}"), json!({})));
    refused(&alice.get(&of_session(&second, "s")), 404, "M_NOT_FOUND");
    let third = create(&alice);
    assert_ne!(third, second);
    let none = done(alice.get(&format!("{PATH}/keys?version={third}")));
    assert_eq!(none, json!({ "rooms": {} }));
}

#[test]
fn what_is_said_about_a_backup_must_be_about_the_one_in_the_path() {
    let home = Home::new();
    let alice = home.register("alice");
    let version = create(&alice);
    let path = format!("{PATH}/version/{version}");
    let with = |version: Value| {
        let mut changed = info("changed");
        changed["version"] = version;
        changed
    };
    for other in [json!("7"), json!(1), json!(null), json!([version])] {
        refused(&alice.put(&path, with(other)), 400, "M_INVALID_PARAM");
    }
    assert_eq!(
        done(alice.get(&path))["auth_data"],
        info("first")["auth_data"]
    );
    done(alice.put(&path, with(json!(version))));
    let told = done(alice.get(&path));
    assert_eq!(told["auth_data"], info("changed")["auth_data"]);
    assert_eq!(told["version"], json!(version));
    let never = alice.put(&format!("{PATH}/version/7"), info("changed"));
    refused(&never, 404, "M_NOT_FOUND");
}

#[test]
fn of_two_keys_of_a_session_the_better_one_stays() {
    let home = Home::new();
    let alice = home.register("alice");
    let version = create(&alice);
    let path = of_session(&version, "s");
    let mut etag = Value::Null;
    for (next, stays) in [
        (key(false, 5, 5), true),
        (key(false, 6, 0), false),
        (key(false, 5, 5), false),
        (key(false, 5, 4), true),
        (key(false, 4, 9), true),
        (key(true, 9, 9), true),
        (key(false, 0, 0), false),
    ] {
        let answer = done(alice.put(&path, next.clone()));
        assert_eq!(answer["count"], 1);
        assert_eq!(answer["etag"] != etag, stays, "{next}");
        etag = answer["etag"].clone();
        assert_eq!(
            done(alice.get(&path)) == next,
            stays || next == key(false, 5, 5)
        );
    }
}

#[test]
fn what_a_key_is_sealed_with_is_up_to_its_client() {
    let home = Home::new();
    let alice = home.register("alice");
    let asked = json!({ "algorithm": "org.example.later", "auth_data": {} });
    let answer = done(alice.post(&format!("{PATH}/version"), asked));
    let version = answer["version"].as_str().expect("a version");
    let path = of_session(version, "s");
    let mut later = key(true, 0, 0);
    later["session_data"] = json!({ "sealed": "in another way" });
    done(alice.put(&path, later.clone()));
    assert_eq!(done(alice.get(&path)), later);
    for (field, value) in [
        ("session_data", json!("a text")),
        ("session_data", json!([])),
        ("is_verified", json!(1)),
        ("first_message_index", json!(-1)),
        ("forwarded_count", json!("1")),
    ] {
        let mut wrong = key(true, 0, 0);
        wrong[field] = value;
        refused(&alice.put(&path, wrong.clone()), 400, "M_BAD_JSON");
        wrong.as_object_mut().expect("an object").remove(field);
        refused(&alice.put(&path, wrong), 400, "M_BAD_JSON");
    }
    assert_eq!(done(alice.get(&path)), later);
}

#[test]
fn where_there_is_no_backup_nothing_is_kept_read_or_deleted() {
    let home = Home::new();
    let alice = home.register("alice");
    let latest = create(&alice);
    for version in ["7", "0", "01", "one", ""] {
        let all = format!("{PATH}/keys?version={version}");
        let room = format!("{PATH}/keys/{ROOM}?version={version}");
        let one = of_session(version, "s");
        let sessions = json!({ "sessions": { "s": key(true, 0, 0) } });
        for (path, body) in [
            (&all, json!({ "rooms": { ROOM: sessions } })),
            (&room, sessions.clone()),
            (&one, key(true, 0, 0)),
        ] {
            refused(&alice.put(path, body), 404, "M_NOT_FOUND");
            refused(&alice.get(path), 404, "M_NOT_FOUND");
            refused(&alice.delete(path, json!({})), 404, "M_NOT_FOUND");
        }
        if !version.is_empty() {
            let path = format!("{PATH}/version/{version}");
            refused(&alice.delete(&path, json!({})), 404, "M_NOT_FOUND");
        }
    }
    let told = done(alice.get(&format!("{PATH}/version/{latest}")));
    assert_eq!(told["count"], 0);
}

#[test]
fn keys_are_kept_read_and_deleted_one_by_one_by_room_and_all_together() {
    let home = Home::new();
    let alice = home.register("alice");
    let version = create(&alice);
    let all = format!("{PATH}/keys?version={version}");
    let room = format!("{PATH}/keys/{ROOM}?version={version}");
    let keys = |names: &[&str]| {
        let keys = names
            .iter()
            .map(|name| ((*name).to_owned(), key(true, 1, 0)));
        json!({ "sessions": serde_json::Map::from_iter(keys) })
    };
    let both = json!({ "rooms": { ROOM: keys(&["a", "b"]), "!other": keys(&["a"]) } });
    assert_eq!(done(alice.put(&all, both.clone()))["count"], 3);
    assert_eq!(done(alice.get(&all)), both);
    assert_eq!(done(alice.put(&room, keys(&["\u{10ffff}c"])))["count"], 4);
    assert_eq!(done(alice.get(&room)), keys(&["a", "b", "\u{10ffff}c"]));
    assert_eq!(
        done(alice.delete(&of_session(&version, "b"), json!({})))["count"],
        3
    );
    refused(&alice.get(&of_session(&version, "b")), 404, "M_NOT_FOUND");
    assert_eq!(done(alice.delete(&room, json!({})))["count"], 1);
    assert_eq!(done(alice.get(&room)), json!({ "sessions": {} }));
    let rest = json!({ "rooms": { "!other": keys(&["a"]) } });
    assert_eq!(done(alice.get(&all)), rest);
    assert_eq!(done(alice.delete(&all, json!({})))["count"], 0);
}

/// Keys of `count` sessions, in so many requests as it takes.
fn fill(who: &Person<'_>, version: &str, count: usize) -> Value {
    let mut rooms = serde_json::Map::new();
    let ids: Vec<usize> = (0..count).collect();
    for some in ids.chunks(1000) {
        let mut part = serde_json::Map::new();
        for id in some {
            let room = format!("!room {}:example.org", id % 7);
            let session = format!("\"{id}\\ü");
            for rooms in [&mut part, &mut rooms] {
                let room = rooms.entry(&room).or_insert(json!({ "sessions": {} }));
                room["sessions"][&session] = key(true, u32::try_from(*id).expect("few"), 0);
            }
        }
        let path = format!("{PATH}/keys?version={version}");
        done(who.put(&path, json!({ "rooms": part })));
    }
    json!({ "rooms": rooms })
}

#[test]
fn a_large_backup_is_read_whole_and_deleted_in_slices() {
    const COUNT: usize = 3000;
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let version = create(&alice);
    let kept = fill(&alice, &version, COUNT);
    assert_eq!(create(&bob), version);
    let of_bob = fill(&bob, &version, 10);
    let all = format!("{PATH}/keys?version={version}");
    assert_eq!(done(alice.get(&all)), kept);
    let mut left = COUNT;
    for name in ["!room%203:example.org", "!room%206:example.org"] {
        let room = format!("{PATH}/keys/{name}?version={version}");
        let id = name.replace("%20", " ");
        assert_eq!(done(alice.get(&room)), kept["rooms"][&id]);
        let sessions = kept["rooms"][&id]["sessions"].as_object();
        left -= sessions.expect("sessions").len();
        assert_eq!(done(alice.delete(&room, json!({})))["count"], left);
        assert_eq!(done(alice.get(&room)), json!({ "sessions": {} }));
    }
    let mut rest = kept.clone();
    let rooms = rest["rooms"].as_object_mut().expect("rooms");
    rooms.retain(|room, _| !room.contains('3') && !room.contains('6'));
    assert_eq!(done(alice.get(&all)), rest);
    assert_eq!(done(alice.delete(&all, json!({})))["count"], 0);
    assert_eq!(done(alice.get(&all)), json!({ "rooms": {} }));
    assert_eq!(done(bob.get(&all)), of_bob);
}

#[test]
fn an_older_backup_is_read_and_its_keys_are_deleted_until_it_is() {
    let home = Home::new();
    let alice = home.register("alice");
    let older = create(&alice);
    let kept = fill(&alice, &older, 20);
    let latest = create(&alice);
    done(alice.put(&of_session(&latest, "s"), key(true, 0, 0)));
    let all = format!("{PATH}/keys?version={older}");
    assert_eq!(done(alice.get(&all)), kept);
    let session = format!("{PATH}/keys/!room%200:example.org/%220%5C%C3%BC?version={older}");
    assert_eq!(done(alice.get(&session)), key(true, 0, 0));
    assert_eq!(done(alice.delete(&session, json!({})))["count"], 19);
    refused(&alice.get(&session), 404, "M_NOT_FOUND");
    let path = format!("{PATH}/version/{older}");
    assert_eq!(done(alice.get(&path))["count"], 19);
    done(alice.delete(&path, json!({})));
    for path in [&path, &all, &session] {
        refused(&alice.get(path), 404, "M_NOT_FOUND");
    }
    let told = done(alice.get(&format!("{PATH}/version")));
    assert_eq!(
        (&told["version"], &told["count"]),
        (&json!(latest), &json!(1))
    );
    done(alice.get(&of_session(&latest, "s")));
}

#[test]
fn the_etag_changes_with_the_keys_and_only_then() {
    let home = Home::new();
    let alice = home.register("alice");
    let version = create(&alice);
    let path = format!("{PATH}/version/{version}");
    let (one, all) = (
        of_session(&version, "s"),
        format!("{PATH}/keys?version={version}"),
    );
    let mut etag = done(alice.get(&path))["etag"].clone();
    let mut after = |answer: Value, is_changed: bool| {
        assert_eq!(answer["etag"] != etag, is_changed, "{answer}");
        etag = answer["etag"].clone();
        assert_eq!(done(alice.get(&path))["etag"], etag);
    };
    after(done(alice.put(&one, key(true, 0, 0))), true);
    after(done(alice.put(&one, key(true, 0, 0))), false);
    after(
        done(alice.delete(&of_session(&version, "t"), json!({}))),
        false,
    );
    after(done(alice.delete(&one, json!({}))), true);
    after(done(alice.delete(&all, json!({}))), false);
    after(done(alice.put(&one, key(true, 0, 0))), true);
    after(done(alice.delete(&all, json!({}))), true);
}

#[test]
fn a_backup_outlives_a_restart_and_the_device_that_made_it() {
    let mut home = Home::new();
    let alice = home.register("alice");
    let version = create(&alice);
    let kept = fill(&alice, &version, 100);
    let gone = create(&alice);
    fill(&alice, &gone, 1000);
    done(alice.delete(&format!("{PATH}/version/{gone}"), json!({})));
    let before = done(alice.get(&format!("{PATH}/version")));
    done(alice.post("/_matrix/client/v3/logout", json!({})));
    home.restart();
    let alice = home.log_in("alice");
    assert_eq!(done(alice.get(&format!("{PATH}/version"))), before);
    assert_eq!(
        done(alice.get(&format!("{PATH}/keys?version={version}"))),
        kept
    );
    let path = format!("{PATH}/keys?version={gone}");
    refused(&alice.get(&path), 404, "M_NOT_FOUND");
    assert!(![version, gone].contains(&create(&alice)));
}

#[test]
fn nobody_gets_at_the_keys_of_another_user() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let version = create(&alice);
    let one = of_session(&version, "s");
    let all = format!("{PATH}/keys?version={version}");
    done(alice.put(&one, key(true, 0, 0)));
    for path in [&one, &all] {
        refused(&bob.get(path), 404, "M_NOT_FOUND");
        refused(&bob.delete(path, json!({})), 404, "M_NOT_FOUND");
    }
    refused(&bob.put(&one, key(true, 0, 0)), 404, "M_NOT_FOUND");
    assert_eq!(create(&bob), version);
    assert_eq!(done(bob.get(&all)), json!({ "rooms": {} }));
    refused(&bob.get(&one), 404, "M_NOT_FOUND");
    assert_eq!(done(bob.delete(&all, json!({})))["count"], 0);
    done(bob.delete(&format!("{PATH}/version/{version}"), json!({})));
    assert_eq!(done(alice.get(&one)), key(true, 0, 0));
}

#[test]
fn what_is_too_large_for_a_backup_is_refused() {
    let home = Home::new();
    let alice = home.register("alice");
    let version = create(&alice);
    let mut large = key(true, 0, 0);
    large["session_data"]["ciphertext"] = json!("a".repeat(8 * 1024));
    let answer = alice.put(&of_session(&version, "s"), large);
    refused(&answer, 413, "M_TOO_LARGE");
    let session = of_session(&version, &"s".repeat(256));
    let answer = alice.put(&session, key(true, 0, 0));
    refused(&answer, 413, "M_TOO_LARGE");
    let path = format!("{PATH}/version/{version}");
    assert_eq!(done(alice.get(&path))["count"], 0);
}
