//! Towards other servers.

pub mod receive;
