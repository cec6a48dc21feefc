use std::time::Duration;

use http::{Method, Request};
use serde_json::{Value, json};

use crate::test_server::{JsonResponse, PASSWORD, TestServer, expect_error};

const LOGIN: &str = "/_matrix/client/v3/login";

fn login(server: &TestServer, body: Value) -> JsonResponse {
    server.request(Method::POST, LOGIN, body)
}

fn by_password(user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
    })
}

#[test]
fn login_flows_are_listed() {
    let server = TestServer::new();
    let (status, body) = server.get(LOGIN);
    assert_eq!(status, 200);
    assert_eq!(
        body["flows"],
        json!([
            {"type": "m.login.password"},
            {"type": "m.login.token", "get_login_token": true},
        ])
    );
}

#[test]
fn login_accepts_user_id_or_localpart_in_any_case() {
    let server = TestServer::new();
    let first = server.register("alice");
    for user in ["alice", "Alice", "@alice:localhost", "@ALICE:localhost"] {
        let (status, body) = login(&server, by_password(user, PASSWORD));
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["user_id"], "@alice:localhost");
        assert_ne!(body["device_id"], json!(first.device_id));
        assert!(server.user_from_login(&body).is_logged_in());
    }
    assert!(first.is_logged_in());
}

#[test]
fn login_accepts_the_deprecated_user_field() {
    let server = TestServer::new();
    server.register("alice");
    let body = json!({"type": "m.login.password", "user": "alice", "password": PASSWORD});
    assert_eq!(login(&server, body).0, 200);
}

#[test]
fn unknown_user_and_wrong_password_get_the_same_error() {
    let server = TestServer::new();
    server.register("alice");
    let responses = [
        login(&server, by_password("alice", "wrong password")),
        login(&server, by_password("nobody", PASSWORD)),
        login(&server, by_password("@alice:elsewhere.org", PASSWORD)),
        login(&server, by_password("alice", &"x".repeat(2000))),
    ];
    expect_error(&responses[0], 403, "M_FORBIDDEN");
    for response in &responses[1..] {
        assert_eq!(*response, responses[0]);
    }
}

#[test]
fn invalid_login_requests_are_rejected() {
    let server = TestServer::new();
    server.register("alice");
    let phone_identifier = json!({"type": "m.id.phone", "country": "GB", "phone": "07700900001"});
    let email_identifier =
        json!({"type": "m.id.thirdparty", "medium": "email", "address": "a@b.c"});
    for (body, status, errcode) in [
        (json!({}), 400, "M_MISSING_PARAM"),
        (json!([]), 400, "M_BAD_JSON"),
        (json!({"type": 3}), 400, "M_MISSING_PARAM"),
        (json!({"type": "m.login.magic"}), 400, "M_UNKNOWN"),
        (
            json!({"type": "m.login.password", "password": PASSWORD}),
            400,
            "M_MISSING_PARAM",
        ),
        (
            json!({"type": "m.login.password", "user": "alice"}),
            400,
            "M_MISSING_PARAM",
        ),
        (
            json!({"type": "m.login.password", "password": PASSWORD, "identifier": phone_identifier}),
            403,
            "M_FORBIDDEN",
        ),
        (
            json!({"type": "m.login.password", "password": PASSWORD, "identifier": email_identifier}),
            403,
            "M_FORBIDDEN",
        ),
        (
            json!({"type": "m.login.application_service", "user": "alice"}),
            403,
            "M_FORBIDDEN",
        ),
        (
            json!({"type": "m.login.token", "token": "hthl_no"}),
            403,
            "M_FORBIDDEN",
        ),
    ] {
        expect_error(&login(&server, body), status, errcode);
    }
    let mut long = by_password("alice", PASSWORD);
    long["device_id"] = json!("x".repeat(256));
    expect_error(&login(&server, long), 400, "M_INVALID_PARAM");
}

#[test]
fn login_with_an_existing_device_id_invalidates_its_old_token() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let mut body = by_password("alice", PASSWORD);
    body["device_id"] = json!(alice.device_id);
    body["initial_device_display_name"] = json!("ignored");
    let (_, body) = login(&server, body);
    assert_eq!(body["device_id"], json!(alice.device_id));
    assert!(!alice.is_logged_in());
    let user = server.user_from_login(&body);
    let (_, devices) = user.get("/_matrix/client/v3/devices");
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    assert!(
        devices["devices"][0]
            .get("display_name")
            .is_none_or(Value::is_null)
    );
}

#[test]
fn access_tokens_survive_restart() {
    let mut server = TestServer::new();
    let token = server.register("alice").token;
    server.restart();
    let user = server.user_with_token(&token);
    assert_eq!(user.user_id, "@alice:localhost");
}

#[test]
fn missing_and_unknown_tokens_get_different_errors() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let whoami = "/_matrix/client/v3/account/whoami";
    expect_error(&server.get(whoami), 401, "M_MISSING_TOKEN");
    assert_eq!(alice.post("/_matrix/client/v3/logout", Value::Null).0, 200);
    let response = alice.get(whoami);
    expect_error(&response, 401, "M_UNKNOWN_TOKEN");
    assert_ne!(response.1["soft_logout"], true);
}

