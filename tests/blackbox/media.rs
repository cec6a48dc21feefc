//! Large files over a socket, and the command `hearth media`.

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

use crate::{
    common::{
        client_api::register,
        http::Client,
        large_files::{CHUNK_SIZE, Session, is_uploaded_file},
        server::{Server, command, free_port},
    },
    process_status_kb,
};

/// Many times [`MAX_GROWTH_KB`].
const LARGE_FILE_BYTES: usize = 64 << 20;
const MAX_GROWTH_KB: u64 = 4096;

#[cfg(target_os = "linux")]
#[test]
fn transfer_of_a_large_file_does_not_grow_memory() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let token = register(server.port, "alice").unwrap();
    let session = Session {
        port: server.port,
        token: &token,
    };
    let transfer = |chunks: usize| {
        let media = session.upload(chunks).unwrap();
        let (head, mut body) = session.download(&media).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(is_uploaded_file(&mut body, chunks).unwrap());
    };
    // Warm-up: allocates what is allocated once.
    transfer(16);
    let growth = peak_growth_kb(&server, || transfer(LARGE_FILE_BYTES / CHUNK_SIZE));
    assert!(growth <= MAX_GROWTH_KB, "memory grew by {growth} kB");
}

/// How much the peak of the server's resident memory exceeds its value before `work`.
fn peak_growth_kb(server: &Server, work: impl FnOnce()) -> u64 {
    // Resets the peak: proc(5), `clear_refs`.
    fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    let before = process_status_kb(server, "VmRSS:");
    work();
    process_status_kb(server, "VmHWM:").saturating_sub(before)
}

/// A JPEG of 300 by 300 pixels, followed by `padding` zero bytes.
fn padded_jpeg(padding: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::new(300, 300)
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg)
        .unwrap();
    bytes.resize(bytes.len() + padding, 0);
    bytes
}

/// A PNG of 300 by 300 pixels whose color profile decompresses to `length` zero bytes.
fn png_with_profile(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::new(300, 300)
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    // One block with fixed codes (RFC 1951): a zero byte, then repetitions of it in lengths of 258.
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
    // After the header chunk.
    bytes.splice(33..33, chunk.concat());
    bytes
}

/// Uploads `content`; returns status and body of the response.
fn upload_bytes(session: Session<'_>, content: &[u8]) -> (u16, Value) {
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        session.token,
        content.len()
    );
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, session.port)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(content).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[cfg(target_os = "linux")]
#[test]
fn thumbnailing_stays_within_its_memory_budget() {
    let directory = TempDir::new().unwrap();
    let port = free_port().unwrap();
    let settings = "memory = \"64M\"";
    let server = Server::start_with(command(), directory.path(), port, settings).unwrap();
    let token = register(server.port, "alice").unwrap();
    let session = Session {
        port: server.port,
        token: &token,
    };
    // Three eighths of `memory` are for images.
    let max_growth = (24 << 10) + MAX_GROWTH_KB;
    let files = [padded_jpeg(80 << 20), png_with_profile(200 << 20)];
    for (file, status) in files.into_iter().zip(["413", "200"]) {
        let (_, response) = upload_bytes(session, &file);
        let media = &response["content_uri"].as_str().unwrap()["mxc://".len()..];
        let path = format!("GET /_matrix/client/v1/media/thumbnail/{media}?width=32&height=32");
        let growth = peak_growth_kb(&server, || {
            let (head, _) = session.request(&path, 0..0).unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        });
        assert!(growth <= max_growth, "memory grew by {growth} kB");
    }
}

#[test]
fn oversized_upload_gets_its_error_even_if_sent_completely_before_reading() {
    let directory = TempDir::new().unwrap();
    let port = free_port().unwrap();
    let settings = "max_upload = \"30M\"\nuser_quota = \"10M\"";
    let server = Server::start_with(command(), directory.path(), port, settings).unwrap();
    let token = register(server.port, "alice").unwrap();
    let session = Session {
        port: server.port,
        token: &token,
    };
    for (chunks, status, errcode) in [(1000, 413, "M_TOO_LARGE"), (400, 403, "M_FORBIDDEN")] {
        let (actual, body) = session.try_upload(0..chunks).unwrap();
        assert_eq!((actual, &body["errcode"]), (status, &json!(errcode)));
    }
}

