use http::Method;
use serde_json::{Value, json};
use smol::future::zip;

use crate::test_server::{JsonResponse, PASSWORD, TestServer, expect_error};

const REFRESH: &str = "/_matrix/client/v3/refresh";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn log_in(server: &TestServer) -> Value {
    server.register("alice");
    let (status, login) = server.request(
        Method::POST,
        "/_matrix/client/v3/login",
        json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": PASSWORD,
            "refresh_token": true,
        }),
    );
    assert_eq!(status, 200, "{login}");
    login
}

fn refresh(server: &TestServer, login: &Value) -> JsonResponse {
    let body = json!({"refresh_token": login["refresh_token"]});
    server.request(Method::POST, REFRESH, body)
}

fn whoami_with(server: &TestServer, login: &Value) -> JsonResponse {
    let token = login["access_token"].as_str();
    server.run(server.send(Method::GET, WHOAMI, token, &Value::Null))
}

#[test]
fn expired_access_token_is_a_soft_logout_and_can_be_refreshed() {
    let server = TestServer::new();
    let old = log_in(&server);
    let lifetime = old["expires_in_ms"].as_u64().unwrap();
    server
        .clock
        .advance(std::time::Duration::from_millis(lifetime));
    let response = whoami_with(&server, &old);
    expect_error(&response, 401, "M_UNKNOWN_TOKEN");
    assert_eq!(response.1["soft_logout"], true);

    let (status, new) = refresh(&server, &old);
    assert_eq!(status, 200, "{new}");
    assert!(new["expires_in_ms"].is_u64());
    assert_ne!(new["refresh_token"], old["refresh_token"]);
    let (status, whoami) = whoami_with(&server, &new);
    assert_eq!(status, 200);
    assert_eq!(whoami["device_id"], old["device_id"]);
}

#[test]
fn old_refresh_token_is_valid_until_the_new_tokens_are_used() {
    let server = TestServer::new();
    let old = log_in(&server);
    assert_eq!(refresh(&server, &old).0, 200);
    let (_, new) = refresh(&server, &old);
    assert_eq!(whoami_with(&server, &new).0, 200);
    expect_error(&refresh(&server, &old), 401, "M_UNKNOWN_TOKEN");
    expect_error(&whoami_with(&server, &old), 401, "M_UNKNOWN_TOKEN");
    let (_, newer) = refresh(&server, &new);
    let (_, newest) = refresh(&server, &newer);
    expect_error(&refresh(&server, &new), 401, "M_UNKNOWN_TOKEN");
    assert_eq!(whoami_with(&server, &newest).0, 200);
}

#[test]
fn concurrent_refreshes_both_return_valid_tokens() {
    let server = TestServer::new();
    let old = log_in(&server);
    let body = json!({"refresh_token": old["refresh_token"]});
    let send = || server.send(Method::POST, REFRESH, None, &body);
    let ((_, one), (_, two)) = server.run(zip(send(), send()));
    assert_ne!(one["access_token"], two["access_token"]);
    assert_eq!(whoami_with(&server, &one).0, 200);
    assert_eq!(whoami_with(&server, &two).0, 200);
    expect_error(&refresh(&server, &old), 401, "M_UNKNOWN_TOKEN");
}

#[test]
fn refreshed_tokens_survive_restart() {
    let mut server = TestServer::new();
    let old = log_in(&server);
    let (_, new) = refresh(&server, &old);
    server.restart();
    assert_eq!(whoami_with(&server, &new).0, 200);
    server.restart();
    expect_error(&refresh(&server, &old), 401, "M_UNKNOWN_TOKEN");
    assert_eq!(refresh(&server, &new).0, 200);
}

#[test]
fn unknown_refresh_token_is_rejected() {
    let server = TestServer::new();
    let login = log_in(&server);
    let response = refresh(&server, &json!({"refresh_token": login["access_token"]}));
    expect_error(&response, 401, "M_UNKNOWN_TOKEN");
    let response = server.request(Method::POST, REFRESH, json!({}));
    expect_error(&response, 400, "M_MISSING_PARAM");
}
