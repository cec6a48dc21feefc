//! The auth difference: the events that are in the auth chains of some of the states and not of all.

use std::{
    collections::{BinaryHeap, HashMap, HashSet},
    hash::Hash,
    iter,
};

use super::source::{Conflict, StateSource};

/// How many states one walk distinguishes: one bit of a mask each.
const MAX_STATES_PER_WALK: usize = u64::BITS as usize;

/// Whether all auth events of the conflicted events are conflicted themselves or in all states. Then
/// the auth difference has only conflicted events, and need not be computed. Most forks are like
/// this, and the whole state need not be read.
pub(super) fn is_shallow<S: StateSource>(
    conflicted: &HashSet<S::Num>,
    source: &S,
) -> Result<bool, S::Error> {
    let (mut seen, mut auth_events) = (conflicted.clone(), Vec::new());
    for event in conflicted {
        source.auth_events(*event, &mut auth_events)?;
        for auth_event in auth_events.drain(..) {
            if seen.insert(auth_event) && !is_common(auth_event, source)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn is_common<S: StateSource>(event: S::Num, source: &S) -> Result<bool, S::Error> {
    let pdu = source.pdu(event)?;
    let Some((kind, key)) = pdu.state_pair() else {
        return Ok(false);
    };
    Ok(source.common(&kind, key)? == Some(event))
}

/// The auth difference of the given states.
pub(super) fn auth_difference<S: StateSource>(
    conflicts: &[Conflict<S::Num>],
    states: &[usize],
    source: &S,
) -> Result<HashSet<S::Num>, S::Error> {
    let mut difference = HashSet::new();
    let mut common = Vec::new();
    source.each_common(&mut |event| common.push(event))?;
    // The first state is in every group, so every difference shows within a group.
    let [first, rest @ ..] = states else {
        return Ok(difference);
    };
    for group in rest.chunks(MAX_STATES_PER_WALK - 1) {
        let group: Vec<usize> = iter::once(*first).chain(group.iter().copied()).collect();
        Walk::new(&common, conflicts, &group).run(source, &mut difference)?;
    }
    Ok(difference)
}

/// A walk over the auth graph by descending number. When it gets to an event, it has visited all
/// events that have it as an auth event, so it knows from which states the event can be reached.
struct Walk<N> {
    /// The bits of all states.
    all: u64,
    /// For each pending event, the states from which it has been reached so far.
    reached: HashMap<N, u64>,
    pending: BinaryHeap<N>,
    /// How many of the pending events have not been reached from all states.
    partial: usize,
}

impl<N: Copy + Eq + Hash + Ord> Walk<N> {
    fn new(common: &[N], conflicts: &[Conflict<N>], group: &[usize]) -> Self {
        let all = u64::MAX >> (MAX_STATES_PER_WALK - group.len());
        let mut walk = Self {
            all,
            reached: HashMap::new(),
            pending: BinaryHeap::new(),
            partial: 0,
        };
        for event in common {
            walk.reach(*event, all);
        }
        for conflict in conflicts {
            for (bit, state) in group.iter().enumerate() {
                if let Some(event) = conflict.entries[*state] {
                    walk.reach(event, 1 << bit);
                }
            }
        }
        walk
    }

    fn reach(&mut self, event: N, from: u64) {
        let reached = self.reached.entry(event).or_default();
        let before = *reached;
        *reached |= from;
        let was_partial = before != 0 && before != self.all;
        let is_partial = *reached != self.all;
        self.partial = self.partial + usize::from(is_partial) - usize::from(was_partial);
        if before == 0 {
            self.pending.push(event);
        }
    }

    /// Ends when all pending events have been reached from all states: so have all events below them.
    fn run<S: StateSource<Num = N>>(
        mut self,
        source: &S,
        difference: &mut HashSet<N>,
    ) -> Result<(), S::Error> {
        let mut auth_events = Vec::new();
        while self.partial > 0
            && let Some(event) = self.pending.pop()
        {
            let from = self.reached.remove(&event).unwrap_or(self.all);
            if from != self.all {
                self.partial -= 1;
                difference.insert(event);
            }
            source.auth_events(event, &mut auth_events)?;
            // An auth event with a larger number would let the walk run for ever.
            for auth_event in auth_events
                .drain(..)
                .filter(|auth_event| *auth_event < event)
            {
                self.reach(auth_event, from);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::auth_difference;
    use crate::protocol::resolve::{
        graph::{Graph, conflicts},
        source::Conflict,
    };

    fn difference(graph: &Graph, conflicts: &[Conflict<usize>]) -> HashSet<usize> {
        let states: Vec<usize> = (0..conflicts[0].entries.len()).collect();
        auth_difference(conflicts, &states, graph).unwrap()
    }

    #[test]
    fn events_in_some_auth_chains_only_are_the_difference() {
        // 0 ← 1 ← 3, 0 ← 2 ← 4
        let graph = Graph::new(vec![vec![], vec![0], vec![0], vec![1], vec![2]], &[]);
        let conflicts = conflicts(&[&[Some(3), Some(4)]]);
        assert_eq!(difference(&graph, &conflicts), [1, 2, 3, 4].into());
    }

    #[test]
    fn auth_events_of_unconflicted_events_are_not_in_the_difference() {
        // 1 is an auth event of the unconflicted event 4 and of a conflicted one of the first state.
        let graph = Graph::new(vec![vec![], vec![0], vec![0], vec![1], vec![1]], &[4]);
        assert_eq!(
            difference(&graph, &conflicts(&[&[Some(3), Some(2)]])),
            [2, 3].into()
        );
    }

    #[test]
    fn a_key_missing_from_one_state_is_in_the_difference() {
        let graph = Graph::new(vec![vec![], vec![0], vec![1]], &[0]);
        assert_eq!(
            difference(&graph, &conflicts(&[&[Some(2), None]])),
            [1, 2].into()
        );
    }

    #[test]
    fn the_walk_ends_where_all_states_share_their_auth_chains() {
        // A long chain below the unconflicted event 990, and a short conflict above it.
        let mut auth: Vec<Vec<usize>> = (0..1000)
            .map(|event: usize| vec![event - 1.min(event)])
            .collect();
        auth[0].clear();
        auth.extend([vec![990], vec![990], vec![1000], vec![1001]]);
        let graph = Graph::new(auth, &[990]);
        let difference = difference(&graph, &conflicts(&[&[Some(1002), Some(1003)]]));
        assert_eq!(difference, (1000..1004).collect());
        assert!(graph.reads.get() <= 4, "{} reads", graph.reads.get());
    }

    #[test]
    fn the_difference_of_any_number_of_states_is_that_of_their_auth_chains() {
        for seed in 0..400 {
            let mut rng = StdRng::seed_from_u64(seed);
            let events = rng.random_range(2..60);
            let graph = Graph::random(&mut rng, events);
            let count = if seed % 4 == 0 {
                rng.random_range(60..200)
            } else {
                3
            };
            let conflicts: Vec<Conflict<usize>> = (0..4)
                .map(|key| Conflict {
                    key: ("test".into(), key.to_string()),
                    entries: (0..count)
                        .map(|_| rng.random_bool(0.8).then(|| rng.random_range(0..events)))
                        .collect(),
                })
                .collect();
            let chains: Vec<HashSet<usize>> = (0..count)
                .map(|state| {
                    let own = conflicts
                        .iter()
                        .filter_map(|conflict| conflict.entries[state]);
                    graph.chain(own.chain(graph.common.iter().copied()))
                })
                .collect();
            let in_all = |event: &usize| chains.iter().all(|chain| chain.contains(event));
            let expected: HashSet<usize> = chains
                .iter()
                .flatten()
                .copied()
                .filter(|event| !in_all(event))
                .collect();
            assert_eq!(difference(&graph, &conflicts), expected, "seed {seed}");
        }
    }

    /// Half of a large room has joined and changed its display name since a fork on an old event.
    #[test]
    fn a_difference_of_fifty_thousand_events_is_found() {
        let mut auth = vec![vec![], vec![0], vec![0, 1]];
        let old = 3..50_003;
        auth.extend(old.clone().map(|_| vec![0, 1, 2]));
        let joins = 50_003..75_003;
        auth.extend(joins.clone().map(|_| vec![0, 1, 2]));
        auth.extend(joins.clone().map(|join| vec![0, 1, join]));
        let changes = 75_003..100_003;
        let graph = Graph::new(auth, &(0..old.end).collect::<Vec<_>>());
        let entries: Vec<[Option<usize>; 2]> =
            changes.clone().map(|change| [None, Some(change)]).collect();
        let entries: Vec<&[Option<usize>]> = entries.iter().map(|entry| &entry[..]).collect();
        assert_eq!(
            difference(&graph, &conflicts(&entries)),
            (joins.start..changes.end).collect()
        );
    }
}
