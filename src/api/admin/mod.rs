//! Endpoints of Synapse's admin API that tools call.

pub mod shared_secret;
