//! What is shown of web pages.

use std::{io::ErrorKind, net::TcpListener, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    media::{get, stored},
    media_pictures::picture,
    rooms::{done, escaped},
    web::Web,
};

const PREVIEW: &str = "/_matrix/client/v1/media/preview_url";
const WITH_PREVIEWS: &str = "url_previews = true";

fn preview(who: &Person<'_>, url: &str) -> (u16, Value) {
    who.get(&format!("{PREVIEW}?url={}", escaped(url)))
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

/// A server on which links are shown, which may ask those next to it.
fn with_previews() -> Home {
    let [home] = Home::federating_with(|_| [WITH_PREVIEWS.to_owned()]);
    home
}

#[test]
fn a_page_is_shown_with_its_picture_which_is_kept_here() {
    let page = "<title>Fish</title><meta property=og:image content=/fish.jpg>";
    let web = Web::with([
        ("/", ("text/html; charset=utf-8", page.into())),
        ("/fish.jpg", ("image/jpeg", picture(300, 200))),
    ]);
    let home = with_previews();
    let alice = home.register("alice");
    let link = web.link("/#part");
    let path = format!("{PREVIEW}?url={}", escaped(&link));
    let ask = || home.send(Method::GET, &path, Some(&alice.token), &Value::Null);
    // Of those who ask at the same time, too.
    let shown = home.run(home.all(vec![ask(), ask(), ask()])).remove(1);
    let shown = done(shown);
    let uri = shown["og:image"].as_str().expect("a picture");
    let expected = json!({
        "og:title": "Fish",
        "og:image": uri,
        "og:image:type": "image/jpeg",
        "og:image:width": 300,
        "og:image:height": 200,
        "matrix:image:size": picture(300, 200).len(),
    });
    assert_eq!(shown, expected);
    let path = uri.replace("mxc://", "/_matrix/client/v1/media/download/");
    let kept = get(&home, &alice, &path, &[]);
    assert_eq!(kept.headers()["content-type"], "image/jpeg");
    assert!(*kept.body() == picture(300, 200));
    assert_eq!(done(preview(&alice, &web.link("/"))), expected);
    assert_eq!(web.asked(), 2);
    let alone = done(preview(&alice, &web.link("/fish.jpg")));
    assert_eq!(alone["og:image:width"], 300);
}

#[test]
fn a_page_is_asked_for_again_after_an_hour_and_one_that_was_not_there_after_minutes() {
    let page = ("text/html", b"<title>Fish</title>".to_vec());
    let web = Web::with([("/", page)]);
    let home = with_previews();
    let alice = home.register("alice");
    let [there, gone] = ["/", "/gone"].map(|path| web.link(path));
    for (minutes, asked) in [(0, 2), (4, 2), (2, 3), (50, 4), (10, 6)] {
        home.clock.advance(Duration::from_mins(minutes));
        assert_eq!(preview(&alice, &there).0, 200);
        assert_eq!(preview(&alice, &gone).0, 502);
        assert_eq!(web.asked(), asked, "{minutes} minutes later");
    }
}

#[test]
fn of_what_is_large_the_beginning_is_read_and_pictures_are_left_out() {
    let begun = b"<title>Long</title><meta property=og:image content=large.jpg>".to_vec();
    let mut long = begun.clone();
    long.resize(600 << 10, b' ');
    long.extend(b"<meta property=og:title content=Late>");
    let mut large = picture(300, 200);
    large.resize(11 << 20, 0);
    let none = b"<title>None</title><meta property=og:image content=none.jpg>";
    let web = Web::with([
        ("/long", ("text/html", long)),
        ("/large.jpg", ("image/jpeg", large)),
        ("/none", ("text/html", none.to_vec())),
        ("/none.jpg", ("image/jpeg", b"this is none".to_vec())),
        ("/video", ("video/mp4", vec![0; 1000])),
    ]);
    let home = with_previews();
    let alice = home.register("alice");
    let shown = |path: &str| done(preview(&alice, &web.link(path)));
    assert_eq!(shown("/long"), json!({ "og:title": "Long" }));
    assert_eq!(shown("/none"), json!({ "og:title": "None" }));
    assert_eq!(shown("/none.jpg"), json!({}));
    assert_eq!(shown("/video"), json!({}));
    let (status, _) = preview(&alice, &web.link("/large.jpg"));
    assert_eq!(status, 502);
    home.run(home.until(async || stored(&home) == 0));
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
