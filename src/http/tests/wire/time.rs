//! How long a connection lasts.

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use super::{LOGOUT, Server, TIMEOUT, VERSIONS, WHOAMI, happens};
use crate::http::limits::Timeouts;

#[test]
fn an_idle_connection_or_a_slow_head_is_closed_after_its_timeout() {
    let quick = Duration::from_millis(300);
    let timeouts = Timeouts {
        head: quick,
        idle: quick,
        ..Timeouts::default()
    };
    let server = Server::with(timeouts, 100);
    let start = Instant::now();
    assert!(server.connect().is_closed());
    let mut client = server.connect();
    assert_eq!(client.send(VERSIONS).answer().status, 200);
    assert!(client.is_closed());
    assert!(start.elapsed() >= quick * 2);

    // A byte now and then does not help: the whole head counts.
    let mut client = server.connect();
    let start = Instant::now();
    let mut bytes = VERSIONS.as_bytes().iter().cycle();
    while start.elapsed() < TIMEOUT {
        if client.try_send([*bytes.next().unwrap()]).is_err() {
            break;
        }
        thread::sleep(quick / 20);
        if start.elapsed() > quick && !client.is_silent() {
            break;
        }
    }
    assert!(start.elapsed() < TIMEOUT, "the server waits for ever");
    server.stop();
}

#[test]
fn a_long_request_is_not_an_idle_connection() {
    let timeouts = Timeouts {
        head: Duration::from_millis(100),
        idle: Duration::from_millis(100),
        ..Timeouts::default()
    };
    let server = Server::with(timeouts, 100);
    let mut client = server.connect();
    client.send(server.head("GET", WHOAMI, ""));
    assert!(happens(&server.entered));
    thread::sleep(Duration::from_millis(400));
    server.release.try_send(()).unwrap();
    assert_eq!(client.answer().status, 200);
    server.stop();
}

#[test]
fn a_body_without_a_next_chunk_times_out() {
    let timeouts = Timeouts {
        body_pause: Duration::from_millis(200),
        drain_pause: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let server = Server::with(timeouts, 100);
    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, "content-length: 2\r\n"));
    let answer = client.send("{").answer();
    assert_eq!((answer.status, answer.code().as_str()), (408, "M_UNKNOWN"));
    assert!(client.is_closed());

    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, "content-length: 2\r\n"));
    drop(client);
    assert_eq!(server.connect().send(VERSIONS).answer().status, 200);
    server.stop();
}

#[test]
fn a_slow_body_times_out() {
    let timeouts = Timeouts {
        body: Duration::from_millis(300),
        ..Timeouts::default()
    };
    let server = Server::with(timeouts, 100);
    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, "content-length: 100000\r\n"));
    let start = Instant::now();
    while start.elapsed() < TIMEOUT && client.try_send(" ").is_ok() {
        thread::sleep(Duration::from_millis(10));
        if !client.is_silent() {
            break;
        }
    }
    assert_eq!(client.answer().status, 408);
    server.stop();
}

#[test]
fn draining_a_rejected_body_times_out() {
    let timeouts = Timeouts {
        drain: Duration::from_millis(300),
        ..Timeouts::default()
    };
    let server = Server::with(timeouts, 100);
    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, "content-length: 1000000\r\n"));
    assert_eq!(client.answer().status, 413);
    let start = Instant::now();
    while start.elapsed() < TIMEOUT && client.try_send(" ").is_ok() {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(start.elapsed() < TIMEOUT, "the server reads for ever");
    server.stop();
}

#[test]
fn a_handler_is_dropped_when_its_client_disconnects() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(server.head("GET", WHOAMI, ""));
    assert!(happens(&server.entered));
    drop(client);
    assert!(happens(&server.gone));
    server.stop();
}

#[test]
fn a_client_that_does_not_read_the_response_is_disconnected() {
    let timeouts = Timeouts {
        write: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let server = Server::with(timeouts, 100);
    let mut client = server.connect();
    client.send(server.head("GET", "/_matrix/client/v3/sync?since=endless", ""));
    assert_eq!(client.head().unwrap().status, 200);
    assert!(happens(&server.gone));
    server.stop();
}

#[test]
fn an_idle_connection_gives_way_to_a_new_one_and_a_busy_one_does_not() {
    let server = Server::with(Timeouts::default(), 4);
    let mut busy = server.connect();
    busy.send(server.head("GET", WHOAMI, ""));
    assert!(happens(&server.entered));
    let mut idle: Vec<_> = (0..3)
        .map(|_| {
            let mut client = server.connect();
            assert_eq!(client.send(VERSIONS).answer().status, 200);
            client
        })
        .collect();
    assert_eq!(server.connect().send(VERSIONS).answer().status, 200);
    assert!(idle[0].is_closed());
    assert!(idle[1].is_silent() && idle[2].is_silent());
    server.release.try_send(()).unwrap();
    assert_eq!(busy.answer().status, 200);
    server.stop();
}

#[test]
fn a_request_without_a_body_closes_no_connection_whose_body_is_being_received() {
    // One of four may have an incomplete body of an unknown sender.
    let server = Server::with(Timeouts::default(), 4);
    let mut login = server.connect();
    login.send(
        "POST /_matrix/client/v3/login HTTP/1.1\r\nhost: h\r\n\
         content-length: 2\r\nexpect: 100-continue\r\n\r\n",
    );
    assert_eq!(login.head().unwrap().status, 100);
    assert_eq!(server.connect().send(VERSIONS).answer().status, 200);
    assert_eq!(login.send("{}").answer().status, 400, "it is not a login");
    server.stop();
}

#[test]
fn shutdown_completes_running_requests_and_accepts_no_more() {
    let server = Server::start();
    let mut idle = server.connect();
    assert_eq!(idle.send(VERSIONS).answer().status, 200);
    let mut fresh = server.connect();
    let mut busy = server.connect();
    busy.send(server.head("GET", WHOAMI, ""));
    assert!(happens(&server.entered));
    server.stop.now();
    assert!(idle.is_closed());
    assert!(fresh.is_closed());
    server.release.try_send(()).unwrap();
    assert_eq!(busy.answer().status, 200);
    assert!(busy.is_closed());
    server.thread.join().unwrap();
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn shutdown_cuts_off_requests_after_its_timeout() {
    let timeouts = Timeouts {
        shutdown: Duration::from_millis(100),
        ..Timeouts::default()
    };
    let server = Server::with(timeouts, 100);
    let mut busy = server.connect();
    busy.send(server.head("GET", WHOAMI, ""));
    assert!(happens(&server.entered));
    server.stop.now();
    server.thread.join().unwrap();
    assert!(busy.is_closed());
}

#[test]
fn a_request_before_the_gate_opens_or_after_it_shuts_gets_503() {
    let server = Server::start();
    server.gate.shut();
    let mut client = server.connect();
    let answer = client.send(VERSIONS).answer();
    assert_eq!((answer.status, answer.code().as_str()), (503, "M_UNKNOWN"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    server.stop();
}
