//! Where another server is: well-known, SRV, addresses.

pub mod dns;
pub mod resolver;
