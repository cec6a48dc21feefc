use http::{Method, Request};
use serde_json::{Value, json};

use crate::home::{Answer, Home, PASSWORD, refused};

const REGISTER: &str = "/_matrix/client/v3/register";

fn register(home: &Home, body: Value) -> Answer {
    home.ask(Method::POST, REGISTER, body)
}

/// The body of a registration with everything but `auth`.
fn alice() -> Value {
    json!({"username": "alice", "password": PASSWORD})
}

fn with_auth(mut body: Value, auth: Value) -> Value {
    body["auth"] = auth;
    body
}

/// Begins a registration; gives the session.
fn begin(home: &Home, body: Value) -> String {
    let (status, asked) = register(home, body);
    assert_eq!(status, 401, "{asked}");
    asked["session"].as_str().unwrap().to_owned()
}

#[test]
fn an_account_is_made_after_the_dummy_stage() {
    let home = Home::new();
    let (status, asked) = register(&home, alice());
    assert_eq!(status, 401);
    assert_eq!(asked["flows"], json!([{"stages": ["m.login.dummy"]}]));
    assert_eq!(asked["params"], json!({}));
    assert!(asked.get("errcode").is_none());
    let auth = json!({"type": "m.login.dummy", "session": asked["session"]});
    let (status, made) = register(&home, with_auth(alice(), auth));
    assert_eq!(status, 200, "{made}");
    assert_eq!(made["user_id"], "@alice:localhost");
    assert!(made.get("refresh_token").is_none() && made.get("expires_in_ms").is_none());
    let alice = home.person(&made);
    let (_, who) = alice.get("/_matrix/client/v3/account/whoami");
    assert_eq!(
        who,
        json!({"user_id": "@alice:localhost", "device_id": made["device_id"]})
    );
}

#[test]
fn a_client_chooses_its_device_and_may_put_off_the_login() {
    let home = Home::new();
    let auth = json!({"type": "m.login.dummy"});
    let body = json!({
        "username": "alice",
        "password": PASSWORD,
        "device_id": "PHONE",
        "initial_device_display_name": "my phone",
        "refresh_token": true,
        "auth": auth,
    });
    let (_, made) = register(&home, body);
    assert_eq!(made["device_id"], "PHONE");
    assert!(made["refresh_token"].is_string() && made["expires_in_ms"].is_u64());
    let (_, device) = home.person(&made).get("/_matrix/client/v3/devices/PHONE");
    assert_eq!(device["display_name"], "my phone");

    let body = json!({"username": "bob", "password": PASSWORD, "inhibit_login": true});
    let (status, made) = register(&home, with_auth(body, auth));
    assert_eq!(status, 200);
    assert_eq!(made["user_id"], "@bob:localhost");
    assert!(made.get("access_token").is_none());
    assert!(made.get("device_id").is_none_or(Value::is_null));
    assert!(home.log_in("bob").is_logged_in());
}

#[test]
fn who_asks_for_no_name_gets_one() {
    let home = Home::new();
    let body = json!({"password": PASSWORD, "auth": {"type": "m.login.dummy"}});
    let names = [register(&home, body.clone()), register(&home, body)];
    assert!(names.iter().all(|(status, _)| *status == 200), "{names:?}");
    assert_ne!(names[0].1["user_id"], names[1].1["user_id"]);
}

#[test]
fn a_name_that_cannot_be_had_is_refused_before_any_stage() {
    let home = Home::new();
    home.register("alice");
    for (name, errcode) in [
        ("alice", "M_USER_IN_USE"),
        ("Alice", "M_USER_IN_USE"),
        ("ali ce", "M_INVALID_USERNAME"),
        ("älice", "M_INVALID_USERNAME"),
        ("", "M_INVALID_USERNAME"),
        ("@alice:localhost", "M_INVALID_USERNAME"),
        (&"a".repeat(250), "M_INVALID_USERNAME"),
        ("_bridge_alice", "M_EXCLUSIVE"),
        ("server", "M_EXCLUSIVE"),
    ] {
        let answer = register(&home, json!({"username": name, "password": PASSWORD}));
        refused(&answer, 400, errcode);
        let name = name.replace(' ', "%20");
        let path = format!("{REGISTER}/available?username={name}");
        refused(&home.ask(Method::GET, &path, Value::Null), 400, errcode);
    }
}

