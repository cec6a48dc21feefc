//! The memory for bodies of requests: whose bodies get some, and whose give way.
//!
//! Small bodies have a part of their own, so that they never wait for large ones. In both parts, if there is
//! no memory left, a body that is being received gives way to another one:
//!
//! - if its sender is not known, but that of the other one is;
//! - or if both are or both are not, and its sender has more memory than that of the other one.
//!
//! A known sender with more than an eighth of a part gives way to an unknown one that has less, too. So a
//! sender can use all memory, but not keep it from others.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    mem,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::OwnedServerName;

use super::error::Rejection;
use crate::store::UserNum;

/// A small body has at most so many bytes.
const MAX_SMALL_BYTES: usize = 64 * 1024;
/// A known sender has precedence with at most an eighth of a part.
const PRECEDENCE_SHARE: usize = 8;
/// A fourth of the memory is for small bodies.
const SMALL_SHARE: usize = 4;

/// On whose account a body is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum BodyOwner {
    /// A network that is not known to be that of a user or a server.
    Network(IpAddr),
    /// A server whose requests from the same network were signed before.
    Server(OwnedServerName),
    User(UserNum),
}

impl BodyOwner {
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Network(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Small,
    Large,
}

/// The memory for bodies of requests, shared by all connections.
#[derive(Debug)]
pub(super) struct BodyBudget(Mutex<State>);

#[derive(Debug)]
struct State {
    /// In bytes, for each [`Part`].
    sizes: [usize; 2],
    left: [usize; 2],
    receiving: BTreeMap<u64, Receiving>,
    next_id: u64,
}

/// A body of which more is expected.
#[derive(Debug)]
struct Receiving {
    owner: BodyOwner,
    part: Part,
    bytes: Vec<u8>,
}

/// A body that is being received. It is removed from the budget when dropped.
#[derive(Debug)]
pub(super) struct PartialBody<'a> {
    budget: &'a BodyBudget,
    id: u64,
}

/// A body that was received. Gives its memory back to the budget when dropped.
#[derive(Debug)]
pub(super) struct BufferedBody<'a> {
    budget: &'a BodyBudget,
    part: Part,
    size: usize,
    bytes: Vec<u8>,
}

impl BodyBudget {
    /// `bytes` in all, of which the part for large bodies has at least `min_large`.
    pub(super) fn new(bytes: usize, min_large: usize) -> Self {
        let small = bytes / SMALL_SHARE;
        let large = (bytes - small).max(min_large);
        Self(Mutex::new(State {
            sizes: [small, large],
            left: [small, large],
            receiving: BTreeMap::new(),
            next_id: 0,
        }))
    }

    /// A body of which nothing has been received.
    pub(super) fn begin(&self, owner: BodyOwner) -> PartialBody<'_> {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let empty = Receiving {
            owner,
            part: Part::Small,
            bytes: Vec::new(),
        };
        state.receiving.insert(id, empty);
        PartialBody { budget: self, id }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes memory for `owner`. Whether there was enough, perhaps after others gave way.
    fn reserve(&mut self, owner: &BodyOwner, part: Part, bytes: usize) -> bool {
        while self.left[part as usize] < bytes {
            let Some(evicted) = self.gives_way(owner, part, bytes) else {
                return false;
            };
            self.remove(evicted);
        }
        self.left[part as usize] -= bytes;
        true
    }

    /// The largest body of who gives way to `owner`.
    fn gives_way(&self, owner: &BodyOwner, part: Part, bytes: usize) -> Option<u64> {
        let mut totals: HashMap<&BodyOwner, usize> = HashMap::new();
        let of_part = self.receiving.iter().filter(|(_, body)| body.part == part);
        for (_, body) in of_part.clone() {
            *totals.entry(&body.owner).or_default() += body.bytes.len();
        }
        let wanted = bytes + totals.get(owner).copied().unwrap_or_default();
        let max_preceding = self.sizes[part as usize] / PRECEDENCE_SHARE;
        let ranked = of_part.filter_map(|(id, body)| {
            let total = totals.get(&body.owner).copied()?;
            let gives_way = match (body.owner.is_known(), owner.is_known()) {
                (false, true) => true,
                (true, false) => total > wanted.max(max_preceding),
                _ => body.owner != *owner && total > wanted,
            };
            let rank = (body.owner.is_known(), Reverse((total, body.bytes.len())));
            (gives_way && !body.bytes.is_empty()).then_some((rank, *id))
        });
        ranked.min().map(|(_, id)| id)
    }

    fn remove(&mut self, id: u64) -> Option<Receiving> {
        let removed = self.receiving.remove(&id)?;
        self.left[removed.part as usize] += removed.bytes.len();
        Some(removed)
    }
}

impl<'a> PartialBody<'a> {
    /// How many bytes have been received.
    pub(super) fn len(&self) -> usize {
        let state = self.budget.lock();
        state
            .receiving
            .get(&self.id)
            .map_or(0, |body| body.bytes.len())
    }

