//! Media across servers.

use std::{fs, path::Path, time::Duration};

use http::{Method, Request};
use ruma::{
    api::{
        error::ErrorKind,
        federation::authenticated_media::{FileOrLocation, get_content, get_content_thumbnail},
    },
    uint,
};
use serde_json::{Value, json};
use smol::{Timer, future};

use super::outage::join_via;
use crate::{
    home::{Home, Person, read, refused},
    media::{get, path_of, upload},
    media_pictures::{mxc, picture, redact},
    rooms::{done, make_room, send},
    web::Web,
};

/// How many bytes of media a server keeps.
fn kept(home: &Home) -> u64 {
    fn size(path: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(path) else {
            return fs::metadata(path).map_or(0, |file| file.len());
        };
        entries.flatten().map(|entry| size(&entry.path())).sum()
    }
    size(&home.directory().join("data/media"))
}

#[test]
fn what_another_server_has_is_fetched_once_for_all_who_ask_and_kept() {
    let [here, there] = Home::federating();
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = upload(&there, &there.register("bob"), "image/png", &content);
    let (alice, carol) = (here.register("alice"), here.register("carol"));
    assert_eq!(kept(&here), 0);
    let ask = |who: &Person<'_>| {
        let request = Request::get(&path).header("authorization", format!("Bearer {}", who.token));
        request.body(Vec::new()).expect("a request")
    };
    for answer in here.respond_all(vec![ask(&alice), ask(&carol), ask(&alice)]) {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "image/png");
        assert_eq!(
            answer.headers()["content-disposition"],
            "inline; filename=file"
        );
        assert!(*answer.body() == content);
    }
    assert_eq!(kept(&here), content.len() as u64);
    drop(there);
    assert!(*get(&here, &alice, &path, &[]).body() == content);
}

/// Addresses on a server to which nothing has been uploaded: who fetches them waits for a while.
fn promised(home: &Home, count: usize) -> Vec<String> {
    let bob = home.register("bob");
    let create = || done(bob.post("/_matrix/media/v1/create", json!({})));
    let path = |created: Value| path_of(&created["content_uri"]);
    (0..count).map(|_| path(create())).collect()
}

/// Whether the media at `path` come while whoever asks for what was `promised` still waits.
fn comes_before(home: &Home, path: &str, promised: &[String]) -> bool {
    let alice = home.register("alice");
    let ask = |path: &str| {
        let (path, token) = (path.to_owned(), alice.token.clone());
        async move {
            home.send(Method::GET, &path, Some(&token), &Value::Null)
                .await
        }
    };
    let mut others = promised.iter().map(|path| ask(path));
    let first = others.next().expect("there is one");
    let others = home.all(others.collect());
    let came = async { ask(path).await.0 == 200 };
    home.run(future::or(
        async {
            first.await;
            false
        },
        future::or(
            async {
                others.await;
                false
            },
            came,
        ),
    ))
}

#[test]
fn a_server_that_takes_its_time_does_not_keep_the_media_of_others_waiting() {
    let [here, slow, quick] = Home::federating();
    let path = upload(&quick, &quick.register("carol"), "image/png", b"content");
    assert!(comes_before(&here, &path, &promised(&slow, 40)));
}

#[test]
fn who_asks_for_the_same_waits_for_the_same() {
    let [here, there] = Home::federating();
    let path = upload(&there, &there.register("carol"), "image/png", b"content");
    // If each of them fetched it, there would be no turn left for the other.
    let same = vec![promised(&there, 1).remove(0); 20];
    assert!(comes_before(&here, &path, &same));
}

#[test]
fn what_has_been_promised_is_fetched_when_it_has_come() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let created = done(bob.post("/_matrix/media/v1/create", json!({})));
    let path = path_of(&created["content_uri"]);
    let ask = here.send(Method::GET, &path, Some(&alice.token), &Value::Null);
    // The other server waits for it in the name of those who wait here.
    let fill = Request::put(path.replace("/client/v1/media/download/", "/media/v3/upload/"))
        .header("authorization", format!("Bearer {}", bob.token))
        .body(b"\"at last\"".to_vec())
        .expect("a request");
    let filled = async {
        Timer::after(Duration::from_millis(50)).await;
        there.edge().respond(fill).await.status().as_u16()
    };
    let (answer, filled) = here.run(future::zip(ask, filled));
    assert_eq!((answer, filled), ((200, json!("at last")), 200));
}

