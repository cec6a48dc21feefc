//! Events in an order in which each comes after those that it names, and the create event first,
//! which authorizes all without being named in every version.

use std::collections::HashMap;

use ruma::OwnedEventId;

use crate::protocol::{Pdu, receive::Received};

/// An event, as far as its place in such an order goes.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id.
    pub id: OwnedEventId,
    /// What it names.
    pub named: Vec<OwnedEventId>,
    /// Whether it is a room's create event.
    pub is_first: bool,
}

/// The places of `nodes` in such an order. Those that name each other in a circle, which no hash
/// allows, are left out, and what comes a second time is too.
pub fn order(nodes: &[Node]) -> Vec<usize> {
    let mut index_of = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        index_of.entry(&node.id).or_insert(index);
    }
    let mut waits = vec![0_usize; nodes.len()];
    let mut named_by: HashMap<usize, Vec<usize>> = HashMap::new();
    for index in index_of.values() {
        for named in &nodes[*index].named {
            if let Some(named) = index_of.get(named) {
                waits[*index] += 1;
                named_by.entry(*named).or_default().push(*index);
            }
        }
    }
    let mut free: Vec<usize> = index_of.into_values().filter(|i| waits[*i] == 0).collect();
    // The last is taken first.
    free.sort_by_key(|index| (nodes[*index].is_first, std::cmp::Reverse(*index)));
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = free.pop() {
        order.push(index);
        for next in named_by.remove(&index).into_iter().flatten() {
            waits[next] -= 1;
            if waits[next] == 0 {
                free.push(next);
            }
        }
    }
    order
}

/// `events` in such an order, by what `named` says that each names.
pub fn sorted(events: Vec<Received>, named: fn(&Pdu) -> &[OwnedEventId]) -> Vec<Received> {
    let nodes: Vec<Node> = events
        .iter()
        .map(|event| Node {
            id: event.pdu.event_id().to_owned(),
            named: named(&event.pdu).to_vec(),
            is_first: event.pdu.prev_events().is_empty(),
        })
        .collect();
    let mut events: Vec<Option<Received>> = events.into_iter().map(Some).collect();
    let order = order(&nodes).into_iter();
    order.filter_map(|index| events[index].take()).collect()
}
