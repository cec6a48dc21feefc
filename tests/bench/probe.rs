//! How long the server's one thread is held up, measured from outside: a probe is a request that needs no
//! work, and its response waits for whatever the thread does.
//!
//! A probe took the time from the request to the response, less the time in which the thread and the prober
//! were ready to run and waited for a core, which Linux counts for each thread: that is due to other processes
//! on the machine. What remains is an upper bound of the work, the waiting for locks and the waiting for the
//! disk that the thread did meanwhile.

use std::{
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{common::http::Client, instructions};

const INTERVAL: Duration = Duration::from_millis(2);
/// Where instructions are counted, those for probes are not to count: an emulator is slow.
const COUNTED_INTERVAL: Duration = Duration::from_secs(1);

/// Sends probes to the server with this process id until `stop` is set; returns how long each took.
pub fn probe(pid: u32, port: u16, stop: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut client = Client::connect(port, None)?;
    let mut times = Vec::new();
    let interval = match instructions::are_counted() {
        true => COUNTED_INTERVAL,
        false => INTERVAL,
    };
    while !stop.load(Ordering::Relaxed) {
        let waited_before = waited_for_core(pid)?;
        let start = Instant::now();
        client.json::<Value>("GET", "/_matrix/client/versions", None)?;
        let time = start.elapsed();
        let waited = waited_for_core(pid)?.saturating_sub(waited_before);
        times.push(time.saturating_sub(waited));
        thread::sleep(interval);
    }
    Ok(times)
}

/// For how long the first thread of the process and this thread have waited for a core since they started.
fn waited_for_core(pid: u32) -> io::Result<Duration> {
    let threads = [
        format!("/proc/{pid}/task/{pid}/schedstat"),
        "/proc/thread-self/schedstat".to_owned(),
    ];
    threads.iter().map(|path| waited(path)).sum()
}

/// The second number of `/proc/PID/schedstat`.
fn waited(path: &str) -> io::Result<Duration> {
    let text = fs::read_to_string(path)?;
    let waited = text.split_whitespace().nth(1);
    let nanoseconds = waited.and_then(|number| number.parse().ok());
    nanoseconds
        .map(Duration::from_nanos)
        .ok_or_else(|| io::Error::other(format!("no time of waiting in {path}: {text}")))
}
