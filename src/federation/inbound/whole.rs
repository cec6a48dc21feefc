//! Keeping a whole room that another server gives.

use std::collections::HashSet;

use ruma::OwnedEventId;

use super::{Error, fetch::Fetch, order::order, peers::EventSource, spool::Given};

/// How many events are parsed and checked at once.
const SLICE: usize = 64;

impl<P: EventSource> Fetch<'_, P> {
    /// Keeps, as outliers, those events that are of the room, signed by whom they should be, and
    /// what authorizes them.
    ///
    /// # Errors
    /// [`Error::Missing`] if the server does not give what authorizes them.
    pub async fn keep_all(&self, given: &Given) -> Result<(), Error> {
        let known: HashSet<OwnedEventId> = given.nodes.iter().map(|node| node.id.clone()).collect();
        let named = given.nodes.iter().flat_map(|node| &node.named);
        let named: HashSet<&OwnedEventId> = named.filter(|id| !known.contains(*id)).collect();
        let open = self.lacking(named.into_iter().cloned().collect())?;
        self.complete(open, known).await?;
        for slice in order(&given.nodes).chunks(SLICE) {
            let read = given.events(slice);
            let read = self.store.scan("events that were given", move |_| read());
            let events = read.await?;
            let events = self.check(events).await;
            self.keep(events).await?;
        }
        Ok(())
    }
}
