//! Large files, which are made and read piece by piece.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use serde_json::Value;

/// The length of a piece, in bytes.
pub const PIECE: usize = 1 << 16;

/// A file that is being read.
pub type Reading = BufReader<TcpStream>;

/// A file that compresses to nothing of itself: each piece begins with its number.
fn piece(number: usize) -> Vec<u8> {
    let mut piece = vec![0x5a; PIECE];
    piece[..8].copy_from_slice(&(number as u64).to_le_bytes());
    piece
}

/// Makes a request with a body: so many pieces from this one on. Reads nothing before everything is
/// sent. The head of the answer, and what follows it.
pub fn ask(
    (port, token): (u16, &str),
    line: &str,
    (first, pieces): (usize, usize),
) -> io::Result<(String, Reading)> {
    let length = pieces * PIECE;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    for number in first..first + pieces {
        stream.write_all(&piece(number))?;
    }
    let mut answer = BufReader::with_capacity(PIECE, stream);
    let mut said = String::new();
    while !said.ends_with("\r\n\r\n") {
        if answer.read_line(&mut said)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((said, answer))
}

/// Tries to upload so many pieces from this one on: status and answer.
pub fn send(who: (u16, &str), pieces: (usize, usize)) -> io::Result<(u16, Value)> {
    let (said, mut answer) = ask(who, "POST /_matrix/media/v3/upload", pieces)?;
    let mut body = String::new();
    answer.read_to_string(&mut body)?;
    let status = said.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.unwrap_or_default(), serde_json::from_str(&body)?))
}

/// Uploads so many pieces; the address after `mxc://`.
pub fn upload(who: (u16, &str), pieces: usize) -> io::Result<String> {
    let (status, body) = send(who, (0, pieces))?;
    let uri = body["content_uri"].as_str().filter(|_| status == 200);
    let address = uri.and_then(|uri| uri.strip_prefix("mxc://"));
    let address = address.ok_or_else(|| io::Error::other(format!("{status} {body}")));
    address.map(ToOwned::to_owned)
}

/// Downloads what was uploaded: the head of the answer, and what follows it.
pub fn download(who: (u16, &str), media: &str) -> io::Result<(String, Reading)> {
    let line = format!("GET /_matrix/client/v1/media/download/{media}");
    ask(who, &line, (0, 0))
}

/// Whether it is so many pieces that were uploaded, and nothing more.
pub fn is_whole(file: &mut Reading, pieces: usize) -> io::Result<bool> {
    let mut got = vec![0; PIECE];
    for number in 0..pieces {
        file.read_exact(&mut got)?;
        if got != piece(number) {
            return Ok(false);
        }
    }
    Ok(file.read(&mut got)? == 0)
}
