use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::home::{Answer, Home, PASSWORD, refused};

const LOGIN: &str = "/_matrix/client/v3/login";

fn log_in(home: &Home, body: Value) -> Answer {
    home.ask(Method::POST, LOGIN, body)
}

fn by_password(user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
    })
}

#[test]
fn clients_are_told_how_to_log_in() {
    let home = Home::new();
    let (status, body) = home.ask(Method::GET, LOGIN, Value::Null);
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
fn a_user_logs_in_by_id_or_localpart_in_any_case() {
    let home = Home::new();
    let first = home.register("alice");
    for user in ["alice", "Alice", "@alice:localhost", "@ALICE:localhost"] {
        let (status, body) = log_in(&home, by_password(user, PASSWORD));
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["user_id"], "@alice:localhost");
        assert_ne!(body["device_id"], json!(first.device_id));
        assert!(home.person(&body).is_logged_in());
    }
    assert!(first.is_logged_in());
}

#[test]
fn older_clients_name_the_user_without_an_identifier() {
    let home = Home::new();
    home.register("alice");
    let body = json!({"type": "m.login.password", "user": "alice", "password": PASSWORD});
    assert_eq!(log_in(&home, body).0, 200);
}

#[test]
fn a_wrong_name_and_a_wrong_password_look_alike() {
    let home = Home::new();
    home.register("alice");
    let answers = [
        log_in(&home, by_password("alice", "wrong password")),
        log_in(&home, by_password("nobody", PASSWORD)),
        log_in(&home, by_password("@alice:elsewhere.org", PASSWORD)),
        log_in(&home, by_password("alice", &"x".repeat(2000))),
    ];
    refused(&answers[0], 403, "M_FORBIDDEN");
    for answer in &answers[1..] {
        assert_eq!(*answer, answers[0]);
    }
}

#[test]
fn what_is_no_login_is_told_so() {
    let home = Home::new();
    home.register("alice");
    let phone = json!({"type": "m.id.phone", "country": "GB", "phone": "07700900001"});
    let mail = json!({"type": "m.id.thirdparty", "medium": "email", "address": "a@b.c"});
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
            json!({"type": "m.login.password", "password": PASSWORD, "identifier": phone}),
            403,
            "M_FORBIDDEN",
        ),
        (
            json!({"type": "m.login.password", "password": PASSWORD, "identifier": mail}),
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
        refused(&log_in(&home, body), status, errcode);
    }
    let mut long = by_password("alice", PASSWORD);
    long["device_id"] = json!("x".repeat(256));
    refused(&log_in(&home, long), 400, "M_INVALID_PARAM");
}

#[test]
fn a_login_on_a_known_device_ends_its_old_token() {
    let home = Home::new();
    let alice = home.register("alice");
    let mut body = by_password("alice", PASSWORD);
    body["device_id"] = json!(alice.device_id);
    body["initial_device_display_name"] = json!("ignored");
    let (_, body) = log_in(&home, body);
    assert_eq!(body["device_id"], json!(alice.device_id));
    assert!(!alice.is_logged_in());
    let again = home.person(&body);
    let (_, devices) = again.get("/_matrix/client/v3/devices");
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    assert!(
        devices["devices"][0]
            .get("display_name")
            .is_none_or(Value::is_null)
    );
}

#[test]
fn tokens_survive_a_restart() {
    let mut home = Home::new();
    let token = home.register("alice").token;
    home.restart();
    let whoami = "/_matrix/client/v3/account/whoami";
    let (status, body) = home.run(home.send(Method::GET, whoami, Some(&token), &Value::Null));
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["user_id"], "@alice:localhost");
}

#[test]
fn a_token_that_is_missing_or_dead_is_told_so() {
    let home = Home::new();
    let alice = home.register("alice");
    let whoami = "/_matrix/client/v3/account/whoami";
    refused(
        &home.ask(Method::GET, whoami, Value::Null),
        401,
        "M_MISSING_TOKEN",
    );
    assert_eq!(alice.post("/_matrix/client/v3/logout", Value::Null).0, 200);
    let answer = alice.get(whoami);
    refused(&answer, 401, "M_UNKNOWN_TOKEN");
    assert_ne!(answer.1["soft_logout"], true);
}

#[test]
fn logging_out_ends_one_device_or_all() {
    let home = Home::new();
    let one = home.register("alice");
    let (two, three) = (home.log_in("alice"), home.log_in("alice"));
    let bob = home.register("bob");
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
fn a_client_can_let_in_another_one() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = "/_matrix/client/v1/login/get_token";
    let (status, given) = alice.ask_with_password(Method::POST, path, json!({}));
    assert_eq!(status, 200, "{given}");
    assert_eq!(given["expires_in_ms"], 120_000);
    let body = json!({"type": "m.login.token", "token": given["login_token"]});
    let (status, made) = log_in(&home, body.clone());
    assert_eq!(status, 200, "{made}");
    let new = home.person(&made);
    assert_eq!(new.user_id, alice.user_id);
    assert_ne!(new.device_id, alice.device_id);
    refused(&log_in(&home, body), 403, "M_FORBIDDEN");
}

#[test]
fn a_login_token_ends_after_two_minutes() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = "/_matrix/client/v1/login/get_token";
    let (_, given) = alice.ask_with_password(Method::POST, path, json!({}));
    home.clock.advance(Duration::from_mins(2));
    let body = json!({"type": "m.login.token", "token": given["login_token"]});
    refused(&log_in(&home, body), 403, "M_FORBIDDEN");
}

#[test]
fn each_login_token_needs_its_own_consent() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = "/_matrix/client/v1/login/get_token";
    let (_, asked) = alice.post(path, json!({}));
    let body = json!({"auth": alice.password_stage(&asked["session"])});
    assert_eq!(alice.post(path, body).0, 200);
    let again = json!({"auth": {"session": asked["session"]}});
    refused(&alice.post(path, again), 401, "M_FORBIDDEN");
}

#[test]
fn guessing_a_password_is_slowed_down_however_the_user_is_named() {
    let home = Home::with("registration = \"open\"\nrate_limits = true");
    home.register("alice");
    let names = ["alice", "@alice:localhost", "ALICE"].iter().cycle();
    let statuses: Vec<u16> = names
        .take(13)
        .map(|name| log_in(&home, by_password(name, "wrong password")).0)
        .collect();
    assert_eq!(statuses[..10], [403; 10]);
    assert_eq!(statuses[10..], [429; 3]);
    home.clock.advance(Duration::from_mins(5));
    assert_eq!(log_in(&home, by_password("alice", PASSWORD)).0, 200);
}
