use http::Method;
use serde_json::{Value, json};
use smol::future::zip;

use crate::home::{Answer, Home, PASSWORD, refused};

const REFRESH: &str = "/_matrix/client/v3/refresh";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn log_in(home: &Home) -> Value {
    home.register("alice");
    let (status, login) = home.ask(
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

fn refresh(home: &Home, login: &Value) -> Answer {
    let body = json!({"refresh_token": login["refresh_token"]});
    home.ask(Method::POST, REFRESH, body)
}

fn use_token(home: &Home, login: &Value) -> Answer {
    let token = login["access_token"].as_str();
    home.run(home.send(Method::GET, WHOAMI, token, &Value::Null))
}

#[test]
fn a_token_that_ran_out_is_a_soft_logout_and_is_renewed() {
    let home = Home::new();
    let old = log_in(&home);
    let lifetime = old["expires_in_ms"].as_u64().unwrap();
    home.clock
        .advance(std::time::Duration::from_millis(lifetime));
    let answer = use_token(&home, &old);
    refused(&answer, 401, "M_UNKNOWN_TOKEN");
    assert_eq!(answer.1["soft_logout"], true);

    let (status, new) = refresh(&home, &old);
    assert_eq!(status, 200, "{new}");
    assert!(new["expires_in_ms"].is_u64());
    assert_ne!(new["refresh_token"], old["refresh_token"]);
    let (status, who) = use_token(&home, &new);
    assert_eq!(status, 200);
    assert_eq!(who["device_id"], old["device_id"]);
}

#[test]
fn the_old_refresh_token_works_until_the_new_tokens_are_used() {
    let home = Home::new();
    let old = log_in(&home);
    assert_eq!(refresh(&home, &old).0, 200);
    let (_, new) = refresh(&home, &old);
    assert_eq!(use_token(&home, &new).0, 200);
    refused(&refresh(&home, &old), 401, "M_UNKNOWN_TOKEN");
    refused(&use_token(&home, &old), 401, "M_UNKNOWN_TOKEN");
    let (_, newer) = refresh(&home, &new);
    let (_, newest) = refresh(&home, &newer);
    refused(&refresh(&home, &new), 401, "M_UNKNOWN_TOKEN");
    assert_eq!(use_token(&home, &newest).0, 200);
}

#[test]
fn of_two_refreshes_at_once_neither_leaves_the_client_logged_out() {
    let home = Home::new();
    let old = log_in(&home);
    let body = json!({"refresh_token": old["refresh_token"]});
    let send = || home.send(Method::POST, REFRESH, None, &body);
    let ((_, one), (_, two)) = home.run(zip(send(), send()));
    assert_ne!(one["access_token"], two["access_token"]);
    assert_eq!(use_token(&home, &one).0, 200);
    assert_eq!(use_token(&home, &two).0, 200);
    refused(&refresh(&home, &old), 401, "M_UNKNOWN_TOKEN");
}

#[test]
fn a_refresh_survives_a_restart() {
    let mut home = Home::new();
    let old = log_in(&home);
    let (_, new) = refresh(&home, &old);
    home.restart();
    assert_eq!(use_token(&home, &new).0, 200);
    home.restart();
    refused(&refresh(&home, &old), 401, "M_UNKNOWN_TOKEN");
    assert_eq!(refresh(&home, &new).0, 200);
}

#[test]
fn a_token_that_never_was_cannot_be_refreshed() {
    let home = Home::new();
    let login = log_in(&home);
    let answer = refresh(&home, &json!({"refresh_token": login["access_token"]}));
    refused(&answer, 401, "M_UNKNOWN_TOKEN");
    let answer = home.ask(Method::POST, REFRESH, json!({}));
    refused(&answer, 400, "M_MISSING_PARAM");
}
