//! How long a connection lasts.

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use super::{LOGOUT, PATIENCE, Server, VERSIONS, WHOAMI, happens};
use crate::http::limits::Times;

#[test]
fn who_says_nothing_or_speaks_too_slowly_is_closed() {
    let quick = Duration::from_millis(300);
    let times = Times {
        head: quick,
        idle: quick,
        ..Times::default()
    };
    let server = Server::with(times, 100);
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
    while start.elapsed() < PATIENCE {
        if client.try_send([*bytes.next().unwrap()]).is_err() {
            break;
        }
        thread::sleep(quick / 20);
        if start.elapsed() > quick && !client.is_silent() {
            break;
        }
    }
    assert!(start.elapsed() < PATIENCE, "the server waits for ever");
    server.stop();
}

#[test]
fn a_long_request_is_not_an_idle_connection() {
    let times = Times {
        head: Duration::from_millis(100),
        idle: Duration::from_millis(100),
        ..Times::default()
    };
    let server = Server::with(times, 100);
    let mut client = server.connect();
    client.send(server.head("GET", WHOAMI, ""));
    assert!(happens(&server.entered));
    thread::sleep(Duration::from_millis(400));
    server.release.try_send(()).unwrap();
    assert_eq!(client.answer().status, 200);
    server.stop();
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let times = Times {
        body_piece: Duration::from_millis(200),
        unwanted_piece: Duration::from_millis(200),
        ..Times::default()
    };
    let server = Server::with(times, 100);
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
fn a_body_that_comes_too_slowly_is_not_waited_for() {
    let times = Times {
        body: Duration::from_millis(300),
        ..Times::default()
    };
    let server = Server::with(times, 100);
    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, "content-length: 100000\r\n"));
    let start = Instant::now();
    while start.elapsed() < PATIENCE && client.try_send(" ").is_ok() {
        thread::sleep(Duration::from_millis(10));
        if !client.is_silent() {
            break;
        }
    }
    assert_eq!(client.answer().status, 408);
    server.stop();
}

#[test]
fn nobody_sends_for_ever_what_is_not_wanted() {
    let times = Times {
        unwanted: Duration::from_millis(300),
        ..Times::default()
    };
    let server = Server::with(times, 100);
    let mut client = server.connect();
    client.send(server.head("POST", LOGOUT, "content-length: 1000000\r\n"));
    assert_eq!(client.answer().status, 413);
    let start = Instant::now();
    while start.elapsed() < PATIENCE && client.try_send(" ").is_ok() {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(start.elapsed() < PATIENCE, "the server reads for ever");
    server.stop();
}

#[test]
fn who_hangs_up_is_not_worked_for_any_more() {
    let server = Server::start();
    let mut client = server.connect();
    client.send(server.head("GET", WHOAMI, ""));
    assert!(happens(&server.entered));
    drop(client);
    assert!(happens(&server.gone));
    server.stop();
}

#[test]
fn who_does_not_take_the_answer_is_closed() {
    let times = Times {
        write: Duration::from_millis(200),
        ..Times::default()
    };
    let server = Server::with(times, 100);
    let mut client = server.connect();
    client.send(server.head("GET", "/_matrix/client/v3/sync?since=endless", ""));
    assert_eq!(client.head().unwrap().status, 200);
    assert!(happens(&server.gone));
    server.stop();
}

#[test]
fn when_all_connections_are_taken_the_next_waits_for_one_to_end() {
    let server = Server::with(Times::default(), 2);
    let mut first = server.connect();
    let mut second = server.connect();
    for client in [&mut first, &mut second] {
        assert_eq!(client.send(VERSIONS).answer().status, 200);
    }
    let mut third = server.connect();
    third.send(VERSIONS);
    thread::sleep(Duration::from_millis(100));
    assert!(third.is_silent());
    drop(first);
    assert_eq!(third.answer().status, 200);
    server.stop();
}

#[test]
fn when_the_server_stops_running_requests_end_and_nobody_else_is_served() {
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
fn a_request_that_does_not_end_keeps_the_server_only_for_its_grace() {
    let times = Times {
        grace: Duration::from_millis(100),
        ..Times::default()
    };
    let server = Server::with(times, 100);
    let mut busy = server.connect();
    busy.send(server.head("GET", WHOAMI, ""));
    assert!(happens(&server.entered));
    server.stop.now();
    server.thread.join().unwrap();
    assert!(busy.is_closed());
}

#[test]
fn before_the_server_is_open_and_after_it_asks_to_try_again() {
    let server = Server::start();
    server.front.shut();
    let mut client = server.connect();
    let answer = client.send(VERSIONS).answer();
    assert_eq!((answer.status, answer.code().as_str()), (503, "M_UNKNOWN"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    server.stop();
}
