//! Another server that is none: it hears transactions, and takes them or refuses them.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;

use crate::web;

/// A server that goes on until all tests have ended.
pub struct Peer {
    port: u16,
    heard: Arc<Mutex<Vec<(u16, Value)>>>,
}

impl Peer {
    /// One that answers each transaction, of so many bytes, with a status.
    pub fn answering(status: impl Fn(usize) -> u16 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let peer = Self {
            port,
            heard: Arc::default(),
        };
        let (heard, config) = (peer.heard.clone(), web::config());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).expect("a connection");
                let mut stream = BufReader::new(StreamOwned::new(connection, stream));
                let Some(body) = read(&mut stream) else {
                    continue;
                };
                let status = status(body.len());
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                heard.lock().expect("nobody panics").push((status, body));
                // Who asks may have had enough.
                let _ = answer(stream.get_mut(), status);
            }
        });
        peer
    }

    /// Its name.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The messages that it has taken.
    pub fn has_taken(&self) -> Vec<Value> {
        let heard = self.heard.lock().expect("nobody panics");
        let taken = heard.iter().filter(|(status, _)| *status == 200);
        let edus = taken.flat_map(|(_, body)| body["edus"].as_array().into_iter().flatten());
        edus.cloned().collect()
    }
}

fn read(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

fn answer(to: &mut impl Write, status: u16) -> std::io::Result<()> {
    let body = "{\"pdus\":{}}";
    let length = body.len();
    write!(
        to,
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )?;
    to.flush()
}
