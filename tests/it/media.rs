//! Pictures and files.

use std::{fs, path::Path, time::Duration};

use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::{
    home::{Home, Person, read, refused},
    rooms::{done, escaped},
};

const UPLOAD: &str = "/_matrix/media/v3/upload";
const DOWNLOAD: &str = "/_matrix/client/v1/media/download";

/// Sends `body` as it is, or asks for something without one.
fn send(
    home: &Home,
    who: &Person<'_>,
    (method, path): (Method, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response<Vec<u8>> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("authorization", format!("Bearer {}", who.token));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    home.respond(request.body(body.to_vec()).expect("a request"))
}

fn upload_as(
    home: &Home,
    who: &Person<'_>,
    (name, kind): (&str, &str),
    content: &[u8],
) -> (u16, Value) {
    let path = format!("{UPLOAD}?filename={}", escaped(name));
    let headers = [("content-type", kind)];
    read(&send(home, who, (Method::POST, &path), &headers, content))
}

/// The path under which what was uploaded is downloaded.
pub fn path_of(uri: &Value) -> String {
    let uri = uri.as_str().expect("an address");
    let uri = uri.strip_prefix("mxc://").expect("an mxc address");
    format!("{DOWNLOAD}/{uri}")
}

/// Uploads, and returns the path to download it.
pub fn upload(home: &Home, who: &Person<'_>, kind: &str, content: &[u8]) -> String {
    path_of(&done(upload_as(home, who, ("file", kind), content))["content_uri"])
}

pub fn get(
    home: &Home,
    who: &Person<'_>,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Vec<u8>> {
    send(home, who, (Method::GET, path), headers, &[])
}

fn header<'r>(response: &'r Response<Vec<u8>>, name: &str) -> &'r str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().expect("it is text"))
}

/// How many files are anywhere below `directory`.
fn files(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let count = |path: &Path| if path.is_dir() { files(path) } else { 1 };
    entries
        .map(|entry| count(&entry.expect("it can be read").path()))
        .sum()
}

pub fn stored(home: &Home) -> usize {
    files(&home.directory().join("data/media"))
}

#[test]
fn what_one_uploads_others_download_also_after_a_restart() {
    let mut home = Home::new();
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (path, token) = {
        let (alice, bob) = (home.register("alice"), home.register("bob"));
        let path = upload(&home, &alice, "image/png", &content);
        assert_eq!(*get(&home, &bob, &path, &[]).body(), content);
        (path, bob.token)
    };
    home.restart();
    let response = get(&home, &home.with_token(&token), &path, &[]);
    assert_eq!(response.status(), 200);
    assert_eq!(*response.body(), content);
    assert_eq!(header(&response, "content-type"), "image/png");
}

#[test]
fn a_download_says_how_it_is_to_be_shown_and_that_nothing_in_it_is_run() {
    let home = Home::new();
    let alice = home.register("alice");
    for (name, kind, disposition) in [
        ("cat.png", "image/png", "inline; filename=cat.png"),
        (
            "a b.txt",
            "text/plain; charset=utf-8",
            "inline; filename=\"a b.txt\"",
        ),
        ("x.html", "text/html", "attachment; filename=x.html"),
        ("x.svg", "image/svg+xml", "attachment; filename=x.svg"),
        (
            "Käse.pdf",
            "application/pdf",
            "attachment; filename*=utf-8''K%C3%A4se.pdf",
        ),
        (
            "a\r\nb: c\".txt",
            "TEXT/PLAIN",
            "inline; filename=\"ab: c\\\".txt\"",
        ),
        (
            "ä\r\nb: c",
            "image/gif",
            "inline; filename*=utf-8''%C3%A4%0D%0Ab%3A%20c",
        ),
        ("x", "text/plain, text/html", "attachment; filename=x"),
        ("x", "application/xhtml+xml", "attachment; filename=x"),
    ] {
        let answer = done(upload_as(&home, &alice, (name, kind), b"content"));
        let response = get(&home, &alice, &path_of(&answer["content_uri"]), &[]);
        assert_eq!(header(&response, "content-type"), kind);
        assert_eq!(header(&response, "content-disposition"), disposition);
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        let policy = header(&response, "content-security-policy");
        assert!(
            policy.starts_with("sandbox; default-src 'none';"),
            "{policy}"
        );
        assert_eq!(
            header(&response, "cross-origin-resource-policy"),
            "cross-origin"
        );
    }
}

