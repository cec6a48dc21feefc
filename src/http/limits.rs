//! How much and how long, at the edge. What follows from the memory budget is in
//! [`Memory`](crate::config::Memory).

use std::time::Duration;

const KIB: usize = 1024;

/// The largest body of a request that says nothing of its own: an event has at most 64 KiB, and
/// JSON may escape its text.
pub(super) const BODY: usize = 256 * KIB;

/// What is still read and thrown away of a body that is not wanted, so that its sender gets to
/// read why.
pub(super) const UNWANTED: usize = 1024 * KIB;

/// The largest head of a request: line and headers.
pub(super) const HEAD: usize = 32 * KIB;

/// From the first byte of a head to its last.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(15);

/// Between two requests of a connection. Longer than proxies keep theirs, so that the proxy is the
/// one who closes.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(75);

/// Between two pieces of a body.
pub(super) const BODY_PIECE_TIME: Duration = Duration::from_secs(20);

/// For a whole body.
pub(super) const BODY_TIME: Duration = Duration::from_secs(300);

/// Until a client takes more of an answer.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(30);

/// For a TLS handshake.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// For running requests to end when the server stops.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Connections of one household at once. Whatever may be a proxy has no such limit.
pub(super) const PER_HOUSEHOLD: usize = 64;
