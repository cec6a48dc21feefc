//! Account data and tags.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, leave, percent_encode},
    test_server::{TestServer, expect_error, expect_ok},
};

const DATA: &str = "/_matrix/client/v3/user/@alice:localhost/account_data";

#[test]
fn account_data_survives_restart_and_is_private() {
    let mut server = TestServer::new();
    let content = json!({"nested": {"float": 0.5, "list": [1, null, "ä"]}});
    let token = {
        let alice = server.register("alice");
        let bob = server.register("bob");
        let path = format!("{DATA}/org.example.settings");
        expect_error(&alice.get(&path), 404, "M_NOT_FOUND");
        assert_eq!(alice.put(&path, content.clone()), (200, json!({})));
        expect_error(&bob.get(&path), 403, "M_FORBIDDEN");
        expect_error(&bob.put(&path, json!({})), 403, "M_FORBIDDEN");
        alice.token
    };
    server.restart();
    let path = format!("{DATA}/org.example.settings");
    let response = server.run(server.send(Method::GET, &path, Some(&token), &Value::Null));
    assert_eq!(response, (200, content));
}

#[test]
fn server_managed_account_data_cannot_be_set() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for event_type in ["m.fully_read", "m.push_rules"] {
        expect_error(
            &alice.put(&format!("{DATA}/{event_type}"), json!({})),
            405,
            "M_BAD_JSON",
        );
    }
}

#[test]
fn account_data_must_be_an_object_within_the_size_limit() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = format!("{DATA}/org.example");
    for body in [json!([]), json!("x"), json!(3)] {
        expect_error(&alice.put(&path, body), 400, "M_BAD_JSON");
    }
    let large = json!({"a": "x".repeat(256 * 1024)});
    expect_error(&alice.put(&path, large), 413, "M_TOO_LARGE");
}

#[test]
fn room_account_data_and_tags_require_a_membership() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = "/_matrix/client/v3/user/@alice:localhost/rooms/!nowhere:localhost";
    for path in ["account_data/org.example", "tags"] {
        expect_error(&alice.get(&format!("{room}/{path}")), 404, "M_NOT_FOUND");
    }
    for path in ["account_data/org.example", "tags/u.work"] {
        let response = alice.put(&format!("{room}/{path}"), json!({}));
        expect_error(&response, 404, "M_NOT_FOUND");
    }
    let path = "/_matrix/client/v3/user/@alice:localhost/rooms/nowhere/account_data/a";
    expect_error(&alice.get(path), 400, "M_INVALID_PARAM");
}

#[test]
fn room_account_data_and_tags_are_per_user_and_kept_after_leaving() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let bob = server.register("bob");
    let room = create_room(&alice, json!({}));
    leave(&alice, &room);

    let room = percent_encode(&room);
    let base = format!("/_matrix/client/v3/user/@alice:localhost/rooms/{room}");
    let (data, tags) = (format!("{base}/account_data"), format!("{base}/tags"));
    let empty = (200, json!({}));
    let path = format!("{data}/org.example");
    assert_eq!(alice.put(&path, json!({"a": 1})), empty);
    assert_eq!(alice.get(&path), (200, json!({"a": 1})));
    expect_error(
        &alice.get(&format!("{DATA}/org.example")),
        404,
        "M_NOT_FOUND",
    );
    for event_type in ["m.fully_read", "m.push_rules"] {
        let response = alice.put(&format!("{data}/{event_type}"), json!({}));
        expect_error(&response, 405, "M_BAD_JSON");
    }

    assert_eq!(alice.get(&tags), (200, json!({"tags": {}})));
    // Tags are kept as they were sent, as by Synapse.
    for order in [json!("0.5"), json!(true), json!(0.25)] {
        let tag = json!({ "order": order });
        assert_eq!(
            alice.put(&format!("{tags}/m.favourite"), tag.clone()),
            empty
        );
        assert_eq!(expect_ok(alice.get(&tags))["tags"]["m.favourite"], tag);
    }
    let favourite = json!({"order": 0.25});
    assert_eq!(
        alice.put(&format!("{tags}/m.favourite"), favourite.clone()),
        empty
    );
    assert_eq!(
        alice.put(&format!("{tags}/u.work%2Fhome"), json!({})),
        empty
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
            empty
        );
    }
    assert_eq!(
        alice.get(&tags),
        (200, json!({"tags": {"m.favourite": favourite}}))
    );
    let long = format!("{tags}/{}", "x".repeat(256));
    expect_error(&alice.put(&long, json!({})), 400, "M_INVALID_PARAM");

    let bobs_base = base.replace("alice", "bob");
    for path in [
        &format!("{bobs_base}/tags"),
        &format!("{bobs_base}/account_data/org.example"),
    ] {
        expect_error(&bob.get(path), 404, "M_NOT_FOUND");
        expect_error(&alice.get(path), 403, "M_FORBIDDEN");
    }
}

#[test]
fn all_account_data_of_a_user_are_limited_and_those_within_the_limit_are_synced() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let content = json!({ "text": "x".repeat(250_000) });
    let put = |event_type: usize| alice.put(&format!("{DATA}/{event_type}"), content.clone());
    let stored = (0..100).take_while(|event_type| put(*event_type).0 == 200);
    let stored = stored.count();
    assert_eq!(stored, 16);
    expect_error(&put(stored), 413, "M_TOO_LARGE");
    assert_eq!(put(0).0, 200, "what is there is replaced");
    let (_, sync) = alice.get("/_matrix/client/v3/sync");
    let events = sync["account_data"]["events"].as_array().unwrap();
    let large = events.iter().filter(|event| event["content"] == content);
    assert_eq!(large.count(), stored);
    let path = format!("{DATA}/0");
    assert_eq!(alice.put(&path, json!({})).0, 200);
    assert_eq!(put(stored).0, 200);
}
