//! This server's keys, and what is known of other servers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Record, record};
use crate::store::ids::{EventNum, RoomNum, ServerNum};

record! {
    /// A signing key of this server.
    SigningKey {
        /// The 32 bytes from which the key pair follows. Never shown.
        seed: [u8; 32],
        /// When it was made, in milliseconds since the epoch.
        created_ts: u64,
        /// When it stopped signing, in milliseconds since the epoch.
        expired_ts: Option<u64>,
    }
}

record! {
    /// A signing key of another server.
    RemoteKey {
        /// The public key.
        key: [u8; 32],
        /// Until when it signs, or signed, in milliseconds since the epoch.
        valid_until_ts: u64,
    }
}

record! {
    /// The exponential backoff of a server that did not answer.
    Backoff {
        /// How long it lasts, in milliseconds.
        interval_ms: u64,
        /// When the next request is tried, in milliseconds since the epoch.
        retry_at_ts: u64,
    }
}

record! {
    /// How a server took the last transactions.
    ServerContact {
        /// When it last took one, in milliseconds since the epoch.
        success_ts: Option<u64>,
        /// When it last did not, and why; none after it took one.
        failure: Option<(u64, String)>,
    }
}

record! {
    /// The result of server discovery.
    ResolvedServer {
        /// The server name to which `/.well-known/matrix/server` delegates.
        delegated: Option<String>,
        /// Until when the delegation, or its absence, is cached, in milliseconds since the epoch.
        delegated_until_ts: u64,
        /// Never empty.
        endpoints: Vec<Endpoint>,
        /// Until when all of this is cached, in milliseconds since the epoch.
        until_ts: u64,
    }
}

/// A host and port of another server, with the priority and weight of its SRV record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// Never empty.
    pub addresses: Vec<IpAddr>,
}

record! {
    /// An event that other servers are to get.
    Outgoing {
        event: EventNum,
        /// Whoever is in it gets the event.
        room: RoomNum,
        /// Servers that get it although they are not in the room, or not any more.
        also: Vec<ServerNum>,
        /// The server that made it, if that is another.
        from: Option<ServerNum>,
    }
}
