//! Profiles.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room_with, join, room_path},
    test_server::{TestServer, expect_error, expect_ok},
};

const PROFILE: &str = "/_matrix/client/v3/profile/@alice:localhost";

#[test]
fn profile_fields_are_public_and_survive_restart() {
    let mut server = TestServer::new();
    let fields = json!({
        "displayname": "Alice",
        "avatar_url": "mxc://localhost/abc",
        "m.tz": "Europe/Berlin",
        "org.example.job": {"title": "gardener"},
    });
    {
        let alice = server.register("alice");
        for (field, value) in fields.as_object().unwrap() {
            let response = alice.put(&format!("{PROFILE}/{field}"), json!({field: value}));
            assert_eq!(response, (200, json!({})));
        }
    }
    server.restart();
    assert_eq!(server.get(PROFILE), (200, fields.clone()));
    for (field, value) in fields.as_object().unwrap() {
        assert_eq!(
            server.get(&format!("{PROFILE}/{field}")),
            (200, json!({field: value}))
        );
    }
}

#[test]
fn a_new_account_has_its_localpart_as_display_name() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let named = json!({ "displayname": "alice" });
    assert_eq!(alice.get(PROFILE), (200, named));
    let room = create_room_with(&[&alice]);
    join(&bob, &room);
    let joined = expect_ok(alice.get(&room_path(&room, "joined_members")));
    let expected = json!({
        alice.user_id.as_str(): { "display_name": "alice" },
        bob.user_id.as_str(): { "display_name": "bob" },
    });
    assert_eq!(joined["joined"], expected);
}

#[test]
fn deleted_or_unset_profile_field_is_not_found() {
    let server = TestServer::new();
    let alice = server.register("alice");
    expect_ok(alice.delete(&format!("{PROFILE}/displayname"), Value::Null));
    assert_eq!(alice.get(PROFILE), (200, json!({})));
    for field in ["displayname", "avatar_url", "org.example.job"] {
        let path = format!("{PROFILE}/{field}");
        expect_error(&alice.get(&path), 404, "M_NOT_FOUND");
        assert_eq!(alice.delete(&path, Value::Null), (200, json!({})));
    }
    let path = format!("{PROFILE}/displayname");
    alice.put(
        &path,
        json!({"a": "another property", "displayname": "Alice"}),
    );
    assert_eq!(alice.get(&path), (200, json!({"displayname": "Alice"})));
    assert_eq!(alice.delete(&path, Value::Null).0, 200);
    expect_error(&alice.get(&path), 404, "M_NOT_FOUND");
    for unknown_user in ["@nobody:localhost", "@alice:elsewhere.org"] {
        let path = format!("/_matrix/client/v3/profile/{unknown_user}");
        expect_error(&alice.get(&path), 404, "M_NOT_FOUND");
        expect_error(
            &alice.get(&format!("{path}/displayname")),
            404,
            "M_NOT_FOUND",
        );
    }
}

#[test]
fn profile_of_another_user_cannot_be_changed() {
    let server = TestServer::new();
    server.register("alice");
    let bob = server.register("bob");
    let path = format!("{PROFILE}/displayname");
    let body = json!({"displayname": "Mallory"});
    expect_error(&bob.put(&path, body.clone()), 403, "M_FORBIDDEN");
    expect_error(&bob.delete(&path, Value::Null), 403, "M_FORBIDDEN");
    expect_error(
        &server.request(Method::PUT, &path, body),
        401,
        "M_MISSING_TOKEN",
    );
}

#[test]
fn invalid_profile_fields_are_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
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
        let response = alice.put(&format!("{PROFILE}/{field}"), body);
        expect_error(&response, 400, errcode);
    }
    expect_error(
        &alice.delete(&format!("{PROFILE}/{long}"), Value::Null),
        400,
        "M_KEY_TOO_LARGE",
    );
}
