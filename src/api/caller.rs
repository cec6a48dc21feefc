//! Who calls.

use std::net::IpAddr;

use ruma::OwnedServerName;

pub use crate::users::Session;

/// Somebody who need not say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unauthenticated {
    /// Where they call from: their own address, or what a proxy on our side says it is.
    pub address: IpAddr,
}

/// Another server, which has signed what it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name.
    pub server: OwnedServerName,
}
