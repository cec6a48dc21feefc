//! A server in a directory of its own, and people with accounts there.

use std::{
    future::{Future, poll_fn},
    net::TcpListener,
    path::Path,
    task::Poll,
    time::{Duration, Instant},
};

use hearth::{
    clock::Clock,
    config::{Config, Settings},
    executor::Executor,
    federation::{Client, Federation},
    http::Edge,
    server::Server,
    systemd::Sockets,
};
use http::{Method, Request, Response};
use ruma::ServerName;
use serde_json::{Value, json};
use smol::{LocalExecutor, Timer};
use tempfile::TempDir;

/// When the server's clock starts, in milliseconds since the epoch.
const START: u64 = 1_790_000_000_000;

/// How long a test waits for what must come about.
const PATIENCE: Duration = Duration::from_secs(20);

/// A password that is good enough.
pub const PASSWORD: &str = "correct horse battery";

/// A server that stands until it is dropped. Its clock stands still until a test advances it.
pub struct Home {
    /// The server's clock.
    pub clock: Clock,
    executor: Executor,
    server: Option<Server>,
    config: Config,
    directory: TempDir,
    /// Where other servers connect, if they may.
    door: Option<TcpListener>,
}

/// An answer: its status and its body.
pub type Answer = (u16, Value);

impl Home {
    /// A server of the name `localhost` where everybody can register.
    pub fn new() -> Self {
        Self::with("registration = \"open\"")
    }

    /// A server with these lines in its configuration. It limits no rates, and has to do with
    /// no other server, unless they say so.
    pub fn with(settings: &str) -> Self {
        Self::among(Executor::default(), Clock::manual(START), None, settings)
    }

    /// Servers that federate with each other on the loopback, with the same clock. While one of
    /// them is made to do something, all of them run.
    pub fn federating<const N: usize>() -> [Self; N] {
        Self::federating_with(|_| [const { String::new() }; N])
    }

    /// The same with these lines in the configuration of each, which may depend on their names.
    pub fn federating_with<const N: usize>(
        settings: impl FnOnce(&[String; N]) -> [String; N],
    ) -> [Self; N] {
        let (executor, clock) = (Executor::default(), Clock::manual(START));
        let doors = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
        let ports = doors.each_ref().map(|door| {
            let address = door.local_addr().expect("it has an address");
            address.port()
        });
        let names = ports.map(|port| format!("localhost:{port}"));
        let mut settings = settings(&names).into_iter();
        let mut doors = doors.into_iter();
        ports.map(|port| {
            let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests");
            let settings = format!(
                "registration = \"open\"\n\
                 federation = \"on\"\n\
                 server_name = \"localhost:{port}\"\n\
                 tls_listen = [\"127.0.0.1:{port}\"]\n\
                 tls_certificate = \"{certificates}/localhost.pem\"\n\
                 tls_key = \"{certificates}/localhost.key.pem\"\n\
                 extra_ca = \"{certificates}/root.pem\"\n\
                 allow_private_addresses = true\n{}",
                settings.next().unwrap_or_default()
            );
            Self::among(executor.clone(), clock.clone(), doors.next(), &settings)
        })
    }

    /// A server on the executor of others.
    fn among(executor: Executor, clock: Clock, door: Option<TcpListener>, settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let data = directory.path().join("data");
        let mut settings = format!("data_dir = {data:?}\nlisten = [\"127.0.0.1:0\"]\n{settings}\n");
        if !settings.contains("notaries") {
            settings += "notaries = []\n";
        }
        if !settings.contains("rate_limits") {
            settings += "rate_limits = false\n";
        }
        if !settings.contains("federation") {
            settings += "federation = \"off\"\n";
        }
        let settings = Settings::parse(&settings).expect("these are settings");
        let mut home = Self {
            clock,
            executor,
            server: None,
            config: Config::try_from(settings).expect("these settings fit together"),
            directory,
            door,
        };
        home.start();
        home
    }

    /// Starts the server, which was stopped.
    pub fn start(&mut self) {
        // The door stays open while nobody answers it, so that nobody else takes its port.
        let doors = self.door.iter().map(TcpListener::try_clone);
        let doors = doors.collect::<Result<_, _>>().and_then(Sockets::new);
        let doors = doors.expect("a socket can be handed over");
        let start = Server::start(
            &self.executor,
            self.config.clone(),
            doors,
            self.clock.clone(),
        );
        self.server = Some(self.run(start).expect("the server starts"));
    }

