//! Events in an order in which each comes after those that it names, and the create event first,
//! which authorizes all without being named in every version.

use std::collections::HashMap;

use ruma::{EventId, OwnedEventId};

use crate::protocol::{Pdu, receive::Received};

/// `events` in such an order, by what `named` says that each names. Those that name each other in a
/// circle, which no hash allows, are left out.
pub fn sorted(events: Vec<Received>, named: fn(&Pdu) -> &[OwnedEventId]) -> Vec<Received> {
    let mut waits: HashMap<OwnedEventId, usize> = HashMap::new();
    let mut named_by: HashMap<OwnedEventId, Vec<usize>> = HashMap::new();
    let mut events: Vec<Option<Received>> = events.into_iter().map(Some).collect();
    for event in events.iter().flatten() {
        waits.insert(event.pdu.event_id().to_owned(), 0);
    }
    for (index, event) in events.iter().enumerate() {
        let Some(event) = event else { continue };
        for id in named(&event.pdu)
            .iter()
            .filter(|id| waits.contains_key(*id))
        {
            named_by.entry(id.clone()).or_default().push(index);
        }
    }
    for index in named_by.values().flatten() {
        if let Some(event) = &events[*index] {
            *waits.entry(event.pdu.event_id().to_owned()).or_default() += 1;
        }
    }
    let is_free = |waits: &HashMap<OwnedEventId, usize>, id: &EventId| waits.get(id) == Some(&0);
    let mut free: Vec<usize> = Vec::new();
    for (index, event) in events.iter().enumerate() {
        if event
            .as_ref()
            .is_some_and(|event| is_free(&waits, event.pdu.event_id()))
        {
            free.push(index);
        }
    }
    // The last is taken first.
    free.sort_by_key(|index| {
        let event = events[*index].as_ref();
        event.is_some_and(|event| event.pdu.prev_events().is_empty())
    });
    let mut order = Vec::new();
    while let Some(index) = free.pop() {
        let Some(event) = events[index].take() else {
            continue;
        };
        for next in named_by.get(event.pdu.event_id()).into_iter().flatten() {
            let Some(waiting) = &events[*next] else {
                continue;
            };
            let id = waiting.pdu.event_id();
            if let Some(count) = waits.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    free.push(*next);
                }
            }
        }
        order.push(event);
    }
    order
}
