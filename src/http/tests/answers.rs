//! What is answered to which request.

use std::{sync::atomic::Ordering, time::Duration};

use http::{Method, Request, Response, header};
use serde_json::{Value, json};

use super::{LOGOUTS, TestApi, routes};
use crate::http::{Edge, limits::Timeouts};

struct Test {
    edge: Edge,
    test_api: TestApi,
}

impl Test {
    fn new() -> Self {
        let test_api = TestApi::new();
        Self {
            edge: Edge::with(routes().0, test_api.api.clone(), Timeouts::default()),
            test_api,
        }
    }

    fn send(&self, request: Request<Vec<u8>>) -> Response<Vec<u8>> {
        smol::block_on(self.edge.respond(request))
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.test_api.alice)
    }

    /// The status and the body.
    fn call(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", self.bearer());
        read(&self.send(request.body(body.as_bytes().to_vec()).unwrap()))
    }

    /// The status and the error code.
    fn refusal(&self, method: Method, path: &str, body: &str) -> (u16, String) {
        let (status, body) = self.call(method, path, body);
        assert!(body["error"].is_string(), "{body}");
        (status, body["errcode"].as_str().unwrap().to_owned())
    }

    fn login(&self, body: &str) -> (u16, Value) {
        self.call(Method::POST, "/_matrix/client/v3/login", body)
    }
}

fn read(response: &Response<Vec<u8>>) -> (u16, Value) {
    let body = match response.body().as_slice() {
        [] => Value::Null,
        body => serde_json::from_slice(body).unwrap(),
    };
    (response.status().as_u16(), body)
}

fn login_body(device: &str) -> String {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "wrong",
        "device_id": device,
    })
    .to_string()
}

#[test]
fn every_path_in_an_endpoints_metadata_leads_to_its_handler() {
    let test = Test::new();
    for version in ["r0", "v3"] {
        let path = format!("/_matrix/client/{version}/login");
        let (status, body) = test.call(Method::POST, &path, &login_body("D1"));
        assert_eq!(status, 403);
        assert!(body["error"].as_str().unwrap().contains("D1"), "{body}");
    }
}

#[test]
fn path_arguments_are_decoded_once() {
    let test = Test::new();
    let state = |path: &str| {
        let path = format!("/_matrix/client/v3/rooms/{path}");
        let (status, body) = test.call(Method::PUT, &path, "{}");
        (status, body["error"].as_str().unwrap().to_owned())
    };
    let said = |key: &str| (403, format!("@alice:localhost !r:hs m.room.name {key:?}"));
    assert_eq!(state("!r:hs/state/m.room.name"), said(""));
    assert_eq!(state("!r:hs/state/m.room.name/"), said(""));
    assert_eq!(state("%21r%3Ahs/state/m%2Eroom.name/k"), said("k"));
    assert_eq!(state("!r:hs/state/m.room.name/.."), said(".."));
    assert_eq!(state("!r:hs/state/m.room.name/%2E%2e"), said(".."));
    assert_eq!(state("!r:hs/state/m.room.name/a%2Fb"), said("a/b"));
    assert_eq!(state("!r:hs/state/m.room.name/%252F"), said("%2F"));
    assert_eq!(state("!r:hs/state/m.room.name/a\\b"), said("a\\b"));
    assert_eq!(state("!r:hs/state/m.room.name/%C3%A4"), said("ä"));
    assert_eq!(state("!r:hs/state/m.room.name/+"), said("+"));
    for bad in ["%", "%zz", "%ff", "%C3"] {
        let path = format!("/_matrix/client/v3/rooms/!r:hs/state/m.room.name/{bad}");
        let refusal = test.refusal(Method::PUT, &path, "{}");
        assert_eq!(refusal, (400, "M_INVALID_PARAM".to_owned()), "{bad}");
    }
}

#[test]
fn an_unknown_path_or_method_is_m_unrecognized() {
    let test = Test::new();
    for path in [
        "/",
        "/_matrix/client/v3/nothing",
        "/_matrix/client/v3/login/",
        "//_matrix/client/v3/login",
        "/_matrix/client/v3/../v3/login",
        "/_matrix/client/v3/rooms//state/m.room.name",
        "/%",
        "/%ff",
        "/%00",
    ] {
        let refusal = test.refusal(Method::POST, path, "");
        assert_eq!(refusal, (404, "M_UNRECOGNIZED".to_owned()), "{path}");
    }
    for method in ["DELETE", "PATCH", "TRACE", "CONNECT", "BREW"] {
        let method: Method = method.parse().unwrap();
        let refusal = test.refusal(method.clone(), "/_matrix/client/v3/login", "");
        assert_eq!(refusal, (405, "M_UNRECOGNIZED".to_owned()), "{method}");
        let refusal = test.refusal(method, "/nothing", "");
        assert_eq!(refusal, (404, "M_UNRECOGNIZED".to_owned()));
    }
}