#[test]
fn who_says_nothing_of_a_file_gets_it_back_as_bytes_without_a_name() {
    let home = Home::new();
    let alice = home.register("alice");
    let answer = read(&send(&home, &alice, (Method::POST, UPLOAD), &[], b"bytes"));
    let path = path_of(&done(answer)["content_uri"]);
    let response = get(&home, &alice, &path, &[]);
    assert_eq!(
        header(&response, "content-type"),
        "application/octet-stream"
    );
    assert_eq!(header(&response, "content-disposition"), "attachment");
    let named = get(&home, &alice, &format!("{path}/my%20name"), &[]);
    assert_eq!(
        header(&named, "content-disposition"),
        "attachment; filename=\"my name\""
    );
    assert_eq!(named.body(), b"bytes");
}

#[test]
fn a_part_of_a_file_can_be_had_and_nothing_of_one_that_is_known() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = upload(&home, &alice, "video/mp4", b"0123456789");
    let part = get(&home, &alice, &path, &[("range", "bytes=2-4")]);
    assert_eq!((part.status().as_u16(), &**part.body()), (206, &b"234"[..]));
    assert_eq!(header(&part, "content-range"), "bytes 2-4/10");
    let behind = get(&home, &alice, &path, &[("range", "bytes=10-")]);
    refused(&read(&behind), 416, "M_INVALID_PARAM");
    assert_eq!(header(&behind, "content-range"), "bytes */10");
    let tag = header(&part, "etag");
    let known = get(&home, &alice, &path, &[("if-none-match", tag)]);
    assert_eq!((known.status().as_u16(), known.body().len()), (304, 0));
}

#[test]
fn what_is_not_here_is_not_found_however_it_is_asked_for() {
    let home = Home::new();
    let alice = home.register("alice");
    for id in [
        "nothing",
        "..",
        "..%2F..%2Fhearth.redb",
        "%00",
        "a%2Fb",
        "%F0%9F%90%88",
    ] {
        let answer = alice.get(&format!("{DOWNLOAD}/localhost/{id}"));
        refused(&answer, 404, "M_NOT_FOUND");
    }
    let elsewhere = alice.get(&format!("{DOWNLOAD}/elsewhere.example/id"));
    refused(&elsewhere, 404, "M_NOT_FOUND");
}

#[test]
fn media_are_for_those_who_say_who_they_are() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = upload(&home, &alice, "image/png", b"content");
    let ask = |path: &str| home.ask(Method::GET, path, Value::Null);
    refused(&ask(&path), 401, "M_MISSING_TOKEN");
    let frozen = path.replace("/client/v1/media/", "/media/v3/");
    refused(&ask(&frozen), 404, "M_NOT_FOUND");
    refused(&ask(&format!("{frozen}/name")), 404, "M_NOT_FOUND");
    let thumbnail = frozen.replace("download", "thumbnail") + "?width=32&height=32";
    refused(&ask(&thumbnail), 404, "M_NOT_FOUND");
    let nobody = home.ask(Method::POST, UPLOAD, json!({}));
    refused(&nobody, 401, "M_MISSING_TOKEN");
}

#[test]
fn what_is_too_large_is_refused_and_leaves_nothing() {
    let home = Home::with("registration = \"open\"\nmax_upload = \"64K\"");
    let alice = home.register("alice");
    let config = done(alice.get("/_matrix/client/v1/media/config"));
    assert_eq!(config, json!({ "m.upload.size": 65536 }));
    let fits = upload(&home, &alice, "image/png", &[7; 65536]);
    assert_eq!(get(&home, &alice, &fits, &[]).body().len(), 65536);
    let before = stored(&home);
    let answer = upload_as(&home, &alice, ("large", "image/png"), &[7; 65537]);
    refused(&answer, 413, "M_TOO_LARGE");
    home.run(home.until(async || stored(&home) == before));
}

#[test]
fn one_user_may_upload_so_much_and_no_more() {
    let home = Home::with("registration = \"open\"\nuser_quota = \"100K\"");
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    upload(&home, &alice, "image/png", &[1; 60_000]);
    let answer = upload_as(&home, &alice, ("more", "image/png"), &[2; 60_000]);
    refused(&answer, 403, "M_FORBIDDEN");
    upload(&home, &alice, "image/png", &[3; 40_000]);
    upload(&home, &bob, "image/png", &[2; 60_000]);
    assert_eq!(stored(&home), 3);
}

#[test]
fn the_same_file_is_stored_once() {
    let home = Home::new();
    let alice = home.register("alice");
    let paths = ["image/png", "image/jpeg"].map(|kind| upload(&home, &alice, kind, b"same"));
    assert_ne!(paths[0], paths[1]);
    home.run(home.until(async || stored(&home) == 1));
    let response = get(&home, &alice, &paths[1], &[]);
    assert_eq!(header(&response, "content-type"), "image/jpeg");
}

