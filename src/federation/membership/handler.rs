use super::client::MembershipClient;
use crate::{
    federation::inbound::{PduReceiver, RemoteEventSource},
    rooms::Local,
    store::Store,
};

/// Handles membership events that other servers send: joins, leaves and knocks of their users, and
/// invitations of local users.
pub struct MembershipHandler {
    pub(super) store: Store,
    pub(super) local: Local,
    pub(super) receiver: PduReceiver<RemoteEventSource>,
    pub(super) client: MembershipClient,
}

impl MembershipHandler {
    pub(in crate::federation) fn new(client: &MembershipClient) -> Self {
        Self {
            store: client.0.store.clone(),
            local: client.0.local.clone(),
            receiver: client.0.receiver.clone(),
            client: client.clone(),
        }
    }
}
