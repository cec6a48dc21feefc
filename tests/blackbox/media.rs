//! Large files over a socket, and what their owner does with them.

use std::{
    fs,
    io::{Cursor, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use image::{ImageFormat, RgbImage};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::common::{
    files::{PIECE, ask, download, is_whole, send, upload},
    http::Client,
    people::register,
    server::{Server, command, free_port},
};

/// Of the file, in bytes: many times what the server may grow by.
const LARGE: usize = 64 << 20;
/// By how much the server's memory may grow, in kilobytes.
const GROWTH: u64 = 4096;

/// What a field of `/proc/PID/status` says, in kilobytes.
fn status(server: &Server, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_large_file_goes_through_the_server_and_leaves_its_memory_as_it_was() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let token = register(server.port, "alice").unwrap();
    let who = (server.port, &*token);
    let there_and_back = |pieces: usize| {
        let media = upload(who, pieces).unwrap();
        let (said, mut file) = download(who, &media).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        assert!(is_whole(&mut file, pieces).unwrap());
    };
    // What is made when it is first needed is made now.
    there_and_back(16);
    let grew = growth(&server, || there_and_back(LARGE / PIECE));
    assert!(grew <= GROWTH, "it grew by {grew} kB");
}

/// By how much the server's memory grows at the most while this happens, in kilobytes.
fn growth(server: &Server, work: impl FnOnce()) -> u64 {
    // What it takes at the most is counted from now on: proc(5), `clear_refs`.
    fs::write(format!("/proc/{}/clear_refs", server.id()), "5").unwrap();
    let before = status(server, "VmRSS:");
    work();
    status(server, "VmHWM:").saturating_sub(before)
}

/// A JPEG of 300 by 300 pixels, with so many bytes behind it.
fn padded_jpeg(padding: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::new(300, 300)
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg)
        .unwrap();
    bytes.resize(bytes.len() + padding, 0);
    bytes
}

/// A PNG of 300 by 300 pixels whose color profile unpacks to so many bytes, which are all zero.
fn png_with_profile(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::new(300, 300)
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    // One block with fixed codes, RFC 1951: a zero, and again and again "the last byte 258 times".
    let mut bits = vec![true, true, false];
    bits.extend([false, false, true, true, false, false, false, false]);
    for _ in 0..length / 258 {
        bits.extend([true, true, false, false, false, true, false, true]);
        bits.extend([false; 5]);
    }
    bits.extend([false; 7]);
    let mut profile = b"iCCPx\0\0\x78\x01".to_vec();
    profile.extend(bits.chunks(8).map(|byte| {
        let bits = byte.iter().enumerate();
        bits.fold(0, |byte, (place, bit)| byte | (u8::from(*bit) << place))
    }));
    let sum = (1 + length / 258 * 258) as u32 % 65521;
    profile.extend(((sum << 16) | 1).to_be_bytes());
    let checksum = !profile.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    });
    let chunk = [
        &((profile.len() - 4) as u32).to_be_bytes(),
        &*profile,
        &checksum.to_be_bytes(),
    ];
    // Behind the head of the picture.
    bytes.splice(33..33, chunk.concat());
    bytes
}

/// Uploads this: status and answer.
fn post((port, token): (u16, &str), content: &[u8]) -> (u16, Value) {
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        content.len()
    );
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(content).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn a_picture_takes_no_more_memory_than_pictures_may_whatever_is_in_its_file() {
    let directory = TempDir::new().unwrap();
    let port = free_port().unwrap();
    let settings = "memory = \"64M\"";
    let server = Server::start_with(command(), directory.path(), port, settings).unwrap();
    let token = register(server.port, "alice").unwrap();
    let who = (server.port, &*token);
    // Three eighths are for pictures.
    let most = (24 << 10) + GROWTH;
    let files = [padded_jpeg(80 << 20), png_with_profile(200 << 20)];
    for (file, status) in files.into_iter().zip(["413", "200"]) {
        let (_, answer) = post(who, &file);
        let media = &answer["content_uri"].as_str().unwrap()["mxc://".len()..];
        let line = format!("GET /_matrix/client/v1/media/thumbnail/{media}?width=32&height=32");
        let grew = growth(&server, || {
            let (said, _) = ask(who, &line, (0, 0)).unwrap();
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        });
        assert!(grew <= most, "it grew by {grew} kB");
    }
}

