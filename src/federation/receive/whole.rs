//! A whole room, or much of one, as another server gives it: more than is to be in memory parsed.

use std::collections::HashSet;

use ruma::{OwnedEventId, room_version_rules::RoomVersionRules};

use super::{
    Error,
    fetch::Fetch,
    order::{Node, order},
    peers::{Peers, RawPdu},
};
use crate::{protocol::receive::Incoming, rooms};

/// How many events are parsed and checked at once.
const SLICE: usize = 64;

impl<P: Peers> Fetch<'_, P> {
    /// Keeps, as outliers, those of `raw` that are events of the room, signed by whom they should
    /// be, and what authorizes them. The ids of the first `count` of `raw`, as far as they have one.
    ///
    /// # Errors
    /// [`Error::Missing`] if the server does not give what authorizes them.
    pub async fn keep_all(
        &self,
        mut raw: Vec<Option<RawPdu>>,
        count: usize,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let rules = self.room.rules;
        let outline = move |_: &_| {
            let nodes: Vec<_> = raw.iter().map(|raw| node(raw.as_deref(), rules)).collect();
            Ok::<_, rooms::Error>((raw, nodes))
        };
        let (given, nodes) = self
            .store
            .scan("what another server gives", outline)
            .await?;
        raw = given;
        let ids = nodes.iter().take(count).flatten();
        let ids = ids.map(|node| node.id.clone()).collect();
        let (places, nodes): (Vec<usize>, Vec<Node>) = nodes
            .into_iter()
            .enumerate()
            .filter_map(|(place, node)| Some((place, node?)))
            .unzip();
        let known: HashSet<OwnedEventId> = nodes.iter().map(|node| node.id.clone()).collect();
        let named = nodes.iter().flat_map(|node| &node.named);
        let named: HashSet<&OwnedEventId> = named.filter(|id| !known.contains(*id)).collect();
        let open = self.lacking(named.into_iter().cloned().collect())?;
        self.complete(open, known).await?;
        for slice in order(&nodes).chunks(SLICE) {
            let slice = slice.iter().filter_map(|index| raw[places[*index]].take());
            let events = self.check(slice.collect()).await;
            self.keep(events).await?;
        }
        Ok(ids)
    }
}

fn node(
    raw: Option<&serde_json::value::RawValue>,
    rules: &'static RoomVersionRules,
) -> Option<Node> {
    let event = Incoming::parse(raw?.get().as_bytes(), rules).ok()?;
    Some(Node {
        id: event.event_id().to_owned(),
        named: event.names("auth_events"),
        is_first: event.names("prev_events").is_empty(),
    })
}
