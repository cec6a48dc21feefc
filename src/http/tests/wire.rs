//! What happens on a connection: bytes in, bytes out, and how long either may take.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ruma::api::client::{account::whoami, sync::sync_events};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::pem::PemObject,
};
use smol::{
    Executor,
    channel::{self, Receiver, Sender},
    stream,
};

use super::{House, routes};
use crate::{
    api::{Api, Error, Session, Streamed},
    config::{Config, Settings, Tls},
    http::{Edge, Front, Listeners, limits::Times, routes::Routes},
    stop::{self, Stop},
};

/// Longer than anything here takes; a test that waits for so long fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a thread of its own.
struct Server {
    house: House,
    front: Arc<Front>,
    address: SocketAddr,
    tls: SocketAddr,
    /// Says that the handler of [`whoami`] has begun.
    entered: Receiver<()>,
    /// Lets the handler of [`whoami`] go on.
    release: Sender<()>,
    /// Says that the handler of [`whoami`], or the pieces of an endless sync, are no more.
    gone: Receiver<()>,
    stop: Stop,
    thread: JoinHandle<()>,
}

/// Tells when it is dropped.
struct Guard(Sender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

/// A `/sync` whose `since` says how it goes.
fn add_sync(routes: &mut Routes, gone: Sender<()>) {
    routes.stream(
        move |_api: Api, _who: Session, request: sync_events::v3::Request| {
            let guard = Guard(gone.clone());
            async move {
                let first = || Ok(b"{\"next_batch\":".to_vec());
                Ok(match request.since.as_deref() {
                    Some("endless") => Streamed::new(stream::repeat_with(move || {
                        let _alive = &guard;
                        Ok(vec![b' '; 1 << 16])
                    })),
                    Some("broken") => Streamed::new(stream::iter([
                        first(),
                        Err(Error::Internal("broken on purpose".into())),
                    ])),
                    Some("panics") => Streamed::new(stream::iter((0..2).map(move |n| match n {
                        0 => first(),
                        _ => panic!("a stream of a test panics"),
                    }))),
                    _ => Streamed::new(stream::iter([first(), Ok(b"\"s1\"}".to_vec())])),
                })
            }
        },
    );
}

/// A `/account/whoami` that waits to be released.
fn add_whoami(routes: &mut Routes, entered: Sender<()>, release: Receiver<()>, gone: Sender<()>) {
    routes.add(
        move |_api: Api, who: Session, _request: whoami::v3::Request| {
            let (entered, release) = (entered.clone(), release.clone());
            let guard = Guard(gone.clone());
            async move {
                let _alive = guard;
                let _ = entered.try_send(());
                let _ = release.recv().await;
                Ok(whoami::v3::Response::new(who.user_id, false))
            }
        },
    );
}

impl Server {
    fn start() -> Self {
        Self::with(Times::default(), 100)
    }

    fn with(times: Times, connections: usize) -> Self {
        let house = House::new();
        let (was_entered, entered) = channel::unbounded();
        let (release, is_released) = channel::unbounded();
        let (is_gone, gone) = channel::unbounded();
        let mut ours = routes();
        ours.0
            .retain(|route| route.paths[0] != "/_matrix/client/r0/sync");
        add_sync(&mut ours, is_gone.clone());
        add_whoami(&mut ours, was_entered, is_released, is_gone);

        let mut listeners = Listeners::bind(&config()).unwrap();
        listeners.times = times;
        listeners.connections = connections;
        let addresses = listeners.addresses();
        let front = Arc::new(Front::default());
        front.open(Edge::with(ours.0, house.api.clone(), times));
        let (stop, stopping) = stop::channel();
        let served = front.clone();
        let thread = thread::spawn(move || {
            let executor = Arc::new(Executor::new());
            let serve = listeners.serve(&executor, served, stopping);
            smol::block_on(executor.run(serve));
        });
        Self {
            house,
            front,
            address: addresses[0],
            tls: addresses[1],
            entered,
            release,
            gone,
            stop,
            thread,
        }
    }

    fn connect(&self) -> Client<TcpStream> {
        Client::new(connect(self.address))
    }

    /// The head of a request of Alice.
    fn head(&self, method: &str, path: &str, headers: &str) -> String {
        let alice = &self.house.alice;
        format!(
            "{method} {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {alice}\r\n{headers}\r\n"
        )
    }

    fn stop(self) {
        self.stop.now();
        self.thread.join().unwrap();
    }
}

fn config() -> Config {
    let file = |name: &str| {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("src/http/tests")
            .join(name)
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config: Config = Settings::local().try_into().unwrap();
    config.listen = vec![any];
    config.tls = Some(Tls {
        listen: vec![any],
        certificate: file("localhost.pem"),
        key: file("localhost.key.pem"),
    });
    config
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether something is said before long.
fn happens(receiver: &Receiver<()>) -> bool {
    smol::block_on(smol::future::or(
        async { receiver.recv().await.is_ok() },
        async {
            smol::Timer::after(PATIENCE).await;
            false
        },
    ))
}

/// Writes what it is told and reads answers.
struct Client<S>(BufReader<S>);

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl<S: Read + Write> Client<S> {
    fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).unwrap();
        self
    }

    fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())?;
        self.0.get_mut().flush()
    }

    /// Status and headers of the next answer.
    fn head(&mut self) -> io::Result<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut answer = Answer {
            status: status.ok_or_else(|| io::Error::other(line))?,
            headers: HashMap::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else {
                return Ok(answer);
            };
            answer.headers.insert(name.to_owned(), value.to_owned());
        }
    }

    /// The next answer.
    fn read(&mut self) -> io::Result<Answer> {
        let mut answer = self.head()?;
        if let Some(length) = answer.headers.get("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut answer.body)?;
        } else if answer.headers.contains_key("transfer-encoding") {
            loop {
                let length = usize::from_str_radix(&self.line()?, 16).unwrap();
                let mut chunk = vec![0; length];
                self.0.read_exact(&mut chunk)?;
                answer.body.extend(chunk);
                self.line()?;
                if length == 0 {
                    break;
                }
            }
        }
        Ok(answer)
    }

    fn answer(&mut self) -> Answer {
        self.read().unwrap()
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Whether the server closes the connection without another word.
    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

impl Client<TcpStream> {
    /// Whether nothing has come so far, not even the end.
    fn is_silent(&self) -> bool {
        let stream = self.0.get_ref();
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Answer {
    fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["errcode"].as_str().unwrap_or_default().to_owned()
    }
}

const VERSIONS: &str = "GET /_matrix/client/versions HTTP/1.1\r\nhost: h\r\n\r\n";
const LOGOUT: &str = "/_matrix/client/v3/logout";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

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
fn who_asks_to_close_is_closed_and_old_clients_are_served() {
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
fn who_waits_for_leave_to_send_gets_it_only_when_the_body_is_wanted() {
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
fn who_sends_too_much_gets_to_read_so() {
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
fn a_refusal_leaves_the_connection_usable_although_a_body_comes() {
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
fn nonsense_is_refused_and_the_server_lives() {
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
fn a_head_that_is_too_large_is_refused() {
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
fn an_answer_that_breaks_off_does_not_look_whole() {
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

fn tls_client(address: SocketAddr) -> Client<StreamOwned<ClientConnection, TcpStream>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests/root.pem");
    let mut roots = RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_file(root).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    Client::new(StreamOwned::new(session, connect(address)))
}

#[test]
fn what_is_served_is_served_with_tls_too() {
    let server = Server::start();
    let mut client = tls_client(server.tls);
    for _ in 0..2 {
        assert_eq!(client.send(VERSIONS).answer().status, 200);
    }
    client.send(server.head("GET", "/_matrix/client/v3/sync", ""));
    assert_eq!(client.answer().body, b"{\"next_batch\":\"s1\"}");
    server.stop();
}

#[test]
fn who_does_not_shake_hands_is_closed() {
    let times = Times {
        handshake: Duration::from_millis(200),
        ..Times::default()
    };
    let server = Server::with(times, 100);
    assert!(Client::new(connect(server.tls)).is_closed());
    let mut plain = Client::new(connect(server.tls));
    plain.send(VERSIONS);
    assert!(!plain.read().is_ok_and(|answer| answer.status == 200));
    assert_eq!(tls_client(server.tls).send(VERSIONS).answer().status, 200);
    server.stop();
}