#[test]
fn logout_ends_one_device_and_logout_all_every_device() {
    let server = TestServer::new();
    let one = server.register("alice");
    let (two, three) = (server.log_in("alice"), server.log_in("alice"));
    let bob = server.register("bob");
    assert_eq!(
        two.post("/_matrix/client/v3/logout", json!({})),
        (200, json!({}))
    );
    assert!(!two.is_logged_in() && one.is_logged_in() && three.is_logged_in());
    let (_, devices) = one.get("/_matrix/client/v3/devices");
    assert_eq!(devices["devices"].as_array().unwrap().len(), 2);
    assert_eq!(
        one.post("/_matrix/client/v3/logout/all", Value::Null),
        (200, json!({}))
    );
    assert!(!one.is_logged_in() && !three.is_logged_in());
    assert!(bob.is_logged_in());
}

#[test]
fn login_token_logs_in_a_new_device_once() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = "/_matrix/client/v1/login/get_token";
    let (status, token_response) = alice.request_with_password(Method::POST, path, json!({}));
    assert_eq!(status, 200, "{token_response}");
    assert_eq!(token_response["expires_in_ms"], 120_000);
    let body = json!({"type": "m.login.token", "token": token_response["login_token"]});
    let (status, login_response) = login(&server, body.clone());
    assert_eq!(status, 200, "{login_response}");
    let new = server.user_from_login(&login_response);
    assert_eq!(new.user_id, alice.user_id);
    assert_ne!(new.device_id, alice.device_id);
    expect_error(&login(&server, body), 403, "M_FORBIDDEN");
}

#[test]
fn login_token_expires_after_two_minutes() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = "/_matrix/client/v1/login/get_token";
    let (_, token_response) = alice.request_with_password(Method::POST, path, json!({}));
    server.clock.advance(Duration::from_mins(2));
    let body = json!({"type": "m.login.token", "token": token_response["login_token"]});
    expect_error(&login(&server, body), 403, "M_FORBIDDEN");
}

#[test]
fn each_login_token_requires_a_new_authentication() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = "/_matrix/client/v1/login/get_token";
    let (_, challenge) = alice.post(path, json!({}));
    let body = json!({"auth": alice.password_auth(&challenge["session"])});
    assert_eq!(alice.post(path, body).0, 200);
    let user = json!({"auth": {"session": challenge["session"]}});
    expect_error(&alice.post(path, user), 401, "M_FORBIDDEN");
}

/// The status of a login of `user` from an address that a proxy gives.
fn log_in_from(server: &TestServer, address: &str, user: &str, password: &str) -> u16 {
    let body = by_password(user, password).to_string().into_bytes();
    let request = Request::post(LOGIN).header("x-forwarded-for", address);
    let response = server.respond(request.body(body).unwrap());
    response.status().as_u16()
}

fn with_rate_limits() -> TestServer {
    let server = TestServer::with("registration = \"open\"\nrate_limits = true");
    server.register("alice");
    server
}

#[test]
fn wrong_passwords_are_limited_per_network_and_account_however_named() {
    let server = with_rate_limits();
    let names = ["alice", "@alice:localhost", "ALICE"].iter().cycle();
    let statuses: Vec<u16> = names
        .take(13)
        .map(|name| log_in_from(&server, "192.0.2.1", name, "wrong password"))
        .collect();
    assert_eq!(statuses[..10], [403; 10]);
    assert_eq!(statuses[10..], [429; 3]);
    assert_eq!(log_in_from(&server, "192.0.2.1", "alice", PASSWORD), 429);
    assert_eq!(log_in_from(&server, "192.0.2.2", "alice", PASSWORD), 200);
    server.clock.advance(Duration::from_mins(5));
    assert_eq!(log_in_from(&server, "192.0.2.1", "alice", PASSWORD), 200);
}

#[test]
fn right_passwords_are_not_counted() {
    let server = with_rate_limits();
    for network in 0..=100 {
        let address = format!("192.0.2.{network}");
        let status = log_in_from(&server, &address, "alice", PASSWORD);
        assert_eq!(status, 200, "{address}");
    }
}

#[test]
fn wrong_passwords_from_everywhere_lock_nobody_out_of_a_network_where_they_have_logged_in() {
    let mut server = with_rate_limits();
    let home = "2001:db8:1:2::3";
    assert_eq!(log_in_from(&server, home, "alice", PASSWORD), 200);
    server.restart();
    let mut wrong = 0;
    let mut guesses = (0..30).flat_map(|network| [network; 4]);
    let is_limited = guesses.any(|network| {
        wrong += 1;
        let address = format!("192.0.2.{network}");
        log_in_from(&server, &address, "alice", "a guess") == 429
    });
    assert!(is_limited);
    assert_eq!(wrong, 101, "a hundred of them in an hour");
    let elsewhere = "198.51.100.1";
    assert_eq!(log_in_from(&server, elsewhere, "alice", PASSWORD), 429);
    let neighbour = "2001:db8:1:2::4";
    assert_eq!(log_in_from(&server, neighbour, "alice", PASSWORD), 200);
    for _ in 0..12 {
        assert_eq!(log_in_from(&server, home, "alice", "mistyped"), 403);
    }
    assert_eq!(log_in_from(&server, home, "alice", PASSWORD), 200);
    server.clock.advance(Duration::from_hours(1));
    assert_eq!(log_in_from(&server, elsewhere, "alice", PASSWORD), 200);
}
