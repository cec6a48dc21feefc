//! Requests to other servers for clients: profiles, spaces, events by time.

pub mod profiles;
pub mod spaces;
pub mod timestamp_to_event;
