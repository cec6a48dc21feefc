//! Rooms: their events, states, timelines and members.
//!
//! - Owns the tables from `rooms` to `pending_upgrades` in the catalog. Nobody else writes them.
//! - A local event is made inside the job that stores it ([`append`]), from what the transaction
//!   sees, so that concurrent senders never fork their own room. A foreign event is decided
//!   outside, on a snapshot, and its job checks that the room has not moved since ([`receive`]).
//! - What users do to rooms beside sending is a function of an [`Actor`] in a job: [`create`],
//!   [`join`], [`leave`], [`moderation`], [`aliases`], [`directory`], [`upgrade`]. What that means
//!   for more rooms than fit into a job is seen to afterwards, by [`errands`].
//! - Reads take any [`Reader`](crate::store::Reader); those that grow with a room's history or
//!   size say so and belong on the pool.

pub mod background;
pub mod create;
pub mod directory;
pub mod event;
pub mod membership;
pub mod room;
pub mod servers;
pub mod state;
pub mod timeline;
pub mod typing;
pub mod unread;
pub mod upgrade;

mod actor;
mod error;
mod local;

pub use self::{actor::Actor, error::Error, local::Local};

#[cfg(test)]
mod tests;