#[test]
fn a_free_name_is_available() {
    let home = Home::new();
    for path in [
        "/_matrix/client/v3/register/available?username=bob",
        "/_matrix/client/r0/register/available?username=Bob",
    ] {
        let answer = home.ask(Method::GET, path, Value::Null);
        assert_eq!(answer, (200, json!({"available": true})));
    }
    let answer = home.ask(
        Method::GET,
        "/_matrix/client/v3/register/available",
        Value::Null,
    );
    refused(&answer, 400, "M_MISSING_PARAM");
}

#[test]
fn capitals_are_made_small() {
    let home = Home::new();
    assert_eq!(home.register("ALICE").user_id, "@alice:localhost");
}

#[test]
fn a_weak_password_is_refused_before_any_stage() {
    let home = Home::new();
    for (password, errcode) in [
        ("short", "M_WEAK_PASSWORD"),
        ("aaaaaaaaaaa", "M_WEAK_PASSWORD"),
        (&"long password ".repeat(40), "M_INVALID_PARAM"),
    ] {
        let answer = register(&home, json!({"username": "alice", "password": password}));
        refused(&answer, 400, errcode);
    }
}

#[test]
fn guests_and_application_services_cannot_register() {
    let home = Home::new();
    let path = format!("{REGISTER}?kind=guest");
    refused(
        &home.ask(Method::POST, &path, json!({})),
        403,
        "M_FORBIDDEN",
    );
    let path = format!("{REGISTER}?kind=robot");
    refused(
        &home.ask(Method::POST, &path, json!({})),
        400,
        "M_INVALID_PARAM",
    );
    let body = json!({"type": "m.login.application_service", "username": "_bot"});
    refused(&register(&home, body), 403, "M_FORBIDDEN");
}

#[test]
fn a_closed_server_takes_no_registrations() {
    let home = Home::with("registration = \"closed\"");
    refused(&register(&home, alice()), 403, "M_FORBIDDEN");
    for path in [
        "/_matrix/client/v3/register/available?username=bob",
        "/_matrix/client/v1/register/m.login.registration_token/validity?token=a",
    ] {
        refused(
            &home.ask(Method::GET, path, Value::Null),
            403,
            "M_FORBIDDEN",
        );
    }
}

#[test]
fn where_a_token_is_needed_its_stage_comes_first() {
    let home = Home::with("registration = \"token\"\nregistration_token = \"let me in\"");
    let valid = |token: &str| {
        let path = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
        home.ask(Method::GET, &format!("{path}{token}"), Value::Null)
    };
    assert_eq!(valid("let%20me%20in"), (200, json!({"valid": true})));
    assert_eq!(valid("let"), (200, json!({"valid": false})));

    let (_, asked) = register(&home, alice());
    let stages = json!(["m.login.registration_token", "m.login.dummy"]);
    assert_eq!(asked["flows"], json!([{"stages": stages}]));
    let session = &asked["session"];
    let dummy = json!({"type": "m.login.dummy", "session": session});
    let token = |token: &str| {
        let auth = json!({
            "type": "m.login.registration_token",
            "token": token,
            "session": session,
        });
        register(&home, with_auth(alice(), auth))
    };

    let answer = register(&home, with_auth(alice(), dummy.clone()));
    refused(&answer, 401, "M_FORBIDDEN");
    let answer = token("let you in");
    refused(&answer, 401, "M_FORBIDDEN");
    assert!(answer.1.get("completed").is_none());
    assert_eq!(&answer.1["session"], session);

    let completed = json!(["m.login.registration_token"]);
    // A completed stage is not tried again.
    for attempt in ["let me in", "let you in"] {
        let (status, body) = token(attempt);
        assert_eq!(status, 401);
        assert_eq!(body["completed"], completed);
        assert!(body.get("errcode").is_none(), "{body}");
    }
    let (status, made) = register(&home, with_auth(alice(), dummy));
    assert_eq!(status, 200, "{made}");
}

