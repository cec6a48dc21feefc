//! Topological order of events: each event comes after those that it refers to.

use ruma::OwnedEventId;

use crate::{
    federation::event_graph::{EventGraph, IdBudget},
    protocol::{Pdu, receive::Received},
};

/// Sorts by the references that `references` returns, such as [`Pdu::auth_events`]. Duplicates are left out.
pub fn sort_topologically(
    events: Vec<Received>,
    references: fn(&Pdu) -> &[OwnedEventId],
) -> Vec<Received> {
    let mut graph = EventGraph::new(&IdBudget::new(usize::MAX));
    let mut added = Vec::new();
    for event in events {
        let pdu = &event.pdu;
        let references = references(pdu).iter().map(|id| &**id);
        let is_create = pdu.prev_events().is_empty();
        if graph.add(pdu.event_id(), references, is_create) == Ok(true) {
            added.push(Some(event));
        }
    }
    let order = graph.topological_order().into_iter();
    order
        .filter_map(|index| added[index as usize].take())
        .collect()
}
