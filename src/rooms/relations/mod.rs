//! Relations between events: the children of an event, and what clients learn of them with it.
//!
//! - Owns `relations`, `edits`, `thread_senders` and `thread_list`. An event is in them, under the id
//!   of its parent, which need not be here, from when it gets a place in the timeline until it is
//!   redacted ([`index`]).
//! - An event that is sent to a client has the [`aggregations`] of its children. Their cost does not
//!   grow with the number of the children.
//!
//! Source: client-server API, "Forming relationships between events".

pub mod aggregations;
pub mod check;
pub mod children;
pub(in crate::rooms) mod index;
pub mod related;
mod rows;
pub mod threads;
