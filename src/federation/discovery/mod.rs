//! Server discovery: well-known, SRV, addresses.

pub mod dns;
pub mod hosts;
pub mod resolver;
