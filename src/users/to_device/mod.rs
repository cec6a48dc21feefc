//! Send-to-device messages (client-server API, "Send-to-Device messaging").
//!
//! - Messages to local devices are queued in `to_device` until a sync with a later token acknowledges them;
//!   messages to other servers in `outbound_to_device` until the server has acknowledged the transaction.
//! - Each queue is bounded, and each sender has a share of it (`queue.rs`). NOTSPEC: all messages are to be
//!   kept until delivery; the disk of a small computer is not for a device that has been off for years.

mod inbound;
mod outbound;
mod queue;
mod request;

pub use self::{
    inbound::{
        MAX_SYNC_MESSAGES, PendingMessages, deliver, deliver_remote, has_pending_until, pending,
        remove_until,
    },
    outbound::{
        OutboundMessages, discard_outbound, outbound, queue_outbound, remove_outbound_until,
        servers_with_outbound,
    },
    request::{Batch, MAX_TYPE_BYTES, normalize},
};

#[cfg(test)]
mod tests;
