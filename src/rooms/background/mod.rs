//! Work that follows from one change but is too large for its transaction: done in batches, also
//! after a restart.

pub mod batch;
pub mod jobs;
pub mod member_events;
