//! `/metrics`.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{
    client_api::{create_public_room, register},
    http::Client,
    server::{Server, command, free_port},
};

/// The value of the sample with this name and these labels.
fn value(page: &str, sample: &str) -> Option<f64> {
    let line = page
        .lines()
        .find(|line| line.starts_with(&format!("{sample} ")))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn from_socket(directory: &Path) -> String {
    let mut stream = UnixStream::connect(directory.join("data/hearth.sock")).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: hearth\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

#[test]
fn metrics_count_requests_memory_and_disk_and_name_nobody() {
    let directory = TempDir::new().unwrap();
    let monitoring = free_port().unwrap();
    let settings = format!("metrics_listen = [\"127.0.0.1:{monitoring}\"]\n");
    let port = free_port().unwrap();
    let server = Server::start_with(command(), directory.path(), port, &settings).unwrap();
    let alice = register(port, "alice").unwrap();
    let mut client = Client::connect(port, Some(&format!("Bearer {alice}"))).unwrap();
    let room = create_public_room(&mut client).unwrap();
    for path in [
        "/_matrix/client/v3/user/@alice:localhost/filter/secret",
        "/secret",
    ] {
        client.request("GET", path, None).unwrap();
    }

    let mut client = Client::connect(monitoring, None).unwrap();
    let response = client.request("GET", "/metrics", None).unwrap();
    assert_eq!(response.status, 200);
    let page = String::from_utf8(response.body).unwrap();
    let created = "hearth_http_requests_total{method=\"POST\",\
                   endpoint=\"/_matrix/client/v3/createRoom\",status=\"200\"}";
    assert_eq!(value(&page, created), Some(1.0), "{page}");
    let unknown = "hearth_http_requests_total{method=\"GET\",endpoint=\"unknown\",status=\"404\"}";
    assert_eq!(value(&page, unknown), Some(1.0), "{page}");
    assert_eq!(
        value(&page, "hearth_items{kind=\"accounts\"}"),
        Some(1.0),
        "{page}"
    );
    for positive in [
        "hearth_memory_bytes{kind=\"resident\"}",
        "hearth_disk_bytes{kind=\"database\"}",
    ] {
        assert!(
            value(&page, positive).is_some_and(|bytes| bytes > 0.0),
            "{page}"
        );
    }
    for zero in [
        "hearth_items{kind=\"servers\"}",
        "hearth_items{kind=\"unreachable_servers\"}",
        "hearth_queued{queue=\"events for other servers\"}",
        "hearth_disk_bytes{kind=\"uploads\"}",
    ] {
        assert_eq!(value(&page, zero), Some(0.0), "{zero}: {page}");
    }
    let requests = "hearth_federation_requests_total{outcome=\"answered\"}";
    assert_eq!(value(&page, requests), Some(0.0), "{page}");
    for name in ["alice", room.as_str(), "secret"] {
        assert!(!page.contains(name), "{name}: {page}");
    }
    // Nothing else is served there, and metrics are not served to everybody.
    let other = client.request("GET", "/_matrix/client/versions", None);
    assert_eq!(other.unwrap().status, 404);
    let mut client = Client::connect(port, None).unwrap();
    assert_eq!(client.request("GET", "/metrics", None).unwrap().status, 404);
    assert_eq!(value(&from_socket(directory.path()), created), Some(1.0));
    assert!(server.stop(Signal::TERM).unwrap().success());
}