#[test]
fn a_session_is_for_the_request_that_began_it() {
    let home = Home::with("registration = \"token\"\nregistration_token = \"let me in\"");
    let session = begin(&home, alice());
    let token = json!({
        "type": "m.login.registration_token",
        "token": "let me in",
        "session": session,
    });
    register(&home, with_auth(alice(), token));
    let dummy = json!({"type": "m.login.dummy", "session": session});
    for other in [
        json!({"username": "mallory", "password": PASSWORD}),
        json!({"username": "alice", "password": "another password"}),
        json!({}),
    ] {
        let answer = register(&home, with_auth(other, dummy.clone()));
        refused(&answer, 401, "M_FORBIDDEN");
        assert_ne!(answer.1["session"], json!(session), "it begins anew");
        assert!(answer.1.get("completed").is_none());
    }
    let (status, _) = register(&home, with_auth(alice(), dummy));
    assert_eq!(status, 200, "the session itself is untouched");
}

#[test]
fn a_session_ends_with_its_time_and_with_the_server() {
    let mut home = Home::new();
    let session = begin(&home, alice());
    home.clock.advance(std::time::Duration::from_mins(16));
    let auth = json!({"type": "m.login.dummy", "session": session});
    refused(
        &register(&home, with_auth(alice(), auth)),
        401,
        "M_FORBIDDEN",
    );
    let session = begin(&home, alice());
    home.restart();
    let auth = json!({"type": "m.login.dummy", "session": session});
    refused(
        &register(&home, with_auth(alice(), auth)),
        401,
        "M_FORBIDDEN",
    );
}

#[test]
fn an_empty_auth_is_none() {
    let home = Home::new();
    for auth in [json!({}), Value::Null] {
        let (status, asked) = register(&home, with_auth(alice(), auth));
        assert_eq!(status, 401, "{asked}");
        assert!(asked.get("errcode").is_none());
    }
}

#[test]
fn a_client_that_only_knows_its_session_is_told_where_it_stands() {
    let home = Home::new();
    let session = begin(&home, alice());
    let (status, body) = register(&home, with_auth(alice(), json!({"session": session})));
    assert_eq!((status, &body["session"]), (401, &json!(session)));
    assert!(body.get("errcode").is_none());
}

#[test]
fn a_registration_whose_answer_got_lost_is_answered_again() {
    let home = Home::new();
    let session = begin(&home, alice());
    let auth = json!({"type": "m.login.dummy", "session": session});
    let [one, two] = [(); 2].map(|()| {
        let (status, made) = register(&home, with_auth(alice(), auth.clone()));
        assert_eq!(status, 200, "{made}");
        home.person(&made)
    });
    assert_eq!(one.user_id, two.user_id);
    assert!(one.is_logged_in() && two.is_logged_in());
    // Who was not there is told that the name is taken.
    let begun_elsewhere = json!({"type": "m.login.dummy"});
    refused(
        &register(&home, with_auth(alice(), begun_elsewhere)),
        400,
        "M_USER_IN_USE",
    );
}

#[test]
fn two_who_want_the_same_name_do_not_both_get_it() {
    let home = Home::new();
    let session = begin(&home, alice());
    let other = json!({"username": "alice", "password": "another password"});
    let other_session = begin(&home, other.clone());
    let auth = |session| json!({"type": "m.login.dummy", "session": session});
    let (status, _) = register(&home, with_auth(alice(), auth(session)));
    assert_eq!(status, 200);
    let late = register(&home, with_auth(other, auth(other_session)));
    refused(&late, 400, "M_USER_IN_USE");
}

