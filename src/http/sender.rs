//! Who sends a request, as far as it is known before its body has been read.

use std::net::IpAddr;

use ruma::OwnedServerName;

use crate::{body_budget::BodyOwner, store::UserNum};

/// On whose account the body of a request is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sender {
    /// A network that is not known to be that of a user or a server.
    Network(IpAddr),
    /// A server whose requests from the same network were signed before.
    Server(OwnedServerName),
    User(UserNum),
}

impl BodyOwner for Sender {
    fn is_known(&self) -> bool {
        !matches!(self, Self::Network(_))
    }
}
