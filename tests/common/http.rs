//! A blocking HTTP/1.1 client for JSON on loopback.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Longer than the timeout of every `/sync` that the tests send.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// One connection, which is kept alive between requests.
pub struct Client {
    stream: BufReader<TcpStream>,
    authorization: Option<String>,
}

pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
    /// The server closes the connection.
    pub closes: bool,
}

impl Client {
    /// Connects to a port of this machine. `authorization` is the value of the header of that name.
    pub fn connect(port: u16, authorization: Option<&str>) -> io::Result<Client> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Client {
            stream: BufReader::new(stream),
            authorization: authorization.map(str::to_owned),
        })
    }

    /// For a response that takes longer than that of any `/sync`.
    pub fn set_read_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        self.stream.get_mut().set_read_timeout(Some(timeout))
    }

    /// Sends a request and reads the whole response, whatever its status.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<Response> {
        self.send(method, path, body)?;
        self.read_response()
    }

    /// Sends the bytes of a request. [`Self::read_response`] must follow.
    pub fn send_bytes(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(request)
    }

    /// Sends a request. [`Self::read_response`] must follow.
    pub fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<()> {
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let authorization = match &self.authorization {
            Some(value) => format!("Authorization: {value}\r\n"),
            None => String::new(),
        };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {authorization}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        self.send_bytes(&request)
    }

    /// Sends a request; returns the JSON of a successful response, and an error for any other.
    pub fn json<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<T> {
        let Response { status, body, .. } = self.request(method, path, body)?;
        if status != 200 {
            let text = String::from_utf8_lossy(&body);
            return Err(io::Error::other(format!(
                "{method} {path}: {status} {text}"
            )));
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// Reads the whole response to the request that was sent.
    pub fn read_response(&mut self) -> io::Result<Response> {
        self.read(true)
    }

    /// The same for the request `HEAD`, whose response has no body.
    pub fn read_head(&mut self) -> io::Result<Response> {
        self.read(false)
    }

    fn read(&mut self, has_body: bool) -> io::Result<Response> {
        let status = self.line()?;
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| io::Error::other(format!("no status line: {status:?}")))?;
        let mut length = 0;
        let mut chunked = false;
        let mut closes = false;
        loop {
            let header = self.line()?.to_ascii_lowercase();
            match header.split_once(':') {
                None => break,
                Some(("content-length", value)) => length = parse_number(value, 10)?,
                Some(("transfer-encoding", _)) => chunked = true,
                Some(("connection", value)) => closes = value.trim() == "close",
                Some(_) => {}
            }
        }
        let body = match has_body {
            true if chunked => self.chunks()?,
            true => self.bytes(length)?,
            false => Vec::new(),
        };
        Ok(Response {
            status,
            body,
            closes,
        })
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = parse_number(&self.line()?, 16)?;
            body.extend(self.bytes(size)?);
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn parse_number(text: &str, radix: u32) -> io::Result<usize> {
    usize::from_str_radix(text.trim(), radix).map_err(io::Error::other)
}