#[test]
fn who_sends_too_much_is_told_so_although_it_was_sent_before_anything_was_read() {
    let directory = TempDir::new().unwrap();
    let port = free_port().unwrap();
    let settings = "max_upload = \"30M\"\nuser_quota = \"10M\"";
    let server = Server::start_with(command(), directory.path(), port, settings).unwrap();
    let token = register(server.port, "alice").unwrap();
    for (pieces, status, errcode) in [(1000, 413, "M_TOO_LARGE"), (400, 403, "M_FORBIDDEN")] {
        let (said, body) = send((server.port, &token), (0, pieces)).unwrap();
        assert_eq!((said, &body["errcode"]), (status, &json!(errcode)));
    }
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
    let [bad, good] = [3, 16].map(|pieces| upload((server.port, &token), pieces).unwrap());
    assert!(server.stop(Signal::TERM).unwrap().success());

    let usage = media(data, &["usage"]).unwrap();
    let line = usage.lines().find(|line| line.contains("@alice:localhost"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words, ["1.1", "MB", "2", "@alice:localhost"]);

    let address = format!("mxc://{bad}");
    let shown = |media: &str| {
        let server = Server::start(data).unwrap();
        let (said, _) = download((server.port, &token), media).unwrap();
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

#[test]
fn a_file_is_known_by_what_is_in_it_wherever_it_comes_from() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    let content = b"what nobody is to see";
    let hash: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let token = {
        let server = Server::start(data).unwrap();
        register(server.port, "alice").unwrap()
    };
    let try_upload = || {
        let server = Server::start(data).unwrap();
        let answer = post((server.port, &token), content);
        assert!(server.stop(Signal::TERM).unwrap().success());
        answer
    };
    // Before it has ever been here.
    media(data, &["quarantine", &hash]).unwrap();
    let (status, refused) = try_upload();
    assert_eq!((status, &refused["errcode"]), (403, &json!("M_FORBIDDEN")));
    let usage = media(data, &["usage"]).unwrap();
    assert!(usage.contains("1 kept from everybody"), "{usage}");
    media(data, &["quarantine", "--release", &hash]).unwrap();
    let [one, other] = [try_upload(), try_upload()].map(|(status, answer)| {
        assert_eq!(status, 200, "{answer}");
        answer["content_uri"].as_str().unwrap()["mxc://".len()..].to_owned()
    });
    media(data, &["delete", &hash]).unwrap();
    let server = Server::start(data).unwrap();
    for address in [one, other] {
        let (said, _) = download((server.port, &token), &address).unwrap();
        assert!(said.starts_with("HTTP/1.1 404 "), "{said}");
    }
    let file = data
        .join("data/media/files")
        .join(&hash[..2])
        .join(&hash[2..]);
    wait_until(|| !file.exists());
}

/// Waits until something that is under way is so.
fn wait_until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never is");
        thread::sleep(Duration::from_millis(10));
    }
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
    let who = (server.port, &*token);
    let media = upload(who, 16).unwrap();
    let is_full = |(status, body): (u16, Value)| {
        let said = body["error"].as_str().unwrap_or_default();
        assert!(
            status == 507 && said.contains("almost full"),
            "{status} {body}"
        );
    };
    // There is room for much of it, and then none: nothing of it stays.
    is_full(send(who, (0, 1600)).unwrap());
    let new = directory.path().join("data/media/new");
    // As the server sees it: nobody else sees its disk.
    let new = format!("/proc/{}/root{}", server.id(), new.display());
    wait_until(|| fs::read_dir(&new).unwrap().count() == 0);
    // The database asks for its room no more than once in a while.
    wait_until(|| send(who, (0, 1)).unwrap().0 == 200);
    let mut fits = 0;
    loop {
        // Each is another: the same would be stored once.
        let answer = send(who, (fits * 16, 15)).unwrap();
        if answer.0 != 200 {
            break is_full(answer);
        }
        fits += 1;
        assert!(fits < 110, "it takes more than it can hold");
    }
    assert!(fits > 30, "it takes {fits} and then no more");
    let (said, mut file) = download(who, &media).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert!(is_whole(&mut file, 16).unwrap());
    let mut client = Client::connect(server.port, Some(&format!("Bearer {token}"))).unwrap();
    let synced = client.call("GET", "/_matrix/client/v3/sync", None).unwrap();
    assert_eq!(synced.status, 200);
    assert!(server.stop(Signal::TERM).unwrap().success());
}
