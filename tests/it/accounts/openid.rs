//! OpenID tokens.

use http::Method;
use serde_json::json;

use crate::test_server::{TestServer, expect_error, expect_ok};

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
