//! Deletion of media by redaction and by erasure of an account.

use serde_json::json;

use crate::{
    client_api::{create_room_with, room_path, send_event},
    media::{get, stored_files, upload},
    media_thumbnails::{image_size, jpeg, thumbnail},
    test_server::{TestServer, TestUser, expect_error, expect_ok, parse},
};

/// The `mxc://` URI of a download path.
pub fn mxc_uri(path: &str) -> String {
    path.replace("/_matrix/client/v1/media/download/", "mxc://")
}

pub fn redact(user: &TestUser<'_>, room: &str, event: &str) {
    expect_ok(user.put(&room_path(room, &format!("redact/{event}/1")), json!({})));
}

#[test]
fn redaction_deletes_media_that_the_sender_uploaded() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let [plain, thumbnail, encrypted, foreign] = [1, 2, 3, 4].map(|byte| {
        let user = if byte == 4 { &bob } else { &alice };
        upload(&server, user, "image/png", &[byte; 100])
    });
    let content = json!({
        "msgtype": "m.image",
        "body": "picture",
        "url": mxc_uri(&plain),
        "file": { "url": mxc_uri(&encrypted) },
        "info": { "thumbnail_url": mxc_uri(&thumbnail), "thumbnail_file": { "url": mxc_uri(&foreign) } },
    });
    let event = send_event(&alice, &room, "m.room.message", content);
    assert_eq!(stored_files(&server), 4);
    redact(&alice, &room, &event);
    for path in [&plain, &thumbnail, &encrypted] {
        expect_error(&parse(&get(&server, &bob, path, &[])), 404, "M_NOT_FOUND");
    }
    // Media of other users stays.
    assert_eq!(get(&server, &bob, &foreign, &[]).status(), 200);
    server.wait_until(async || stored_files(&server) == 1);
}

#[test]
fn deleting_media_deletes_its_thumbnails() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let path = upload(&server, &alice, "image/jpeg", &jpeg(500, 500));
    assert_eq!(
        image_size(&thumbnail(&server, &alice, &path, "width=32&height=32")),
        (32, 32)
    );
    let content = json!({ "msgtype": "m.image", "body": "", "url": mxc_uri(&path) });
    let event = send_event(&alice, &room, "m.room.message", content);
    redact(&alice, &room, &event);
    server.wait_until(async || stored_files(&server) == 0);
}

#[test]
fn deactivation_with_erase_deletes_uploaded_media() {
    let server = TestServer::new();
    let bob = server.register("bob");
    for (name, erase, remaining) in [("alice", true, 0), ("carol", false, 120)] {
        let user = server.register(name);
        let paths: Vec<String> = (0..120)
            .map(|n: u32| {
                upload(
                    &server,
                    &user,
                    "image/png",
                    format!("{name} {n}").as_bytes(),
                )
            })
            .collect();
        let path = "/_matrix/client/v3/account/deactivate";
        let body = json!({ "erase": erase });
        expect_ok(user.request_with_password(http::Method::POST, path, body));
        server.wait_until(async || stored_files(&server) == remaining);
        let status = get(&server, &bob, &paths[119], &[]).status();
        assert_eq!(status, if erase { 404 } else { 200 });
    }
}

#[test]
fn redacted_media_frees_user_quota() {
    let server = TestServer::with("registration = \"open\"\nuser_quota = \"1K\"");
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let path = upload(&server, &alice, "image/png", &[1; 1000]);
    let content = json!({ "msgtype": "m.image", "body": "", "url": mxc_uri(&path) });
    let event = send_event(&alice, &room, "m.room.message", content);
    redact(&alice, &room, &event);
    // The deleted file does not count any more.
    let again = upload(&server, &alice, "image/png", &[2; 1000]);
    assert_eq!(get(&server, &alice, &again, &[]).status(), 200);
}
