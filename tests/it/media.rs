//! Upload and download of media.

use std::{fs, path::Path, time::Duration};

use http::{Method, Request, Response};
use serde_json::{Value, json};

use crate::{
    client_api::percent_encode,
    media_thumbnails::jpeg,
    test_server::{TestServer, TestUser, expect_error, expect_ok, parse},
};

const UPLOAD: &str = "/_matrix/media/v3/upload";
const DOWNLOAD: &str = "/_matrix/client/v1/media/download";

fn send(
    server: &TestServer,
    user: &TestUser<'_>,
    (method, path): (Method, &str),
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response<Vec<u8>> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("authorization", format!("Bearer {}", user.token));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.respond(request.body(body.to_vec()).expect("a request"))
}

fn upload_as(
    server: &TestServer,
    user: &TestUser<'_>,
    (name, kind): (&str, &str),
    content: &[u8],
) -> (u16, Value) {
    let path = format!("{UPLOAD}?filename={}", percent_encode(name));
    let headers = [("content-type", kind)];
    parse(&send(
        server,
        user,
        (Method::POST, &path),
        &headers,
        content,
    ))
}

/// The download path of an `mxc://` URI.
pub fn download_path(uri: &Value) -> String {
    let uri = uri.as_str().expect("a URI");
    let uri = uri.strip_prefix("mxc://").expect("an mxc URI");
    format!("{DOWNLOAD}/{uri}")
}

/// Uploads `content`; returns its download path.
pub fn upload(server: &TestServer, user: &TestUser<'_>, kind: &str, content: &[u8]) -> String {
    download_path(&expect_ok(upload_as(server, user, ("file", kind), content))["content_uri"])
}

pub fn get(
    server: &TestServer,
    user: &TestUser<'_>,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Vec<u8>> {
    send(server, user, (Method::GET, path), headers, &[])
}

fn header<'r>(response: &'r Response<Vec<u8>>, name: &str) -> &'r str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().expect("it is text"))
}

/// The number of files below `directory`, recursively.
fn count_files(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let count = |path: &Path| if path.is_dir() { count_files(path) } else { 1 };
    entries
        .map(|entry| count(&entry.expect("it can be read").path()))
        .sum()
}

pub fn stored_files(server: &TestServer) -> usize {
    count_files(&server.directory().join("data/media"))
}

#[test]
fn uploaded_media_is_downloadable_by_others_also_after_restart() {
    let mut server = TestServer::new();
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (path, token) = {
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let path = upload(&server, &alice, "image/png", &content);
        assert_eq!(*get(&server, &bob, &path, &[]).body(), content);
        (path, bob.token)
    };
    server.restart();
    let response = get(&server, &server.user_with_token(&token), &path, &[]);
    assert_eq!(response.status(), 200);
    assert_eq!(*response.body(), content);
    assert_eq!(header(&response, "content-type"), "image/png");
}

#[test]
fn download_sets_content_disposition_and_security_headers() {
    let server = TestServer::new();
    let alice = server.register("alice");
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
        let response = expect_ok(upload_as(&server, &alice, (name, kind), b"content"));
        let response = get(
            &server,
            &alice,
            &download_path(&response["content_uri"]),
            &[],
        );
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
fn upload_without_type_and_name_is_an_octet_stream_attachment() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let response = parse(&send(
        &server,
        &alice,
        (Method::POST, UPLOAD),
        &[],
        b"bytes",
    ));
    let path = download_path(&expect_ok(response)["content_uri"]);
    let response = get(&server, &alice, &path, &[]);
    assert_eq!(
        header(&response, "content-type"),
        "application/octet-stream"
    );
    assert_eq!(header(&response, "content-disposition"), "attachment");
    let named = get(&server, &alice, &format!("{path}/my%20name"), &[]);
    assert_eq!(
        header(&named, "content-disposition"),
        "attachment; filename=\"my name\""
    );
    assert_eq!(named.body(), b"bytes");
}

#[test]
fn range_request_is_partial_and_matching_etag_is_not_modified() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = upload(&server, &alice, "video/mp4", b"0123456789");
    let partial = get(&server, &alice, &path, &[("range", "bytes=2-4")]);
    assert_eq!(
        (partial.status().as_u16(), &**partial.body()),
        (206, &b"234"[..])
    );
    assert_eq!(header(&partial, "content-range"), "bytes 2-4/10");
    let unsatisfiable = get(&server, &alice, &path, &[("range", "bytes=10-")]);
    expect_error(&parse(&unsatisfiable), 416, "M_INVALID_PARAM");
    assert_eq!(header(&unsatisfiable, "content-range"), "bytes */10");
    let etag = header(&partial, "etag");
    let not_modified = get(&server, &alice, &path, &[("if-none-match", etag)]);
    assert_eq!(
        (not_modified.status().as_u16(), not_modified.body().len()),
        (304, 0)
    );
}

