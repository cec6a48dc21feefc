//! Joining, leaving, inviting, knocking and moderating.

pub mod change;
pub mod invitation;
pub mod join;
pub mod leave;
pub mod moderation;
pub mod resident;
pub mod stripped_state;
