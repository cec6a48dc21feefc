use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::with_store;
use crate::{
    rooms::{Error, state},
    store::{EventNum, NodeNum, RoomNum, StateKeyNum, Tx},
};

const ROOM: RoomNum = RoomNum(1);

type Model = BTreeMap<StateKeyNum, EventNum>;

fn random_key(rng: &mut SmallRng) -> StateKeyNum {
    // Mostly small numbers, some that make the tree taller.
    let bits = [4, 4, 5, 9, 17, 32][rng.random_range(0..6)];
    StateKeyNum((rng.random::<u64>() & ((1 << bits) - 1)) as u32)
}

fn check(tx: &Tx, states: &[(NodeNum, Model)]) -> Result<(), Error> {
    for (root, model) in states {
        let entries: Model = state::entries(tx, ROOM, *root)?.into_iter().collect();
        assert_eq!(&entries, model);
        for (key, event) in model {
            assert_eq!(state::get(tx, ROOM, *root, *key)?, Some(*event));
        }
    }
    for pair in states.windows(2) {
        let roots = [pair[0].0, pair[1].0];
        let keys: BTreeSet<_> = pair[0].1.keys().chain(pair[1].1.keys()).copied().collect();
        let differing: BTreeSet<_> = keys
            .into_iter()
            .filter(|key| pair[0].1.get(key) != pair[1].1.get(key))
            .collect();
        assert_eq!(state::differing_keys(tx, ROOM, &roots)?, differing);
    }
    Ok(())
}

#[test]
fn state_trees_equal_maps_and_forks_never_change() {
    for seed in 0..40 {
        with_store(async |store| {
            let job = move |tx: &Tx| {
                let mut rng = SmallRng::seed_from_u64(seed);
                let mut states = vec![(NodeNum::EMPTY, Model::new())];
                for change in 1..120 {
                    let (root, mut model) = states[rng.random_range(0..states.len())].clone();
                    let known: Vec<_> = model.keys().copied().collect();
                    let (key, event) = if !known.is_empty() && rng.random_bool(0.3) {
                        (known[rng.random_range(0..known.len())], None)
                    } else {
                        (random_key(&mut rng), Some(EventNum(change)))
                    };
                    let root = state::set(tx, ROOM, root, key, event)?;
                    match event {
                        Some(event) => drop(model.insert(key, event)),
                        None => drop(model.remove(&key)),
                    }
                    states.push((root, model));
                }
                check(tx, &states)
            };
            store
                .write(job)
                .await
                .unwrap_or_else(|error: Error| panic!("seed {seed}: {error}"));
        });
    }
}

#[test]
fn a_key_that_was_never_set_is_absent() {
    with_store(async |store| {
        let job = |tx: &Tx| {
            let low = state::set(tx, ROOM, NodeNum::EMPTY, StateKeyNum(3), Some(EventNum(1)))?;
            for key in [0, 4, 16, 19, 3 << 4, u32::MAX] {
                assert_eq!(state::get(tx, ROOM, low, StateKeyNum(key))?, None);
            }
            let emptied = state::set(tx, ROOM, low, StateKeyNum(3), None)?;
            assert_eq!(emptied, NodeNum::EMPTY);
            Ok::<_, Error>(())
        };
        store.write(job).await.expect("the job succeeds");
    });
}
