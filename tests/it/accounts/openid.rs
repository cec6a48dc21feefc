//! OpenID tokens.

use http::Method;
use serde_json::json;

use crate::test_server::{PASSWORD, TestServer, TestUser, expect_error, expect_ok};

const USERINFO: &str = "/_matrix/federation/v1/openid/userinfo";

#[test]
fn openid_token_identifies_its_user_until_deactivation() {
    let mut server = TestServer::new();
    let alice = server.register("alice");
    let path = format!(
        "/_matrix/client/v3/user/{}/openid/request_token",
        alice.user_id
    );
    let bob = server.register("bob");
    expect_error(&bob.post(&path, json!({})), 403, "M_FORBIDDEN");
    let token = expect_ok(alice.post(&path, json!({})));
    assert_eq!(
        (
            &token["token_type"],
            &token["matrix_server_name"],
            &token["expires_in"]
        ),
        (&"Bearer".into(), &"localhost".into(), &3600.into())
    );
    let (session, token) = (alice.token.clone(), token["access_token"].clone());
    let token = token.as_str().expect("a token").to_owned();
    server.restart();
    let userinfo = |token: &str| {
        let path = format!("{USERINFO}?access_token={token}");
        server.get(&path)
    };
    assert_eq!(
        expect_ok(userinfo(&token)),
        json!({ "sub": "@alice:localhost" })
    );
    expect_error(&userinfo(&session), 401, "M_UNKNOWN_TOKEN");
    expect_error(&server.get(USERINFO), 400, "M_MISSING_PARAM");
    let alice = server.user_with_token(&session);
    alice.request_with_password(
        Method::POST,
        "/_matrix/client/v3/account/deactivate",
        json!({}),
    );
    expect_error(&userinfo(&token), 401, "M_UNKNOWN_TOKEN");
}

#[test]
fn openid_token_ends_with_the_session_that_requested_it() {
    let server = TestServer::new();
    server.register("alice");
    let is_known = |token: &str| server.get(&format!("{USERINFO}?access_token={token}")).0 == 200;
    type End = fn(&TestUser<'_>, &TestUser<'_>);
    let ends: [(&str, End); 4] = [
        ("logout", |ending, _| {
            expect_ok(ending.post("/_matrix/client/v3/logout", json!({})));
        }),
        ("device deletion", |ending, other| {
            let path = format!("/_matrix/client/v3/devices/{}", ending.device_id);
            expect_ok(other.request_with_password(Method::DELETE, &path, json!({})));
        }),
        ("change of password", |_, other| {
            let body = json!({ "new_password": PASSWORD, "logout_devices": true });
            let path = "/_matrix/client/v3/account/password";
            expect_ok(other.request_with_password(Method::POST, path, body));
        }),
        ("logout of all", |_, other| {
            expect_ok(other.post("/_matrix/client/v3/logout/all", json!({})));
        }),
    ];
    for (name, end) in ends {
        let [ending, other] = [(); 2].map(|()| server.log_in("alice"));
        let [token, of_other] = [&ending, &other].map(|user| {
            let path = format!(
                "/_matrix/client/v3/user/{}/openid/request_token",
                user.user_id
            );
            let token = expect_ok(user.post(&path, json!({})));
            token["access_token"].as_str().expect("a token").to_owned()
        });
        assert!(is_known(&token) && is_known(&of_other), "{name}");
        end(&ending, &other);
        assert!(!is_known(&token), "{name}");
        assert_eq!(is_known(&of_other), other.is_logged_in(), "{name}");
    }
    // A log-in on the same device is another session.
    let first = server.log_in("alice");
    let path = format!(
        "/_matrix/client/v3/user/{}/openid/request_token",
        first.user_id
    );
    let token = expect_ok(first.post(&path, json!({})));
    let same = json!({ "device_id": first.device_id });
    expect_ok(server.log_in_with("alice", same));
    assert!(!is_known(token["access_token"].as_str().expect("a token")));
}

#[test]
fn openid_token_of_a_locked_user_is_not_known_until_the_lock_is_lifted() {
    let server = TestServer::new();
    let (admin, bob) = (server.register("admin"), server.register("bob"));
    let path = format!(
        "/_matrix/client/v3/user/{}/openid/request_token",
        bob.user_id
    );
    let token = expect_ok(bob.post(&path, json!({})));
    let token = token["access_token"].as_str().expect("a token");
    let userinfo = || server.get(&format!("{USERINFO}?access_token={token}"));
    let lock = format!("/_matrix/client/v1/admin/lock/{}", bob.user_id);
    expect_ok(admin.put(&lock, json!({ "locked": true })));
    expect_error(&userinfo(), 401, "M_UNKNOWN_TOKEN");
    expect_ok(admin.put(&lock, json!({ "locked": false })));
    assert_eq!(expect_ok(userinfo())["sub"], bob.user_id.as_str());
}
