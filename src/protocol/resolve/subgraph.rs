//! The conflicted state subgraph: the events on paths between events in conflict.

use std::collections::{BinaryHeap, HashSet};

use super::StateSource;

/// All events on paths over auth events from one event in conflict to another, and these ends.
///
/// Source: room version 12, "State resolution", "Definitions".
pub(super) fn conflicted_subgraph<S: StateSource>(
    conflicted: &HashSet<S::Num>,
    source: &S,
) -> Result<HashSet<S::Num>, S::Error> {
    let mut subgraph = conflicted.clone();
    // From an event with a number below all in conflict no path leads to one of them.
    let Some(lowest) = conflicted.iter().min() else {
        return Ok(subgraph);
    };
    let mut edges = Vec::new();
    let mut seen = conflicted.clone();
    let mut waiting: BinaryHeap<S::Num> = conflicted.iter().copied().collect();
    let mut auth_events = Vec::new();
    while let Some(event) = waiting.pop() {
        source.auth_events(event, &mut auth_events)?;
        for authority in auth_events
            .drain(..)
            .filter(|authority| authority >= lowest)
        {
            edges.push((event, authority));
            if seen.insert(authority) {
                waiting.push(authority);
            }
        }
    }
    // The edges stand by falling number: backwards, all that lies below an event is settled first.
    for (event, authority) in edges.into_iter().rev() {
        if subgraph.contains(&authority) {
            subgraph.insert(event);
        }
    }
    Ok(subgraph)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::conflicted_subgraph;
    use crate::protocol::resolve::graph::Graph;

    fn subgraph(graph: &Graph, conflicted: &[usize]) -> HashSet<usize> {
        conflicted_subgraph(&conflicted.iter().copied().collect(), graph).unwrap()
    }

    #[test]
    fn what_lies_between_two_events_in_conflict_is_in_it() {
        // 0 ← 1 ← 2 ← 3, and 4 beside them.
        let graph = Graph::new(vec![vec![], vec![0], vec![1], vec![2], vec![0]], &[]);
        assert_eq!(subgraph(&graph, &[1, 3]), [1, 2, 3].into());
        assert_eq!(
            subgraph(&graph, &[3, 4]),
            [3, 4].into(),
            "0 is below both, between neither"
        );
        assert_eq!(subgraph(&graph, &[]), [].into());
    }

    #[test]
    fn nothing_below_the_oldest_event_in_conflict_is_read() {
        let mut auth: Vec<Vec<usize>> = (0..1000).map(|event: usize| vec![event / 2]).collect();
        auth[0].clear();
        auth.extend([vec![999], vec![1000]]);
        let graph = Graph::new(auth, &[]);
        assert_eq!(subgraph(&graph, &[1000, 1001]), [1000, 1001].into());
        assert_eq!(graph.reads.get(), 2);
    }

    #[test]
    fn it_is_what_is_reached_and_reaches() {
        for seed in 0..400 {
            let mut rng = StdRng::seed_from_u64(seed);
            let events = rng.random_range(1..60);
            let graph = Graph::random(&mut rng, events);
            let conflicted: Vec<usize> = (0..5).map(|_| rng.random_range(0..events)).collect();
            let below = graph.chain(conflicted.iter().copied());
            let reaches = |event: &usize| {
                conflicted
                    .iter()
                    .any(|other| graph.chain([*event]).contains(other))
            };
            let expected: HashSet<usize> = below.into_iter().filter(reaches).collect();
            assert_eq!(subgraph(&graph, &conflicted), expected, "seed {seed}");
        }
    }
}