#[test]
fn unknown_or_malformed_media_id_is_not_found() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for id in [
        "nothing",
        "..",
        "..%2F..%2Fhearth.redb",
        "%00",
        "a%2Fb",
        "%F0%9F%90%88",
    ] {
        let response = alice.get(&format!("{DOWNLOAD}/localhost/{id}"));
        expect_error(&response, 404, "M_NOT_FOUND");
    }
    let remote = alice.get(&format!("{DOWNLOAD}/elsewhere.example/id"));
    expect_error(&remote, 404, "M_NOT_FOUND");
}

#[test]
fn media_requires_authentication() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = upload(&server, &alice, "image/png", b"content");
    let get = |path: &str| server.get(path);
    expect_error(&get(&path), 401, "M_MISSING_TOKEN");
    for path in old_paths(&path) {
        expect_error(&get(&path), 404, "M_NOT_FOUND");
    }
    let response = server.request(Method::POST, UPLOAD, json!({}));
    expect_error(&response, 401, "M_MISSING_TOKEN");
}

/// The paths of a file and of a thumbnail of it from before authenticated media.
fn old_paths(path: &str) -> [String; 4] {
    let old = path.replace("/client/v1/media/", "/media/v3/");
    let thumbnail = old.replace("download", "thumbnail") + "?width=32&height=32";
    [
        old.replace("/v3/", "/r0/"),
        old.replace("/v3/", "/v1/"),
        format!("{old}/name"),
        thumbnail,
    ]
}

#[test]
fn old_media_paths_serve_users_and_who_may_fetch_by_the_settings() {
    for (setting, status) in [
        ("none", 404),
        ("all", 200),
        ("1990-01-01", 404),
        ("2100-01-01", 200),
    ] {
        let settings = format!("registration = \"open\"\nunauthenticated_media = \"{setting}\"");
        let server = TestServer::with(&settings);
        let alice = server.register("alice");
        let path = upload(&server, &alice, "image/jpeg", &jpeg(100, 100));
        for path in old_paths(&path) {
            let request = Request::get(&path).body(Vec::new()).expect("a request");
            let response = server.respond(request);
            assert_eq!(response.status(), status, "{setting} {path}");
            assert_eq!(get(&server, &alice, &path, &[]).status(), 200, "{path}");
        }
    }
}

#[test]
fn upload_over_max_upload_is_rejected_and_leaves_no_file() {
    let server = TestServer::with("registration = \"open\"\nmax_upload = \"64K\"");
    let alice = server.register("alice");
    let config = expect_ok(alice.get("/_matrix/client/v1/media/config"));
    assert_eq!(config, json!({ "m.upload.size": 65536 }));
    let fits = upload(&server, &alice, "image/png", &[7; 65536]);
    assert_eq!(get(&server, &alice, &fits, &[]).body().len(), 65536);
    let before = stored_files(&server);
    let response = upload_as(&server, &alice, ("large", "image/png"), &[7; 65537]);
    expect_error(&response, 413, "M_TOO_LARGE");
    server.wait_until(async || stored_files(&server) == before);
}

#[test]
fn upload_over_user_quota_is_rejected() {
    let server = TestServer::with("registration = \"open\"\nuser_quota = \"100K\"");
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    upload(&server, &alice, "image/png", &[1; 60_000]);
    let response = upload_as(&server, &alice, ("more", "image/png"), &[2; 60_000]);
    expect_error(&response, 403, "M_FORBIDDEN");
    upload(&server, &alice, "image/png", &[3; 40_000]);
    upload(&server, &bob, "image/png", &[2; 60_000]);
    assert_eq!(stored_files(&server), 3);
}

#[test]
fn identical_uploads_are_deduplicated() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let paths = ["image/png", "image/jpeg"].map(|kind| upload(&server, &alice, kind, b"same"));
    assert_ne!(paths[0], paths[1]);
    server.wait_until(async || stored_files(&server) == 1);
    let response = get(&server, &alice, &paths[1], &[]);
    assert_eq!(header(&response, "content-type"), "image/jpeg");
}

#[test]
fn overlong_file_name_or_content_type_is_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let long = "x".repeat(1001);
    let response = upload_as(&server, &alice, (&long, "image/png"), b"");
    expect_error(&response, 400, "M_INVALID_PARAM");
    let long = format!("image/{}", "x".repeat(300));
    let response = upload_as(&server, &alice, ("file", &long), b"");
    expect_error(&response, 400, "M_INVALID_PARAM");
}

/// Creates a media id for an asynchronous upload; returns the response.
fn create_media(user: &TestUser<'_>) -> Value {
    expect_ok(user.post("/_matrix/media/v1/create", json!({})))
}

