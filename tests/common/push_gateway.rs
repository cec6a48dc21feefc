//! A push gateway on loopback, after the Push Gateway API.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

/// What the gateway does with a request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// 200, with these rejected pushkeys.
    Accept(Vec<String>),
    /// This status for all requests.
    Fail(u16),
    /// This status for notifications with this text, else 200.
    FailFor(u16, &'static str),
    /// 200 with this body.
    Answer(&'static str),
    /// No answer.
    Stall,
    Redirect(String),
}

struct State {
    behaviour: Behaviour,
    received: Vec<Value>,
    connections: usize,
}

/// Runs until the process of the tests ends.
pub struct MockPushGateway {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl MockPushGateway {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let state = Arc::new(Mutex::new(State {
            behaviour: Behaviour::Accept(Vec::new()),
            received: Vec::new(),
            connections: 0,
        }));
        let gateway = Self {
            port,
            state: state.clone(),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                lock(&state).connections += 1;
                // It ends when the client closes the connection.
                thread::spawn(move || serve(stream, &state));
            }
        });
        gateway
    }

    /// The setting that allows this gateway.
    pub fn setting(&self) -> String {
        format!("push_gateways = [\"http://127.0.0.1:{}\"]", self.port)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/_matrix/push/v1/notify", self.port)
    }

    pub fn set(&self, behaviour: Behaviour) {
        self.lock().behaviour = behaviour;
    }

    /// The notifications of all requests so far.
    pub fn received(&self) -> Vec<Value> {
        self.lock().received.clone()
    }

    /// Waits until there were so many requests.
    pub fn wait_blocking(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let received = self.received();
            if received.len() >= count {
                return received;
            }
            assert!(Instant::now() < deadline, "{} requests", received.len());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.lock().connections
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut stream = BufReader::new(stream);
    while let Some((head, body)) = read_request(&mut stream) {
        assert!(head.starts_with("POST /_matrix/push/v1/notify"), "{head}");
        let body: Value = serde_json::from_slice(&body).expect("a JSON body");
        let text = body.to_string();
        let behaviour = {
            let mut state = lock(state);
            state.received.push(body["notification"].clone());
            state.behaviour.clone()
        };
        let accepted = json!({ "rejected": [] }).to_string();
        let (head, body) = match behaviour {
            Behaviour::Accept(rejected) => (
                "200 OK".to_owned(),
                json!({ "rejected": rejected }).to_string(),
            ),
            Behaviour::FailFor(status, part) if text.contains(part) => {
                (format!("{status} Error"), String::new())
            }
            Behaviour::FailFor(..) => ("200 OK".to_owned(), accepted),
            Behaviour::Fail(status) => (format!("{status} Error"), String::new()),
            Behaviour::Answer(body) => ("200 OK".to_owned(), body.to_owned()),
            Behaviour::Redirect(to) => (format!("307 Moved\r\nlocation: {to}"), String::new()),
            Behaviour::Stall => {
                // Longer than any test.
                thread::sleep(Duration::from_mins(10));
                return;
            }
        };
        let length = body.len();
        let response = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
        if stream.get_mut().write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

/// Head and body of the next request.
fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.to_ascii_lowercase();
    let length = length.split("content-length:").nth(1)?;
    let length: usize = length.lines().next()?.trim().parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}
