//! The callers of handlers.

use std::net::IpAddr;

use ruma::OwnedServerName;

use crate::store::UserNum;
pub use crate::users::Session;

/// A caller who needs no authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unauthenticated {
    /// The address of the client; behind a reverse proxy, the one that the proxy gives.
    pub address: IpAddr,
    /// The user, if the request has an access token although it needs none.
    pub user: Option<UserNum>,
}

/// A server that has signed its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub server: OwnedServerName,
}
