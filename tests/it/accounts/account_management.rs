use http::Method;
use serde_json::json;

use crate::test_server::{JsonResponse, PASSWORD, TestServer, expect_error};

const PASSWORD_PATH: &str = "/_matrix/client/v3/account/password";
const DEACTIVATE: &str = "/_matrix/client/v3/account/deactivate";
const NEW: &str = "a better password";

fn log_in(server: &TestServer, user: &str, password: &str) -> JsonResponse {
    server.request(
        Method::POST,
        "/_matrix/client/v3/login",
        json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
        }),
    )
}

#[test]
fn password_change_logs_out_other_devices() {
    let server = TestServer::new();
    let current_device = server.register("alice");
    let other_device = server.log_in("alice");
    let body = json!({"new_password": NEW});
    let changed = current_device.request_with_password(Method::POST, PASSWORD_PATH, body);
    assert_eq!(changed, (200, json!({})));
    assert!(current_device.is_logged_in());
    assert!(!other_device.is_logged_in());
    expect_error(&log_in(&server, "alice", PASSWORD), 403, "M_FORBIDDEN");
    assert_eq!(log_in(&server, "alice", NEW).0, 200);
}

#[test]
fn password_change_keeps_other_devices_if_requested() {
    let server = TestServer::new();
    let current_device = server.register("alice");
    let other_device = server.log_in("alice");
    let body = json!({"new_password": NEW, "logout_devices": false});
    let changed = current_device.request_with_password(Method::POST, PASSWORD_PATH, body);
    assert_eq!(changed.0, 200);
    assert!(current_device.is_logged_in() && other_device.is_logged_in());
}

#[test]
fn password_change_requires_an_access_token_and_a_strong_password() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for (body, errcode) in [
        (json!({"new_password": "short"}), "M_WEAK_PASSWORD"),
        (json!({}), "M_MISSING_PARAM"),
    ] {
        expect_error(&alice.post(PASSWORD_PATH, body), 400, errcode);
    }
    let response = server.request(Method::POST, PASSWORD_PATH, json!({"new_password": NEW}));
    expect_error(&response, 401, "M_MISSING_TOKEN");
    assert_eq!(log_in(&server, "alice", PASSWORD).0, 200);
}

#[test]
fn deactivated_account_can_neither_log_in_nor_register_again() {
    let mut server = TestServer::new();
    {
        let alice = server.register("alice");
        let other = server.log_in("alice");
        let (status, body) = alice.request_with_password(Method::POST, DEACTIVATE, json!({}));
        assert_eq!(
            (status, body),
            (200, json!({"id_server_unbind_result": "success"}))
        );
        assert!(!alice.is_logged_in() && !other.is_logged_in());
    }
    server.restart();
    expect_error(&log_in(&server, "alice", PASSWORD), 403, "M_FORBIDDEN");
    let again = server.request(
        Method::POST,
        "/_matrix/client/v3/register",
        json!({"username": "alice", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}),
    );
    expect_error(&again, 400, "M_USER_IN_USE");
    let response = server.request(Method::POST, DEACTIVATE, json!({}));
    expect_error(&response, 401, "M_MISSING_TOKEN");
}

#[test]
fn erase_deletes_the_profile() {
    let server = TestServer::new();
    for (name, erase, expected) in [("alice", false, 200), ("bob", true, 404)] {
        let person = server.register(name);
        let path = format!("/_matrix/client/v3/profile/{}/displayname", person.user_id);
        person.put(&path, json!({"displayname": name}));
        let body = json!({"erase": erase});
        assert_eq!(
            person
                .request_with_password(Method::POST, DEACTIVATE, body)
                .0,
            200
        );
        assert_eq!(server.get(&path).0, expected);
    }
}

#[test]
fn account_has_no_third_party_identifiers() {
    let server = TestServer::new();
    let alice = server.register("alice");
    assert_eq!(
        alice.get("/_matrix/client/v3/account/3pid"),
        (200, json!({"threepids": []}))
    );
}

#[test]
fn passwords_and_tokens_are_neither_returned_nor_stored_in_plain_text() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let mut responses = String::new();
    for path in ["account/whoami", "devices", "profile/@alice:localhost"] {
        responses += &alice
            .get(&format!("/_matrix/client/v3/{path}"))
            .1
            .to_string();
    }
    assert!(!responses.contains("argon2") && !responses.contains(PASSWORD));
    let file = std::fs::read(server.directory().join("data/hearth.redb")).unwrap();
    let holds = |text: &str| file.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("@alice:localhost"));
    assert!(!holds(PASSWORD));
    assert!(!holds(&alice.token));
}

#[test]
fn another_stage_than_the_password_does_not_confirm_an_operation() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let body = json!({"new_password": NEW});
    let (_, challenge) = alice.post(PASSWORD_PATH, body.clone());
    for stage in ["m.login.dummy", "m.login.registration_token", "m.login.x"] {
        for session in [json!(null), challenge["session"].clone()] {
            let mut body = body.clone();
            body["auth"] = json!({"type": stage, "token": "x"});
            if !session.is_null() {
                body["auth"]["session"] = session;
            }
            let (status, answer) = alice.post(PASSWORD_PATH, body);
            assert_eq!(status, 401, "{answer}");
            assert_eq!(answer["completed"], json!(null), "{answer}");
        }
    }
    assert_eq!(log_in(&server, "alice", PASSWORD).0, 200);
}

#[test]
fn wrong_passwords_of_a_device_are_limited() {
    let server = TestServer::with("registration = \"open\"\nrate_limits = true");
    let alice = server.register("alice");
    let guess = |password: &str| {
        let mut body = json!({"new_password": NEW, "auth": alice.password_auth(&json!(null))});
        body["auth"]["password"] = password.into();
        body["auth"]
            .as_object_mut()
            .expect("an object")
            .remove("session");
        alice.post(PASSWORD_PATH, body).0
    };
    for _ in 0..10 {
        assert_eq!(guess("a guess"), 401);
    }
    assert_eq!(guess("a guess"), 429);
    assert_eq!(guess(PASSWORD), 429);
}