fn upload_to(
    server: &TestServer,
    user: &TestUser<'_>,
    uri: &Value,
    content: &[u8],
) -> (u16, Value) {
    let path = download_path(uri).replace(DOWNLOAD, UPLOAD);
    let headers = [("content-type", "text/plain")];
    parse(&send(server, user, (Method::PUT, &path), &headers, content))
}

#[test]
fn media_id_is_created_before_the_asynchronous_upload() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let created = create_media(&alice);
    let uri = &created["content_uri"];
    let expires_at = created["unused_expires_at"].as_u64().expect("a time");
    assert_eq!(expires_at, server.clock.now_ms() + 24 * 3_600_000);
    let response = bob.get(&format!("{}?timeout_ms=1", download_path(uri)));
    expect_error(&response, 504, "M_NOT_YET_UPLOADED");
    expect_error(
        &upload_to(&server, &bob, uri, b"foreign"),
        403,
        "M_FORBIDDEN",
    );
    assert_eq!(
        expect_ok(upload_to(&server, &alice, uri, b"content")),
        json!({})
    );
    assert_eq!(
        get(&server, &bob, &download_path(uri), &[]).body(),
        b"content"
    );
    let response = upload_to(&server, &alice, uri, b"other");
    expect_error(&response, 409, "M_CANNOT_OVERWRITE_MEDIA");
    let unknown = json!("mxc://localhost/unknown");
    expect_error(
        &upload_to(&server, &alice, &unknown, b""),
        404,
        "M_NOT_FOUND",
    );
    let remote = json!("mxc://elsewhere.example/id");
    expect_error(
        &upload_to(&server, &alice, &remote, b""),
        404,
        "M_NOT_FOUND",
    );
}

#[test]
fn of_two_concurrent_uploads_to_a_media_id_one_is_stored() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let uri = create_media(&alice)["content_uri"].clone();
    let path = download_path(&uri).replace(DOWNLOAD, UPLOAD);
    let upload = |content: &[u8]| {
        let token = format!("Bearer {}", alice.token);
        let request = Request::put(&path).header("authorization", token);
        request.body(content.to_vec()).expect("a request")
    };
    let contents: [&[u8]; 2] = [b"one", b"other"];
    let responses = server.respond_all(contents.map(upload).to_vec());
    let stored: Vec<_> = (0..2)
        .filter(|index| responses[*index].status() == 200)
        .collect();
    assert_eq!(stored.len(), 1, "{responses:?}");
    let download = get(&server, &alice, &download_path(&uri), &[]);
    assert_eq!(download.body(), contents[stored[0]]);
}

#[test]
fn download_waits_for_the_asynchronous_upload() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let uri = create_media(&alice)["content_uri"].clone();
    let request = |user: &TestUser<'_>, method: Method, path: String, body: &[u8]| {
        let token = format!("Bearer {}", user.token);
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", token);
        request.body(body.to_vec()).expect("a request")
    };
    let download = format!("{}?timeout_ms=20000", download_path(&uri));
    let path = download_path(&uri).replace(DOWNLOAD, UPLOAD);
    let responses = server.respond_all(vec![
        request(&bob, Method::GET, download.clone(), b""),
        request(&alice, Method::GET, download, b""),
        request(&alice, Method::PUT, path, b"content"),
    ]);
    assert_eq!(responses[0].body(), b"content");
    assert_eq!(responses[1].body(), b"content");
}

#[test]
fn unused_media_ids_expire_and_are_limited_per_user() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let first = create_media(&alice)["content_uri"].clone();
    for _ in 1..50 {
        create_media(&alice);
    }
    let response = alice.post("/_matrix/media/v1/create", json!({}));
    expect_error(&response, 429, "M_LIMIT_EXCEEDED");
    server.clock.advance(Duration::from_hours(24));
    expect_error(
        &upload_to(&server, &alice, &first, b"late"),
        404,
        "M_NOT_FOUND",
    );
    expect_error(&alice.get(&download_path(&first)), 404, "M_NOT_FOUND");
    create_media(&alice);
}

#[test]
fn orphaned_and_partial_files_are_deleted_on_startup() {
    let mut server = TestServer::new();
    let (path, token) = {
        let alice = server.register("alice");
        (upload(&server, &alice, "image/png", b"whole"), alice.token)
    };
    server.stop();
    let media = server.directory().join("data/media");
    let hash = "ab".repeat(32);
    fs::create_dir_all(media.join("files/ab")).expect("a directory");
    fs::write(
        media.join("files/ab").join(&hash[2..]),
        b"unknown to the database",
    )
    .expect("a file");
    fs::write(media.join("new").join(&hash), b"").expect("a file");
    fs::write(media.join("new/0123.part"), b"unfinished").expect("a file");
    server.start();
    assert_eq!(stored_files(&server), 1);
    assert_eq!(
        get(&server, &server.user_with_token(&token), &path, &[]).body(),
        b"whole"
    );
}
