//! Membership changes over federation: [`MembershipClient`] requests them for local users,
//! [`MembershipHandler`] handles those that other servers request.

mod client;
mod error;
mod handler;
mod invite;
pub mod invite_v1;
mod member_event;
mod missing_auth_events;
mod received_invite;
mod received_member_event;
mod remote_join;
mod remote_knock;
mod remote_leave;
mod stripped_event;
mod third_party_invite;
mod verified_state;

pub use self::{
    client::MembershipClient, error::Error, handler::MembershipHandler,
    received_invite::ReceivedInvite, received_member_event::AcceptedMemberEvent,
};
