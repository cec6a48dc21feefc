//! Joining, leaving, knocking and inviting across servers.

pub mod invite;
pub mod remote_join;
pub mod remote_leave;
pub mod resident;
pub mod third_party_invite;
