use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use serde_json::json;
use sha1::Sha1;

use crate::test_server::{JsonResponse, PASSWORD, TestServer, expect_error};

const REGISTER: &str = "/_synapse/admin/v1/register";
const SECRET: &str = "registration = \"closed\"\nregistration_shared_secret = \"between us\"";

fn nonce(server: &TestServer) -> String {
    let (status, body) = server.get(REGISTER);
    assert_eq!(status, 200, "{body}");
    body["nonce"].as_str().unwrap().to_owned()
}

fn sign(secret: &str, fields: &[&str]) -> String {
    let mut hmac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    hmac.update(fields.join("\0").as_bytes());
    let bytes = hmac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn register(server: &TestServer, name: &str) -> JsonResponse {
    let nonce = nonce(server);
    let mac = sign("between us", &[&nonce, name, PASSWORD, "notadmin"]);
    server.request(
        Method::POST,
        REGISTER,
        json!({
            "nonce": nonce,
            "username": name,
            "password": PASSWORD,
            "admin": false,
            "mac": mac,
        }),
    )
}

#[test]
fn shared_secret_registers_users_on_a_closed_server() {
    let server = TestServer::with(SECRET);
    let (status, response) = register(&server, "alice");
    assert_eq!(status, 200, "{response}");
    assert_eq!(response["user_id"], "@alice:localhost");
    assert_eq!(response["home_server"], "localhost");
    assert!(server.user_from_login(&response).is_logged_in());
    assert!(server.log_in("alice").is_logged_in());
    expect_error(&register(&server, "alice"), 400, "M_USER_IN_USE");
    expect_error(&register(&server, "_bot"), 400, "M_EXCLUSIVE");
}

#[test]
fn displayname_and_inhibit_login_are_accepted() {
    let server = TestServer::with(SECRET);
    let nonce = nonce(&server);
    let mac = sign("between us", &[&nonce, "alice", PASSWORD, "admin", "bot"]);
    let (status, response) = server.request(
        Method::POST,
        REGISTER,
        json!({
            "nonce": nonce,
            "username": "alice",
            "displayname": "Alice",
            "password": PASSWORD,
            "admin": true,
            "user_type": "bot",
            "inhibit_login": true,
            "mac": mac,
        }),
    );
    assert_eq!(status, 200, "{response}");
    assert!(response.get("access_token").is_none());
    let profile = "/_matrix/client/v3/profile/@alice:localhost";
    let (_, profile) = server.get(profile);
    assert_eq!(profile, json!({"displayname": "Alice"}));
}

#[test]
fn wrong_mac_and_used_nonce_are_rejected() {
    let server = TestServer::with(SECRET);
    let nonce = nonce(&server);
    let register_with = |mac: &str| {
        let body = json!({
            "nonce": nonce,
            "username": "alice",
            "password": PASSWORD,
            "mac": mac,
        });
        server.request(Method::POST, REGISTER, body)
    };
    let fields = [nonce.as_str(), "alice", PASSWORD, "notadmin"];
    expect_error(
        &register_with(&sign("between you", &fields)),
        403,
        "M_FORBIDDEN",
    );
    expect_error(
        &register_with(&sign("between us", &fields)),
        400,
        "M_INVALID_PARAM",
    );
}

#[test]
fn registration_is_forbidden_without_a_configured_secret() {
    let server = TestServer::new();
    let response = server.get(REGISTER);
    expect_error(&response, 403, "M_FORBIDDEN");
    let body = json!({"nonce": "a", "username": "a", "password": PASSWORD, "mac": "00"});
    expect_error(
        &server.request(Method::POST, REGISTER, body),
        403,
        "M_FORBIDDEN",
    );
}