    /// # Errors
    /// [`Rejection::BodyBudgetExhausted`] if there is no memory for it, or it had to give way.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), Rejection> {
        let mut state = self.budget.lock();
        let body = state.receiving.get(&self.id);
        let body = body.ok_or(Rejection::BodyBudgetExhausted)?;
        let (owner, before, len) = (body.owner.clone(), body.part, body.bytes.len());
        let part = if len + chunk.len() > MAX_SMALL_BYTES {
            Part::Large
        } else {
            Part::Small
        };
        let moved = if part == before { 0 } else { len };
        if !state.reserve(&owner, part, moved + chunk.len()) {
            return Err(Rejection::BodyBudgetExhausted);
        }
        state.left[before as usize] += moved;
        if let Some(body) = state.receiving.get_mut(&self.id) {
            body.part = part;
            body.bytes.extend_from_slice(chunk);
        }
        Ok(())
    }

    /// The body, which is complete.
    ///
    /// # Errors
    /// [`Rejection::BodyBudgetExhausted`] if it had to give way.
    pub(super) fn finish(self) -> Result<BufferedBody<'a>, Rejection> {
        let received = self.budget.lock().receiving.remove(&self.id);
        let Receiving { part, bytes, .. } = received.ok_or(Rejection::BodyBudgetExhausted)?;
        Ok(BufferedBody {
            budget: self.budget,
            part,
            size: bytes.len(),
            bytes,
        })
    }
}

impl Drop for PartialBody<'_> {
    fn drop(&mut self) {
        self.budget.lock().remove(self.id);
    }
}

impl BufferedBody<'_> {
    /// The bytes, which count as memory of the budget until `self` is dropped.
    pub(super) fn take(&mut self) -> Vec<u8> {
        mem::take(&mut self.bytes)
    }
}

impl Drop for BufferedBody<'_> {
    fn drop(&mut self) {
        self.budget.lock().left[self.part as usize] += self.size;
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::{BodyBudget, BodyOwner, BufferedBody, PartialBody};
    use crate::store::UserNum;

    const KIB: usize = 1024;

    fn network(last: u8) -> BodyOwner {
        BodyOwner::Network([192, 0, 2, last].into())
    }

    /// A body of which so many KiB have been received.
    fn receive(budget: &BodyBudget, owner: BodyOwner, kib: usize) -> Option<PartialBody<'_>> {
        let mut body = budget.begin(owner);
        body.push(&vec![0; kib * KIB]).ok()?;
        Some(body)
    }

    fn finish(body: PartialBody<'_>) -> Option<BufferedBody<'_>> {
        body.finish().ok()
    }

    #[test]
    fn one_sender_can_use_all_memory_for_large_bodies_and_then_gets_no_more() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let mut body = receive(&budget, network(1), 700).unwrap();
        body.push(&[0; 68 * KIB]).unwrap();
        assert!(receive(&budget, network(1), 65).is_none());
        assert_eq!(finish(body).unwrap().take().len(), 768 * KIB);
        assert!(receive(&budget, network(1), 768).is_some());
    }

    #[test]
    fn small_bodies_do_not_wait_for_large_ones() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let _large = receive(&budget, network(1), 768).unwrap();
        for n in 2..6 {
            let small = receive(&budget, network(n), 64).unwrap();
            assert!(finish(small).is_some());
        }
    }

    #[test]
    fn the_sender_with_the_most_memory_gives_way_to_one_with_less() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let first = receive(&budget, network(1), 300).unwrap();
        let second = receive(&budget, network(1), 400).unwrap();
        let other = receive(&budget, network(2), 200).unwrap();
        assert!(
            finish(second).is_none(),
            "the largest of the largest sender"
        );
        assert!(
            receive(&budget, network(2), 300).is_none(),
            "it would have more"
        );
        assert!(finish(first).is_some() && finish(other).is_some());
    }

    #[test]
    fn unknown_senders_give_way_to_known_ones_with_little() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let unknown = receive(&budget, network(1), 100).unwrap();
        let user = |n| receive(&budget, BodyOwner::User(UserNum(n)), 90);
        let users: Vec<_> = (0..8).map(|n| user(n).unwrap()).collect();
        assert!(finish(unknown).is_none());
        assert!(receive(&budget, network(1), 80).is_none());
        assert!(users.into_iter().all(|body| finish(body).is_some()));
    }

    #[test]
    fn a_known_sender_cannot_keep_unknown_ones_out() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let server = BodyOwner::Server(owned_server_name!("b.example"));
        let small: Vec<_> = (0..32)
            .map_while(|_| receive(&budget, server.clone(), 8))
            .collect();
        assert_eq!(small.len(), 32, "all of the part for small bodies");
        let login = receive(&budget, network(1), 1).unwrap();
        assert!(finish(login).is_some());
        let kept = small.into_iter().filter_map(finish).count();
        assert_eq!(kept, 31);
        let user = receive(&budget, BodyOwner::User(UserNum(1)), 700).unwrap();
        assert!(receive(&budget, network(1), 100).is_some());
        assert!(finish(user).is_none());
    }

    #[test]
    fn a_complete_body_does_not_give_way() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let complete = finish(receive(&budget, network(1), 700).unwrap()).unwrap();
        assert!(receive(&budget, network(2), 100).is_none());
        drop(complete);
        assert!(receive(&budget, network(2), 100).is_some());
    }

    #[test]
    fn all_memory_is_given_back() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let before = budget.lock().left;
        for kib in [0, 1, 64, 65, 768, 2000] {
            drop(receive(&budget, network(1), kib));
            drop(receive(&budget, network(1), kib).and_then(finish));
            let mut grows = budget.begin(network(1));
            while grows.len() < kib * KIB && grows.push(&[0; 10 * KIB]).is_ok() {}
            drop(grows);
        }
        assert_eq!(budget.lock().left, before);
        assert!(budget.lock().receiving.is_empty());
    }

    #[test]
    fn one_large_body_has_room_in_the_smallest_budget() {
        let budget = BodyBudget::new(64 * KIB, 1024 * KIB);
        let mut body = budget.begin(BodyOwner::User(UserNum(1)));
        body.push(&vec![0; 1024 * KIB]).unwrap();
        assert_eq!(body.finish().unwrap().take().len(), 1024 * KIB);
    }
}
