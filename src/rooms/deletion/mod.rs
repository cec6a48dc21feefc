//! Deletion of rooms at the owner's request, in phases that survive a restart ([`DeletionPhase`]):
//!
//! 1. All local users leave. From the beginning on nobody enters the room ([`pending`]).
//! 2. Other servers get what is queued for them of it, the leaves at last. They cannot fetch what they lack, since
//!    nobody here is in the room any more. This ends when all of them have it, or do not answer, or after an hour
//!    ([`run`]).
//! 3. Everything goes that the database has of the room ([`erase`]), in batches. Nobody finds the room any more, so
//!    nothing is added.
//!
//! What stays: a leave for clients that had the room ([`left_rooms`]), reports, and whether the room is blocked. A
//! user who joins later gets another room with the same id.
//!
//! [`DeletionPhase`]: crate::store::records::DeletionPhase

mod erase;
pub mod left_rooms;
pub mod pending;
pub mod run;
