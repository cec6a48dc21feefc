//! Send-to-device messages (client-server API, "Send-to-Device messaging").
//!
//! - Messages to local devices are queued in `to_device` until a sync with a later token acknowledges them;
//!   messages to other servers in `outbound_to_device` until the server has acknowledged the transaction.
//! - Each queue is bounded, and each sender has a share of it (`queue.rs`). NOTSPEC: all messages are to be
//!   kept until delivery; the disk of a small computer is not for a device that has been off for years.
//! - A request of a local user of which nothing fits is refused. NOTSPEC: if a part of it fits, the rest is dropped,
//!   as a device that never fetches its messages must not keep the keys of a room from the other members; and
//!   a transaction of another server cannot refuse an EDU, so what does not fit is dropped.

mod inbound;
mod outbound;
mod queue;
mod request;
mod sender;

pub use self::{
    inbound::{
        MAX_SYNC_MESSAGES, PendingMessages, deliver, deliver_remote, has_pending_until, pending,
        remove_until,
    },
    outbound::{
        OutboundMessages, discard_outbound, outbound, queue_outbound, remove_outbound_until,
        servers_with_outbound,
    },
    request::{Batch, Delivery, MAX_TYPE_BYTES, normalize},
    sender::SharedRooms,
};

#[cfg(test)]
mod tests;
