//! Proving to other services who one is.

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, refused},
    rooms::done,
};

const USERINFO: &str = "/_matrix/federation/v1/openid/userinfo";

#[test]
fn others_learn_from_a_token_who_asked_for_it() {
    let mut home = Home::new();
    let alice = home.register("alice");
    let path = format!(
        "/_matrix/client/v3/user/{}/openid/request_token",
        alice.user_id
    );
    let bob = home.register("bob");
    refused(&bob.post(&path, json!({})), 403, "M_FORBIDDEN");
    let token = done(alice.post(&path, json!({})));
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
    home.restart();
    let asked = |token: &str| {
        let path = format!("{USERINFO}?access_token={token}");
        home.ask(Method::GET, &path, Value::Null)
    };
    assert_eq!(done(asked(&token)), json!({ "sub": "@alice:localhost" }));
    refused(&asked(&session), 401, "M_UNKNOWN_TOKEN");
    refused(
        &home.ask(Method::GET, USERINFO, Value::Null),
        400,
        "M_MISSING_PARAM",
    );
    let alice = home.with_token(&session);
    alice.ask_with_password(
        Method::POST,
        "/_matrix/client/v3/account/deactivate",
        json!({}),
    );
    refused(&asked(&token), 401, "M_UNKNOWN_TOKEN");
}
