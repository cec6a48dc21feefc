//! Media across servers.

use std::{fs, path::Path};

use http::{Method, Request};
use serde_json::{Value, json};
use smol::future;

use crate::{
    home::{Home, Person, read, refused},
    media::{get, path_of, upload},
    rooms::done,
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

#[test]
fn a_server_that_takes_its_time_does_not_keep_the_media_of_others_waiting() {
    let [here, slow, quick] = Home::federating();
    let alice = here.register("alice");
    let promised = promised(&slow, 40);
    let path = upload(&quick, &quick.register("carol"), "image/png", b"content");
    let ask = |path: &str| {
        let (path, token) = (path.to_owned(), alice.token.clone());
        let here = &here;
        async move {
            here.send(Method::GET, &path, Some(&token), &Value::Null)
                .await
        }
    };
    let waiting = promised[1..].iter().map(|path| ask(path)).collect();
    let all = async {
        here.all(waiting).await;
        None
    };
    let first = async {
        ask(&promised[0]).await;
        None
    };
    let other = async { Some(ask(&path).await.0) };
    let came = here.run(future::or(first, future::or(all, other)));
    assert_eq!(came, Some(200));
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