#[test]
fn an_upload_that_says_nonsense_of_itself_is_refused() {
    let home = Home::new();
    let alice = home.register("alice");
    let long = "x".repeat(1001);
    let answer = upload_as(&home, &alice, (&long, "image/png"), b"");
    refused(&answer, 400, "M_INVALID_PARAM");
    let long = format!("image/{}", "x".repeat(300));
    let answer = upload_as(&home, &alice, ("file", &long), b"");
    refused(&answer, 400, "M_INVALID_PARAM");
}

/// A media id to upload something to: its whole address.
fn create(who: &Person<'_>) -> Value {
    done(who.post("/_matrix/media/v1/create", json!({})))
}

fn fill(home: &Home, who: &Person<'_>, uri: &Value, content: &[u8]) -> (u16, Value) {
    let path = path_of(uri).replace(DOWNLOAD, UPLOAD);
    let headers = [("content-type", "text/plain")];
    read(&send(home, who, (Method::PUT, &path), &headers, content))
}

#[test]
fn an_address_can_be_had_before_the_file() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let created = create(&alice);
    let uri = &created["content_uri"];
    let until = created["unused_expires_at"].as_u64().expect("a time");
    assert_eq!(until, home.clock.now_ms() + 24 * 3_600_000);
    let early = bob.get(&format!("{}?timeout_ms=1", path_of(uri)));
    refused(&early, 504, "M_NOT_YET_UPLOADED");
    refused(&fill(&home, &bob, uri, b"bob's"), 403, "M_FORBIDDEN");
    assert_eq!(done(fill(&home, &alice, uri, b"hers")), json!({}));
    assert_eq!(get(&home, &bob, &path_of(uri), &[]).body(), b"hers");
    let again = fill(&home, &alice, uri, b"other");
    refused(&again, 409, "M_CANNOT_OVERWRITE_MEDIA");
    let unknown = json!("mxc://localhost/unknown");
    refused(&fill(&home, &alice, &unknown, b""), 404, "M_NOT_FOUND");
    let elsewhere = json!("mxc://elsewhere.example/id");
    refused(&fill(&home, &alice, &elsewhere, b""), 404, "M_NOT_FOUND");
}

#[test]
fn who_waits_for_a_file_gets_it_when_it_comes() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let uri = create(&alice)["content_uri"].clone();
    let request = |who: &Person<'_>, method: Method, path: String, body: &[u8]| {
        let token = format!("Bearer {}", who.token);
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", token);
        request.body(body.to_vec()).expect("a request")
    };
    let wait = format!("{}?timeout_ms=20000", path_of(&uri));
    let path = path_of(&uri).replace(DOWNLOAD, UPLOAD);
    let answers = home.respond_all(vec![
        request(&bob, Method::GET, wait.clone(), b""),
        request(&alice, Method::GET, wait, b""),
        request(&alice, Method::PUT, path, b"at last"),
    ]);
    assert_eq!(answers[0].body(), b"at last");
    assert_eq!(answers[1].body(), b"at last");
}

#[test]
fn an_address_that_nobody_uses_ends_and_one_has_so_many() {
    let home = Home::new();
    let alice = home.register("alice");
    let first = create(&alice)["content_uri"].clone();
    for _ in 1..50 {
        create(&alice);
    }
    let answer = alice.post("/_matrix/media/v1/create", json!({}));
    refused(&answer, 429, "M_LIMIT_EXCEEDED");
    home.clock.advance(Duration::from_hours(24));
    refused(&fill(&home, &alice, &first, b"late"), 404, "M_NOT_FOUND");
    refused(&alice.get(&path_of(&first)), 404, "M_NOT_FOUND");
    create(&alice);
}

#[test]
fn what_a_crash_left_half_done_is_gone_after_the_next_start() {
    let mut home = Home::new();
    let (path, token) = {
        let alice = home.register("alice");
        (upload(&home, &alice, "image/png", b"whole"), alice.token)
    };
    home.stop();
    let media = home.directory().join("data/media");
    let orphan = "ab".repeat(32);
    fs::create_dir_all(media.join("files/ab")).expect("a directory");
    fs::write(
        media.join("files/ab").join(&orphan[2..]),
        b"in place, but unknown",
    )
    .expect("a file");
    fs::write(media.join("new").join(&orphan), b"").expect("a file");
    fs::write(media.join("new/0123.part"), b"unfinished").expect("a file");
    home.start();
    assert_eq!(stored(&home), 1);
    assert_eq!(
        get(&home, &home.with_token(&token), &path, &[]).body(),
        b"whole"
    );
}
