//! What is shown of web pages.

use std::{io::ErrorKind, net::TcpListener};

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    rooms::{done, escaped},
};

const WITH_PREVIEWS: &str = "url_previews = true";

fn preview(who: &Person<'_>, url: &str) -> (u16, Value) {
    let path = "/_matrix/client/v1/media/preview_url";
    who.get(&format!("{path}?url={}", escaped(url)))
}

#[test]
fn a_page_is_shown_by_what_it_says_of_itself() {
    let [here, there] = Home::federating_with(|_| [WITH_PREVIEWS, ""].map(ToOwned::to_owned));
    let alice = here.register("alice");
    // A page of the other server: where one confirms who one is.
    let register = "/_matrix/client/v3/register";
    let (_, asked) = there.ask(Method::POST, register, json!({ "username": "bob" }));
    let session = asked["session"].as_str().expect("a session");
    let page = "/_matrix/client/v3/auth/m.login.dummy/fallback/web";
    let url = format!("https://{}{page}?session={session}", there.name());
    let shown = done(preview(&alice, &url));
    assert_eq!(
        shown,
        json!({
            "og:title": "Registration",
            "og:description": "Nothing more is needed to make an account here.",
        })
    );
    // It is remembered: the page is not asked again.
    drop(there);
    assert_eq!(done(preview(&alice, &url)), shown);
    let path = "/_matrix/media/v3/preview_url";
    let old = alice.get(&format!("{path}?url={}", escaped(&url)));
    assert_eq!(done(old), shown);
}

#[test]
fn what_is_no_page_is_shown_as_nothing_and_what_is_not_there_is_not_shown() {
    let [here, there] = Home::federating_with(|_| [WITH_PREVIEWS, ""].map(ToOwned::to_owned));
    let alice = here.register("alice");
    let at = |path: &str| format!("https://{}{path}", there.name());
    let json = done(preview(&alice, &at("/_matrix/client/versions")));
    assert_eq!(json, json!({}));
    assert_eq!(preview(&alice, &at("/nothing")).0, 502);
    for link in ["", "nonsense", "file:///etc/passwd", "ftp://a.example/"] {
        refused(&preview(&alice, link), 400, "M_INVALID_PARAM");
    }
}

#[test]
fn nobody_makes_the_server_look_at_what_is_next_to_it() {
    let door = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = door.local_addr().expect("it has an address").port();
    // Where servers may be next to it, web pages may not.
    for servers in ["", "allow_private_addresses = true"] {
        let home = Home::with(&format!(
            "registration = \"token\"\nregistration_token = \"secret\"\nurl_previews = true\n\
             server_name = \"here.example\"\n{servers}"
        ));
        let register = |auth: Value| {
            let asked = json!({ "username": "alice", "password": "a good password", "auth": auth });
            home.ask(Method::POST, "/_matrix/client/v3/register", asked)
                .1
        };
        let token = json!({ "type": "m.login.registration_token", "token": "secret" });
        let session = &register(token)["session"];
        let account = register(json!({ "type": "m.login.dummy", "session": session }));
        let alice = home.person(&account);
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
        ] {
            let link = format!("https://{host}:{port}/");
            assert_eq!(preview(&alice, &link).0, 502, "{host}");
        }
    }
    door.set_nonblocking(true).expect("it can be asked");
    let knocked = door.accept().expect_err("somebody came");
    assert_eq!(knocked.kind(), ErrorKind::WouldBlock);
}

#[test]
fn pages_are_looked_at_only_where_the_owner_wants_that() {
    let home = Home::new();
    let alice = home.register("alice");
    refused(&preview(&alice, "https://a.example/"), 403, "M_FORBIDDEN");
    let path = "/_matrix/client/v1/media/preview_url?url=https://a.example/";
    refused(
        &home.ask(Method::GET, path, Value::Null),
        401,
        "M_MISSING_TOKEN",
    );
}
