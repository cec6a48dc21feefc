//! How much and how long, at the edge. What follows from the memory budget is in
//! [`Memory`](crate::config::Memory).

use std::time::Duration;

const KIB: usize = 1024;

/// The largest body of a request that says nothing of its own: an event has at most 64 KiB, and
/// JSON may escape its text.
pub(super) const BODY: usize = 256 * KIB;

/// The largest body of a request that may hold many events.
pub(super) const LARGE_BODY: usize = 1024 * KIB;

/// The largest body of another server's transaction: 50 events, and 100 messages to devices that
/// may be as large.
pub(super) const TRANSACTION: usize = 12 * 1024 * KIB;

/// What is still read and thrown away of a body that is not wanted, so that its sender gets to
/// read why: many send a whole file before they read anything.
pub(super) const UNWANTED: usize = 256 * 1024 * KIB;

/// The largest head of a request: line and headers.
pub(super) const HEAD: usize = 32 * KIB;

/// The part of all connections that one household may have. Whatever may be a proxy has no such
/// limit.
pub(super) const HOUSEHOLDS: usize = 4;

/// How long things may take. Tests have less patience.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// A TLS handshake.
    pub handshake: Duration,
    /// Between two looks at the files of the certificate, as long as somebody connects.
    pub certificate: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two requests of a connection. Longer than proxies keep theirs, so that the proxy is
    /// the one who closes.
    pub idle: Duration,
    /// Between two pieces of a body.
    pub body_piece: Duration,
    /// A whole body.
    pub body: Duration,
    /// A whole file. Somebody's line up may be slow.
    pub upload: Duration,
    /// Throwing away a body that is not wanted.
    pub unwanted: Duration,
    /// Between two pieces of that.
    pub unwanted_piece: Duration,
    /// Until a client takes more of an answer.
    pub write: Duration,
    /// For running requests to end when the server stops.
    pub grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            certificate: Duration::from_mins(1),
            head: Duration::from_secs(15),
            idle: Duration::from_secs(75),
            body_piece: Duration::from_secs(20),
            body: Duration::from_mins(5),
            upload: Duration::from_hours(2),
            unwanted: Duration::from_secs(30),
            unwanted_piece: Duration::from_secs(5),
            write: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}
