//! The protocol of rooms as pure functions over ruma: hash, sign, redact, authorize, resolve.
//!
//! It owns no data. No I/O, no clock, no async, no randomness (but for a new signing key): whatever
//! it needs is handed in, so the same input always gives the same output and a job of the store's
//! writer may run any of it twice. Anybody above may call it; it knows nobody but ruma.
//!
//! Room versions 6 to 12. What differs between versions is asked of ruma's rule flags
//! ([`versions::rules`]); nothing outside this module may know a version number's meaning, or what
//! an event id or a room id looks like.
//!
//! The life of an event:
//! - made here: [`build::EventDraft`] → [`authorize::auth_types`] names the state it rests on →
//!   [`build::build`] → [`authorize::check_by_state`];
//! - received: [`receive::Incoming::parse`] → the keys of its signers are fetched by the caller →
//!   [`receive::Incoming::verify`] → [`authorize::check_by_auth_events`] →
//!   [`authorize::check_by_state`] on the state before it, and on the current state;
//! - read back: [`Pdu::parse`] from the stored bytes;
//! - redacted: [`redact::redact`] over the stored bytes;
//! - shown to clients: [`client_event::ClientEvent`].

pub mod authorize;
pub mod build;
pub mod client_event;
mod first_error;
mod format;
#[cfg(test)]
pub(crate) mod history;
mod json;
pub mod pdu;
pub mod receive;
pub mod redact;
pub mod resolve;
pub mod server_key;
pub mod versions;

pub use self::{format::FormatError, pdu::Pdu, server_key::ServerKey};