#[test]
fn other_servers_get_media_and_small_pictures_in_parts() {
    let [here, there] = Home::federating();
    let path = upload(
        &there,
        &there.register("bob"),
        "image/jpeg",
        &picture(500, 300),
    );
    let id = path.rsplit('/').next().expect("an id").to_owned();
    let (client, name) = (here.client(), there.name());
    let of = |parts: FileOrLocation| match parts {
        FileOrLocation::File(content) => content,
        elsewhere => panic!("{elsewhere:?}"),
    };
    let request = get_content::v1::Request::new(id.clone());
    let whole = of(here.run(client.send(name, request)).expect("media").content);
    assert!(whole.file == picture(500, 300));
    assert_eq!(whole.content_type.as_deref(), Some("image/jpeg"));
    let disposition = whole.content_disposition.expect("it says how");
    assert_eq!(disposition.filename.as_deref(), Some("file"));
    let (width, height) = (uint!(32), uint!(32));
    let request = get_content_thumbnail::v1::Request::new(id, width, height);
    let small = of(here.run(client.send(name, request)).expect("media").content);
    let small = image::load_from_memory(&small.file).expect("a picture");
    assert_eq!((small.width(), small.height()), (32, 20));
    let request = get_content_thumbnail::v1::Request::new("nothing".to_owned(), width, height);
    let refused = here.run(client.send(name, request)).expect_err("nothing");
    assert_eq!(refused.kind(), Some(&ErrorKind::NotFound));
}

#[test]
fn what_a_redacted_message_showed_is_gone_on_every_server() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = make_room(&bob, json!({ "preset": "public_chat" }));
    join_via(&alice, &room, &there);
    let [shown, other] = [b"shown", b"other"].map(|it| upload(&there, &bob, "image/png", it));
    for path in [&shown, &other] {
        assert_eq!(get(&here, &alice, path, &[]).status(), 200);
    }
    // Not what alice shows of bob's, but what he showed himself.
    for who in [&alice, &bob] {
        let path = if who.token == bob.token {
            &shown
        } else {
            &other
        };
        let content = json!({ "msgtype": "m.image", "body": "", "url": mxc(path) });
        let event = send(who, &room, "m.room.message", content);
        redact(who, &room, &event);
    }
    here.run(here.until(async || kept(&here) == 5 && kept(&there) == 5));
    refused(&read(&get(&here, &alice, &shown, &[])), 404, "M_NOT_FOUND");
    assert_eq!(get(&here, &alice, &other, &[]).body(), b"other");
}

#[test]
fn nobody_makes_the_server_fetch_anything_who_does_not_say_who_they_are() {
    let [here, there] = Home::federating();
    let path = upload(&there, &there.register("bob"), "image/png", b"content");
    refused(
        &here.ask(Method::GET, &path, Value::Null),
        401,
        "M_MISSING_TOKEN",
    );
    let frozen = path.replace("/client/v1/media/", "/media/v3/");
    refused(
        &here.ask(Method::GET, &frozen, Value::Null),
        404,
        "M_NOT_FOUND",
    );
    assert_eq!(kept(&here), 0);
}

#[test]
fn what_another_server_does_not_have_is_not_found_and_one_that_is_gone_is_at_fault() {
    let [here, there] = Home::federating();
    let alice = here.register("alice");
    let name = there.name().to_string();
    let path = |id: &str| format!("/_matrix/client/v1/media/download/{name}/{id}");
    refused(&alice.get(&path("nothing")), 404, "M_NOT_FOUND");
    refused(&alice.get(&path("..%2F..")), 404, "M_NOT_FOUND");
    drop(there);
    assert_eq!(alice.get(&path("other")).0, 502);
}

#[test]
fn what_is_too_large_is_not_fetched() {
    let [here, there] =
        Home::federating_with(|_| ["max_upload = \"64K\"", ""].map(ToOwned::to_owned));
    let path = upload(&there, &there.register("bob"), "image/png", &[7; 70_000]);
    let alice = here.register("alice");
    let answer = read(&get(&here, &alice, &path, &[]));
    refused(&answer, 502, "M_TOO_LARGE");
    here.run(here.until(async || kept(&here) == 0));
}

#[test]
fn what_is_announced_as_too_large_is_not_even_begun() {
    let path = "/_matrix/federation/v1/media/download/large";
    let kind = "multipart/mixed; boundary=abc";
    let there = Web::that_promises(path, kind, 200 << 20);
    let [here] = Home::federating();
    let alice = here.register("alice");
    let path = format!("/_matrix/client/v1/media/download/{}/large", there.name());
    refused(&alice.get(&path), 502, "M_TOO_LARGE");
    // What cannot be had is not asked for again at once.
    refused(&alice.get(&path), 502, "M_TOO_LARGE");
    assert_eq!(there.asked(), 1);
}

#[test]
fn what_others_uploaded_makes_room_and_what_is_uploaded_here_does_not() {
    let [here, there] = Home::federating_with(|_| ["disk = \"64K\"", ""].map(ToOwned::to_owned));
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let own = upload(&here, &alice, "image/png", &[1; 50_000]);
    let theirs = [2, 3, 4].map(|byte| upload(&there, &bob, "image/png", &[byte; 40_000]));
    for path in &theirs {
        assert_eq!(get(&here, &alice, path, &[]).body().len(), 40_000);
    }
    // The budget is spent by the database already: only what was asked for last is kept.
    here.run(here.until(async || kept(&here) == 90_000));
    assert_eq!(get(&here, &alice, &own, &[]).body().len(), 50_000);
    // What went is fetched again.
    assert_eq!(get(&here, &alice, &theirs[0], &[]).body().len(), 40_000);
}
