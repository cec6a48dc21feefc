//! What happens on a connection: bytes in, bytes out, and how long either may take.

mod requests;
mod time;
mod tls;

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use ruma::api::client::{account::whoami, sync::sync_events};
use smol::{
    channel::{self, Receiver, Sender},
    stream,
};

use super::{TestApi, routes};
use crate::{
    api::{Api, Error, Session, Streamed},
    config::{CertificateSource, Config, PemFiles, Settings, Tls},
    executor::Executor,
    http::{Certificate, Edge, Gate, Listeners, limits::Timeouts, routes::Routes},
    pool::Pool,
    stop::{self, Stop},
    systemd::Sockets,
};

/// Longer than anything here takes; a test that waits for so long fails.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Nearly all memory for responses, and more than the kernel takes for a connection.
const LARGE_RESPONSE: usize = 11 << 20;
const MEDIUM_RESPONSE: usize = 2 << 20;

/// A server on a thread of its own.
struct Server {
    test_api: TestApi,
    gate: Arc<Gate>,
    address: SocketAddr,
    tls: SocketAddr,
    certificate: Certificate,
    /// Says that the handler of [`whoami`] has begun.
    entered: Receiver<()>,
    /// Lets the handler of [`whoami`] go on.
    release: Sender<()>,
    /// Says that the handler of [`whoami`], or the pieces of an endless sync, are no more.
    gone: Receiver<()>,
    stop: Stop,
    thread: JoinHandle<()>,
}

/// Notifies when it is dropped.
struct Guard(Sender<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

/// A `/sync` whose `since` says how it goes.
fn add_sync(routes: &mut Routes, gone: Sender<()>) {
    routes.add(
        move |_api: Api, _session: Session, request: sync_events::v3::Request| {
            let guard = Guard(gone.clone());
            async move {
                let first = || Ok(b"{\"next_batch\":".to_vec());
                Ok(match request.since.as_deref() {
                    Some("endless") => Streamed::new(stream::repeat_with(move || {
                        let _alive = &guard;
                        Ok(vec![b' '; 1 << 16])
                    })),
                    Some("large") => Streamed::new(stream::once(Ok(vec![b' '; LARGE_RESPONSE]))),
                    Some("medium") => Streamed::new(stream::once(Ok(vec![b' '; MEDIUM_RESPONSE]))),
                    Some("broken") => Streamed::new(stream::iter([
                        first(),
                        Err(Error::Internal("broken on purpose")),
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
        move |_api: Api, session: Session, _request: whoami::v3::Request| {
            let (entered, release) = (entered.clone(), release.clone());
            let guard = Guard(gone.clone());
            async move {
                let _alive = guard;
                let _ = entered.try_send(());
                let _ = release.recv().await;
                Ok(whoami::v3::Response::new(session.user_id, false))
            }
        },
    );
}

impl Server {
    fn start() -> Self {
        Self::with(Timeouts::default(), 100)
    }

    fn with(timeouts: Timeouts, connections: usize) -> Self {
        Self::of(&config(), timeouts, connections)
    }

    fn of(config: &Config, timeouts: Timeouts, connections: usize) -> Self {
        let test_api = TestApi::new();
        let (was_entered, entered) = channel::unbounded();
        let (release, is_released) = channel::unbounded();
        let (is_gone, gone) = channel::unbounded();
        let mut ours = routes();
        ours.0
            .retain(|route| route.paths[0] != "/_matrix/client/r0/sync");
        add_sync(&mut ours, is_gone.clone());
        add_whoami(&mut ours, was_entered, is_released, is_gone);

        let CertificateSource::Files(files) = &config.tls.as_ref().unwrap().source else {
            panic!("the certificate is in files");
        };
        let certificate = Certificate::of_files(files, &Pool::default()).unwrap();
        let sockets = Sockets::default();
        let mut listeners = Listeners::bind(config, sockets, Some(certificate.clone())).unwrap();
        listeners.timeouts = timeouts;
        listeners.connections = connections;
        let addresses = listeners.addresses();
        let gate = Arc::new(Gate::default());
        gate.open(Edge::with(ours.0, test_api.api.clone(), timeouts));
        let (stop, stopping) = stop::channel();
        let served = gate.clone();
        let thread = thread::spawn(move || {
            let executor = Executor::default();
            let serve = listeners.serve(&executor, served, Arc::default(), stopping);
            smol::block_on(executor.run(serve));
        });
        Self {
            test_api,
            gate,
            address: addresses[0],
            tls: addresses[1],
            certificate,
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
        head_with(&self.test_api.alice, method, path, headers)
    }

    fn stop(self) {
        self.stop.now();
        self.thread.join().unwrap();
    }
}

fn head_with(token: &str, method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\n{headers}\r\n")
}

fn config() -> Config {
    let file = |name: &str| {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("src/http/tests")
            .join(name)
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config: Config = Settings::local().try_into().unwrap();
    config.listen.addresses = vec![any];
    config.tls = Some(Tls {
        listen: vec![any],
        source: CertificateSource::Files(PemFiles {
            certificate: file("localhost.pem"),
            key: file("localhost.key.pem"),
        }),
    });
    config
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Whether something is said before long.
fn happens(receiver: &Receiver<()>) -> bool {
    smol::block_on(smol::future::or(
        async { receiver.recv().await.is_ok() },
        async {
            smol::Timer::after(TIMEOUT).await;
            false
        },
    ))
}

/// An HTTP client.
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
