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

/// For a response that is made whole, and for the largest chunk of a streamed one.
pub(super) const MAX_LARGE_RESPONSE_BYTES: usize = 8 * 1024 * KIB;

/// A response is given to its connection in frames of at most so many bytes.
pub(super) const MAX_FRAME_BYTES: usize = 16 * KIB;

/// A rejected body is read and dropped up to here, so that its sender gets to read the response:
/// many clients send a whole file before they read anything.
pub(super) const MAX_DRAINED_BYTES: usize = 256 * 1024 * KIB;

/// A body that is slower for long is rejected.
pub(super) const MIN_BODY_BYTES_PER_SECOND: f64 = 4096.0;

/// Request line and headers.
pub(super) const MAX_HEAD_BYTES: usize = 32 * KIB;

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
    /// For waiting for the chunks of a body, beyond what it takes at [`MIN_BODY_BYTES_PER_SECOND`].
    pub body_pause: Duration,
    /// For a whole body.
    pub body: Duration,
    /// For the body of a file upload.
    pub upload: Duration,
    /// For draining a rejected body.
    pub drain: Duration,
    /// The same for a rejected body.
    pub drain_pause: Duration,
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
            body_pause: Duration::from_secs(20),
            body: Duration::from_mins(5),
            upload: Duration::from_hours(2),
            drain: Duration::from_secs(30),
            drain_pause: Duration::from_secs(5),
            write: Duration::from_secs(30),
            shutdown: Duration::from_secs(10),
        }
    }
}
