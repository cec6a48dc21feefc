use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::home::{Answer, Home, PASSWORD, refused};

const REGISTER: &str = "/_synapse/admin/v1/register";
const SECRET: &str = "registration = \"closed\"\nregistration_shared_secret = \"between us\"";

fn nonce(home: &Home) -> String {
    let (status, body) = home.ask(Method::GET, REGISTER, Value::Null);
    assert_eq!(status, 200, "{body}");
    body["nonce"].as_str().unwrap().to_owned()
}

fn sign(secret: &str, fields: &[&str]) -> String {
    let mut hmac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    hmac.update(fields.join("\0").as_bytes());
    let bytes = hmac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn register(home: &Home, name: &str) -> Answer {
    let nonce = nonce(home);
    let mac = sign("between us", &[&nonce, name, PASSWORD, "notadmin"]);
    home.ask(
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
fn a_tool_that_knows_the_secret_makes_accounts_on_a_closed_server() {
    let home = Home::with(SECRET);
    let (status, made) = register(&home, "alice");
    assert_eq!(status, 200, "{made}");
    assert_eq!(made["user_id"], "@alice:localhost");
    assert_eq!(made["home_server"], "localhost");
    assert!(home.person(&made).is_logged_in());
    assert!(home.log_in("alice").is_logged_in());
    refused(&register(&home, "alice"), 400, "M_USER_IN_USE");
    refused(&register(&home, "_bot"), 400, "M_EXCLUSIVE");
}

#[test]
fn a_tool_can_name_the_user_and_want_no_login() {
    let home = Home::with(SECRET);
    let nonce = nonce(&home);
    let mac = sign("between us", &[&nonce, "alice", PASSWORD, "admin", "bot"]);
    let (status, made) = home.ask(
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
    assert_eq!(status, 200, "{made}");
    assert!(made.get("access_token").is_none());
    let profile = "/_matrix/client/v3/profile/@alice:localhost";
    let (_, profile) = home.ask(Method::GET, profile, Value::Null);
    assert_eq!(profile, json!({"displayname": "Alice"}));
}

#[test]
fn a_wrong_signature_and_a_used_nonce_are_refused() {
    let home = Home::with(SECRET);
    let nonce = nonce(&home);
    let with = |mac: &str| {
        let body = json!({
            "nonce": nonce,
            "username": "alice",
            "password": PASSWORD,
            "mac": mac,
        });
        home.ask(Method::POST, REGISTER, body)
    };
    let fields = [nonce.as_str(), "alice", PASSWORD, "notadmin"];
    refused(&with(&sign("between you", &fields)), 403, "M_FORBIDDEN");
    refused(&with(&sign("between us", &fields)), 400, "M_INVALID_PARAM");
}

#[test]
fn without_a_secret_there_is_no_such_way() {
    let home = Home::new();
    let answer = home.ask(Method::GET, REGISTER, Value::Null);
    refused(&answer, 403, "M_FORBIDDEN");
    let body = json!({"nonce": "a", "username": "a", "password": PASSWORD, "mac": "00"});
    refused(&home.ask(Method::POST, REGISTER, body), 403, "M_FORBIDDEN");
}
