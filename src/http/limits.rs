//! How much and how long, at the edge. What follows from the memory budget is in
//! [`Memory`](crate::config::Memory).

use std::time::Duration;

const KIB: usize = 1024;

/// The default: an event has at most 64 KiB, and JSON may escape its text.
pub(super) const MAX_BODY_BYTES: usize = 256 * KIB;

/// For requests that may hold many events.
pub(super) const MAX_LARGE_BODY_BYTES: usize = 1024 * KIB;

/// For transactions of other servers: 50 PDUs, and 100 EDUs that may be as large.
pub(super) const MAX_TRANSACTION_BYTES: usize = 12 * 1024 * KIB;

/// A rejected body is read and dropped up to here, so that its sender gets to read the response:
/// many clients send a whole file before they read anything.
pub(super) const MAX_DRAINED_BYTES: usize = 256 * 1024 * KIB;

/// Request line and headers.
pub(super) const MAX_HEAD_BYTES: usize = 32 * KIB;

/// A network may have a fourth of all connections. An address that may be a proxy has no such limit.
pub(super) const MAX_NETWORK_SHARE: usize = 4;

/// Tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// Between two checks whether the certificate's files have changed, while clients connect.
    pub certificate_check: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two requests of a connection. It is longer than proxies keep an idle connection, so
    /// that the proxy closes it, not hearth.
    pub idle: Duration,
    /// Between two chunks of a body.
    pub body_chunk: Duration,
    /// For a whole body.
    pub body: Duration,
    /// For the body of a file upload.
    pub upload: Duration,
    /// For draining a rejected body.
    pub drain: Duration,
    /// Between two chunks of a rejected body.
    pub drain_chunk: Duration,
    /// Until a client accepts more of a response.
    pub write: Duration,
    /// For running requests to end when the server stops.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            certificate_check: Duration::from_mins(1),
            head: Duration::from_secs(15),
            idle: Duration::from_secs(75),
            body_chunk: Duration::from_secs(20),
            body: Duration::from_mins(5),
            upload: Duration::from_hours(2),
            drain: Duration::from_secs(30),
            drain_chunk: Duration::from_secs(5),
            write: Duration::from_secs(30),
            shutdown: Duration::from_secs(10),
        }
    }
}
