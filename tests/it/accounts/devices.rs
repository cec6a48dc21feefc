use std::collections::HashSet;

use http::{Method, Request};
use serde_json::{Value, json};

use crate::test_server::{PASSWORD, TestServer, expect_error, parse};

const DEVICES: &str = "/_matrix/client/v3/devices";
const DELETE_DEVICES: &str = "/_matrix/client/v3/delete_devices";

#[test]
fn user_lists_and_renames_own_devices() {
    let server = TestServer::new();
    let one = server.register("alice");
    let two = server.log_in("alice");
    server.register("bob");
    let (status, body) = one.get(DEVICES);
    assert_eq!(status, 200);
    let mut ids: Vec<_> = body["devices"].as_array().unwrap().iter().collect();
    ids.sort_by_key(|device| device["device_id"].as_str());
    let mut expected = [&one.device_id, &two.device_id];
    expected.sort();
    assert_eq!(ids.len(), 2);
    for (device, id) in ids.iter().zip(expected) {
        assert_eq!(device["device_id"], json!(id));
        assert!(device["last_seen_ts"].is_u64());
    }
    let path = format!("{DEVICES}/{}", two.device_id);
    assert_eq!(
        one.put(&path, json!({"display_name": "my phone"})),
        (200, json!({}))
    );
    assert_eq!(one.put(&path, json!({})), (200, json!({})));
    assert_eq!(one.get(&path).1["display_name"], "my phone");
}

#[test]
fn device_of_another_user_is_not_found() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let bob = server.register("bob");
    for id in [&bob.device_id, "NONE"] {
        let path = format!("{DEVICES}/{id}");
        expect_error(&alice.get(&path), 404, "M_NOT_FOUND");
        for body in [json!({"display_name": "mine"}), json!({})] {
            expect_error(&alice.put(&path, body), 404, "M_NOT_FOUND");
        }
    }
    let path = format!("{DEVICES}/{}", bob.device_id);
    let deleted = alice.request_with_password(Method::DELETE, &path, json!({}));
    assert_eq!(
        deleted,
        (200, json!({})),
        "a device that does not exist is skipped"
    );
    assert!(bob.is_logged_in());
    let long = json!({"display_name": "x".repeat(256)});
    let path = format!("{DEVICES}/{}", alice.device_id);
    expect_error(&alice.put(&path, long), 400, "M_INVALID_PARAM");
}

#[test]
fn deletion_requires_the_password() {
    let server = TestServer::new();
    let one = server.register("alice");
    let [two, three, four] = [(); 3].map(|()| server.log_in("alice"));
    let path = format!("{DEVICES}/{}", two.device_id);
    let deleted = one.request_with_password(Method::DELETE, &path, json!({}));
    assert_eq!(deleted, (200, json!({})));
    expect_error(&one.get(&path), 404, "M_NOT_FOUND");
    let body = json!({"devices": [three.device_id, four.device_id, "NONE"]});
    let deleted = one.request_with_password(Method::POST, DELETE_DEVICES, body);
    assert_eq!(deleted, (200, json!({})));
    assert!(
        ![two, three, four]
            .iter()
            .any(|device| device.is_logged_in())
    );
    assert!(one.is_logged_in());
}

#[test]
fn deletion_without_a_body_starts_authentication() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = format!("{DEVICES}/{}", alice.device_id);
    let (status, challenge) = alice.request(Method::DELETE, &path, Value::Null);
    assert_eq!(status, 401);
    let body = json!({"auth": alice.password_auth(&challenge["session"])});
    assert_eq!(alice.delete(&path, body).0, 200);
    assert!(!alice.is_logged_in());
}

#[test]
fn wrong_password_deletes_nothing_and_the_session_allows_a_retry() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let bob = server.register("bob");
    let body = json!({"devices": [alice.device_id]});
    let (_, challenge) = alice.post(DELETE_DEVICES, body.clone());
    let attempt = |user: &str, password: &str| {
        let mut body = body.clone();
        body["auth"] = json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
            "session": challenge["session"],
        });
        alice.post(DELETE_DEVICES, body)
    };
    // Neither a wrong password nor the password of another user is accepted.
    for (user, password) in [("alice", "wrong password"), ("bob", PASSWORD)] {
        let response = attempt(user, password);
        expect_error(&response, 401, "M_FORBIDDEN");
        assert_eq!(response.1["session"], challenge["session"]);
        assert_eq!(response.1["flows"], challenge["flows"]);
    }
    assert!(alice.is_logged_in() && bob.is_logged_in());
    assert_eq!(attempt("@alice:localhost", PASSWORD).0, 200);
    assert!(!alice.is_logged_in());
}