#[test]
fn an_invalid_body_is_rejected_with_the_errcode_of_its_fault() {
    let test = Test::new();
    let code = |body: &str| {
        let (status, body) = test.login(body);
        assert_eq!(status, 400, "{body}");
        body["errcode"].as_str().unwrap().to_owned()
    };
    for body in [
        "{",
        "nonsense",
        "{\"type\":}",
        "{\"type\":\"x\"} {}",
        "\u{0}",
    ] {
        assert_eq!(code(body), "M_NOT_JSON", "{body}");
    }
    assert_eq!(code("{\"type\":\"m.login.token\"}"), "M_MISSING_PARAM");
    // ruma panics when there is no type.
    for body in ["", "{}", "null", "1", "[]"] {
        assert_eq!(code(body), "M_BAD_JSON", "{body}");
    }
    let mut bytes = login_body("X").into_bytes();
    let at = bytes.iter().position(|byte| *byte == b'X').unwrap();
    bytes[at] = 0xff;
    let request = Request::post("/_matrix/client/v3/login")
        .body(bytes)
        .unwrap();
    let (status, body) = read(&test.send(request));
    assert_eq!((status, &body["errcode"]), (400, &json!("M_NOT_JSON")));
}

#[test]
fn invalid_parameters_are_rejected() {
    let test = Test::new();
    let sync = "/_matrix/client/v3/sync?timeout=soon";
    let refusal = test.refusal(Method::GET, sync, "");
    assert_eq!(refusal, (400, "M_INVALID_PARAM".to_owned()));
    let path = "/_matrix/client/v3/rooms/no-room/state/m.room.name/";
    let refusal = test.refusal(Method::PUT, path, "{}");
    assert_eq!(refusal, (400, "M_INVALID_PARAM".to_owned()));
}

#[test]
fn an_empty_body_is_an_empty_object_and_no_content_type_is_needed() {
    let test = Test::new();
    let before = LOGOUTS.load(Ordering::Relaxed);
    let path = "/_matrix/client/v3/logout";
    assert_eq!(test.call(Method::POST, path, ""), (200, json!({})));
    assert_eq!(test.call(Method::POST, path, "{}"), (200, json!({})));
    let request = Request::post(path)
        .header("authorization", test.bearer())
        .header("content-type", "text/plain");
    let response = test.send(request.body(b"{}".to_vec()).unwrap());
    assert_eq!(response.status(), 200);
    assert_eq!(LOGOUTS.load(Ordering::Relaxed), before + 3);
}

#[test]
fn a_body_above_the_maximum_of_its_endpoint_is_rejected() {
    let test = Test::new();
    let device = "D".repeat(1000);
    let (status, body) = test.login(&login_body(&device));
    assert_eq!((status, &body["errcode"]), (413, &json!("M_TOO_LARGE")));
    let (status, _) = test.login(&login_body(&device[..500]));
    assert_eq!(status, 403);
}

#[test]
fn an_access_token_is_accepted_in_the_header_or_the_query() {
    let test = Test::new();
    let ask = |header: Option<&str>, query: &str| {
        let mut request = Request::get(format!("/_matrix/client/v3/sync{query}"));
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        read(&test.send(request.body(Vec::new()).unwrap()))
    };
    let alice = &test.test_api.alice;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let header = format!("{scheme} {alice}");
        assert_eq!(ask(Some(&header), "").0, 200, "{scheme}");
    }
    assert_eq!(ask(None, &format!("?access_token={alice}")).0, 200);
    assert_eq!(
        ask(None, &format!("?timeout=0&%61ccess_token={alice}")).0,
        200
    );

    for (header, query) in [
        (None, String::new()),
        (None, format!("?access_tokens={alice}")),
        (Some("Basic YWxpY2U6"), String::new()),
        (Some(alice.as_str()), String::new()),
    ] {
        let (status, body) = ask(header, &query);
        assert_eq!((status, &body["errcode"]), (401, &json!("M_MISSING_TOKEN")));
    }
    for token in ["nonsense", "", &alice.to_uppercase(), &alice[1..]] {
        let (status, body) = ask(Some(&format!("Bearer {token}")), "");
        assert_eq!(status, 401);
        assert_eq!(body["errcode"], "M_UNKNOWN_TOKEN", "{token}");
        assert_ne!(body["soft_logout"], true);
    }
}

