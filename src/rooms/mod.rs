//! Rooms: their events, states, timelines and members.
//!
//! - Owns the tables under "Rooms and their events" and "What people have read" in `store/README.md`,
//!   and `room_servers`, `server_rooms` and `outgoing`. Others write only `waiting`
//!   (`federation/inbound`), `outgoing` (`federation/outbound` removes what was sent) and
//!   `transactions` (`users/devices` removes those of a device).
//! - A local event is built in the transaction that stores it ([`event::append`]), so that concurrent
//!   senders never fork the room. A remote event is checked on a snapshot, and its transaction checks
//!   that the room has not changed since ([`event::receive`]).
//! - What users do beside sending is a function that takes an [`Actor`] in a transaction: in
//!   [`create`], [`membership`], [`directory`] and [`upgrade`]. What is too large for one transaction
//!   is left to [`background`].
//! - The owner can delete a room ([`deletion`]). A number of a room that was read before may be that of none
//!   ([`Error::UnknownRoom`]).
//! - Reads take any [`Reader`](crate::store::Reader). Those whose work grows with a room say so and
//!   are to be called on the pool.

pub mod background;
pub mod blocked_rooms;
pub mod create;
pub mod deletion;
pub mod directory;
pub mod event;
pub mod membership;
pub mod policy_server;
pub mod policy_signatures;
pub mod relations;
pub mod reports;
pub mod room;
pub mod search;
pub mod server_notices;
pub mod servers;
pub mod state;
pub mod stored_event;
pub mod timeline;
pub mod typing;
pub mod unread;
pub mod unsigned_event;
pub mod upgrade;

mod actor;
mod error;
mod local;

pub use self::{actor::Actor, error::Error, local::Local};

#[cfg(test)]
pub(crate) mod tests;
