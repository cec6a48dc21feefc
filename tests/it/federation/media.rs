//! Remote media.

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

use crate::{
    client_api::{create_room, join_via, send_event},
    media::{download_path, get, upload},
    media_deletion::{mxc_uri, redact},
    media_thumbnails::jpeg,
    mock_web_server::MockWebServer,
    test_server::{TestServer, TestUser, expect_error, expect_ok, parse},
};

fn stored_bytes(server: &TestServer) -> u64 {
    fn size(path: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(path) else {
            return fs::metadata(path).map_or(0, |file| file.len());
        };
        entries.flatten().map(|entry| size(&entry.path())).sum()
    }
    size(&server.directory().join("data/media"))
}

#[test]
fn remote_media_is_fetched_once_for_concurrent_downloads_and_cached() {
    let [here, there] = TestServer::federating();
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = upload(&there, &there.register("bob"), "image/png", &content);
    let (alice, carol) = (here.register("alice"), here.register("carol"));
    assert_eq!(stored_bytes(&here), 0);
    let request = |user: &TestUser<'_>| {
        let request = Request::get(&path).header("authorization", format!("Bearer {}", user.token));
        request.body(Vec::new()).expect("a request")
    };
    for response in here.respond_all(vec![request(&alice), request(&carol), request(&alice)]) {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "image/png");
        assert_eq!(
            response.headers()["content-disposition"],
            "inline; filename=file"
        );
        assert!(*response.body() == content);
    }
    assert_eq!(stored_bytes(&here), content.len() as u64);
    drop(there);
    assert!(*get(&here, &alice, &path, &[]).body() == content);
}

/// Download paths of media ids without content: downloads of them wait for the upload.
fn pending_uploads(server: &TestServer, count: usize) -> Vec<String> {
    let bob = server.register("bob");
    let create = || expect_ok(bob.post("/_matrix/media/v1/create", json!({})));
    let path = |created: Value| download_path(&created["content_uri"]);
    (0..count).map(|_| path(create())).collect()
}

/// Whether `path` is downloaded while concurrent downloads of `pending` still wait.
fn is_downloaded_before(server: &TestServer, path: &str, pending: &[String]) -> bool {
    let alice = server.register("alice");
    let download = |path: &str| {
        let (path, token) = (path.to_owned(), alice.token.clone());
        async move {
            server
                .send(Method::GET, &path, Some(&token), &Value::Null)
                .await
        }
    };
    let mut others = pending.iter().map(|path| download(path));
    let first = others.next().expect("there is one");
    let others = server.join_all(others.collect());
    let downloaded = async { download(path).await.0 == 200 };
    server.run(future::or(
        async {
            first.await;
            false
        },
        future::or(
            async {
                others.await;
                false
            },
            downloaded,
        ),
    ))
}

#[test]
fn slow_server_does_not_delay_media_of_other_servers() {
    let [here, slow, quick] = TestServer::federating();
    let path = upload(&quick, &quick.register("carol"), "image/png", b"content");
    assert!(is_downloaded_before(
        &here,
        &path,
        &pending_uploads(&slow, 40)
    ));
}

#[test]
fn concurrent_downloads_of_one_media_id_are_single_flight() {
    let [here, there] = TestServer::federating();
    let path = upload(&there, &there.register("carol"), "image/png", b"content");
    // If each download fetched it, they would use up the permits for fetches from that server.
    let same = vec![pending_uploads(&there, 1).remove(0); 20];
    assert!(is_downloaded_before(&here, &path, &same));
}

#[test]
fn remote_asynchronous_upload_is_fetched_once_complete() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let created = expect_ok(bob.post("/_matrix/media/v1/create", json!({})));
    let path = download_path(&created["content_uri"]);
    let download = here.send(Method::GET, &path, Some(&alice.token), &Value::Null);
    // The remote server waits for the upload on behalf of the local download.
    let upload_request =
        Request::put(path.replace("/client/v1/media/download/", "/media/v3/upload/"))
            .header("authorization", format!("Bearer {}", bob.token))
            .body(b"\"content\"".to_vec())
            .expect("a request");
    let uploaded = async {
        Timer::after(Duration::from_millis(50)).await;
        there.edge().respond(upload_request).await.status().as_u16()
    };
    let (response, uploaded) = here.run(future::zip(download, uploaded));
    assert_eq!((response, uploaded), ((200, json!("content")), 200));
}

