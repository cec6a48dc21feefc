//! Large files over a socket, and what their owner does with them.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    ops::Range,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{
    people::register,
    server::{Server, command, free_port},
};

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

/// Sends a request with these pieces; returns the head of the answer and what follows it.
fn ask(
    server: &Server,
    token: &str,
    line: &str,
    pieces: Range<usize>,
) -> io::Result<(String, BufReader<TcpStream>)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port))?;
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        pieces.len() * PIECE
    );
    stream.write_all(head.as_bytes())?;
    for number in pieces {
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

/// Uploads so many pieces; the server and the media id.
fn upload(server: &Server, token: &str, pieces: usize) -> String {
    let (said, mut answer) =
        ask(server, token, "POST /_matrix/media/v3/upload", 0..pieces).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    let mut body = String::new();
    answer.read_to_string(&mut body).unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    let uri = body["content_uri"].as_str().unwrap();
    uri.strip_prefix("mxc://").unwrap().to_owned()
}

fn download(server: &Server, token: &str, media: &str) -> (String, BufReader<TcpStream>) {
    let line = format!("GET /_matrix/client/v1/media/download/{media}");
    ask(server, token, &line, 0..0).unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_large_file_goes_through_the_server_and_leaves_its_memory_as_it_was() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let token = register(server.port, "alice").unwrap();
    let there_and_back = |pieces: usize| {
        let media = upload(&server, &token, pieces);
        let (said, mut answer) = download(&server, &token, &media);
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let mut got = vec![0; PIECE];
        for number in 0..pieces {
            answer.read_exact(&mut got).unwrap();
            assert!(got == piece(number), "piece {number} is another");
        }
        assert_eq!(answer.read(&mut got).unwrap(), 0);
    };
    // What is made when it is first needed is made now.
    there_and_back(16);
    // What it took at the most is counted from now on: proc(5), `clear_refs`.
    fs::write(format!("/proc/{}/clear_refs", server.id()), "5").unwrap();
    let before = status(&server, "VmRSS:");
    there_and_back(LARGE / PIECE);
    let most = status(&server, "VmHWM:");
    assert!(
        most <= before + GROWTH,
        "{before} kB grew to {most} kB at the most"
    );
}

/// Runs `hearth media …` on the data of a server that does not run; what it said.
fn media(directory: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = command()
        .arg("media")
        .args(arguments)
        .arg("--config")
        .arg(directory.join("hearth.toml"))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

#[test]
fn the_owner_sees_who_takes_up_how_much_and_takes_files_away() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    let server = Server::start(data).unwrap();
    let token = register(server.port, "alice").unwrap();
    let [bad, good] = [3, 16].map(|pieces| upload(&server, &token, pieces));
    assert!(server.stop(Signal::TERM).unwrap().success());

    let usage = media(data, &["usage"]).unwrap();
    let line = usage.lines().find(|line| line.contains("@alice:localhost"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words, ["1.1", "MB", "2", "@alice:localhost"]);

    let address = format!("mxc://{bad}");
    let shown = |media: &str| {
        let server = Server::start(data).unwrap();
        let (said, _) = download(&server, &token, media);
        assert!(server.stop(Signal::TERM).unwrap().success());
        said.starts_with("HTTP/1.1 200 ")
    };
    media(data, &["quarantine", &address]).unwrap();
    assert!(!shown(&bad) && shown(&good));
    media(data, &["quarantine", "--release", &address]).unwrap();
    assert!(shown(&bad));
    media(data, &["delete", &address]).unwrap();
    assert!(!shown(&bad) && shown(&good));

    for nothing in [&*address, "mxc://localhost/nothing", &"ab".repeat(32)] {
        let said = media(data, &["delete", nothing]).unwrap_err();
        assert!(said.contains("there is no such media"), "{said}");
    }
    let said = media(data, &["delete", "cat.jpg"]).unwrap_err();
    assert!(said.contains("SHA-256"), "{said}");
}

/// Starts a server whose data are on a disk of their own, of so many megabytes, if this machine lets
/// one make such a disk without being its owner (`unshare`, tmpfs).
#[cfg(target_os = "linux")]
fn on_a_small_disk(directory: &Path, megabytes: u32) -> Option<Server> {
    let data = directory.join("data");
    fs::create_dir(&data).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size={megabytes}m none {}",
        data.display()
    );
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command
    };
    if !unshare(&mount)
        .status()
        .is_ok_and(|status| status.success())
    {
        eprintln!("no disk can be made here");
        return None;
    }
    let binary = command().get_program().to_owned();
    let script = format!("{mount} && exec {} \"$@\"", binary.display());
    let mut command = unshare(&script);
    command.arg("sh").stdin(Stdio::null());
    Some(Server::start_with(command, directory, free_port().unwrap(), "").unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_is_full_refuses_files_and_serves_what_is_there() {
    let directory = TempDir::new().unwrap();
    let Some(server) = on_a_small_disk(directory.path(), 96) else {
        return;
    };
    let token = register(server.port, "alice").unwrap();
    let media = upload(&server, &token, 16);
    let mut fits = 0;
    let refusal = loop {
        // Each is another: the same would be stored once.
        let line = "POST /_matrix/media/v3/upload";
        let (said, mut answer) = ask(&server, &token, line, fits * 16..fits * 16 + 15).unwrap();
        let mut body = String::new();
        answer.read_to_string(&mut body).unwrap();
        if !said.starts_with("HTTP/1.1 200 ") {
            break (said, body);
        }
        fits += 1;
        assert!(fits < 110, "it takes more than it can hold");
    };
    assert!(refusal.0.starts_with("HTTP/1.1 507 "), "{refusal:?}");
    assert!(refusal.1.contains("almost full"), "{refusal:?}");
    let (said, mut answer) = download(&server, &token, &media);
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    let mut got = Vec::new();
    answer.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 16 * PIECE);
    assert!(server.stop(Signal::TERM).unwrap().success());
}
