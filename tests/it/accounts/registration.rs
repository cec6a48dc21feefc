use http::{Method, Request};
use serde_json::{Value, json};

use crate::test_server::{JsonResponse, PASSWORD, TestServer, expect_error, expect_ok};

const REGISTER: &str = "/_matrix/client/v3/register";

fn register(server: &TestServer, body: Value) -> JsonResponse {
    server.request(Method::POST, REGISTER, body)
}

/// The body of a registration without `auth`.
fn registration() -> Value {
    json!({"username": "alice", "password": PASSWORD})
}

fn with_auth(mut body: Value, auth: Value) -> Value {
    body["auth"] = auth;
    body
}

/// Sends a registration without `auth`; returns the session.
fn begin_session(server: &TestServer, body: Value) -> String {
    let (status, challenge) = register(server, body);
    assert_eq!(status, 401, "{challenge}");
    challenge["session"].as_str().unwrap().to_owned()
}

#[test]
fn registration_succeeds_after_the_dummy_stage() {
    let server = TestServer::new();
    let (status, challenge) = register(&server, registration());
    assert_eq!(status, 401);
    assert_eq!(challenge["flows"], json!([{"stages": ["m.login.dummy"]}]));
    assert_eq!(challenge["params"], json!({}));
    assert!(challenge.get("errcode").is_none());
    let auth = json!({"type": "m.login.dummy", "session": challenge["session"]});
    let (status, response) = register(&server, with_auth(registration(), auth));
    assert_eq!(status, 200, "{response}");
    assert_eq!(response["user_id"], "@alice:localhost");
    assert!(response.get("refresh_token").is_none() && response.get("expires_in_ms").is_none());
    let alice = server.user_from_login(&response);
    let (_, whoami) = alice.get("/_matrix/client/v3/account/whoami");
    assert_eq!(
        whoami,
        json!({"user_id": "@alice:localhost", "device_id": response["device_id"]})
    );
}

#[test]
fn registration_accepts_device_id_and_inhibit_login() {
    let server = TestServer::new();
    let auth = json!({"type": "m.login.dummy"});
    let body = json!({
        "username": "alice",
        "password": PASSWORD,
        "device_id": "PHONE",
        "initial_device_display_name": "my phone",
        "refresh_token": true,
        "auth": auth,
    });
    let (_, response) = register(&server, body);
    assert_eq!(response["device_id"], "PHONE");
    assert!(response["refresh_token"].is_string() && response["expires_in_ms"].is_u64());
    let (_, device) = server
        .user_from_login(&response)
        .get("/_matrix/client/v3/devices/PHONE");
    assert_eq!(device["display_name"], "my phone");

    let body = json!({"username": "bob", "password": PASSWORD, "inhibit_login": true});
    let (status, response) = register(&server, with_auth(body, auth));
    assert_eq!(status, 200);
    assert_eq!(response["user_id"], "@bob:localhost");
    assert!(response.get("access_token").is_none());
    assert!(response.get("device_id").is_none_or(Value::is_null));
    assert!(server.log_in("bob").is_logged_in());
}

#[test]
fn registration_without_username_generates_one() {
    let server = TestServer::new();
    let body = json!({"password": PASSWORD, "auth": {"type": "m.login.dummy"}});
    let names = [register(&server, body.clone()), register(&server, body)];
    assert!(names.iter().all(|(status, _)| *status == 200), "{names:?}");
    assert_ne!(names[0].1["user_id"], names[1].1["user_id"]);
}

#[test]
fn unavailable_username_is_rejected_before_authentication() {
    let server = TestServer::new();
    server.register("alice");
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
        let response = register(&server, json!({"username": name, "password": PASSWORD}));
        expect_error(&response, 400, errcode);
        let name = name.replace(' ', "%20");
        let path = format!("{REGISTER}/available?username={name}");
        expect_error(&server.get(&path), 400, errcode);
    }
}

#[test]
fn free_username_is_available() {
    let server = TestServer::new();
    for path in [
        "/_matrix/client/v3/register/available?username=bob",
        "/_matrix/client/r0/register/available?username=Bob",
    ] {
        let response = server.get(path);
        assert_eq!(response, (200, json!({"available": true})));
    }
    let response = server.get("/_matrix/client/v3/register/available");
    expect_error(&response, 400, "M_MISSING_PARAM");
}

