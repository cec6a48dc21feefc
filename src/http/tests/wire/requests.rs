//! Which bytes are answered with which.

use std::io::{self, Read};

use super::{LARGE_RESPONSE, LOGOUT, MEDIUM_RESPONSE, Server, VERSIONS, head_with};

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let server = Server::start();
    let mut client = server.connect();
    for _ in 0..3 {
        let answer = client.send(VERSIONS).answer();
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, &b"{\"versions\":[]}"[..])
        );
    }
    client.send(VERSIONS.repeat(3));
    for _ in 0..3 {
        assert_eq!(client.answer().status, 200);
    }
    server.stop();
}

#[test]
fn connection_close_and_http_1_0_are_served() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("GET /_matrix/client/versions HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert!(client.is_closed());
    let mut client = server.connect();
    client.send("GET /_matrix/client/versions HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert!(client.is_closed());
    server.stop();
}

#[test]
fn a_request_without_a_host_or_with_two_or_an_invalid_one_gets_400() {
    let server = Server::start();
    let [none, same, two] = ["", "host: h\r\nhost: h\r\n", "host: h\r\nhost: other\r\n"];
    let invalid = ["", "a b", "a, b", "u@a", "h@h", "h:x", "h/", "\u{fc}"];
    let invalid = invalid.map(|host| format!("host: {host}\r\n"));
    for hosts in [none, same, two]
        .into_iter()
        .chain(invalid.iter().map(String::as_str))
    {
        for method in ["GET", "OPTIONS"] {
            let mut client = server.connect();
            client.send(format!(
                "{method} /_matrix/client/versions HTTP/1.1\r\n{hosts}\r\n"
            ));
            let answer = client.answer();
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "M_UNKNOWN"),
                "{hosts}"
            );
        }
    }
    for host in [
        "h",
        "h:8008",
        "my_host:80",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:8448",
        "H.example.",
    ] {
        let mut client = server.connect();
        client.send(format!(
            "GET /_matrix/client/versions HTTP/1.1\r\nhost: {host}\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 200, "{host}");
    }
    server.stop();
}

#[test]
fn head_is_get_without_the_body() {
    let server = Server::start();
    let mut client = server.connect();
    client.send("HEAD /_matrix/client/versions HTTP/1.1\r\nhost: h\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(
        (head.status, head.headers["content-length"].as_str()),
        (200, "15")
    );
    assert_eq!(client.send(VERSIONS).answer().body.len(), 15);
    client.send("HEAD /nothing HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 404);
    client.send(server.head("HEAD", "/_matrix/client/v3/sync", ""));
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!(client.send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn a_body_may_come_in_chunks() {
    let server = Server::start();
    let mut client = server.connect();
    let body = r#"{"type":"m.login.password","password":"x","device_id":"CHUNKED"}"#;
    let (one, two) = body.split_at(20);
    client.send(
        "POST /_matrix/client/v3/login HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    for part in [one, two] {
        client.send(format!("{:x}\r\n{part}\r\n", part.len()));
    }
    client.send("0\r\ntrailer: ignored\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.status, 403);
    assert!(String::from_utf8_lossy(&answer.body).contains("CHUNKED"));
    server.stop();
}

#[test]
fn expect_100_continue_is_continued_only_if_the_body_is_wanted() {
    let server = Server::start();
    let expect = "content-length: 2\r\nexpect: 100-continue\r\n";
    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, expect));
    assert_eq!(client.head().unwrap().status, 100);
    assert_eq!(client.send("{}").answer().status, 200);
    for request in [
        format!("POST {LOGOUT} HTTP/1.1\r\nhost: h\r\n{expect}\r\n"),
        server.head("POST", "/nothing", expect),
        server.head(
            "POST",
            LOGOUT,
            "content-length: 9999999\r\nexpect: 100-continue\r\n",
        ),
    ] {
        let mut client = server.connect();
        let answer = client.send(request).answer();
        assert!(
            [401, 404, 413].contains(&answer.status),
            "{}",
            answer.status
        );
    }
    server.stop();
}

#[test]
fn a_client_that_sends_too_large_a_body_reads_the_error() {
    let server = Server::start();
    let big = vec![b' '; 900 * 1024];
    let mut client = server.connect();
    client.send(server.head(
        "POST",
        LOGOUT,
        &format!("content-length: {}\r\n", big.len()),
    ));
    let answer = client.send(&big).answer();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "M_TOO_LARGE")
    );
    assert_eq!(client.send(VERSIONS).answer().status, 200);

    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, "transfer-encoding: chunked\r\n"));
    for part in big.chunks(64 * 1024) {
        client
            .send(format!("{:x}\r\n", part.len()))
            .send(part)
            .send("\r\n");
    }
    let answer = client.send("0\r\n\r\n").answer();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "M_TOO_LARGE")
    );

    // What is out of all proportion is not even thrown away.
    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, "content-length: 99999999999\r\n"));
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "M_TOO_LARGE")
    );
    assert!(client.is_closed());
    server.stop();
}

