//! URL previews.

use std::{io::ErrorKind, net::TcpListener, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::percent_encode,
    media::{get, stored_files},
    media_thumbnails::jpeg,
    mock_web_server::MockWebServer,
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const PREVIEW: &str = "/_matrix/client/v1/media/preview_url";
const WITH_PREVIEWS: &str = "url_previews = true";

fn preview(user: &TestUser<'_>, url: &str) -> (u16, Value) {
    user.get(&format!("{PREVIEW}?url={}", percent_encode(url)))
}

#[test]
fn preview_shows_the_metadata_of_a_page_and_is_cached() {
    let [here, there] = TestServer::federating_with(|_| [WITH_PREVIEWS, ""].map(ToOwned::to_owned));
    let alice = here.register("alice");
    // The page is the other server's fallback page of user-interactive authentication.
    let register = "/_matrix/client/v3/register";
    let (_, challenge) = there.request(Method::POST, register, json!({ "username": "bob" }));
    let session = challenge["session"].as_str().expect("a session");
    let page = "/_matrix/client/v3/auth/m.login.dummy/fallback/web";
    let url = format!("https://{}{page}?session={session}", there.name());
    let preview_response = expect_ok(preview(&alice, &url));
    assert_eq!(
        preview_response,
        json!({
            "og:title": "Registration",
            "og:description": "Nothing more is needed to make an account here.",
        })
    );
    // The preview is cached.
    drop(there);
    assert_eq!(expect_ok(preview(&alice, &url)), preview_response);
    let path = "/_matrix/media/v3/preview_url";
    let legacy = alice.get(&format!("{path}?url={}", percent_encode(&url)));
    assert_eq!(expect_ok(legacy), preview_response);
}

#[test]
fn page_without_tls_has_a_preview_too() {
    let [here] = TestServer::federating_with(|_| [WITH_PREVIEWS.to_owned()]);
    let alice = here.register("alice");
    let page = b"<html><head><title>Old but good</title></head></html>";
    let url = MockWebServer::without_tls(("text/html", page.to_vec()));
    let expected = json!({ "og:title": "Old but good" });
    assert_eq!(expect_ok(preview(&alice, &url)), expected);
}

#[test]
fn preview_of_non_html_is_empty_and_of_a_missing_page_fails() {
    let [here, there] = TestServer::federating_with(|_| [WITH_PREVIEWS, ""].map(ToOwned::to_owned));
    let alice = here.register("alice");
    let at = |path: &str| format!("https://{}{path}", there.name());
    let json = expect_ok(preview(&alice, &at("/_matrix/client/versions")));
    assert_eq!(json, json!({}));
    assert_eq!(preview(&alice, &at("/nothing")).0, 502);
    for url in ["", "nonsense", "file:///etc/passwd", "ftp://a.example/"] {
        expect_error(&preview(&alice, url), 400, "M_INVALID_PARAM");
    }
}

/// A server with previews enabled, which may fetch from private addresses.
fn server_with_previews() -> TestServer {
    let [server] = TestServer::federating_with(|_| [WITH_PREVIEWS.to_owned()]);
    server
}

#[test]
fn preview_image_is_stored_and_concurrent_requests_fetch_once() {
    let page = "<title>Fish</title><meta property=og:image content=/fish.jpg>";
    let web = MockWebServer::with([
        ("/", ("text/html; charset=utf-8", page.into())),
        ("/fish.jpg", ("image/jpeg", jpeg(300, 200))),
    ]);
    let server = server_with_previews();
    let alice = server.register("alice");
    let url = web.url("/#part");
    let path = format!("{PREVIEW}?url={}", percent_encode(&url));
    let send = || server.send(Method::GET, &path, Some(&alice.token), &Value::Null);
    // Concurrent requests get the same preview.
    let preview_response = server
        .run(server.join_all(vec![send(), send(), send()]))
        .remove(1);
    let preview_response = expect_ok(preview_response);
    let uri = preview_response["og:image"].as_str().expect("an image");
    let expected = json!({
        "og:title": "Fish",
        "og:image": uri,
        "og:image:type": "image/jpeg",
        "og:image:width": 300,
        "og:image:height": 200,
        "matrix:image:size": jpeg(300, 200).len(),
    });
    assert_eq!(preview_response, expected);
    let path = uri.replace("mxc://", "/_matrix/client/v1/media/download/");
    let image = get(&server, &alice, &path, &[]);
    assert_eq!(image.headers()["content-type"], "image/jpeg");
    assert!(*image.body() == jpeg(300, 200));
    assert_eq!(expect_ok(preview(&alice, &web.url("/"))), expected);
    assert_eq!(web.request_count(), 2);
    let image_preview = expect_ok(preview(&alice, &web.url("/fish.jpg")));
    assert_eq!(image_preview["og:image:width"], 300);
}

#[test]
fn cached_preview_expires_after_an_hour_and_cached_failure_after_minutes() {
    let page = ("text/html", b"<title>Fish</title>".to_vec());
    let web = MockWebServer::with([("/", page)]);
    let server = server_with_previews();
    let alice = server.register("alice");
    let [existing, missing] = ["/", "/gone"].map(|path| web.url(path));
    for (minutes, requests) in [(0, 2), (4, 2), (2, 3), (50, 4), (10, 6)] {
        server.clock.advance(Duration::from_mins(minutes));
        assert_eq!(preview(&alice, &existing).0, 200);
        assert_eq!(preview(&alice, &missing).0, 502);
        assert_eq!(web.request_count(), requests, "{minutes} minutes later");
    }
}

#[test]
fn large_page_is_truncated_and_large_image_is_omitted() {
    let head = b"<title>Long</title><meta property=og:image content=large.jpg>".to_vec();
    let mut long = head.clone();
    long.resize(600 << 10, b' ');
    long.extend(b"<meta property=og:title content=Late>");
    let mut large = jpeg(300, 200);
    large.resize(11 << 20, 0);
    let not_an_image = b"<title>None</title><meta property=og:image content=none.jpg>";
    let web = MockWebServer::with([
        ("/long", ("text/html", long)),
        ("/large.jpg", ("image/jpeg", large)),
        ("/none", ("text/html", not_an_image.to_vec())),
        ("/none.jpg", ("image/jpeg", b"not an image".to_vec())),
        ("/video", ("video/mp4", vec![0; 1000])),
    ]);
    let server = server_with_previews();
    let alice = server.register("alice");
    let preview_response = |path: &str| expect_ok(preview(&alice, &web.url(path)));
    assert_eq!(preview_response("/long"), json!({ "og:title": "Long" }));
    assert_eq!(preview_response("/none"), json!({ "og:title": "None" }));
    assert_eq!(preview_response("/none.jpg"), json!({}));
    assert_eq!(preview_response("/video"), json!({}));
    let (status, _) = preview(&alice, &web.url("/large.jpg"));
    assert_eq!(status, 502);
    server.wait_until(async || stored_files(&server) == 0);
}

#[test]
fn preview_of_a_private_address_is_blocked() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port();
    // `allow_private_addresses` applies to other servers only, not to web pages.
    for setting in ["", "allow_private_addresses = true"] {
        let server = TestServer::with(&format!(
            "registration = \"token\"\nregistration_token = \"secret\"\nurl_previews = true\n\
             server_name = \"here.example\"\n{setting}"
        ));
        let register = |auth: Value| {
            let body = json!({ "username": "alice", "password": "a good password", "auth": auth });
            server
                .request(Method::POST, "/_matrix/client/v3/register", body)
                .1
        };
        let token = json!({ "type": "m.login.registration_token", "token": "secret" });
        let session = &register(token)["session"];
        let login = register(json!({ "type": "m.login.dummy", "session": session }));
        let alice = server.user_from_login(&login);
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
        ] {
            let url = format!("https://{host}:{port}/");
            assert_eq!(preview(&alice, &url).0, 502, "{host}");
        }
    }
    listener.set_nonblocking(true).expect("it can be polled");
    let error = listener.accept().expect_err("a connection was made");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn previews_are_forbidden_unless_enabled() {
    let server = TestServer::new();
    let alice = server.register("alice");
    expect_error(&preview(&alice, "https://a.example/"), 403, "M_FORBIDDEN");
    let path = "/_matrix/client/v1/media/preview_url?url=https://a.example/";
    expect_error(&server.get(path), 401, "M_MISSING_TOKEN");
}