#[test]
fn username_is_lowercased() {
    let server = TestServer::new();
    assert_eq!(server.register("ALICE").user_id, "@alice:localhost");
}

#[test]
fn weak_password_is_rejected_before_authentication() {
    let server = TestServer::new();
    for (password, errcode) in [
        ("short", "M_WEAK_PASSWORD"),
        ("aaaaaaaaaaa", "M_WEAK_PASSWORD"),
        (&"long password ".repeat(40), "M_INVALID_PARAM"),
    ] {
        let response = register(&server, json!({"username": "alice", "password": password}));
        expect_error(&response, 400, errcode);
    }
}

#[test]
fn guest_and_application_service_registration_is_forbidden() {
    let server = TestServer::new();
    let path = format!("{REGISTER}?kind=guest");
    expect_error(
        &server.request(Method::POST, &path, json!({})),
        403,
        "M_FORBIDDEN",
    );
    let path = format!("{REGISTER}?kind=robot");
    expect_error(
        &server.request(Method::POST, &path, json!({})),
        400,
        "M_INVALID_PARAM",
    );
    let body = json!({"type": "m.login.application_service", "username": "_bot"});
    expect_error(&register(&server, body), 403, "M_FORBIDDEN");
}

#[test]
fn registration_on_a_closed_server_is_forbidden() {
    let server = TestServer::with("registration = \"closed\"");
    expect_error(&register(&server, registration()), 403, "M_FORBIDDEN");
    for path in [
        "/_matrix/client/v3/register/available?username=bob",
        "/_matrix/client/v1/register/m.login.registration_token/validity?token=a",
    ] {
        expect_error(&server.get(path), 403, "M_FORBIDDEN");
    }
}

#[test]
fn registration_token_stage_precedes_the_dummy_stage() {
    let server = TestServer::with("registration = \"token\"\nregistration_token = \"let me in\"");
    let valid = |token: &str| {
        let path = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
        server.get(&format!("{path}{token}"))
    };
    assert_eq!(valid("let%20me%20in"), (200, json!({"valid": true})));
    assert_eq!(valid("let"), (200, json!({"valid": false})));

    let (_, challenge) = register(&server, registration());
    let stages = json!(["m.login.registration_token", "m.login.dummy"]);
    assert_eq!(challenge["flows"], json!([{"stages": stages}]));
    let session = &challenge["session"];
    let dummy = json!({"type": "m.login.dummy", "session": session});
    let token = |token: &str| {
        let auth = json!({
            "type": "m.login.registration_token",
            "token": token,
            "session": session,
        });
        register(&server, with_auth(registration(), auth))
    };

    let response = register(&server, with_auth(registration(), dummy.clone()));
    expect_error(&response, 401, "M_FORBIDDEN");
    let response = token("let you in");
    expect_error(&response, 401, "M_FORBIDDEN");
    assert!(response.1.get("completed").is_none());
    assert_eq!(&response.1["session"], session);

    let completed = json!(["m.login.registration_token"]);
    // A completed stage is not checked again.
    for attempt in ["let me in", "let you in"] {
        let (status, body) = token(attempt);
        assert_eq!(status, 401);
        assert_eq!(body["completed"], completed);
        assert!(body.get("errcode").is_none(), "{body}");
    }
    let (status, response) = register(&server, with_auth(registration(), dummy));
    assert_eq!(status, 200, "{response}");
}

#[test]
fn a_client_may_say_after_the_first_stage_what_it_registers() {
    let server = TestServer::with("registration = \"token\"\nregistration_token = \"let me in\"");
    let session = begin_session(&server, json!({}));
    let token = json!({
        "type": "m.login.registration_token",
        "token": "let me in",
        "session": session,
    });
    register(&server, with_auth(json!({ "username": "al" }), token));
    let dummy = json!({"type": "m.login.dummy", "session": session});
    let (status, response) = register(&server, with_auth(registration(), dummy.clone()));
    assert_eq!(
        (status, &response["user_id"]),
        (200, &json!("@alice:localhost"))
    );
    // The session is used up, and the account is not handed out to another request.
    for other in [
        json!({"username": "mallory", "password": PASSWORD}),
        json!({"username": "alice", "password": "another password"}),
        json!({}),
    ] {
        let response = register(&server, with_auth(other, dummy.clone()));
        assert_ne!(response.0, 200, "{response:?}");
    }
}

