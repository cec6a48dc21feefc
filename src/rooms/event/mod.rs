//! Events: made here, received, imported, back-filled, redacted; one way to commit them all.

pub mod append;
mod authorize;
pub mod backfill;
mod claim;
pub(in crate::rooms) mod commit;
pub mod graph;
pub mod import;
pub mod insert;
mod outgoing;
pub mod outlier;
pub mod receive;
pub mod redaction;
mod rederive;
pub mod send;
mod state_change;
pub mod state_event;
mod states;

pub(in crate::rooms) use self::state_change::set_local_membership;
pub(in crate::rooms) use super::stored_event::row;
pub use super::stored_event::{StoredEvent, accepted, header, id, load, num_in, num_of};
