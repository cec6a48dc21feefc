//! Topological order of events: each event comes after those that it refers to.

use std::{cmp::Reverse, collections::HashMap};

use ruma::OwnedEventId;

use crate::protocol::{Pdu, receive::Received};

#[derive(Clone, Debug)]
pub struct GraphNode {
    pub id: OwnedEventId,
    /// The ids of the events that have to come before it.
    pub references: Vec<OwnedEventId>,
    /// The create event comes first: it authorizes all events, but since room version 12 none
    /// refers to it.
    pub is_create: bool,
}

/// The indices of `nodes` in topological order. Duplicates are left out. Cycles, which are impossible
/// with honest event ids, are left out too.
pub fn topological_order(nodes: &[GraphNode]) -> Vec<usize> {
    let mut index_of = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        index_of.entry(&node.id).or_insert(index);
    }
    let mut unresolved = vec![0_usize; nodes.len()];
    let mut referrers: HashMap<usize, Vec<usize>> = HashMap::new();
    for index in index_of.values() {
        for reference in &nodes[*index].references {
            if let Some(reference) = index_of.get(reference) {
                unresolved[*index] += 1;
                referrers.entry(*reference).or_default().push(*index);
            }
        }
    }
    let mut ready: Vec<usize> = index_of
        .into_values()
        .filter(|index| unresolved[*index] == 0)
        .collect();
    // The last is taken first.
    ready.sort_by_key(|index| (nodes[*index].is_create, Reverse(*index)));
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop() {
        order.push(index);
        for referrer in referrers.remove(&index).into_iter().flatten() {
            unresolved[referrer] -= 1;
            if unresolved[referrer] == 0 {
                ready.push(referrer);
            }
        }
    }
    order
}

/// Sorts by the references that `references` returns, such as [`Pdu::auth_events`].
pub fn sort_topologically(
    events: Vec<Received>,
    references: fn(&Pdu) -> &[OwnedEventId],
) -> Vec<Received> {
    let nodes: Vec<GraphNode> = events
        .iter()
        .map(|event| GraphNode {
            id: event.pdu.event_id().to_owned(),
            references: references(&event.pdu).to_vec(),
            is_create: event.pdu.prev_events().is_empty(),
        })
        .collect();
    let mut events: Vec<Option<Received>> = events.into_iter().map(Some).collect();
    let order = topological_order(&nodes).into_iter();
    order.filter_map(|index| events[index].take()).collect()
}
