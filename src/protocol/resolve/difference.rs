//! The auth difference: every event that is in the auth chain of one of the states and not of all.

use std::{
    collections::{BinaryHeap, HashMap, HashSet},
    hash::Hash,
    iter,
};

use super::{Conflict, StateSource};

/// How many states one walk tells apart.
const GROUP: usize = u64::BITS as usize;

/// Whether the events in conflict rest directly on each other and on events that all states have.
/// Then the auth difference has no other events than these, which count anyway, and nobody needs to
/// compute it. This is how most forks are, and it spares reading the whole state.
pub(super) fn is_shallow<S: StateSource>(
    conflicted: &HashSet<S::Num>,
    source: &S,
) -> Result<bool, S::Error> {
    let (mut seen, mut auth_events) = (conflicted.clone(), Vec::new());
    for event in conflicted {
        source.auth_events(*event, &mut auth_events)?;
        for authority in auth_events.drain(..) {
            if seen.insert(authority) && !is_common(authority, source)? {
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
    // With the first state in every group, what differs at all differs within a group.
    let [first, rest @ ..] = states else {
        return Ok(difference);
    };
    for group in rest.chunks(GROUP - 1) {
        let group: Vec<usize> = iter::once(*first).chain(group.iter().copied()).collect();
        Walk::new(&common, conflicts, &group).run(source, &mut difference)?;
    }
    Ok(difference)
}

/// One walk over the auth graph by falling number. When an event's turn comes, all that rest on it
/// have been visited, so it is known from which states it can be reached.
struct Walk<N> {
    /// The mask of all states.
    all: u64,
    /// For each event that is waiting, the states from which it has been reached so far.
    reached: HashMap<N, u64>,
    waiting: BinaryHeap<N>,
    /// How many of the waiting events have not been reached from all states.
    partial: usize,
}

impl<N: Copy + Eq + Hash + Ord> Walk<N> {
    fn new(common: &[N], conflicts: &[Conflict<N>], group: &[usize]) -> Self {
        let all = u64::MAX >> (GROUP - group.len());
        let mut walk = Self {
            all,
            reached: HashMap::new(),
            waiting: BinaryHeap::new(),
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
            self.waiting.push(event);
        }
    }

    /// Ends as soon as everything that waits has been reached from all states: so has then all that
    /// lies below.
    fn run<S: StateSource<Num = N>>(
        mut self,
        source: &S,
        difference: &mut HashSet<N>,
    ) -> Result<(), S::Error> {
        let mut auth_events = Vec::new();
        while self.partial > 0
            && let Some(event) = self.waiting.pop()
        {
            let from = self.reached.remove(&event).unwrap_or(self.all);
            if from != self.all {
                self.partial -= 1;
                difference.insert(event);
            }
            source.auth_events(event, &mut auth_events)?;
            // Larger numbers cannot be; if they were, the walk would not end.
            for authority in auth_events.drain(..).filter(|authority| *authority < event) {
                self.reach(authority, from);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::{Conflict, auth_difference};
    use crate::protocol::resolve::graph::{Graph, conflicts};

    fn difference(graph: &Graph, conflicts: &[Conflict<usize>]) -> HashSet<usize> {
        let states: Vec<usize> = (0..conflicts[0].entries.len()).collect();
        auth_difference(conflicts, &states, graph).unwrap()
    }

    #[test]
    fn what_some_states_rest_on_and_others_do_not_is_the_difference() {
        // 0 ← 1 ← 3, 0 ← 2 ← 4
        let graph = Graph::new(vec![vec![], vec![0], vec![0], vec![1], vec![2]], &[]);
        let conflicts = conflicts(&[&[Some(3), Some(4)]]);
        assert_eq!(difference(&graph, &conflicts), [1, 2, 3, 4].into());
    }

    #[test]
    fn what_the_common_part_rests_on_is_not_in_the_difference() {
        // The common event 4 rests on 1, on which only the first state's conflict rests too.
        let graph = Graph::new(vec![vec![], vec![0], vec![0], vec![1], vec![1]], &[4]);
        assert_eq!(
            difference(&graph, &conflicts(&[&[Some(3), Some(2)]])),
            [2, 3].into()
        );
    }

    #[test]
    fn a_key_that_one_state_lacks_counts() {
        let graph = Graph::new(vec![vec![], vec![0], vec![1]], &[0]);
        assert_eq!(
            difference(&graph, &conflicts(&[&[Some(2), None]])),
            [1, 2].into()
        );
    }

    #[test]
    fn the_walk_ends_where_all_states_have_everything() {
        // A long chain under the common event 990, and a short conflict above it.
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
    fn the_difference_of_any_number_of_states_equals_that_of_their_chains() {
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

    /// Half of a large room has come and changed its name since a fork on an ancient event.
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