#[test]
fn this_server_sends_no_mail_and_no_text_messages() {
    let home = Home::new();
    for (path, status, errcode) in [
        ("register/email", 403, "M_THREEPID_DENIED"),
        ("account/3pid/email", 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ("account/password/email", 404, "M_THREEPID_NOT_FOUND"),
    ] {
        let path = format!("/_matrix/client/v3/{path}/requestToken");
        let body = json!({"client_secret": "abc", "email": "a@b.c", "send_attempt": 1});
        refused(&home.ask(Method::POST, &path, body), status, errcode);
    }
    for (path, status, errcode) in [
        ("register/msisdn", 403, "M_THREEPID_DENIED"),
        (
            "account/3pid/msisdn",
            400,
            "M_THREEPID_MEDIUM_NOT_SUPPORTED",
        ),
        ("account/password/msisdn", 404, "M_THREEPID_NOT_FOUND"),
    ] {
        let path = format!("/_matrix/client/v3/{path}/requestToken");
        let body = json!({
            "client_secret": "abc",
            "country": "GB",
            "phone_number": "07700900001",
            "send_attempt": 1,
        });
        refused(&home.ask(Method::POST, &path, body), status, errcode);
    }
}

#[test]
fn what_is_no_registration_is_told_so() {
    let home = Home::new();
    for (body, errcode) in [
        (json!([]), "M_BAD_JSON"),
        (json!({"username": 3}), "M_BAD_JSON"),
        (
            json!({"auth": {"type": "m.login.password"}}),
            "M_MISSING_PARAM",
        ),
        (json!({"auth": "x"}), "M_BAD_JSON"),
    ] {
        refused(&register(&home, body), 400, errcode);
    }
    let stage = json!({"type": "m.login.recaptcha", "response": "x"});
    refused(
        &register(&home, with_auth(alice(), stage)),
        401,
        "M_FORBIDDEN",
    );
}

#[test]
fn a_stage_that_a_client_does_not_know_is_completed_in_a_browser() {
    let home = Home::with("registration = \"token\"\nregistration_token = \"let me in\"");
    let session = begin(&home, alice());
    let page = |method: &Method, stage: &str, form: &str| {
        let path = format!("/_matrix/client/v3/auth/{stage}/fallback/web?session={session}");
        let request = Request::builder().method(method).uri(path);
        let response = home.respond(request.body(form.as_bytes().to_vec()).unwrap());
        let (head, body) = response.into_parts();
        (head.status.as_u16(), String::from_utf8(body).unwrap())
    };
    let token = "m.login.registration_token";
    let (status, html) = page(&Method::GET, token, "");
    assert_eq!(status, 200);
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("name=token"));
    assert_eq!(page(&Method::GET, "m.login.dummy", "").0, 404, "not yet");
    assert_eq!(page(&Method::POST, "m.login.dummy", "").0, 404, "not yet");

    let (_, html) = page(&Method::POST, token, "token=let+you+in");
    assert!(!html.contains("onAuthDone"), "{html}");
    let (_, html) = page(&Method::POST, token, "token=let+me+in");
    assert!(html.contains("window.onAuthDone()") && html.contains("authDone"));
    let (status, body) = register(&home, with_auth(alice(), json!({"session": session})));
    assert_eq!(status, 401);
    assert_eq!(body["completed"], json!([token]));

    assert!(
        page(&Method::POST, "m.login.dummy", "")
            .1
            .contains("authDone")
    );
    let (status, made) = register(&home, with_auth(alice(), json!({"session": session})));
    assert_eq!(status, 200, "{made}");
}

#[test]
fn a_page_of_no_session_or_of_somebody_who_is_logged_in_is_not_there() {
    let home = Home::new();
    let alice = home.register("alice");
    let (_, asked) = alice.post("/_matrix/client/v3/delete_devices", json!({"devices": []}));
    for session in [asked["session"].as_str().unwrap(), "none", ""] {
        let path = format!("/_matrix/client/v3/auth/m.login.dummy/fallback/web?session={session}");
        refused(
            &home.ask(Method::GET, &path, Value::Null),
            404,
            "M_NOT_FOUND",
        );
    }
    let path = "/_matrix/client/v3/auth/m.login.dummy/fallback/web";
    refused(
        &home.ask(Method::GET, path, Value::Null),
        400,
        "M_MISSING_PARAM",
    );
}

#[test]
fn guessing_a_registration_token_is_slowed_down() {
    let home = Home::with(
        "registration = \"token\"\nregistration_token = \"let me in\"\nrate_limits = true",
    );
    let mut statuses = [(); 20].map(|()| {
        let auth = json!({"type": "m.login.registration_token", "token": "guess"});
        let (status, body) = register(&home, with_auth(alice(), auth));
        if status == 429 {
            assert_eq!(body["errcode"], "M_LIMIT_EXCEEDED");
        }
        status
    });
    statuses.sort_unstable();
    assert_eq!(statuses.first(), Some(&401));
    assert_eq!(statuses.last(), Some(&429));
}
