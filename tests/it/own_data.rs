//! Profiles, account data and filters as clients see them.

use http::Method;
use serde_json::{Value, json};

use crate::home::{Home, refused};

const ALICE: &str = "/_matrix/client/v3/profile/@alice:localhost";
const DATA: &str = "/_matrix/client/v3/user/@alice:localhost/account_data";
const FILTER: &str = "/_matrix/client/v3/user/@alice:localhost/filter";

#[test]
fn a_profile_is_set_field_by_field_and_seen_by_everybody() {
    let mut home = Home::new();
    let fields = json!({
        "displayname": "Alice",
        "avatar_url": "mxc://localhost/abc",
        "m.tz": "Europe/Berlin",
        "org.example.job": {"title": "gardener"},
    });
    {
        let alice = home.register("alice");
        for (field, value) in fields.as_object().unwrap() {
            let answer = alice.put(&format!("{ALICE}/{field}"), json!({field: value}));
            assert_eq!(answer, (200, json!({})));
        }
    }
    home.restart();
    let see = |path: &str| home.ask(Method::GET, path, Value::Null);
    assert_eq!(see(ALICE), (200, fields.clone()));
    for (field, value) in fields.as_object().unwrap() {
        assert_eq!(
            see(&format!("{ALICE}/{field}")),
            (200, json!({field: value}))
        );
    }
}

#[test]
fn a_field_that_was_removed_or_never_set_is_not_found() {
    let home = Home::new();
    let alice = home.register("alice");
    assert_eq!(alice.get(ALICE), (200, json!({})));
    for field in ["displayname", "avatar_url", "org.example.job"] {
        let path = format!("{ALICE}/{field}");
        refused(&alice.get(&path), 404, "M_NOT_FOUND");
        assert_eq!(alice.delete(&path, Value::Null), (200, json!({})));
    }
    let path = format!("{ALICE}/displayname");
    alice.put(
        &path,
        json!({"a": "another property", "displayname": "Alice"}),
    );
    assert_eq!(alice.get(&path), (200, json!({"displayname": "Alice"})));
    assert_eq!(alice.delete(&path, Value::Null).0, 200);
    refused(&alice.get(&path), 404, "M_NOT_FOUND");
    for nobody in ["@nobody:localhost", "@alice:elsewhere.org"] {
        let path = format!("/_matrix/client/v3/profile/{nobody}");
        refused(&alice.get(&path), 404, "M_NOT_FOUND");
        refused(
            &alice.get(&format!("{path}/displayname")),
            404,
            "M_NOT_FOUND",
        );
    }
}

#[test]
fn a_profile_is_changed_by_its_owner_only() {
    let home = Home::new();
    home.register("alice");
    let bob = home.register("bob");
    let path = format!("{ALICE}/displayname");
    let body = json!({"displayname": "Mallory"});
    refused(&bob.put(&path, body.clone()), 403, "M_FORBIDDEN");
    refused(&bob.delete(&path, Value::Null), 403, "M_FORBIDDEN");
    refused(&home.ask(Method::PUT, &path, body), 401, "M_MISSING_TOKEN");
}

#[test]
fn what_cannot_be_in_a_profile_is_refused() {
    let home = Home::new();
    let alice = home.register("alice");
    let long = format!("a.{}", "b".repeat(254));
    let large = json!("x".repeat(64 * 1024));
    for (field, body, errcode) in [
        ("displayname", json!({}), "M_MISSING_PARAM"),
        (
            "displayname",
            json!({"avatar_url": "mxc://a/b"}),
            "M_MISSING_PARAM",
        ),
        ("displayname", json!({"displayname": 3}), "M_BAD_JSON"),
        ("displayname", json!([]), "M_BAD_JSON"),
        (
            "displayname",
            json!({"displayname": "x".repeat(257)}),
            "M_INVALID_PARAM",
        ),
        (
            "avatar_url",
            json!({"avatar_url": "https://example.org/a.png"}),
            "M_INVALID_PARAM",
        ),
        ("Job", json!({"Job": 1}), "M_INVALID_PARAM"),
        (&long, json!({&long: 1}), "M_KEY_TOO_LARGE"),
        ("a.b", json!({"a.b": large}), "M_PROFILE_TOO_LARGE"),
    ] {
        let answer = alice.put(&format!("{ALICE}/{field}"), body);
        refused(&answer, 400, errcode);
    }
    refused(
        &alice.delete(&format!("{ALICE}/{long}"), Value::Null),
        400,
        "M_KEY_TOO_LARGE",
    );
}

#[test]
fn account_data_survive_a_restart_and_are_the_owners_alone() {
    let mut home = Home::new();
    let content = json!({"nested": {"float": 0.5, "list": [1, null, "ä"]}});
    let token = {
        let alice = home.register("alice");
        let bob = home.register("bob");
        let path = format!("{DATA}/org.example.settings");
        refused(&alice.get(&path), 404, "M_NOT_FOUND");
        assert_eq!(alice.put(&path, content.clone()), (200, json!({})));
        refused(&bob.get(&path), 403, "M_FORBIDDEN");
        refused(&bob.put(&path, json!({})), 403, "M_FORBIDDEN");
        alice.token
    };
    home.restart();
    let path = format!("{DATA}/org.example.settings");
    let answer = home.run(home.send(Method::GET, &path, Some(&token), &Value::Null));
    assert_eq!(answer, (200, content));
}