/// Runs `hearth media …` on the data of a stopped server; returns its output, or its error output.
fn media_command(directory: &Path, arguments: &[&str]) -> Result<String, String> {
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
fn media_command_shows_usage_quarantines_and_deletes() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    let server = Server::start(data).unwrap();
    let token = register(server.port, "alice").unwrap();
    let session = Session {
        port: server.port,
        token: &token,
    };
    let [bad, good] = [3, 16].map(|chunks| session.upload(chunks).unwrap());
    assert!(server.stop(Signal::TERM).unwrap().success());

    let usage = media_command(data, &["usage"]).unwrap();
    let line = usage.lines().find(|line| line.contains("@alice:localhost"));
    let fields: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(fields, ["1.1", "MB", "2", "@alice:localhost"]);

    let uri = format!("mxc://{bad}");
    let is_served = |media: &str| {
        let server = Server::start(data).unwrap();
        let session = Session {
            port: server.port,
            token: &token,
        };
        let (head, _) = session.download(media).unwrap();
        assert!(server.stop(Signal::TERM).unwrap().success());
        head.starts_with("HTTP/1.1 200 ")
    };
    media_command(data, &["quarantine", &uri]).unwrap();
    assert!(!is_served(&bad) && is_served(&good));
    media_command(data, &["quarantine", "--release", &uri]).unwrap();
    assert!(is_served(&bad));
    media_command(data, &["delete", &uri]).unwrap();
    assert!(!is_served(&bad) && is_served(&good));

    for unknown in [&*uri, "mxc://localhost/nothing", &"ab".repeat(32)] {
        let error = media_command(data, &["delete", unknown]).unwrap_err();
        assert!(error.contains("there is no such media"), "{error}");
    }
    let error = media_command(data, &["delete", "cat.jpg"]).unwrap_err();
    assert!(error.contains("SHA-256"), "{error}");
}

#[test]
fn quarantine_and_deletion_by_hash_apply_to_every_upload() {
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    let content = b"quarantined content";
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
        let session = Session {
            port: server.port,
            token: &token,
        };
        let response = upload_bytes(session, content);
        assert!(server.stop(Signal::TERM).unwrap().success());
        response
    };
    // Before any upload of it.
    media_command(data, &["quarantine", &hash]).unwrap();
    let (status, response) = try_upload();
    assert_eq!((status, &response["errcode"]), (403, &json!("M_FORBIDDEN")));
    let usage = media_command(data, &["usage"]).unwrap();
    assert!(usage.contains("1 quarantined"), "{usage}");
    media_command(data, &["quarantine", "--release", &hash]).unwrap();
    let [one, other] = [try_upload(), try_upload()].map(|(status, response)| {
        assert_eq!(status, 200, "{response}");
        response["content_uri"].as_str().unwrap()["mxc://".len()..].to_owned()
    });
    media_command(data, &["delete", &hash]).unwrap();
    let server = Server::start(data).unwrap();
    let session = Session {
        port: server.port,
        token: &token,
    };
    for media in [one, other] {
        let (head, _) = session.download(&media).unwrap();
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    }
    let file = data
        .join("data/media/files")
        .join(&hash[..2])
        .join(&hash[2..]);
    wait_until(|| !file.exists());
}

pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "the condition never held"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a server whose data directory is a tmpfs of this size. `None` if this user may not mount one
/// in a namespace of its own (`unshare`).
#[cfg(target_os = "linux")]
pub fn start_on_small_disk(directory: &Path, megabytes: u32) -> Option<Server> {
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
        eprintln!("skipped: no tmpfs can be mounted");
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
fn full_disk_rejects_uploads_and_serves_stored_media() {
    let directory = TempDir::new().unwrap();
    let Some(server) = start_on_small_disk(directory.path(), 96) else {
        return;
    };
    let token = register(server.port, "alice").unwrap();
    let session = Session {
        port: server.port,
        token: &token,
    };
    let media = session.upload(16).unwrap();
    let expect_disk_full = |(status, body): (u16, Value)| {
        let error = body["error"].as_str().unwrap_or_default();
        assert!(
            status == 507 && error.contains("almost full"),
            "{status} {body}"
        );
    };
    // The disk becomes full in the middle of the upload. The partial file is deleted.
    expect_disk_full(session.try_upload(0..1600).unwrap());
    let new = directory.path().join("data/media/new");
    // The tmpfs is only visible in the mount namespace of the server.
    let new = format!("/proc/{}/root{}", server.pid(), new.display());
    wait_until(|| fs::read_dir(&new).unwrap().count() == 0);
    // The free space is checked only once in a while.
    wait_until(|| session.try_upload(0..1).unwrap().0 == 200);
    let mut accepted = 0;
    loop {
        // Each file is different, as identical ones are deduplicated.
        let response = session
            .try_upload(accepted * 16..accepted * 16 + 15)
            .unwrap();
        if response.0 != 200 {
            break expect_disk_full(response);
        }
        accepted += 1;
        assert!(accepted < 110, "more was accepted than the disk can hold");
    }
    assert!(accepted > 30, "only {accepted} files were accepted");
    let (head, mut body) = session.download(&media).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(is_uploaded_file(&mut body, 16).unwrap());
    let mut client = Client::connect(server.port, Some(&format!("Bearer {token}"))).unwrap();
    let synced = client
        .request("GET", "/_matrix/client/v3/sync", None)
        .unwrap();
    assert_eq!(synced.status, 200);
    assert!(server.stop(Signal::TERM).unwrap().success());
}
