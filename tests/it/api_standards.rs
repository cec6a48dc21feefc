//! API standards: health, versions, capabilities, well-known files and errors of routing.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::test_server::{TestServer, expect_error};

#[test]
fn health_check_returns_200() {
    assert_eq!(TestServer::new().get("/health"), (200, json!({})));
}

#[test]
fn versions_are_public_but_reject_a_logged_out_token() {
    let server = TestServer::new();
    let path = "/_matrix/client/versions";
    let (status, body) = server.get(path);
    assert_eq!(status, 200);
    assert_eq!(body["versions"][0], "v1.1");
    let alice = server.register("alice");
    assert_eq!(alice.get(path), (200, body));
    alice.post("/_matrix/client/v3/logout", Value::Null);
    expect_error(&alice.get(path), 401, "M_UNKNOWN_TOKEN");
}

#[test]
fn capabilities_list_the_room_versions_that_can_be_created_and_the_default() {
    let server = TestServer::new();
    let path = "/_matrix/client/v3/capabilities";
    expect_error(&server.get(path), 401, "M_MISSING_TOKEN");
    let alice = server.register("alice");
    let (status, body) = alice.get(path);
    assert_eq!(status, 200);
    let capabilities = &body["capabilities"];
    let versions = &capabilities["m.room_versions"];
    assert_eq!(versions["default"], "12");
    for version in 1..=13 {
        let version = version.to_string();
        let body = json!({ "room_version": version });
        let (status, room) = alice.post("/_matrix/client/v3/createRoom", body);
        let expected = if status == 200 {
            json!("stable")
        } else {
            Value::Null
        };
        assert_eq!(versions["available"][&version], expected, "{room}");
    }
    let forgeable = alice.post(
        "/_matrix/client/v3/createRoom",
        json!({ "room_version": "1" }),
    );
    expect_error(&forgeable, 400, "M_UNSUPPORTED_ROOM_VERSION");
    let error = forgeable.1["error"].as_str().unwrap();
    assert!(error.contains("can be joined, but not created"), "{error}");
    assert_eq!(capabilities["m.profile_fields"], json!({"enabled": true}));
    assert_eq!(capabilities["m.3pid_changes"], json!({"enabled": false}));
}

#[test]
fn well_known_of_a_localhost_name_points_to_the_listener() {
    let server = TestServer::with("server_name = \"hs.localhost\"");
    let (status, body) = server.get("/.well-known/matrix/client");
    assert_eq!(status, 200);
    let base = body["m.homeserver"]["base_url"].as_str().unwrap();
    assert!(base.starts_with("http://hs.localhost:"), "{base}");
    assert_eq!(body["org.matrix.msc3814"], true, "for Element");
    for path in ["/.well-known/matrix/server", "/.well-known/matrix/support"] {
        expect_error(&server.get(path), 404, "M_NOT_FOUND");
    }
}

#[test]
fn well_known_of_a_public_name_points_to_that_name() {
    let server = TestServer::with("server_name = \"example.org\"");
    let (_, body) = server.get("/.well-known/matrix/client");
    assert_eq!(body["m.homeserver"]["base_url"], "https://example.org");
    let (_, body) = server.get("/.well-known/matrix/server");
    assert_eq!(body, json!({"m.server": "example.org:443"}));
}

#[test]
fn well_known_names_the_public_url_of_the_settings() {
    let settings = "server_name = \"example.org\"\npublic_url = \"https://matrix.example.org/\"";
    let server = TestServer::with(settings);
    let (_, body) = server.get("/.well-known/matrix/client");
    assert_eq!(
        body["m.homeserver"]["base_url"],
        "https://matrix.example.org"
    );
}

#[test]
fn well_known_support_has_the_contacts_of_the_settings() {
    let settings =
        "contact = [\"@a:example.org\", \"a@example.org\", \"https://example.org/help\"]";
    let server = TestServer::with(settings);
    let (status, body) = server.get("/.well-known/matrix/support");
    let expected = json!({
        "contacts": [
            { "role": "m.role.admin", "matrix_id": "@a:example.org" },
            { "role": "m.role.admin", "email_address": "a@example.org" },
        ],
        "support_page": "https://example.org/help",
    });
    assert_eq!((status, body), (200, expected));
    let server = TestServer::with("contact = [\"https://example.org/help\"]");
    let (_, body) = server.get("/.well-known/matrix/support");
    assert_eq!(body, json!({ "support_page": "https://example.org/help" }));
}

#[test]
fn the_root_answers_a_person_with_a_page_and_a_program_with_json() {
    let server = TestServer::with("server_name = \"example.org\"");
    let about = json!({ "server": "hearth", "server_name": "example.org" });
    assert_eq!(server.get("/"), (200, about));
    let request = Request::get("/").header("accept", "text/html,application/xhtml+xml;q=0.9");
    let page = server.respond(request.body(Vec::new()).unwrap());
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let page = String::from_utf8(page.into_body()).unwrap();
    assert!(
        page.contains("<b>example.org</b>") && page.contains("href="),
        "{page}"
    );
}

#[test]
fn r0_and_v3_paths_serve_the_same_endpoint_and_unknown_paths_are_unrecognized() {
    let server = TestServer::new();
    for version in ["r0", "v3"] {
        let path = format!("/_matrix/client/{version}/login");
        assert_eq!(server.get(&path).0, 200, "{path}");
    }
    for path in ["/_matrix/client/v2/login", "/_matrix/client/login", "/x"] {
        expect_error(&server.get(path), 404, "M_UNRECOGNIZED");
    }
    let wrong = server.request(Method::DELETE, "/_matrix/client/v3/login", Value::Null);
    expect_error(&wrong, 405, "M_UNRECOGNIZED");
}

#[test]
fn non_json_body_is_rejected_whatever_its_content_type() {
    let server = TestServer::new();
    for content_type in ["application/json", "text/plain", "image/png"] {
        let request = Request::post("/_matrix/client/v3/register")
            .header("content-type", content_type)
            .body(b"username=alice".to_vec())
            .unwrap();
        let response = server.respond(request);
        let body = serde_json::from_slice(response.body()).unwrap();
        expect_error(&(response.status().as_u16(), body), 400, "M_NOT_JSON");
    }
}
