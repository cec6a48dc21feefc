//! What the owner of the server does: the operations behind the commands (`cli/`), which only the socket in the
//! data directory reaches; and endpoints for administrators and tools: those of Synapse's admin API, and hearth's
//! own.
//!
//! An operation is `async fn(Api, Request) -> Result<Value, Error>`: `POST /_hearth/admin/v1/…` with a JSON
//! object. Its caller needs no authentication.

pub mod backup;
pub mod doctor;
pub mod federation;
pub mod invite;
pub mod log;
pub mod media;
pub mod push;
pub mod report;
pub mod room;
pub mod server_notices;
pub mod shared_secret;
pub mod status;
pub mod user;
pub mod why;

use serde::Deserialize;

/// The request of an operation without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