#[test]
fn authentication_is_no_way_to_guess_the_passwords_of_others() {
    let server = TestServer::new();
    let alice = server.register("alice");
    server.register("bob");
    let mut body = json!({"devices": [alice.device_id]});
    let (_, challenge) = alice.post(DELETE_DEVICES, body.clone());
    // More than the wrong passwords that a device may enter, and all with one answer.
    let mut answers = HashSet::new();
    for n in 0..20 {
        body["auth"] = json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "bob"},
            "password": if n % 2 == 0 { PASSWORD } else { "wrong password" },
            "session": challenge["session"],
        });
        let (status, answer) = alice.post(DELETE_DEVICES, body.clone());
        answers.insert((status, answer.to_string()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    body["auth"] = alice.password_auth(&challenge["session"]);
    assert_eq!(alice.post(DELETE_DEVICES, body).0, 200);
}

#[test]
fn authentication_session_is_bound_to_its_request() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let other = server.log_in("alice");
    let bob = server.register("bob");
    let body = json!({"devices": ["NONE"]});
    let (_, challenge) = alice.post(DELETE_DEVICES, body.clone());
    let session = &challenge["session"];
    let complete = json!({"devices": ["NONE"], "auth": alice.password_auth(session)});
    assert_eq!(alice.post(DELETE_DEVICES, complete).0, 200);
    let again = json!({"devices": ["NONE"], "auth": {"session": session}});
    expect_error(
        &alice.post(DELETE_DEVICES, again.clone()),
        401,
        "M_FORBIDDEN",
    );
    let (_, challenge) = alice.post(DELETE_DEVICES, body);
    let session = &challenge["session"];
    let changed = json!({"devices": [other.device_id], "auth": {"session": session}});
    expect_error(&alice.post(DELETE_DEVICES, changed), 401, "M_FORBIDDEN");
    let path = format!("{DEVICES}/{}", other.device_id);
    let other_request = json!({"auth": {"session": session}});
    expect_error(&alice.delete(&path, other_request), 401, "M_FORBIDDEN");
    expect_error(&bob.post(DELETE_DEVICES, again), 401, "M_FORBIDDEN");
    assert!(other.is_logged_in());
}

#[test]
fn password_stage_accepts_the_deprecated_user_field() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let body = json!({"devices": [alice.device_id]});
    let (_, challenge) = alice.post(DELETE_DEVICES, body.clone());
    let mut body = body;
    body["auth"] = json!({
        "type": "m.login.password",
        "user": "alice",
        "password": PASSWORD,
        "session": challenge["session"],
    });
    assert_eq!(alice.post(DELETE_DEVICES, body).0, 200);
}

#[test]
fn password_stage_rejects_a_third_party_identifier() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let body = json!({
        "devices": [],
        "auth": {
            "type": "m.login.password",
            "identifier": {"type": "m.id.thirdparty", "medium": "email", "address": "a@b.c"},
            "password": PASSWORD,
        },
    });
    expect_error(&alice.post(DELETE_DEVICES, body), 403, "M_FORBIDDEN");
}

#[test]
fn last_seen_ip_of_a_device_is_recorded() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = format!("{DEVICES}/{}", alice.device_id);
    alice.get(&path);
    // The address is written with the next commit.
    server.register("bob");
    assert_eq!(alice.get(&path).1["last_seen_ip"], "127.0.0.1");
}

#[test]
fn body_of_delete_devices_is_validated() {
    let server = TestServer::new();
    let alice = server.register("alice");
    expect_error(&alice.post(DELETE_DEVICES, json!([])), 400, "M_BAD_JSON");
    expect_error(
        &alice.post(DELETE_DEVICES, json!({})),
        400,
        "M_MISSING_PARAM",
    );
    let request = Request::post(DELETE_DEVICES)
        .header("authorization", format!("Bearer {}", alice.token))
        .body(b"{\"devices\":".to_vec())
        .unwrap();
    expect_error(&parse(&server.respond(request)), 400, "M_NOT_JSON");
}

#[test]
fn a_completed_authentication_serves_once_and_only_the_devices_that_it_was_begun_for() {
    let server = TestServer::new();
    let one = server.register("alice");
    let same_id = json!({ "device_id": "SAME" });
    let log_in = || server.user_from_login(&server.log_in_with("alice", same_id.clone()).1);
    let other = server.log_in("alice");
    let path = format!("{DEVICES}/SAME");
    log_in();
    let (_, challenge) = one.delete(&path, json!({}));
    let auth = one.password_auth(&challenge["session"]);
    let of_another = format!("{DEVICES}/{}", other.device_id);
    let (status, refused) = one.delete(&of_another, json!({ "auth": &auth }));
    assert_eq!((status, &refused["errcode"]), (401, &json!("M_FORBIDDEN")));
    assert!(other.is_logged_in());
    assert_eq!(
        one.delete(&path, json!({ "auth": &auth })),
        (200, json!({}))
    );
    // A device of that name is there again.
    let again = log_in();
    for auth in [json!({ "session": challenge["session"] }), auth] {
        assert_eq!(one.delete(&path, json!({ "auth": auth })).0, 401);
    }
    assert!(again.is_logged_in());
}

#[test]
fn a_login_with_too_long_a_device_name_or_id_is_refused() {
    let server = TestServer::new();
    server.register("alice");
    for field in ["initial_device_display_name", "device_id"] {
        for (length, expected) in [(255, 200), (256, 400)] {
            let (status, answer) =
                server.log_in_with("alice", json!({ field: "x".repeat(length) }));
            assert_eq!(status, expected, "{field} {answer}");
        }
    }
}
