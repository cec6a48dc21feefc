//! Large files, over a socket.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{people::register, server::Server};

/// Of the file, in bytes: many times what the server may grow by.
const LARGE: usize = 64 << 20;
/// By how much the server's memory may grow, in kilobytes.
const GROWTH: u64 = 4096;
const PIECE: usize = 1 << 16;

/// A file that compresses to nothing of itself: each piece begins with its number.
fn piece(number: usize) -> Vec<u8> {
    let mut piece = vec![0x5a; PIECE];
    piece[..8].copy_from_slice(&(number as u64).to_le_bytes());
    piece
}

/// What a field of `/proc/PID/status` says, in kilobytes.
fn status(server: &Server, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

/// Sends a head, and then so many pieces; returns the head of the answer and what follows it.
fn ask(server: &Server, head: &str, pieces: usize) -> io::Result<(String, BufReader<TcpStream>)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port))?;
    stream.write_all(head.as_bytes())?;
    for number in 0..pieces {
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

#[cfg(target_os = "linux")]
#[test]
fn a_large_file_goes_through_the_server_and_leaves_its_memory_as_it_was() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let token = register(server.port, "alice").unwrap();
    let head = |line: &str, length: usize| {
        format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let upload = |pieces: usize| {
        let post = head("POST /_matrix/media/v3/upload", pieces * PIECE);
        let (said, mut answer) = ask(&server, &post, pieces).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let mut body = String::new();
        answer.read_to_string(&mut body).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        let uri = body["content_uri"].as_str().unwrap();
        uri.strip_prefix("mxc://").unwrap().to_owned()
    };
    let download = |media: &str, pieces: usize| {
        let get = head(&format!("GET /_matrix/client/v1/media/download/{media}"), 0);
        let (said, mut answer) = ask(&server, &get, 0).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let mut got = vec![0; PIECE];
        for number in 0..pieces {
            answer.read_exact(&mut got).unwrap();
            assert!(got == piece(number), "piece {number} is another");
        }
        assert_eq!(answer.read(&mut got).unwrap(), 0);
    };
    // What is made when it is first needed is made now.
    download(&upload(16), 16);
    // What it took at the most is counted from now on: proc(5), `clear_refs`.
    fs::write(format!("/proc/{}/clear_refs", server.id()), "5").unwrap();
    let before = status(&server, "VmRSS:");
    download(&upload(LARGE / PIECE), LARGE / PIECE);
    let most = status(&server, "VmHWM:");
    assert!(
        most <= before + GROWTH,
        "{before} kB grew to {most} kB at the most"
    );
}
