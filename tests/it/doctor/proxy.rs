//! A web server with TLS in front of hearth: pages of its own for some paths, a proxy for the others.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// What the proxy does to what it passes on.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    /// It answers with this status, as if it did not reach hearth.
    pub status: Option<u16>,
    pub decodes_paths: bool,
    pub refuses_put: bool,
    pub max_body: Option<usize>,
    /// What it sets as X-Forwarded-For; without it, the header is removed.
    pub forwarded_for: Option<&'static str>,
    /// It passes X-Forwarded-For as it comes.
    pub keeps_forwarded_for: bool,
    pub removes_cors: bool,
    pub adds_cors: bool,
}

/// Whole responses by host and path.
pub type Pages = HashMap<(&'static str, String), String>;

/// A notary as Synapse is one: it fetches keys again only if a POST request names the key and wants a newer one.
#[derive(Clone)]
pub struct Notary {
    /// The keys of the server.
    pub keys: Value,
    /// Whether it reaches the server.
    pub is_reached: bool,
    /// How many milliseconds ago it has fetched the keys.
    pub fetched_ago_ms: u64,
    /// Its time.
    pub date: &'static str,
}

impl Notary {
    /// `None` for other requests.
    fn answer(&self, request: (&str, &str), body: &[u8]) -> Option<String> {
        let name = self.keys["server_name"].as_str()?;
        let fetches = match request {
            ("POST", "/_matrix/key/v2/query") => {
                let query: Value = serde_json::from_slice(body).unwrap_or_default();
                let mut wanted = query["server_keys"][name].as_object()?.iter();
                wanted.any(|(id, criteria)| {
                    !self.keys["verify_keys"][id].is_null()
                        && criteria["minimum_valid_until_ts"].is_u64()
                })
            }
            ("GET", path) if path == format!("/_matrix/key/v2/query/{name}") => false,
            _ => return None,
        };
        let mut keys = self.keys.clone();
        if !(fetches && self.is_reached) {
            // Those of the last time.
            keys["valid_until_ts"] = json!(1);
        } else if let Some(valid_until) = keys["valid_until_ts"].as_u64() {
            keys["valid_until_ts"] = json!(valid_until - self.fetched_ago_ms);
        }
        let body = json!({ "server_keys": [keys] }).to_string();
        let date = format!("date: {}\r\n", self.date);
        Some(response(200, "application/json", &body, &date))
    }
}

pub struct Front {
    pub listener: TcpListener,
    pub tls: Arc<ServerConfig>,
    pub pages: Pages,
    pub notary: Option<Notary>,
    pub proxy: Proxy,
    /// Where hearth is, as soon as it is there.
    pub backend: Arc<AtomicU16>,
}

impl Front {
    /// Runs until the process of the tests ends.
    pub fn start(self) {
        let front = Arc::new(self);
        thread::spawn(move || {
            while let Ok((stream, _)) = front.listener.accept() {
                let front = front.clone();
                thread::spawn(move || {
                    let connection = ServerConnection::new(front.tls.clone());
                    let connection = connection.expect("a connection");
                    // Clients close connections when they know enough.
                    let _ = front.serve(StreamOwned::new(connection, stream));
                });
            }
        });
    }

    fn serve(&self, stream: StreamOwned<ServerConnection, TcpStream>) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let host = header("host").unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        let path = head.split([' ', '?']).nth(1).unwrap_or_default();
        let page = self
            .pages
            .iter()
            .find(|((of, at), _)| *of == host && at == path);
        if let Some((_, page)) = page {
            stream.get_mut().write_all(page.as_bytes())?;
            return close(stream.get_mut());
        }
        let length = header("content-length").and_then(|length| length.parse().ok());
        let length: usize = length.unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let method = head.split(' ').next().unwrap_or_default();
        let notary = self.notary.as_ref();
        if let Some(answer) = notary.and_then(|notary| notary.answer((method, path), &body)) {
            stream.get_mut().write_all(answer.as_bytes())?;
            return close(stream.get_mut());
        }
        if self.proxy.max_body.is_some_and(|max| length > max) {
            let refused = response(413, "text/html", "too large", "");
            stream.get_mut().write_all(refused.as_bytes())?;
            return close(stream.get_mut());
        }
        let refusal = (self.proxy.refuses_put && method == "PUT").then_some(403);
        if let Some(status) = self.proxy.status.or(refusal) {
            let refused = response(status, "text/html", "bad gateway", "");
            stream.get_mut().write_all(refused.as_bytes())?;
            return close(stream.get_mut());
        }
        let bad_gateway = response(502, "text/html", "bad gateway", "");
        let answer = self.pass(&head, &body);
        let answer = answer.unwrap_or_else(|_| bad_gateway.into_bytes());
        stream.get_mut().write_all(&answer)?;
        close(stream.get_mut())
    }

    /// The response of hearth.
    fn pass(&self, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut lines = head.trim_end().split("\r\n");
        let mut first = lines.next().unwrap_or_default().to_owned();
        if self.proxy.decodes_paths {
            first = first.replace("%2F", "/").replace("%3A", ":");
        }
        let mut passed = first;
        for line in lines {
            let is = |name: &str| line.to_ascii_lowercase().starts_with(name);
            let is_kept = !is("x-forwarded-for:") || self.proxy.keeps_forwarded_for;
            if is_kept && !is("connection:") {
                passed += &format!("\r\n{line}");
            }
        }
        if let Some(address) = self.proxy.forwarded_for {
            passed += &format!("\r\nX-Forwarded-For: {address}");
        }
        passed += "\r\nConnection: close\r\n\r\n";
        let mut backend = TcpStream::connect(("127.0.0.1", self.backend.load(Ordering::Relaxed)))?;
        backend.write_all(passed.as_bytes())?;
        backend.write_all(body)?;
        let mut answer = Vec::new();
        backend.read_to_end(&mut answer)?;
        let cors = "access-control-allow-origin: *\r\n";
        let text = String::from_utf8_lossy(&answer).into_owned();
        Ok(match (self.proxy.removes_cors, self.proxy.adds_cors) {
            (true, _) => text.replace(cors, "").into_bytes(),
            (_, true) => text.replace(cors, &cors.repeat(2)).into_bytes(),
            _ => answer,
        })
    }
}

fn close(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> std::io::Result<()> {
    stream.conn.send_close_notify();
    stream.flush()
}

pub fn response(status: u16, content_type: &str, body: &str, headers: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} -\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n{headers}\
         connection: close\r\n\r\n{body}"
    )
}
