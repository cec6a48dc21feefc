//! How long the server's one thread is held up, measured from outside: a probe is a request that needs no
//! work, and its response waits for whatever the thread does.
//!
//! A probe took the time from the request to the response, less the time in which the thread or the prober was
//! ready to run and waited for a core, which Linux counts for each thread; of the two, the longer one, since both
//! may wait at once. What remains is the work of the thread, with its waiting for locks and for the disk. The
//! thread also waits for a core behind other threads of the server: the time as it was measured is printed too.

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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Without the time of waiting for a core.
    pub time: Duration,
    pub measured: Duration,
}

/// Sends probes to the server with this process id until `stop` is set.
pub fn probe(pid: u32, port: u16, stop: &AtomicBool) -> io::Result<Vec<Probe>> {
    let mut client = Client::connect(port, None)?;
    let mut times = Vec::new();
    let interval = match instructions::are_counted() {
        true => COUNTED_INTERVAL,
        false => INTERVAL,
    };
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let before = waited_for_core(pid)?;
        client.json::<Value>("GET", "/_matrix/client/versions", None)?;
        let after = waited_for_core(pid)?;
        let measured = start.elapsed();
        let waited = after.iter().zip(before);
        let waited = waited.map(|(after, before)| after.saturating_sub(before));
        let time = measured.saturating_sub(waited.max().unwrap_or_default());
        times.push(Probe { time, measured });
        thread::sleep(interval);
    }
    Ok(times)
}

/// For how long the first thread of the process and this thread have waited for a core since they started.
fn waited_for_core(pid: u32) -> io::Result<[Duration; 2]> {
    Ok([
        waited(&format!("/proc/{pid}/task/{pid}/schedstat"))?,
        waited("/proc/thread-self/schedstat")?,
    ])
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
