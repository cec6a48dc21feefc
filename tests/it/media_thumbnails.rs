//! Thumbnails.

use std::io::Cursor;

use http::Response;
use image::{DynamicImage, ImageFormat, RgbImage};

use crate::{
    media::{get, stored_files, upload},
    test_server::{TestServer, TestUser, expect_error, parse},
};

pub fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let pixels = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 128]));
    let mut bytes = Vec::new();
    DynamicImage::from(pixels)
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg)
        .expect("an image");
    bytes
}

pub fn thumbnail(
    server: &TestServer,
    user: &TestUser<'_>,
    path: &str,
    query: &str,
) -> Response<Vec<u8>> {
    let path = path.replace("/download/", "/thumbnail/");
    get(server, user, &format!("{path}?{query}"), &[])
}

/// Width and height of the returned image.
pub fn image_size(response: &Response<Vec<u8>>) -> (u32, u32) {
    assert_eq!(response.status(), 200);
    let image = image::load_from_memory(response.body()).expect("an image");
    (image.width(), image.height())
}

#[test]
fn thumbnail_has_the_next_larger_standard_size() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = upload(&server, &alice, "image/jpeg", &jpeg(1000, 500));
    for (query, expected) in [
        ("width=32&height=32&method=crop", (32, 32)),
        ("width=90&height=90&method=crop", (96, 96)),
        ("width=320&height=240&method=scale", (320, 160)),
        ("width=600&height=400", (640, 320)),
        ("width=2000&height=2000", (1000, 500)),
    ] {
        let response = thumbnail(&server, &alice, &path, query);
        assert_eq!(image_size(&response), expected, "{query}");
        assert_eq!(response.headers()["content-type"], "image/jpeg");
        let disposition = response.headers()["content-disposition"].to_str();
        assert!(disposition.is_ok_and(|it| it.starts_with("inline; filename=")));
    }
}

#[test]
fn thumbnail_is_generated_once_and_cached() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = upload(&server, &alice, "image/jpeg", &jpeg(500, 500));
    let get_thumbnail = || thumbnail(&server, &alice, &path, "width=96&height=96&method=crop");
    let first = get_thumbnail();
    server.wait_until(async || stored_files(&server) == 2);
    assert_eq!(first.body(), get_thumbnail().body());
    assert_eq!(stored_files(&server), 2);
}

#[test]
fn cached_thumbnails_per_image_are_limited() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = upload(&server, &alice, "image/jpeg", &jpeg(200, 200));
    for height in 1..=32 {
        let query = format!("width=32&height={height}&method=crop");
        let (width, _) = image_size(&thumbnail(&server, &alice, &path, &query));
        assert_eq!(width, 32);
    }
    server.wait_until(async || stored_files(&server) == 1 + 24);
    // An evicted thumbnail is generated again.
    let again = thumbnail(&server, &alice, &path, "width=32&height=1&method=crop");
    assert_eq!(image_size(&again), (32, 1));
}

#[test]
fn thumbnail_of_a_non_image_is_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = upload(&server, &alice, "image/png", b"not an image");
    for query in ["width=32&height=32", "width=5000&height=5000"] {
        let response = parse(&thumbnail(&server, &alice, &path, query));
        expect_error(&response, 400, "M_UNKNOWN");
    }
    let response = parse(&thumbnail(&server, &alice, &path, "width=-1&height=32"));
    expect_error(&response, 400, "M_INVALID_PARAM");
    let response = parse(&thumbnail(&server, &alice, &path, "height=32"));
    expect_error(&response, 400, "M_MISSING_PARAM");
}

#[test]
fn image_over_the_pixel_limit_has_no_thumbnail_but_can_be_downloaded() {
    let server = TestServer::with("registration = \"open\"\nmemory = \"32M\"");
    let alice = server.register("alice");
    let large = jpeg(3000, 2000);
    let path = upload(&server, &alice, "image/jpeg", &large);
    let response = parse(&thumbnail(&server, &alice, &path, "width=32&height=32"));
    expect_error(&response, 413, "M_TOO_LARGE");
    assert!(*get(&server, &alice, &path, &[]).body() == large);
}