#[test]
fn what_the_server_manages_is_not_set_by_clients() {
    let home = Home::new();
    let alice = home.register("alice");
    for kind in ["m.fully_read", "m.push_rules"] {
        refused(
            &alice.put(&format!("{DATA}/{kind}"), json!({})),
            405,
            "M_BAD_JSON",
        );
    }
}

#[test]
fn account_data_are_an_object_of_a_sane_size() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = format!("{DATA}/org.example");
    for body in [json!([]), json!("x"), json!(3)] {
        refused(&alice.put(&path, body), 400, "M_BAD_JSON");
    }
    let large = json!({"a": "x".repeat(256 * 1024)});
    refused(&alice.put(&path, large), 413, "M_TOO_LARGE");
}

#[test]
fn account_data_and_tags_need_a_room_that_the_user_was_in() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = "/_matrix/client/v3/user/@alice:localhost/rooms/!nowhere:localhost";
    for path in ["account_data/org.example", "tags"] {
        refused(&alice.get(&format!("{room}/{path}")), 404, "M_NOT_FOUND");
    }
    for path in ["account_data/org.example", "tags/u.work"] {
        let answer = alice.put(&format!("{room}/{path}"), json!({}));
        refused(&answer, 404, "M_NOT_FOUND");
    }
    let path = "/_matrix/client/v3/user/@alice:localhost/rooms/nowhere/account_data/a";
    refused(&alice.get(path), 400, "M_INVALID_PARAM");
}

#[test]
fn a_room_has_account_data_and_tags_of_each_user_even_after_leaving() {
    let home = Home::new();
    let alice = home.register("alice");
    let bob = home.register("bob");
    let (status, made) = alice.post("/_matrix/client/v3/createRoom", json!({}));
    assert_eq!(status, 200, "{made}");
    let room = made["room_id"].as_str().unwrap();
    let room = room.replace('!', "%21").replace(':', "%3A");
    let leave = format!("/_matrix/client/v3/rooms/{room}/leave");
    assert_eq!(alice.post(&leave, json!({})).0, 200);

    let base = format!("/_matrix/client/v3/user/@alice:localhost/rooms/{room}");
    let (data, tags) = (format!("{base}/account_data"), format!("{base}/tags"));
    let nothing = (200, json!({}));
    let kind = format!("{data}/org.example");
    assert_eq!(alice.put(&kind, json!({"a": 1})), nothing);
    assert_eq!(alice.get(&kind), (200, json!({"a": 1})));
    refused(
        &alice.get(&format!("{DATA}/org.example")),
        404,
        "M_NOT_FOUND",
    );
    for kind in ["m.fully_read", "m.push_rules"] {
        let answer = alice.put(&format!("{data}/{kind}"), json!({}));
        refused(&answer, 405, "M_BAD_JSON");
    }

    assert_eq!(alice.get(&tags), (200, json!({"tags": {}})));
    let favourite = json!({"order": 0.25});
    assert_eq!(
        alice.put(&format!("{tags}/m.favourite"), favourite.clone()),
        nothing
    );
    assert_eq!(
        alice.put(&format!("{tags}/u.work%2Fhome"), json!({})),
        nothing
    );
    assert_eq!(
        alice.get(&tags),
        (
            200,
            json!({"tags": {"m.favourite": favourite, "u.work/home": {}}})
        )
    );
    assert_eq!(alice.get(&format!("{data}/m.tag")), alice.get(&tags));
    for _ in 0..2 {
        assert_eq!(
            alice.delete(&format!("{tags}/u.work%2Fhome"), Value::Null),
            nothing
        );
    }
    assert_eq!(
        alice.get(&tags),
        (200, json!({"tags": {"m.favourite": favourite}}))
    );
    let long = format!("{tags}/{}", "x".repeat(256));
    refused(&alice.put(&long, json!({})), 400, "M_INVALID_PARAM");

    let own = base.replace("alice", "bob");
    for path in [
        &format!("{own}/tags"),
        &format!("{own}/account_data/org.example"),
    ] {
        refused(&bob.get(path), 404, "M_NOT_FOUND");
        refused(&alice.get(path), 403, "M_FORBIDDEN");
    }
}

#[test]
fn the_same_filter_has_the_same_id() {
    let home = Home::new();
    let alice = home.register("alice");
    let filter = json!({
        "room": {"timeline": {"limit": 10, "types": ["m.room.message"]}},
        "presence": {"types": []},
    });
    let (status, one) = alice.post(FILTER, filter.clone());
    assert_eq!(status, 200, "{one}");
    assert_eq!(alice.post(FILTER, filter.clone()).1, one);
    let (_, two) = alice.post(FILTER, json!({}));
    assert_ne!(one, two);
    let id = one["filter_id"].as_str().unwrap();
    assert!(!id.starts_with('{'));
    assert_eq!(alice.get(&format!("{FILTER}/{id}")), (200, filter));
}

#[test]
fn a_filter_of_somebody_else_or_of_nobody_is_refused() {
    let home = Home::new();
    let alice = home.register("alice");
    let bob = home.register("bob");
    let (_, one) = alice.post(FILTER, json!({}));
    let id = one["filter_id"].as_str().unwrap();
    refused(&bob.get(&format!("{FILTER}/{id}")), 403, "M_FORBIDDEN");
    refused(&bob.post(FILTER, json!({})), 403, "M_FORBIDDEN");
    refused(&alice.get(&format!("{FILTER}/17")), 404, "M_NOT_FOUND");
    refused(&alice.get(&format!("{FILTER}/x")), 404, "M_NOT_FOUND");
    refused(&alice.post(FILTER, json!({"room": 3})), 400, "M_BAD_JSON");
}
