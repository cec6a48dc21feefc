//! The room protocol as pure functions over ruma: hash, sign, redact, authorize, resolve.
//!
//! No I/O, no clock, no async, and no randomness except for a new signing key: the same input always
//! gives the same output, so a transaction may run any of it twice.
//!
//! Room versions 1 to 12. Differences between versions are ruma's rule flags ([`versions::rules`]);
//! nothing outside this module depends on a version number or on the format of event and room ids.
//!
//! The life of an event:
//! - built here: [`build::EventDraft`] → [`authorize::auth_types`] selects its auth events →
//!   [`build::build`] → [`authorize::check_by_state`];
//! - received: [`receive::Incoming::parse`] → the caller fetches the keys of its signers →
//!   [`receive::Incoming::verify`] → [`authorize::check_by_auth_events`] →
//!   [`authorize::check_by_state`] on the state before it, and on the current state;
//! - read back: [`Pdu::parse`] from the stored bytes;
//! - redacted: [`redact::redact`] over the stored bytes;
//! - sent to clients: [`client_event::ClientEvent`].

pub mod authorize;
pub mod build;
pub mod canonical_text;
pub mod client_event;
pub mod depth;
mod event_object;
mod first_error;
mod format;
mod format_error;
pub mod glob;
#[cfg(test)]
pub(crate) mod history;
mod json;
pub mod pdu;
pub mod policy_signature;
mod power_levels;
pub mod receive;
pub mod redact;
pub mod reference;
pub mod relation;
pub mod resolve;
pub mod server_acl;
pub mod server_key;
pub mod signed_object;
pub mod signed_request;
pub mod versions;

pub use self::{event_object::MAX_INTEGER, format::FormatError, pdu::Pdu, server_key::ServerKey};
