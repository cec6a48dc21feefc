//! Joining, leaving, inviting, knocking and moderating.

pub mod change;
mod invitation_limits;
pub mod join;
pub mod leave;
pub mod moderation;
pub mod out_of_band;
pub mod pending_leaves;
pub mod resident;
pub mod restricted;
pub mod server_notice_room;
pub mod stripped_state;