#[test]
fn a_later_request_lacks_nothing_that_an_earlier_one_of_its_session_had() {
    let server = TestServer::new();
    let mut first = registration();
    first["device_id"] = "PHONE".into();
    first["initial_device_display_name"] = "my phone".into();
    let session = begin_session(&server, first);
    let auth = json!({"auth": {"type": "m.login.dummy", "session": session}});
    for _ in ["the first", "its repetition"] {
        let (status, response) = register(&server, auth.clone());
        assert_eq!(status, 200, "{response}");
        assert_eq!(response["user_id"], "@alice:localhost");
        assert_eq!(response["device_id"], "PHONE", "{response}");
    }
    let alice = server.log_in("alice");
    let (_, device) = alice.get("/_matrix/client/v3/devices/PHONE");
    assert_eq!(device["display_name"], "my phone");

    let first = json!({"username": "bob", "password": PASSWORD, "inhibit_login": true});
    let session = begin_session(&server, first);
    let auth = json!({"type": "m.login.dummy", "session": session});
    let second = json!({"username": "robert"});
    let response = expect_ok(register(&server, with_auth(second, auth)));
    assert_eq!(
        response["user_id"], "@robert:localhost",
        "what is said later counts"
    );
    assert!(response.get("access_token").is_none(), "inhibit_login");
    assert!(server.log_in("robert").is_logged_in());
}

#[test]
fn registration_without_password_is_refused() {
    let server = TestServer::new();
    let auth = json!({"type": "m.login.dummy"});
    let response = register(&server, with_auth(json!({"username": "alice"}), auth));
    expect_error(&response, 400, "M_MISSING_PARAM");
    let session = begin_session(&server, json!({"username": "alice"}));
    let auth = json!({"type": "m.login.dummy", "session": session});
    let response = register(&server, json!({ "auth": auth }));
    expect_error(&response, 400, "M_MISSING_PARAM");
}

#[test]
fn session_expires_and_ends_with_a_restart() {
    let mut server = TestServer::new();
    let session = begin_session(&server, registration());
    server.clock.advance(std::time::Duration::from_mins(16));
    let auth = json!({"type": "m.login.dummy", "session": session});
    expect_error(
        &register(&server, with_auth(registration(), auth)),
        401,
        "M_FORBIDDEN",
    );
    let session = begin_session(&server, registration());
    server.restart();
    let auth = json!({"type": "m.login.dummy", "session": session});
    expect_error(
        &register(&server, with_auth(registration(), auth)),
        401,
        "M_FORBIDDEN",
    );
}

#[test]
fn empty_auth_starts_a_new_session() {
    let server = TestServer::new();
    for auth in [json!({}), Value::Null] {
        let (status, challenge) = register(&server, with_auth(registration(), auth));
        assert_eq!(status, 401, "{challenge}");
        assert!(challenge.get("errcode").is_none());
    }
}

#[test]
fn auth_with_only_a_session_returns_its_progress() {
    let server = TestServer::new();
    let session = begin_session(&server, registration());
    let (status, body) = register(
        &server,
        with_auth(registration(), json!({"session": session})),
    );
    assert_eq!((status, &body["session"]), (401, &json!(session)));
    assert!(body.get("errcode").is_none());
}

#[test]
fn repeated_registration_in_one_session_is_idempotent() {
    let server = TestServer::new();
    let session = begin_session(&server, registration());
    let auth = json!({"type": "m.login.dummy", "session": session});
    let [one, two] = [(); 2].map(|()| {
        let (status, response) = register(&server, with_auth(registration(), auth.clone()));
        assert_eq!(status, 200, "{response}");
        server.user_from_login(&response)
    });
    assert_eq!(one.user_id, two.user_id);
    assert!(one.is_logged_in() && two.is_logged_in());
    // Outside of this session the username is in use.
    let without_session = json!({"type": "m.login.dummy"});
    expect_error(
        &register(&server, with_auth(registration(), without_session)),
        400,
        "M_USER_IN_USE",
    );
}

#[test]
fn concurrent_registrations_of_one_username_create_one_account() {
    let server = TestServer::new();
    let session = begin_session(&server, registration());
    let other = json!({"username": "alice", "password": "another password"});
    let other_session = begin_session(&server, other.clone());
    let auth = |session| json!({"type": "m.login.dummy", "session": session});
    let (status, _) = register(&server, with_auth(registration(), auth(session)));
    assert_eq!(status, 200);
    let late = register(&server, with_auth(other, auth(other_session)));
    expect_error(&late, 400, "M_USER_IN_USE");
}