#[test]
fn a_client_that_sends_a_whole_rejected_body_first_reads_the_error() {
    let server = Server::start();
    let mut client = server.connect();
    let large = vec![b' '; 30 << 20];
    let length = format!("content-length: {}\r\n", large.len());
    client.send(server.head("POST", LOGOUT, &length));
    let answer = client.send(&large).answer();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "M_TOO_LARGE")
    );
    assert_eq!(client.send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn an_error_does_not_wait_for_the_body() {
    let server = Server::start();
    let mut client = server.connect();
    for _ in 0..2 {
        client.send(server.head("POST", LOGOUT, "content-length: 1000000\r\n"));
        assert_eq!(client.answer().status, 413);
        client.send(vec![b' '; 1_000_000]);
    }
    assert_eq!(client.send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn a_connection_is_usable_after_the_body_of_a_rejected_request() {
    let server = Server::start();
    let mut client = server.connect();
    for path in ["/nothing", LOGOUT, "/_matrix/client/versions"] {
        client.send(format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n"
        ));
        client.send("12345").send("67890");
        let status = client.answer().status;
        assert!([401, 404, 405].contains(&status), "{status}");
    }
    assert_eq!(client.send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn a_pipelined_request_may_send_the_rest_of_a_rejected_body_later() {
    let server = Server::start();
    let mut client = server.connect();
    let head = "POST /nothing HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n";
    client.send(format!("{head}1234567890{head}12345"));
    for _ in 0..2 {
        assert_eq!(client.answer().status, 404);
    }
    client.send("67890");
    assert_eq!(client.send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn malformed_http_is_rejected_and_the_server_continues() {
    let server = Server::start();
    for nonsense in [
        &b"\r\n\r\n\r\nnonsense\r\n\r\n"[..],
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut client = server.connect();
        client.send(nonsense);
        let _ = client.0.get_ref().shutdown(std::net::Shutdown::Write);
        match client.read() {
            Ok(answer) => assert_eq!(answer.status, 400, "{}", nonsense.escape_ascii()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
        }
    }
    let mut client = server.connect();
    client.send(b"GET /_matrix/client/v3/r\xc3\xa4ume HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!(client.answer().status, 404);
    client.send("BREW /_matrix/client/versions HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!(client.answer().status, 405);
    assert_eq!(client.send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn a_head_above_the_maximum_is_rejected() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000)));
    let _ = client.try_send(format!("x: {}\r\n\r\n", "b".repeat(20_000)));
    let status = client.answer().status;
    assert!([414, 431].contains(&status), "{status}");
    assert!(client.is_closed());
    server.stop();
}

#[test]
fn an_incomplete_streamed_response_closes_the_connection() {
    let server = Server::start();
    for since in ["broken", "panics"] {
        let mut client = server.connect();
        let path = format!("/_matrix/client/v3/sync?since={since}");
        client.send(server.head("GET", &path, ""));
        assert!(client.read().is_err(), "{since}");
    }
    let mut client = server.connect();
    client.send(server.head("GET", "/_matrix/client/v3/sync", ""));
    assert_eq!(client.answer().body, b"{\"next_batch\":\"s1\"}");
    assert_eq!(client.send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn a_user_who_does_not_read_their_responses_gets_no_more_and_gives_way_to_others() {
    let server = Server::start();
    let large = "/_matrix/client/v3/sync?since=large";
    let mut unread = server.connect();
    unread.send(server.head("GET", large, ""));
    assert_eq!(unread.head().unwrap().status, 200);
    let mut second = server.connect();
    let answer = second.send(server.head("GET", large, "")).answer();
    assert_eq!((answer.status, &*answer.code()), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(second.send(VERSIONS).answer().status, 200);

    let mut bob = server.connect();
    let medium = "/_matrix/client/v3/sync?since=medium";
    bob.send(head_with(&server.test_api.short, "GET", medium, ""));
    assert_eq!(bob.answer().body.len(), MEDIUM_RESPONSE);
    let mut rest = Vec::new();
    let read = unread.0.read_to_end(&mut rest);
    assert!(read.is_err() || rest.len() < LARGE_RESPONSE, "broken off");
    server.stop();
}
