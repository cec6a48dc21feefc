//! Endpoints for administrators and tools: those of Synapse's admin API, and hearth's own.

pub mod server_notices;
pub mod shared_secret;
