//! What other servers are asked for a client: profiles, spaces, events by time.

pub mod profiles;
pub mod spaces;
pub mod timestamp_to_event;
