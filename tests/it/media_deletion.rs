//! Deletion of media by redaction and by erasure of an account.

use http::{Method, Request};
use serde_json::json;

use crate::{
    client_api::{
        create_room, create_room_with, join_via, room_path, send_event, send_text, set_state,
    },
    media::{download_path, get, stored_files, upload},
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
fn a_protected_file_stays_when_its_event_is_redacted_and_is_not_quarantined() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    let [kept, other] = [1, 2].map(|byte| upload(&server, &alice, "image/png", &[byte; 100]));
    let events = [&kept, &other].map(|path| send_picture(&alice, &room, path));
    let protect = |is_set: bool| {
        let request = json!({ "file": mxc_uri(&kept), "is_set": is_set });
        server.administer("media/protect", &request)
    };
    expect_ok(protect(true));
    let usage = expect_ok(server.administer("media/usage", &json!({})));
    assert_eq!(usage["protected_files"], 1);
    events.iter().for_each(|event| redact(&alice, &room, event));
    assert_eq!(get(&server, &alice, &kept, &[]).status(), 200);
    assert_eq!(get(&server, &alice, &other, &[]).status(), 404);
    let quarantine = json!({ "file": mxc_uri(&kept), "is_set": true });
    let refused = server.administer("media/quarantine", &quarantine);
    expect_error(&refused, 400, "M_INVALID_PARAM");
    expect_ok(protect(false));
    expect_error(&protect(false), 404, "M_NOT_FOUND");
    expect_ok(server.administer("media/quarantine", &quarantine));
    assert_eq!(get(&server, &alice, &kept, &[]).status(), 404);
    expect_error(&protect(true), 400, "M_INVALID_PARAM");
}

/// Sends a picture that is `path`.
fn send_picture(user: &TestUser<'_>, room: &str, path: &str) -> String {
    let content = json!({ "msgtype": "m.image", "body": "", "url": mxc_uri(path) });
    send_event(user, room, "m.room.message", content)
}

/// Sets account data, with escaped slashes as some clients write them.
fn set_account_data(server: &TestServer, user: &TestUser<'_>, uri: &str) {
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/im.ponies.user_emotes",
        user.user_id
    );
    let body = json!({ "images": { "wave": { "url": uri } } }).to_string();
    let request = Request::put(path).header("authorization", format!("Bearer {}", user.token));
    let request = request.body(body.replace('/', r"\/").into_bytes());
    expect_ok(parse(&server.respond(request.expect("a request"))));
}

fn set_profile(user: &TestUser<'_>, field: &str, value: &str) {
    let path = format!("/_matrix/client/v3/profile/{}/{field}", user.user_id);
    expect_ok(user.put(&path, json!({ field: value })));
}

#[test]
fn redaction_keeps_media_to_which_something_else_refers() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let other_room = create_room(&bob, json!({}));
    type Referrer<'a> = (&'a str, Box<dyn Fn(&str) + 'a>);
    let referrers: Vec<Referrer<'_>> = vec![
        (
            "the same picture in another room",
            Box::new(|uri| {
                let content = json!({ "msgtype": "m.image", "body": "", "url": uri });
                send_event(&bob, &other_room, "m.room.message", content);
            }),
        ),
        (
            "a text with the picture",
            Box::new(|uri| {
                let html = format!("<img src=\"{uri}\" height=32>");
                let content = json!({ "msgtype": "m.text", "body": ":x:", "format": "org.matrix.custom.html",
                    "formatted_body": html });
                send_event(&alice, &room, "m.room.message", content);
            }),
        ),
        (
            "the avatar of a room",
            Box::new(|uri| {
                set_state(
                    &bob,
                    &other_room,
                    ("m.room.avatar", ""),
                    json!({ "url": uri }),
                );
            }),
        ),
        (
            "a pack of stickers",
            Box::new(|uri| {
                let pack = json!({ "images": { "wave": { "url": uri } } });
                set_state(&bob, &other_room, ("im.ponies.room_emotes", "x"), pack);
            }),
        ),
        (
            "an avatar",
            Box::new(|uri| set_profile(&alice, "avatar_url", uri)),
        ),
        (
            "a field of a profile",
            Box::new(|uri| set_profile(&bob, "org.example.picture", uri)),
        ),
        (
            "account data",
            Box::new(|uri| set_account_data(&server, &bob, uri)),
        ),
    ];
    for (index, (name, refer)) in referrers.into_iter().enumerate() {
        let path = upload(&server, &alice, "image/png", &[index as u8; 10]);
        let event = send_picture(&alice, &room, &path);
        refer(&mxc_uri(&path));
        redact(&alice, &room, &event);
        assert_eq!(get(&server, &alice, &path, &[]).status(), 200, "{name}");
    }
}

#[test]
fn media_are_deleted_with_the_last_event_of_the_uploader_that_refers_to_them() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let path = upload(&server, &alice, "image/png", b"x");
    let uri = mxc_uri(&path);
    let first = send_picture(&alice, &room, &path);
    let last = send_picture(&alice, &room, &path);
    let forwarded = send_picture(&bob, &room, &path);
    let text = send_text(&alice, &room, &format!("twice: {uri} {uri}"));
    set_profile(&bob, "org.example.picture", &uri);
    set_account_data(&server, &bob, &uri);
    let is_here = || get(&server, &alice, &path, &[]).status() == 200;

    redact(&alice, &room, &first);
    // A second redaction changes nothing.
    expect_ok(alice.put(&room_path(&room, &format!("redact/{first}/2")), json!({})));
    redact(&bob, &room, &forwarded);
    redact(&alice, &room, &text);
    set_profile(&bob, "org.example.picture", "other");
    set_account_data(&server, &bob, "other");
    assert!(is_here());
    redact(&alice, &room, &last);
    assert!(!is_here());
}

#[test]
fn event_sent_before_its_asynchronous_upload_keeps_the_media() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let created = expect_ok(alice.post("/_matrix/media/v1/create", json!({})));
    let path = download_path(&created["content_uri"]);
    let events = [(); 2].map(|()| send_picture(&alice, &room, &path));
    let to = path.replace("client/v1/media/download", "media/v3/upload");
    let request = Request::builder().method(Method::PUT).uri(to);
    let request = request.header("authorization", format!("Bearer {}", alice.token));
    let request = request.body(b"content".to_vec()).expect("a request");
    expect_ok(parse(&server.respond(request)));
    for (event, status) in events.iter().zip([200, 404]) {
        redact(&alice, &room, event);
        assert_eq!(get(&server, &alice, &path, &[]).status(), status);
    }
}

#[test]
fn event_of_another_server_keeps_the_media_that_it_forwards() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    join_via(&bob, &room, &here);
    let path = upload(&here, &alice, "image/png", b"x");
    let event = send_picture(&alice, &room, &path);
    let forwarded = send_picture(&bob, &room, &path);
    let tail = format!("event/{forwarded}");
    here.wait_until(async || alice.get(&room_path(&room, &tail)).0 == 200);
    redact(&alice, &room, &event);
    assert_eq!(get(&here, &alice, &path, &[]).status(), 200);
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