#[test]
fn federation_serves_media_and_thumbnails_as_multipart() {
    let [here, there] = TestServer::federating();
    let path = upload(
        &there,
        &there.register("bob"),
        "image/jpeg",
        &jpeg(500, 300),
    );
    let id = path.rsplit('/').next().expect("an id").to_owned();
    let (client, name) = (here.client(), there.name());
    let file_of = |parts: FileOrLocation| match parts {
        FileOrLocation::File(content) => content,
        location => panic!("{location:?}"),
    };
    let request = get_content::v1::Request::new(id.clone());
    let full = file_of(here.run(client.send(name, request)).expect("media").content);
    assert!(full.file == jpeg(500, 300));
    assert_eq!(full.content_type.as_deref(), Some("image/jpeg"));
    let disposition = full.content_disposition.expect("a content disposition");
    assert_eq!(disposition.filename.as_deref(), Some("file"));
    let (width, height) = (uint!(32), uint!(32));
    let request = get_content_thumbnail::v1::Request::new(id, width, height);
    let thumbnail = file_of(here.run(client.send(name, request)).expect("media").content);
    let thumbnail = image::load_from_memory(&thumbnail.file).expect("an image");
    assert_eq!((thumbnail.width(), thumbnail.height()), (32, 20));
    let request = get_content_thumbnail::v1::Request::new("nothing".to_owned(), width, height);
    let error = here.run(client.send(name, request)).expect_err("nothing");
    assert_eq!(error.kind(), Some(&ErrorKind::NotFound));
}

#[test]
fn redaction_deletes_media_on_every_server() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&bob, json!({ "preset": "public_chat" }));
    join_via(&alice, &room, &there);
    let [own_media, other] = [b"shown", b"other"].map(|it| upload(&there, &bob, "image/png", it));
    for path in [&own_media, &other] {
        assert_eq!(get(&here, &alice, path, &[]).status(), 200);
    }
    // Redacting alice's event does not delete bob's media, redacting his own event does.
    for user in [&alice, &bob] {
        let path = if user.token == bob.token {
            &own_media
        } else {
            &other
        };
        let content = json!({ "msgtype": "m.image", "body": "", "url": mxc_uri(path) });
        let event = send_event(user, &room, "m.room.message", content);
        redact(user, &room, &event);
    }
    here.wait_until(async || stored_bytes(&here) == 5 && stored_bytes(&there) == 5);
    expect_error(
        &parse(&get(&here, &alice, &own_media, &[])),
        404,
        "M_NOT_FOUND",
    );
    assert_eq!(get(&here, &alice, &other, &[]).body(), b"other");
}

#[test]
fn unauthenticated_request_fetches_no_remote_media() {
    let [here, there] = TestServer::federating();
    let path = upload(&there, &there.register("bob"), "image/png", b"content");
    expect_error(&here.get(&path), 401, "M_MISSING_TOKEN");
    let legacy_path = path.replace("/client/v1/media/", "/media/v3/");
    expect_error(&here.get(&legacy_path), 404, "M_NOT_FOUND");
    assert_eq!(stored_bytes(&here), 0);
}

#[test]
fn missing_remote_media_is_404_and_unreachable_server_is_502() {
    let [here, there] = TestServer::federating();
    let alice = here.register("alice");
    let name = there.name().to_string();
    let path = |id: &str| format!("/_matrix/client/v1/media/download/{name}/{id}");
    expect_error(&alice.get(&path("nothing")), 404, "M_NOT_FOUND");
    expect_error(&alice.get(&path("..%2F..")), 404, "M_NOT_FOUND");
    drop(there);
    assert_eq!(alice.get(&path("other")).0, 502);
}

#[test]
fn remote_media_over_max_upload_is_rejected() {
    let [here, there] =
        TestServer::federating_with(|_| ["max_upload = \"64K\"", ""].map(ToOwned::to_owned));
    let path = upload(&there, &there.register("bob"), "image/png", &[7; 70_000]);
    let alice = here.register("alice");
    let response = parse(&get(&here, &alice, &path, &[]));
    expect_error(&response, 502, "M_TOO_LARGE");
    here.wait_until(async || stored_bytes(&here) == 0);
}

#[test]
fn remote_media_with_too_large_content_length_is_not_downloaded() {
    let path = "/_matrix/federation/v1/media/download/large";
    let content_type = "multipart/mixed; boundary=abc";
    let there = MockWebServer::with_content_length(path, content_type, 200 << 20);
    let [here] = TestServer::federating();
    let alice = here.register("alice");
    let path = format!("/_matrix/client/v1/media/download/{}/large", there.name());
    expect_error(&alice.get(&path), 502, "M_TOO_LARGE");
    // The failure is cached.
    expect_error(&alice.get(&path), 502, "M_TOO_LARGE");
    assert_eq!(there.request_count(), 1);
}

#[test]
fn disk_limit_evicts_remote_media_but_not_local_media() {
    let [here, there] =
        TestServer::federating_with(|_| ["disk = \"64K\"", ""].map(ToOwned::to_owned));
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let own = upload(&here, &alice, "image/png", &[1; 50_000]);
    let remote = [2, 3, 4].map(|byte| upload(&there, &bob, "image/png", &[byte; 40_000]));
    for path in &remote {
        assert_eq!(get(&here, &alice, path, &[]).body().len(), 40_000);
    }
    // The database alone exceeds the limit, so that only the last remote file is kept.
    here.wait_until(async || stored_bytes(&here) == 90_000);
    assert_eq!(get(&here, &alice, &own, &[]).body().len(), 50_000);
    // An evicted file is fetched again.
    assert_eq!(get(&here, &alice, &remote[0], &[]).body().len(), 40_000);
}