#[test]
fn an_expired_access_token_is_answered_with_soft_logout() {
    let test = Test::new();
    let path = format!(
        "/_matrix/client/v3/sync?access_token={}",
        test.test_api.short
    );
    let ask = || read(&test.send(Request::get(&path).body(Vec::new()).unwrap()));
    assert_eq!(ask().0, 200);
    test.test_api.clock.advance(Duration::from_hours(24 * 365));
    let (status, body) = ask();
    assert_eq!((status, &body["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
    assert_eq!(body["soft_logout"], true);
}

#[test]
fn an_optional_access_token_may_be_missing_but_not_invalid() {
    let test = Test::new();
    let ask = |header: Option<&str>| {
        let mut request = Request::get("/_matrix/client/versions");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        read(&test.send(request.body(Vec::new()).unwrap()))
    };
    assert_eq!(ask(None), (200, json!({ "versions": [] })));
    assert_eq!(ask(Some("Basic abc")), (200, json!({ "versions": [] })));
    let (status, body) = ask(Some(&test.bearer()));
    assert_eq!(
        (status, body),
        (200, json!({ "versions": ["@alice:localhost"] }))
    );
    assert_eq!(ask(Some("Bearer nonsense")).0, 401);
}

#[test]
fn a_panicking_handler_is_answered_with_500_and_the_server_continues() {
    let test = Test::new();
    let refusal = test.refusal(Method::GET, "/_matrix/client/v3/login", "");
    assert_eq!(refusal, (500, "M_UNKNOWN".to_owned()));
    assert_eq!(test.login(&login_body("D1")).0, 403);
}

#[test]
fn an_internal_error_does_not_reveal_its_reason() {
    let test = Test::new();
    let body = json!({ "refresh_token": "x" }).to_string();
    let (status, body) = test.call(Method::POST, "/_matrix/client/v3/refresh", &body);
    assert_eq!((status, &body["errcode"]), (500, &json!("M_UNKNOWN")));
    assert!(!body.to_string().contains("secret"), "{body}");
}

#[test]
fn a_streamed_response_arrives_complete() {
    let test = Test::new();
    let request = Request::get("/_matrix/client/v3/sync").header("authorization", test.bearer());
    let response = test.send(request.body(Vec::new()).unwrap());
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    assert_eq!(read(&response), (200, json!({ "next_batch": "s1" })));
}

#[test]
fn every_response_has_cors_headers() {
    let test = Test::new();
    let cases = [
        ("GET", "/_matrix/client/versions", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/_matrix/client/v3/login", 405),
        ("GET", "/_matrix/client/v3/login", 500),
        ("POST", "/_matrix/client/v3/login", 400),
        ("GET", "/_matrix/client/v3/sync", 401),
        ("OPTIONS", "/_matrix/client/v3/sync", 204),
        ("OPTIONS", "/nothing", 204),
        ("OPTIONS", "*", 204),
    ];
    for (method, path, status) in cases {
        let request = Request::builder().method(method).uri(path);
        let response = test.send(request.body(Vec::new()).unwrap());
        assert_eq!(response.status(), status, "{method} {path}");
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-origin"], "*");
        let methods = &headers["access-control-allow-methods"];
        assert_eq!(methods, "GET, POST, PUT, DELETE, OPTIONS");
        let allowed = &headers["access-control-allow-headers"];
        assert_eq!(allowed, "X-Requested-With, Content-Type, Authorization");
    }
}

#[test]
fn pages_of_other_sites_may_not_read_the_metrics() {
    let test = Test::new();
    let edge = Edge::metrics(test.test_api.api.clone());
    for (method, status) in [("GET", 200), ("OPTIONS", 204)] {
        let request = Request::builder().method(method).uri("/metrics");
        let response = smol::block_on(edge.respond(request.body(Vec::new()).unwrap()));
        assert_eq!(response.status(), status);
        let allowed = response.headers().get("access-control-allow-origin");
        assert_eq!(allowed, None, "{method}");
    }
}

#[test]
fn exceeding_a_rate_limit_is_m_limit_exceeded_with_retry_after() {
    let test = Test::new();
    let body = login_body("D1");
    let mut statuses = (0..100).map(|_| test.login(&body).0);
    assert!(statuses.by_ref().take(20).all(|status| status == 403));
    assert!(statuses.all(|status| status == 429));
    let request = Request::post("/_matrix/client/v3/login").body(body.into_bytes());
    let response = test.send(request.unwrap());
    assert_eq!(response.headers()[header::RETRY_AFTER], "5");
    let (_, body) = read(&response);
    assert_eq!(body["errcode"], "M_LIMIT_EXCEEDED");
    assert_eq!(body["retry_after_ms"], 5000);
}

#[test]
fn rate_limits_are_per_user_and_per_kind() {
    let test = Test::new();
    let send = |n: usize| {
        let path = format!("/_matrix/client/v3/rooms/!r:hs/send/m.room.message/{n}");
        test.call(Method::PUT, &path, "{}").0
    };
    assert_eq!((0..100).take_while(|n| send(*n) == 200).count(), 60);
    assert_eq!(send(100), 429);
    assert_eq!(test.login(&login_body("D1")).0, 403);
}
