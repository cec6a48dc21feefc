//! The conflicted state subgraph: the events on paths of auth events between conflicted events.

use std::collections::{BinaryHeap, HashSet};

use super::source::StateSource;

/// The events on paths of auth events from one conflicted event to another, with both ends.
///
/// Source: room version 12, "State resolution", "Definitions".
pub(super) fn conflicted_subgraph<S: StateSource>(
    conflicted: &HashSet<S::Num>,
    source: &S,
) -> Result<HashSet<S::Num>, S::Error> {
    let mut subgraph = conflicted.clone();
    // No path leads from an event with a smaller number than all conflicted ones to one of them.
    let Some(lowest) = conflicted.iter().min() else {
        return Ok(subgraph);
    };
    let mut edges = Vec::new();
    let mut seen = conflicted.clone();
    let mut pending: BinaryHeap<S::Num> = conflicted.iter().copied().collect();
    let mut auth_events = Vec::new();
    while let Some(event) = pending.pop() {
        source.auth_events(event, &mut auth_events)?;
        for auth_event in auth_events
            .drain(..)
            .filter(|auth_event| auth_event >= lowest)
        {
            edges.push((event, auth_event));
            if seen.insert(auth_event) {
                pending.push(auth_event);
            }
        }
    }
    // The edges are sorted by descending number, so in reverse the auth events of an event come first.
    for (event, auth_event) in edges.into_iter().rev() {
        if subgraph.contains(&auth_event) {
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
    fn events_between_two_conflicted_events_are_in_the_subgraph() {
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
    fn no_event_below_the_oldest_conflicted_one_is_read() {
        let mut auth: Vec<Vec<usize>> = (0..1000).map(|event: usize| vec![event / 2]).collect();
        auth[0].clear();
        auth.extend([vec![999], vec![1000]]);
        let graph = Graph::new(auth, &[]);
        assert_eq!(subgraph(&graph, &[1000, 1001]), [1000, 1001].into());
        assert_eq!(graph.reads.get(), 2);
    }

    #[test]
    fn the_subgraph_has_the_events_that_are_reached_from_and_reach_conflicted_ones() {
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
