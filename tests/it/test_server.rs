//! A server in this process with a data directory of its own, and users with accounts on it.

use std::{
    future::{Future, poll_fn},
    io,
    net::TcpListener,
    os::unix::net::UnixStream,
    path::Path,
    task::Poll,
    time::{Duration, Instant},
};

use hearth::{
    clock::Clock,
    config::{Config, Network, Settings},
    executor::Executor,
    federation::{Client, Federation},
    http::Edge,
    server::Server,
    store::Store,
    systemd::Sockets,
};
use http::{Method, Request, Response};
use ruma::ServerName;
use serde_json::{Value, json};
use smol::{
    Async, LocalExecutor, Timer,
    io::{AsyncReadExt, AsyncWriteExt},
};
use tempfile::TempDir;

/// Initial time of the clock, in milliseconds since the epoch.
const START_MS: u64 = 1_790_000_000_000;

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Passes the check of the password's strength.
pub const PASSWORD: &str = "correct horse battery";

/// A server that runs until it is dropped. Its clock only moves when a test advances it.
pub struct TestServer {
    pub clock: Clock,
    executor: Executor,
    server: Option<Server>,
    config: Config,
    directory: TempDir,
    /// Accepts connections of other servers, if the server federates.
    federation_listener: Option<TcpListener>,
}

/// Status and body of a response.
pub type JsonResponse = (u16, Value);

impl TestServer {
    /// A server with the name `localhost` and open registration.
    pub fn new() -> Self {
        Self::with("registration = \"open\"")
    }

    /// A server with these lines in its configuration. Rate limits, federation and notaries are off
    /// unless these lines set them.
    pub fn with(settings: &str) -> Self {
        Self::start_on(Executor::default(), Clock::manual(START_MS), None, settings)
    }

    /// A server with these lines in its configuration, which looks up names as `network` says.
    pub fn on_network(settings: &str, network: Network) -> Self {
        let (executor, clock) = (Executor::default(), Clock::manual(START_MS));
        Self::start_in(network, executor, clock, None, settings)
    }

    /// Servers that federate over loopback and share one clock and one executor: while one of them
    /// handles a request, all of them run.
    pub fn federating<const N: usize>() -> [Self; N] {
        Self::federating_with(|_| [const { String::new() }; N])
    }

    /// Like [`Self::federating`], with these lines in the configuration of each server. They are made
    /// from the names of the servers.
    pub fn federating_with<const N: usize>(
        settings: impl FnOnce(&[String; N]) -> [String; N],
    ) -> [Self; N] {
        let (executor, clock) = (Executor::default(), Clock::manual(START_MS));
        let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
        let ports = listeners.each_ref().map(|listener| {
            let address = listener.local_addr().expect("it has an address");
            address.port()
        });
        let names = ports.map(|port| format!("localhost:{port}"));
        let mut settings = settings(&names).into_iter();
        let mut listeners = listeners.into_iter();
        ports.map(|port| {
            let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests");
            let own = settings.next().unwrap_or_default();
            let federation = match own.contains("federation = ") {
                true => "",
                false => "federation = \"on\"\n",
            };
            let settings = format!(
                "registration = \"open\"\n\
                 {federation}server_name = \"localhost:{port}\"\n\
                 tls_listen = [\"127.0.0.1:{port}\"]\n\
                 tls_certificate = \"{certificates}/localhost.pem\"\n\
                 tls_key = \"{certificates}/localhost.key.pem\"\n\
                 extra_ca = \"{certificates}/root.pem\"\n\
                 allow_private_addresses = true\n{own}"
            );
            Self::start_on(executor.clone(), clock.clone(), listeners.next(), &settings)
        })
    }

    fn start_on(
        executor: Executor,
        clock: Clock,
        federation_listener: Option<TcpListener>,
        settings: &str,
    ) -> Self {
        let network = Network::default();
        Self::start_in(network, executor, clock, federation_listener, settings)
    }

    fn start_in(
        network: Network,
        executor: Executor,
        clock: Clock,
        federation_listener: Option<TcpListener>,
        settings: &str,
    ) -> Self {
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
        let settings = Settings::parse(&settings).expect("the settings can be parsed");
        let mut config = Config::try_from(settings).expect("the settings are consistent");
        config.cache_leaves_disk_free = false;
        config.network = network;
        let mut server = Self {
            clock,
            executor,
            server: None,
            config,
            directory,
            federation_listener,
        };
        server.start();
        server
    }

    /// Starts the stopped server.
    pub fn start(&mut self) {
        // The listener stays open while the server is stopped, so that no other process takes its port.
        let sockets = self.federation_listener.iter().map(TcpListener::try_clone);
        let sockets = sockets.collect::<Result<_, _>>().and_then(Sockets::new);
        let start = Server::start(
            &self.executor,
            self.config.clone(),
            sockets.expect("the socket can be passed on"),
            self.clock.clone(),
        );
        self.server = Some(self.run(start).expect("the server starts"));
    }

