//! Receiving PDUs and EDUs from other servers.
//!
//! Server-server API, "Checks performed on receipt of a PDU". The receiving server ensures that a PDU
//!
//! 1. is a valid event of its room version, otherwise it is dropped ([`Incoming::parse`]);
//! 2. passes signature checks, otherwise it is dropped ([`EventSource::verify`]);
//! 3. passes hash checks, otherwise it is redacted before being processed further (the same);
//! 4. passes authorization rules based on its auth events, otherwise it is rejected ([`decide`]);
//! 5. passes authorization rules based on the state before it, otherwise it is rejected (the same);
//! 6. passes authorization rules based on the current state of the room, otherwise it is soft-failed
//!    (the same).
//!
//! [`transaction`] performs steps 1 to 3 for the PDUs of a transaction. If all prev_events and auth
//! events are stored, [`process`] performs steps 4 to 6 before `origin` gets its response. Otherwise, if
//! `origin` is in the room, the PDU goes to the stored [`queue`] of its room, `origin` gets its response, and a task fetches the
//! [`missing_events`]. A PDU that fills a gap of the timeline, and history that is fetched by
//! [`backfill`], goes through [`gap`]. PDUs of rooms that this server is not in can only end an
//! [`out_of_band_membership`].
//!
//! [`Incoming::parse`]: crate::protocol::receive::Incoming::parse
//! [`decide`]: crate::rooms::event::receive::decide

mod auth_chains;
mod backfill;
pub mod edu;
mod edu_content;
mod error;
mod event_fetcher;
mod event_source;
mod fetch_budget;
mod gap;
mod missing_events;
mod out_of_band_membership;
mod process;
mod queue;
mod receiver;
mod room;
mod state_before;
mod topological_order;
mod transaction;

pub use self::{
    edu_content::ReceivedEdu,
    error::Error,
    event_fetcher::{EventFetcher, verify},
    event_source::{AuthChains, EventSource, Fetched, RawPdu, RemoteEventSource},
    queue::RoomQueues,
    receiver::{PduOutcome, PduReceiver},
    room::Room,
};

#[cfg(test)]
mod tests;
