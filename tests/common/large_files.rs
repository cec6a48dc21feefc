//! Upload and download of large files in chunks, without holding them in memory.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    ops::Range,
};

use serde_json::Value;

/// In bytes.
pub const CHUNK_SIZE: usize = 1 << 16;

pub type ResponseBody = BufReader<TcpStream>;

/// A user's access to a server on this machine.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    pub port: u16,
    pub token: &'a str,
}

/// Each chunk starts with its number, so that a file never repeats.
fn chunk(number: usize) -> Vec<u8> {
    let mut chunk = vec![0x5a; CHUNK_SIZE];
    chunk[..8].copy_from_slice(&(number as u64).to_le_bytes());
    chunk
}

impl Session<'_> {
    /// Sends a request whose body has these chunks; returns the head of the response, and its body
    /// unread. Reads nothing before everything is sent.
    pub fn request(
        self,
        method_and_path: &str,
        chunks: Range<usize>,
    ) -> io::Result<(String, ResponseBody)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        let head = format!(
            "{method_and_path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            self.token,
            chunks.len() * CHUNK_SIZE
        );
        stream.write_all(head.as_bytes())?;
        for number in chunks {
            stream.write_all(&chunk(number))?;
        }
        let mut body = BufReader::with_capacity(CHUNK_SIZE, stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if body.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((head, body))
    }

    /// Uploads these chunks; returns status and body of the response, successful or not.
    pub fn try_upload(self, chunks: Range<usize>) -> io::Result<(u16, Value)> {
        let (head, mut response) = self.request("POST /_matrix/media/v3/upload", chunks)?;
        let mut body = String::new();
        response.read_to_string(&mut body)?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.unwrap_or_default(), serde_json::from_str(&body)?))
    }

    /// Uploads a file of `chunks` chunks; returns server name and media id, as after `mxc://`.
    pub fn upload(self, chunks: usize) -> io::Result<String> {
        let (status, body) = self.try_upload(0..chunks)?;
        let uri = body["content_uri"].as_str().filter(|_| status == 200);
        let media = uri.and_then(|uri| uri.strip_prefix("mxc://"));
        let media = media.ok_or_else(|| io::Error::other(format!("{status} {body}")));
        media.map(ToOwned::to_owned)
    }

    /// Returns the head of the response, and its body unread.
    pub fn download(self, media: &str) -> io::Result<(String, ResponseBody)> {
        let path = format!("GET /_matrix/client/v1/media/download/{media}");
        self.request(&path, 0..0)
    }
}

/// Whether `body` is the file that [`Session::upload`] sends, and nothing more.
pub fn is_uploaded_file(body: &mut ResponseBody, chunks: usize) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK_SIZE];
    for number in 0..chunks {
        body.read_exact(&mut buffer)?;
        if buffer != chunk(number) {
            return Ok(false);
        }
    }
    Ok(body.read(&mut buffer)? == 0)
}
