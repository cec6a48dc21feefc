//! A mock homeserver that only receives transactions.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;

use crate::mock_web_server;

/// Runs until the process of the tests ends.
pub struct MockServer {
    port: u16,
    /// The status that each transaction got, and its body.
    transactions: Arc<Mutex<Vec<(u16, Value)>>>,
}

impl MockServer {
    /// Answers transactions with a status that depends on their body.
    pub fn with_status(status: impl Fn(&[u8]) -> u16 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let server = Self {
            port,
            transactions: Arc::default(),
        };
        let (transactions, config) = (server.transactions.clone(), mock_web_server::tls_config());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).expect("a connection");
                let mut stream = BufReader::new(StreamOwned::new(connection, stream));
                let Some(body) = read_body(&mut stream) else {
                    continue;
                };
                let status = status(&body);
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                transactions
                    .lock()
                    .expect("the lock is not poisoned")
                    .push((status, body));
                // Fails if the client has closed the connection.
                let _ = write_response(stream.get_mut(), status);
            }
        });
        server
    }

    pub fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The EDUs of transactions that were answered with 200.
    pub fn accepted_edus(&self) -> Vec<Value> {
        let transactions = self.transactions.lock().expect("the lock is not poisoned");
        let accepted = transactions.iter().filter(|(status, _)| *status == 200);
        let edus = accepted.flat_map(|(_, body)| body["edus"].as_array().into_iter().flatten());
        edus.cloned().collect()
    }
}

pub fn read_body(stream: &mut impl BufRead) -> Option<Vec<u8>> {
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

fn write_response(stream: &mut impl Write, status: u16) -> std::io::Result<()> {
    respond(stream, status, "{\"pdus\":{}}")
}

/// Writes a response with a JSON body and closes the connection.
pub fn respond(stream: &mut impl Write, status: u16, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )?;
    stream.flush()
}