    /// Stops the server. Connections to it are not answered until it is started again.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            self.run(server.stop());
        }
    }

    /// Where other servers connect to this one, for a mock server that takes its place while it is stopped.
    pub fn federation_listener(&self) -> TcpListener {
        let listener = self.federation_listener.as_ref();
        let listener = listener.expect("the server federates").try_clone();
        listener.expect("a socket can be cloned")
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    pub fn name(&self) -> &ServerName {
        &self.config.server_name
    }

    /// Contains the data directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs `future` to completion, and the server meanwhile.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(self.executor.run(future))
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> JsonResponse {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let request = request.body(body).expect("a valid request");
        parse(&self.edge().respond(request).await)
    }

    /// Sends a request without changing it.
    pub fn respond(&self, request: Request<Vec<u8>>) -> Response<Vec<u8>> {
        self.run(self.edge().respond(request))
    }

    /// Sends requests concurrently without changing them.
    pub fn respond_all(&self, requests: Vec<Request<Vec<u8>>>) -> Vec<Response<Vec<u8>>> {
        let executor = LocalExecutor::new();
        let send = |request| executor.spawn(self.edge().respond(request));
        let tasks: Vec<_> = requests.into_iter().map(send).collect();
        self.run(executor.run(async {
            let mut responses = Vec::new();
            for task in tasks {
                responses.push(task.await);
            }
            responses
        }))
    }

    /// Sends `others`, then `last`. Returns the response to `last`, and how many others have none then.
    pub fn respond_before(
        &self,
        others: Vec<Request<Vec<u8>>>,
        last: Request<Vec<u8>>,
    ) -> (Response<Vec<u8>>, usize) {
        let executor = LocalExecutor::new();
        let send = |request| executor.spawn(self.edge().respond(request));
        let others: Vec<_> = others.into_iter().map(send).collect();
        let last = send(last);
        let response = self.run(executor.run(last));
        let waiting = others.iter().filter(|task| !task.is_finished());
        (response, waiting.count())
    }

    /// Requests an operation as the owner of the server, through its socket.
    pub fn administer(&self, operation: &str, request: &Value) -> JsonResponse {
        let body = request.to_string();
        let request = format!(
            "POST /_hearth/admin/v1/{operation} HTTP/1.0\r\nHost: hearth\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let response = self.run(async {
            let socket = self.directory().join("data/hearth.sock");
            let mut stream = Async::<UnixStream>::connect(socket).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut response = String::new();
            stream.read_to_string(&mut response).await?;
            Ok::<_, io::Error>(response)
        });
        let response = response.expect("the server answers");
        let (head, body) = response.split_once("\r\n\r\n").expect("a response");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = serde_json::from_str(body).expect("JSON in one piece");
        (status.expect("a status"), body)
    }

    /// Where clients connect without TLS.
    pub fn port(&self) -> u16 {
        self.server().addresses()[0].port()
    }

    /// Checks the set-up as at night.
    pub fn check_as_at_night(&self) {
        self.check_as_at_night_and(|| {});
    }

    /// `meanwhile` is before what is newly red is looked at again.
    pub fn check_as_at_night_and(&self, meanwhile: impl FnOnce()) {
        self.run(self.server().check_as_at_night(async { meanwhile() }));
    }

    /// Sends federation requests from this server.
    pub fn client(&self) -> &Client {
        self.federation().client()
    }

    pub fn federation(&self) -> &Federation {
        self.server().federation()
    }

    pub fn store(&self) -> &Store {
        self.server().store()
    }

    pub fn edge(&self) -> &Edge {
        self.server().edge()
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the server is running")
    }

    /// Polls all of `futures` concurrently.
    pub async fn join_all<F: Future>(&self, futures: Vec<F>) -> Vec<F::Output> {
        let mut running: Vec<_> = futures.into_iter().map(Box::pin).collect();
        let mut outputs: Vec<_> = running.iter().map(|_| None).collect();
        poll_fn(|context| {
            for (future, output) in running.iter_mut().zip(&mut outputs) {
                if output.is_none()
                    && let Poll::Ready(ready) = future.as_mut().poll(context)
                {
                    *output = Some(ready);
                }
            }
            if outputs.iter().all(Option::is_some) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        outputs.into_iter().flatten().collect()
    }

    /// Waits for an effect that no response waits for.
    pub fn wait_until(&self, condition: impl AsyncFn() -> bool) {
        self.run(self.eventually(condition));
    }

    /// The asynchronous [`Self::wait_until`].
    pub async fn eventually(&self, condition: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !condition().await {
            assert!(Instant::now() < deadline, "the condition never held");
            Timer::after(Duration::from_millis(2)).await;
        }
    }

    /// Sends a request without an access token.
    pub fn request(&self, method: Method, path: &str, body: Value) -> JsonResponse {
        self.run(self.send(method, path, None, &body))
    }

    pub fn get(&self, path: &str) -> JsonResponse {
        self.request(Method::GET, path, Value::Null)
    }

    pub fn post(&self, path: &str, body: Value) -> JsonResponse {
        self.request(Method::POST, path, body)
    }

    /// Registers a user with [`PASSWORD`].
    pub fn register(&self, name: &str) -> TestUser<'_> {
        let body = json!({
            "username": name,
            "password": PASSWORD,
            "auth": { "type": "m.login.dummy" },
        });
        let (status, response) = self.post("/_matrix/client/v3/register", body);
        assert_eq!(status, 200, "{response}");
        self.user_from_login(&response)
    }

    /// Logs a user in on a new device.
    pub fn log_in(&self, name: &str) -> TestUser<'_> {
        let (status, response) = self.log_in_with(name, json!({}));
        assert_eq!(status, 200, "{response}");
        self.user_from_login(&response)
    }

    /// Logs a user in with [`PASSWORD`]. `fields` are added to the request, or replace some of it.
    pub fn log_in_with(&self, name: &str, fields: Value) -> JsonResponse {
        let mut body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": PASSWORD,
        });
        for (key, value) in fields.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        self.post("/_matrix/client/v3/login", body)
    }

    /// The user of an access token.
    pub fn user_with_token(&self, token: &str) -> TestUser<'_> {
        let path = "/_matrix/client/v3/account/whoami";
        let (_, mut response) = self.run(self.send(Method::GET, path, Some(token), &Value::Null));
        response["access_token"] = token.into();
        self.user_from_login(&response)
    }

    /// The user of a response to registration or login.
    pub fn user_from_login(&self, response: &Value) -> TestUser<'_> {
        let text = |key: &str| {
            response[key]
                .as_str()
                .expect("a login returns this")
                .to_owned()
        };
        TestUser {
            server: self,
            user_id: text("user_id"),
            device_id: text("device_id"),
            token: text("access_token"),
        }
    }
}

