//! Signing keys: those that this server publishes, and those of other servers.
//!
//! What a server has published is stored, so that its events can be checked when it is gone. It is
//! fetched again when a key is wanted that is not known, or not known to be valid at the time in question.
//!
//! Source: server-server API, "Retrieving server keys".

mod fetch;
mod known;
mod notaries;
mod notarize;
mod own;
mod stored;
mod verify;

pub use self::{
    fetch::Keys,
    known::WantedKey,
    notarize::Query,
    own::{VALIDITY, published},
};
