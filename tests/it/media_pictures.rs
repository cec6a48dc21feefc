//! Thumbnails, and media that are taken away.

use std::io::Cursor;

use http::Response;
use image::{DynamicImage, ImageFormat, RgbImage};
use serde_json::json;

use crate::{
    home::{Home, Person, read, refused},
    media::{get, stored, upload},
    rooms::{done, room_of, send},
};

/// A picture of this size.
pub fn picture(width: u32, height: u32) -> Vec<u8> {
    let pixels = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 128]));
    let mut bytes = Vec::new();
    DynamicImage::from(pixels)
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg)
        .expect("a picture");
    bytes
}

fn thumbnail(home: &Home, who: &Person<'_>, path: &str, query: &str) -> Response<Vec<u8>> {
    let path = path.replace("/download/", "/thumbnail/");
    get(home, who, &format!("{path}?{query}"), &[])
}

/// The size of the picture in an answer.
pub fn size(response: &Response<Vec<u8>>) -> (u32, u32) {
    assert_eq!(response.status(), 200);
    let picture = image::load_from_memory(response.body()).expect("a picture");
    (picture.width(), picture.height())
}

#[test]
fn a_picture_is_shown_as_small_as_one_wants_it_and_not_smaller() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = upload(&home, &alice, "image/jpeg", &picture(1000, 500));
    for (query, expected) in [
        ("width=32&height=32&method=crop", (32, 32)),
        ("width=90&height=90&method=crop", (96, 96)),
        ("width=320&height=240&method=scale", (320, 160)),
        ("width=600&height=400", (640, 320)),
        ("width=2000&height=2000", (1000, 500)),
    ] {
        let response = thumbnail(&home, &alice, &path, query);
        assert_eq!(size(&response), expected, "{query}");
        assert_eq!(response.headers()["content-type"], "image/jpeg");
        let disposition = response.headers()["content-disposition"].to_str();
        assert!(disposition.is_ok_and(|it| it.starts_with("inline; filename=")));
    }
}

#[test]
fn a_thumbnail_is_made_once() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = upload(&home, &alice, "image/jpeg", &picture(500, 500));
    let ask = || thumbnail(&home, &alice, &path, "width=96&height=96&method=crop");
    let first = ask();
    home.run(home.until(async || stored(&home) == 2));
    assert_eq!(first.body(), ask().body());
    assert_eq!(stored(&home), 2);
}

#[test]
fn of_one_picture_so_many_thumbnails_are_kept_and_no_more() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = upload(&home, &alice, "image/jpeg", &picture(200, 200));
    for height in 1..=32 {
        let query = format!("width=32&height={height}&method=crop");
        let (width, _) = size(&thumbnail(&home, &alice, &path, &query));
        assert_eq!(width, 32);
    }
    home.run(home.until(async || stored(&home) == 1 + 24));
    // What went is made again.
    let again = thumbnail(&home, &alice, &path, "width=32&height=1&method=crop");
    assert_eq!(size(&again), (32, 1));
}

#[test]
fn what_is_no_picture_has_no_thumbnail() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = upload(&home, &alice, "image/png", b"this is none");
    for query in ["width=32&height=32", "width=5000&height=5000"] {
        let answer = read(&thumbnail(&home, &alice, &path, query));
        refused(&answer, 400, "M_UNKNOWN");
    }
    let answer = read(&thumbnail(&home, &alice, &path, "width=-1&height=32"));
    refused(&answer, 400, "M_INVALID_PARAM");
    let answer = read(&thumbnail(&home, &alice, &path, "height=32"));
    refused(&answer, 400, "M_MISSING_PARAM");
}

#[test]
fn a_picture_with_too_many_pixels_has_no_thumbnail_and_can_be_downloaded() {
    let home = Home::with("registration = \"open\"\nmemory = \"32M\"");
    let alice = home.register("alice");
    let large = picture(3000, 2000);
    let path = upload(&home, &alice, "image/jpeg", &large);
    let answer = read(&thumbnail(&home, &alice, &path, "width=32&height=32"));
    refused(&answer, 413, "M_TOO_LARGE");
    assert!(*get(&home, &alice, &path, &[]).body() == large);
}

pub fn mxc(path: &str) -> String {
    path.replace("/_matrix/client/v1/media/download/", "mxc://")
}

pub fn redact(who: &Person<'_>, room: &str, event: &str) {
    let path = format!("/_matrix/client/v3/rooms/{room}/redact/{event}/1");
    done(who.put(&path, json!({})));
}

#[test]
fn what_a_redacted_message_showed_is_gone_from_the_disk() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let [plain, small, secret, bobs] = [1, 2, 3, 4].map(|byte| {
        let who = if byte == 4 { &bob } else { &alice };
        upload(&home, who, "image/png", &[byte; 100])
    });
    let shown = json!({
        "msgtype": "m.image",
        "body": "picture",
        "url": mxc(&plain),
        "file": { "url": mxc(&secret) },
        "info": { "thumbnail_url": mxc(&small), "thumbnail_file": { "url": mxc(&bobs) } },
    });
    let event = send(&alice, &room, "m.room.message", shown);
    assert_eq!(stored(&home), 4);
    redact(&alice, &room, &event);
    for path in [&plain, &small, &secret] {
        refused(&read(&get(&home, &bob, path, &[])), 404, "M_NOT_FOUND");
    }
    // What somebody else uploaded is not for the sender to take away.
    assert_eq!(get(&home, &bob, &bobs, &[]).status(), 200);
    home.run(home.until(async || stored(&home) == 1));
}

#[test]
fn a_thumbnail_goes_with_its_picture() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = room_of(&[&alice]);
    let path = upload(&home, &alice, "image/jpeg", &picture(500, 500));
    assert_eq!(
        size(&thumbnail(&home, &alice, &path, "width=32&height=32")),
        (32, 32)
    );
    let shown = json!({ "msgtype": "m.image", "body": "", "url": mxc(&path) });
    let event = send(&alice, &room, "m.room.message", shown);
    redact(&alice, &room, &event);
    home.run(home.until(async || stored(&home) == 0));
}

#[test]
fn what_one_uploaded_goes_when_one_leaves_and_wants_to_be_forgotten() {
    let home = Home::new();
    let bob = home.register("bob");
    for (name, erase, left) in [("alice", true, 0), ("carol", false, 120)] {
        let who = home.register(name);
        let paths: Vec<String> = (0..120)
            .map(|n: u32| upload(&home, &who, "image/png", format!("{name} {n}").as_bytes()))
            .collect();
        let path = "/_matrix/client/v3/account/deactivate";
        let gone = who.ask_with_password(http::Method::POST, path, json!({ "erase": erase }));
        done(gone);
        home.run(home.until(async || stored(&home) == left));
        let status = get(&home, &bob, &paths[119], &[]).status();
        assert_eq!(status, if erase { 404 } else { 200 });
    }
}

#[test]
fn nobody_uploads_much_by_uploading_and_redacting() {
    let home = Home::with("registration = \"open\"\nuser_quota = \"1K\"");
    let alice = home.register("alice");
    let room = room_of(&[&alice]);
    let path = upload(&home, &alice, "image/png", &[1; 1000]);
    let shown = json!({ "msgtype": "m.image", "body": "", "url": mxc(&path) });
    let event = send(&alice, &room, "m.room.message", shown);
    redact(&alice, &room, &event);
    // There is room again for as much as went.
    let again = upload(&home, &alice, "image/png", &[2; 1000]);
    assert_eq!(get(&home, &alice, &again, &[]).status(), 200);
}
