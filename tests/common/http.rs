//! A blocking HTTP/1.1 client over one connection: enough of it for JSON on loopback.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The longest that an answer may take; a long poll asks for less.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection, kept alive between requests, and who asks in each.
pub struct Client {
    stream: BufReader<TcpStream>,
    authorization: Option<String>,
}

/// Status and body of an answer.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Client {
    /// Connects to a port of this machine. `authorization` is the header of that name.
    pub fn connect(port: u16, authorization: Option<&str>) -> io::Result<Client> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client {
            stream: BufReader::new(stream),
            authorization: authorization.map(str::to_owned),
        })
    }

    /// Sends a request and waits for the whole answer, whatever its status.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        self.send(method, path, body)?;
        self.answer()
    }

    /// Sends a request, whose answer [`Self::answer`] then waits for.
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
        self.stream.get_mut().write_all(&request)
    }

    /// The JSON of a successful answer; any other is an error that shows it.
    pub fn json<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<T> {
        let Answer { status, body } = self.call(method, path, body)?;
        if status != 200 {
            let said = String::from_utf8_lossy(&body);
            return Err(io::Error::other(format!(
                "{method} {path}: {status} {said}"
            )));
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// Waits for the whole answer to the request that was sent.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let status = self.line()?;
        let status = status
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| io::Error::other(format!("no status line: {status:?}")))?;
        let mut length = 0;
        let mut chunked = false;
        loop {
            let header = self.line()?.to_ascii_lowercase();
            match header.split_once(':') {
                None => break,
                Some(("content-length", value)) => length = number(value, 10)?,
                Some(("transfer-encoding", _)) => chunked = true,
                Some(_) => {}
            }
        }
        let body = if chunked {
            self.chunks()?
        } else {
            self.bytes(length)?
        };
        Ok(Answer { status, body })
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = number(&self.line()?, 16)?;
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

fn number(text: &str, radix: u32) -> io::Result<usize> {
    usize::from_str_radix(text.trim(), radix).map_err(io::Error::other)
}