#[test]
fn email_and_msisdn_token_requests_are_rejected() {
    let server = TestServer::new();
    for (path, status, errcode) in [
        ("register/email", 403, "M_THREEPID_DENIED"),
        ("account/3pid/email", 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        ("account/password/email", 404, "M_THREEPID_NOT_FOUND"),
    ] {
        let path = format!("/_matrix/client/v3/{path}/requestToken");
        let body = json!({"client_secret": "abc", "email": "a@b.c", "send_attempt": 1});
        expect_error(&server.request(Method::POST, &path, body), status, errcode);
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
        expect_error(&server.request(Method::POST, &path, body), status, errcode);
    }
}

#[test]
fn invalid_registrations_are_rejected() {
    let server = TestServer::new();
    for (body, errcode) in [
        (json!([]), "M_BAD_JSON"),
        (json!({"username": 3}), "M_BAD_JSON"),
        (
            json!({"auth": {"type": "m.login.password"}}),
            "M_MISSING_PARAM",
        ),
        (json!({"auth": "x"}), "M_BAD_JSON"),
    ] {
        expect_error(&register(&server, body), 400, errcode);
    }
    let stage = json!({"type": "m.login.recaptcha", "response": "x"});
    expect_error(
        &register(&server, with_auth(registration(), stage)),
        401,
        "M_FORBIDDEN",
    );
}

#[test]
fn stages_can_be_completed_on_the_fallback_page() {
    let server = TestServer::with("registration = \"token\"\nregistration_token = \"let me in\"");
    let session = begin_session(&server, registration());
    let page = |method: &Method, stage: &str, form: &str| {
        let path = format!("/_matrix/client/v3/auth/{stage}/fallback/web?session={session}");
        let request = Request::builder().method(method).uri(path);
        let response = server.respond(request.body(form.as_bytes().to_vec()).unwrap());
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
    let (status, body) = register(
        &server,
        with_auth(registration(), json!({"session": session})),
    );
    assert_eq!(status, 401);
    assert_eq!(body["completed"], json!([token]));

    assert!(
        page(&Method::POST, "m.login.dummy", "")
            .1
            .contains("authDone")
    );
    let (status, response) = register(
        &server,
        with_auth(registration(), json!({"session": session})),
    );
    assert_eq!(status, 200, "{response}");
}

#[test]
fn fallback_page_requires_a_registration_session() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (_, challenge) = alice.post("/_matrix/client/v3/delete_devices", json!({"devices": []}));
    for session in [challenge["session"].as_str().unwrap(), "none", ""] {
        let path = format!("/_matrix/client/v3/auth/m.login.dummy/fallback/web?session={session}");
        expect_error(&server.get(&path), 404, "M_NOT_FOUND");
    }
    let path = "/_matrix/client/v3/auth/m.login.dummy/fallback/web";
    expect_error(&server.get(path), 400, "M_MISSING_PARAM");
}

#[test]
fn registration_token_attempts_are_rate_limited() {
    let server = TestServer::with(
        "registration = \"token\"\nregistration_token = \"let me in\"\nrate_limits = true",
    );
    let mut statuses = [(); 20].map(|()| {
        let auth = json!({"type": "m.login.registration_token", "token": "guess"});
        let (status, body) = register(&server, with_auth(registration(), auth));
        if status == 429 {
            assert_eq!(body["errcode"], "M_LIMIT_EXCEEDED");
        }
        status
    });
    statuses.sort_unstable();
    assert_eq!(statuses.first(), Some(&401));
    assert_eq!(statuses.last(), Some(&429));
}

#[test]
fn registrations_and_passwords_of_registrations_are_rate_limited() {
    let server = TestServer::with("registration = \"open\"\nrate_limits = true");
    let registered = |number: usize| {
        let mut body = with_auth(registration(), json!({ "type": "m.login.dummy" }));
        body["username"] = format!("user{number}").into();
        register(&server, body).0
    };
    let statuses: Vec<_> = (0..6).map(registered).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    // A password that is sent before the first stage is hashed, which counts like a login.
    for _ in 0..20 {
        let login = server.post("/_matrix/client/v3/login", json!({ "type": "none" }));
        expect_error(&login, 400, "M_UNKNOWN");
    }
    expect_error(&register(&server, registration()), 429, "M_LIMIT_EXCEEDED");
}
