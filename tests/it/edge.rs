//! What anybody is told about the server before they log in, and what everybody is told wrongly
//! asking.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::home::{Home, refused};

fn get(home: &Home, path: &str) -> (u16, Value) {
    home.ask(Method::GET, path, Value::Null)
}

#[test]
fn a_watcher_learns_that_the_server_works() {
    assert_eq!(get(&Home::new(), "/health"), (200, json!({})));
}

#[test]
fn the_versions_are_told_to_everybody_but_a_dead_token() {
    let home = Home::new();
    let path = "/_matrix/client/versions";
    let (status, body) = get(&home, path);
    assert_eq!(status, 200);
    assert_eq!(body["versions"][0], "v1.1");
    let alice = home.register("alice");
    assert_eq!(alice.get(path), (200, body));
    alice.post("/_matrix/client/v3/logout", Value::Null);
    refused(&alice.get(path), 401, "M_UNKNOWN_TOKEN");
}

#[test]
fn the_capabilities_name_the_room_versions_and_the_default() {
    let home = Home::new();
    let path = "/_matrix/client/v3/capabilities";
    refused(&get(&home, path), 401, "M_MISSING_TOKEN");
    let (status, body) = home.register("alice").get(path);
    assert_eq!(status, 200);
    let capabilities = &body["capabilities"];
    let versions = &capabilities["m.room_versions"];
    assert_eq!(versions["default"], "12");
    let available = versions["available"].as_object().unwrap();
    assert_eq!(available.len(), 7);
    for version in 6..=12 {
        assert_eq!(available[&version.to_string()], "stable");
    }
    assert_eq!(capabilities["m.profile_fields"], json!({"enabled": true}));
    assert_eq!(capabilities["m.3pid_changes"], json!({"enabled": false}));
}

#[test]
fn a_local_server_is_found_where_it_listens() {
    let home = Home::with("server_name = \"hs.localhost\"");
    let (status, body) = get(&home, "/.well-known/matrix/client");
    assert_eq!(status, 200);
    let base = body["m.homeserver"]["base_url"].as_str().unwrap();
    assert!(base.starts_with("http://hs.localhost:"), "{base}");
    assert_eq!(body["org.matrix.msc3814"], true, "Element asks");
    for path in ["/.well-known/matrix/server", "/.well-known/matrix/support"] {
        refused(&get(&home, path), 404, "M_NOT_FOUND");
    }
}

#[test]
fn a_public_server_is_found_at_its_name() {
    let home = Home::with("server_name = \"example.org\"");
    let (_, body) = get(&home, "/.well-known/matrix/client");
    assert_eq!(body["m.homeserver"]["base_url"], "https://example.org");
    let (_, body) = get(&home, "/.well-known/matrix/server");
    assert_eq!(body, json!({"m.server": "example.org:443"}));
}

#[test]
fn old_and_new_names_of_an_endpoint_are_the_same_endpoint() {
    let home = Home::new();
    for version in ["r0", "v3"] {
        let path = format!("/_matrix/client/{version}/login");
        assert_eq!(get(&home, &path).0, 200, "{path}");
    }
    for path in ["/_matrix/client/v2/login", "/_matrix/client/login", "/"] {
        refused(&get(&home, path), 404, "M_UNRECOGNIZED");
    }
    let wrong = home.ask(Method::DELETE, "/_matrix/client/v3/login", Value::Null);
    refused(&wrong, 405, "M_UNRECOGNIZED");
}

#[test]
fn a_body_that_is_no_json_is_refused_whatever_it_claims_to_be() {
    let home = Home::new();
    for content_type in ["application/json", "text/plain", "image/png"] {
        let request = Request::post("/_matrix/client/v3/register")
            .header("content-type", content_type)
            .body(b"username=alice".to_vec())
            .unwrap();
        let response = home.respond(request);
        let body = serde_json::from_slice(response.body()).unwrap();
        refused(&(response.status().as_u16(), body), 400, "M_NOT_JSON");
    }
}
