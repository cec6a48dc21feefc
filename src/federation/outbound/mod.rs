//! Sending of transactions to other servers.
//!
//! - The table `outgoing` holds every event that other servers are to receive, by position. One task
//!   relays new rows to the queues of their destinations. Each destination has a task of its own, which
//!   sends one transaction at a time, in order.
//! - A destination that does not take a transaction gets a row in `destination_cursors`. Its task goes on
//!   from there, with exponential backoff (`backoff.rs`).
//! - The counter `sent` is the position up to which every destination has received everything, unless it
//!   has a cursor. It is written now and then; later events are sent again after a restart, and every
//!   server deduplicates events.
//! - To-device messages (`outbound_to_device`) and device-list updates (`device_list_cursors`) are stored
//!   until they are acknowledged (`stored_edus.rs`). They go into the next transaction, before typing,
//!   receipts and presence, which are only in memory (`ephemeral_edus.rs`).
//! - A rejected invite or a retracted knock that did not reach its server is a row of `pending_leaves` until
//!   the server has accepted or refused it (`pending_leaves.rs`).
//! - After a start, servers in rooms with local users receive a transaction, an empty one if need be: a
//!   server that backs off from this one learns that it is up again.
//!
//! Source: server-server API, "Transactions".

pub mod backoff;
mod destination;
mod ephemeral_edus;
mod ledger;
mod outgoing_events;
mod overview;
mod pending_destinations;
mod pending_leaves;
mod queues;
mod sender;
mod stored_edus;
#[cfg(test)]
mod tests;

pub use self::{
    ephemeral_edus::EphemeralEdu,
    overview::{Delivery, Destination},
    sender::Sender,
};
