//! Receiving what other servers send.
//!
//! An event whose predecessors and authorities are here is worked in before its sender is answered
//! ([`Receiver::take`]). Any other is checked, stored as waiting and acknowledged; a task for its
//! room fetches what is missing and works it in then, also after a restart. So no room waits for
//! another, and nothing that was acknowledged is lost.
//!
//! Source: server-server API, "PDUs", "Checks performed on receipt of a PDU".

pub mod ask;
mod fetch;
mod history;
mod order;
mod outside;
mod peers;
mod queue;
mod spool;
mod whole;
mod work;

pub use self::{
    fetch::{Fetch, Room, check},
    peers::{EventSource, RawPdu, Told, Unavailable},
    queue::Queues,
    spool::{Given, Unreadable, new_file},
    work::{Receiver, Taken},
};

use crate::{rooms, store};

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rooms, or the store.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// What was given cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Something that the event names cannot be had now.
    #[error("an event that it names cannot be had")]
    Missing,
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Rooms(error.into())
    }
}

#[cfg(test)]
mod tests;