/// Status and JSON of a response; `null` where the body is no JSON.
pub fn parse(response: &Response<Vec<u8>>) -> JsonResponse {
    let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    (response.status().as_u16(), body)
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A user logged in on one device.
#[derive(Clone)]
pub struct TestUser<'s> {
    server: &'s TestServer,
    pub user_id: String,
    pub device_id: String,
    pub token: String,
}

impl TestUser<'_> {
    pub fn request(&self, method: Method, path: &str, body: Value) -> JsonResponse {
        let send = self.server.send(method, path, Some(&self.token), &body);
        self.server.run(send)
    }

    pub fn get(&self, path: &str) -> JsonResponse {
        self.request(Method::GET, path, Value::Null)
    }

    pub fn post(&self, path: &str, body: Value) -> JsonResponse {
        self.request(Method::POST, path, body)
    }

    pub fn put(&self, path: &str, body: Value) -> JsonResponse {
        self.request(Method::PUT, path, body)
    }

    pub fn delete(&self, path: &str, body: Value) -> JsonResponse {
        self.request(Method::DELETE, path, body)
    }

    /// Sends a request that needs user-interactive authentication: first without `auth`, then with
    /// the password.
    pub fn request_with_password(
        &self,
        method: Method,
        path: &str,
        mut body: Value,
    ) -> JsonResponse {
        let (status, challenge) = self.request(method.clone(), path, body.clone());
        assert_eq!(status, 401, "{challenge}");
        assert_eq!(
            challenge["flows"],
            json!([{ "stages": ["m.login.password"] }])
        );
        body["auth"] = self.password_auth(&challenge["session"]);
        self.request(method, path, body)
    }

    /// The `auth` that completes the stage `m.login.password`.
    pub fn password_auth(&self, session: &Value) -> Value {
        json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": self.user_id },
            "password": PASSWORD,
            "session": session,
        })
    }

    pub fn is_logged_in(&self) -> bool {
        self.get("/_matrix/client/v3/account/whoami").0 == 200
    }
}

/// The body of a successful response.
#[track_caller]
pub fn expect_ok((status, body): JsonResponse) -> Value {
    assert_eq!(status, 200, "{body}");
    body
}

/// Asserts the status and the `errcode` of an error.
#[track_caller]
pub fn expect_error(response: &JsonResponse, status: u16, errcode: &str) {
    let (actual, body) = response;
    assert_eq!(
        (*actual, body["errcode"].as_str()),
        (status, Some(errcode)),
        "{body}"
    );
    assert!(body["error"].is_string(), "{body}");
}
