//! Fetching the prev_events of an event and the state before it, with their auth chains.

use std::collections::HashSet;

use ruma::{EventId, OwnedEventId};

use super::{
    error::Error,
    event_fetcher::{EventFetcher, unless_unavailable},
    event_source::{EventSource, RawPdu},
};
use crate::protocol::receive::Received;

impl<S: EventSource> EventFetcher<'_, S> {
    /// Stores the prev_events of `event` as outliers: once it is a forward extremity, other servers
    /// request them from this one. Those whose auth chains cannot be had are left out.
    pub async fn fetch_prev_events(&mut self, event: &Received) -> Result<(), Error> {
        let mut ids = self.not_stored(event.pdu.prev_events().to_vec())?;
        ids.retain(|id| !self.unavailable.contains(id));
        let pdus = self.fetch_events(&ids).await?;
        let found = self.verify_of(pdus, &ids).await;
        unless_unavailable(self.fetch_auth_chains(&found).await)?;
        self.store_outliers(found).await?;
        Ok(())
    }

    /// The ids of the state before `event` as the server claims it. All its events and their auth chains
    /// are stored. Events that were refused, or whose auth chains cannot be had, are left out.
    pub async fn fetch_state_before(
        &mut self,
        event: &EventId,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let (mut state, missing, _memory) = self.claimed_state(event).await?;
        let pdus = self.fetch_claimed(event, &missing).await?;
        self.store_with_auth_chains(pdus, missing).await?;
        let left_out = self.not_stored_of_many(state.clone()).await?;
        let left_out: HashSet<_> = left_out.into_iter().collect();
        state.retain(|id| !left_out.contains(id));
        Ok(state)
    }

    /// Stores `pdus`, as far as they are among `ids` or in the auth chains of these, and the rest of the chains.
    ///
    /// # Errors
    /// As [`fetch_auth_chains`](Self::fetch_auth_chains).
    async fn store_with_auth_chains(
        &mut self,
        pdus: Vec<RawPdu>,
        ids: Vec<OwnedEventId>,
    ) -> Result<(), Error> {
        let chain = self
            .source
            .auth_chain_of(&self.server, self.room, pdus)
            .await?;
        let pending = self.store_chain(chain, ids).await?.pending;
        self.fetch_auth_chains(&pending).await?;
        self.store_outliers(pending).await?;
        Ok(())
    }
}