    /// Stops the server; until it is started again nobody answers for it.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            self.run(server.stop());
        }
    }

    /// Stops the server and starts it again with the same data.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// The server's name.
    pub fn name(&self) -> &ServerName {
        &self.config.server_name
    }

    /// The directory with everything that the server wrote.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs `future` while the server runs.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(self.executor.run(future))
    }

    /// Sends a request.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let request = request.body(body).expect("this is a request");
        read(&self.edge().respond(request).await)
    }

    /// Sends a request just as it is.
    pub fn respond(&self, request: Request<Vec<u8>>) -> Response<Vec<u8>> {
        self.run(self.edge().respond(request))
    }

    /// Sends requests at the same time, just as they are.
    pub fn respond_all(&self, requests: Vec<Request<Vec<u8>>>) -> Vec<Response<Vec<u8>>> {
        let together = LocalExecutor::new();
        let send = |request| together.spawn(self.edge().respond(request));
        let tasks: Vec<_> = requests.into_iter().map(send).collect();
        self.run(together.run(async {
            let mut responses = Vec::new();
            for task in tasks {
                responses.push(task.await);
            }
            responses
        }))
    }

    /// Asks other servers in this one's name.
    pub fn client(&self) -> &Client {
        self.federation().client()
    }

    /// The part of the server that has to do with others.
    pub fn federation(&self) -> &Federation {
        self.server().federation()
    }

    /// What answers requests.
    pub fn edge(&self) -> &Edge {
        self.server().edge()
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the server is running")
    }

    /// Runs all of `futures` at once.
    pub async fn all<F: Future>(&self, futures: Vec<F>) -> Vec<F::Output> {
        let mut running: Vec<_> = futures.into_iter().map(Box::pin).collect();
        let mut done: Vec<_> = running.iter().map(|_| None).collect();
        poll_fn(|context| {
            for (future, done) in running.iter_mut().zip(&mut done) {
                if done.is_none()
                    && let Poll::Ready(output) = future.as_mut().poll(context)
                {
                    *done = Some(output);
                }
            }
            if done.iter().all(Option::is_some) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        done.into_iter().flatten().collect()
    }

    /// Waits for what comes about behind the answers.
    pub async fn until(&self, come_about: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !come_about().await {
            assert!(Instant::now() < deadline, "it did not come about");
            Timer::after(Duration::from_millis(2)).await;
        }
    }

    /// Sends a request of nobody in particular.
    pub fn ask(&self, method: Method, path: &str, body: Value) -> Answer {
        self.run(self.send(method, path, None, &body))
    }

    /// Registers `name` with [`PASSWORD`], logged in on a first device.
    pub fn register(&self, name: &str) -> Person<'_> {
        let (status, body) = self.ask(
            Method::POST,
            "/_matrix/client/v3/register",
            json!({
                "username": name,
                "password": PASSWORD,
                "auth": {"type": "m.login.dummy"},
            }),
        );
        assert_eq!(status, 200, "{body}");
        self.person(&body)
    }

    /// Logs `name` in on another device.
    pub fn log_in(&self, name: &str) -> Person<'_> {
        let (status, body) = self.ask(
            Method::POST,
            "/_matrix/client/v3/login",
            json!({
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": name},
                "password": PASSWORD,
            }),
        );
        assert_eq!(status, 200, "{body}");
        self.person(&body)
    }

    /// Whoever has this access token.
    pub fn with_token(&self, token: &str) -> Person<'_> {
        let path = "/_matrix/client/v3/account/whoami";
        let (_, mut body) = self.run(self.send(Method::GET, path, Some(token), &Value::Null));
        body["access_token"] = token.into();
        self.person(&body)
    }

    /// Whoever is logged in by `answer`, of a registration or a login.
    pub fn person(&self, answer: &Value) -> Person<'_> {
        let text = |key: &str| answer[key].as_str().expect("a login names this").to_owned();
        Person {
            home: self,
            user_id: text("user_id"),
            device_id: text("device_id"),
            token: text("access_token"),
        }
    }
}

/// The status and the JSON of `response`.
pub fn read(response: &Response<Vec<u8>>) -> Answer {
    let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    (response.status().as_u16(), body)
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.run(server.stop());
        }
    }
}

/// Somebody with an account, on one device.
#[derive(Clone)]
pub struct Person<'h> {
    home: &'h Home,
    /// The user id.
    pub user_id: String,
    /// The device id.
    pub device_id: String,
    /// The access token.
    pub token: String,
}

impl Person<'_> {
    /// Sends a request.
    pub fn ask(&self, method: Method, path: &str, body: Value) -> Answer {
        let send = self.home.send(method, path, Some(&self.token), &body);
        self.home.run(send)
    }

    /// `GET`
    pub fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, Value::Null)
    }

    /// `POST`
    pub fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, body)
    }

    /// `PUT`
    pub fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, body)
    }

    /// `DELETE`
    pub fn delete(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::DELETE, path, body)
    }

    /// Does what needs the password: asks, is asked to authenticate, and does.
    pub fn ask_with_password(&self, method: Method, path: &str, mut body: Value) -> Answer {
        let (status, asked) = self.ask(method.clone(), path, body.clone());
        assert_eq!(status, 401, "{asked}");
        assert_eq!(asked["flows"], json!([{"stages": ["m.login.password"]}]));
        body["auth"] = self.password_stage(&asked["session"]);
        self.ask(method, path, body)
    }

    /// The stage `m.login.password` of `session`.
    pub fn password_stage(&self, session: &Value) -> Value {
        json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": PASSWORD,
            "session": session,
        })
    }

    /// Whether the access token lets anybody in.
    pub fn is_logged_in(&self) -> bool {
        self.get("/_matrix/client/v3/account/whoami").0 == 200
    }
}

/// Asserts that `answer` is this status and error code.
#[track_caller]
pub fn refused(answer: &Answer, status: u16, errcode: &str) {
    let (got, body) = answer;
    assert_eq!(
        (*got, body["errcode"].as_str()),
        (status, Some(errcode)),
        "{body}"
    );
    assert!(body["error"].is_string(), "{body}");
}
