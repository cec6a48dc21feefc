//! The memory for bodies of requests, of responses, or of responses of other servers: whose bodies get some,
//! and whose give way.
//!
//! Small bodies have a part of their own, so that they never wait for large ones. In both parts, if there is
//! no memory left, a body that is being received or sent gives way to another one:
//!
//! - if its sender is not known, but that of the other one is;
//! - or if both are or both are not, and its sender has more memory than that of the other one.
//!
//! A known sender with more than an eighth of a part gives way to an unknown one that has less, too. So a
//! sender can use all memory, but not keep it from others while it sends.
//!
//! A complete body does not give way. Where a sender can cause it to be kept for long, its memory is
//! limited ([`BodyBudget::with_max_per_owner`]).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    mem,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::gauges::Usage;

use ruma::OwnedServerName;

/// A small body has at most so many bytes.
const MAX_SMALL_BYTES: usize = 64 * 1024;
/// A known sender has precedence with at most an eighth of a part.
const PRECEDENCE_SHARE: usize = 8;
/// A fourth of the memory is for small bodies.
const SMALL_SHARE: usize = 4;

/// On whose account a body is.
pub trait BodyOwner: Clone + Eq + Hash {
    fn is_known(&self) -> bool;
}

/// This server chose whom it asks.
impl BodyOwner for OwnedServerName {
    fn is_known(&self) -> bool {
        true
    }
}

/// The origin of a URL.
impl BodyOwner for String {
    fn is_known(&self) -> bool {
        true
    }
}

/// There is no memory for a body, or it had to give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Small,
    Large,
}

/// Clones are the same.
pub struct BodyBudget<O: BodyOwner>(Arc<Mutex<State<O>>>);

struct State<O> {
    /// In bytes, for each [`Part`].
    sizes: [usize; 2],
    left: [usize; 2],
    /// Of the part for large bodies.
    max_per_owner: usize,
    receiving: BTreeMap<u64, Receiving<O>>,
    /// The memory of complete large bodies.
    complete: HashMap<O, usize>,
    next_id: u64,
}

/// A body of which more is expected, or that is being sent.
struct Receiving<O> {
    owner: O,
    part: Part,
    bytes: Vec<u8>,
}

/// A body that is being received or sent. It is removed from the budget when dropped.
pub struct PartialBody<O: BodyOwner> {
    budget: BodyBudget<O>,
    id: u64,
}

/// A body that was received. Gives its memory back to the budget when dropped.
pub struct BufferedBody<O: BodyOwner> {
    memory: BodyMemory<O>,
    bytes: Vec<u8>,
}

/// Memory of a budget, until it is dropped.
pub struct BodyMemory<O: BodyOwner> {
    budget: BodyBudget<O>,
    owner: O,
    part: Part,
    size: usize,
}

impl<O: BodyOwner> BodyBudget<O> {
    /// `bytes` in all, of which the part for large bodies has at least `min_large`.
    pub fn new(bytes: usize, min_large: usize) -> Self {
        let small = bytes / SMALL_SHARE;
        let large = (bytes - small).max(min_large);
        Self(Arc::new(Mutex::new(State {
            sizes: [small, large],
            left: [small, large],
            max_per_owner: large,
            receiving: BTreeMap::new(),
            complete: HashMap::new(),
            next_id: 0,
        })))
    }

    /// The same, in which the large bodies of one owner have at most three quarters of their part.
    pub fn with_max_per_owner(bytes: usize, min_large: usize) -> Self {
        let budget = Self::new(bytes, min_large);
        let max_per_owner = budget.lock().sizes[Part::Large as usize] / 4 * 3;
        budget.lock().max_per_owner = max_per_owner;
        budget
    }

    /// How many bytes one body may have.
    pub fn max_body(&self) -> usize {
        self.lock().max_per_owner
    }

    /// How much of it is in use.
    pub fn usage(&self) -> Usage {
        let state = self.lock();
        let (size, left): (usize, usize) = (state.sizes.iter().sum(), state.left.iter().sum());
        Usage::of(size - left, size)
    }

    /// A body of which nothing has been received.
    pub fn begin(&self, owner: O) -> PartialBody<O> {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let empty = Receiving {
            owner,
            part: Part::Small,
            bytes: Vec::new(),
        };
        state.receiving.insert(id, empty);
        PartialBody {
            budget: self.clone(),
            id,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: BodyOwner> State<O> {
    /// Takes memory for `owner`. Whether there was enough, perhaps after others gave way.
    fn reserve(&mut self, owner: &O, part: Part, bytes: usize) -> bool {
        if part == Part::Large && self.large_bytes_of(owner) + bytes > self.max_per_owner {
            return false;
        }
        while self.left[part as usize] < bytes {
            let Some(evicted) = self.gives_way(owner, part, bytes) else {
                return false;
            };
            self.remove(evicted);
        }
        self.left[part as usize] -= bytes;
        true
    }

    fn large_bytes_of(&self, owner: &O) -> usize {
        let receiving = self.receiving.values();
        let receiving = receiving.filter(|body| body.part == Part::Large && body.owner == *owner);
        let receiving: usize = receiving.map(|body| body.bytes.len()).sum();
        receiving + self.complete.get(owner).copied().unwrap_or_default()
    }

    /// The largest body of who gives way to `owner`.
    fn gives_way(&self, owner: &O, part: Part, bytes: usize) -> Option<u64> {
        let mut totals: HashMap<&O, usize> = match part {
            Part::Large => self.complete.iter().map(|(of, size)| (of, *size)).collect(),
            Part::Small => HashMap::new(),
        };
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

    fn remove(&mut self, id: u64) -> Option<Receiving<O>> {
        let removed = self.receiving.remove(&id)?;
        self.left[removed.part as usize] += removed.bytes.len();
        Some(removed)
    }

    /// Counts a body that is complete.
    fn keep(&mut self, owner: &O, part: Part, bytes: usize) {
        if part == Part::Large {
            *self.complete.entry(owner.clone()).or_default() += bytes;
        }
    }

    /// Gives back the memory of a complete body.
    fn release(&mut self, owner: &O, part: Part, bytes: usize) {
        self.left[part as usize] += bytes;
        if part == Part::Large
            && let Some(kept) = self.complete.get_mut(owner)
        {
            *kept -= bytes;
            if *kept == 0 {
                self.complete.remove(owner);
            }
        }
    }
}

impl<O: BodyOwner> PartialBody<O> {
    /// How many bytes have been received.
    pub fn received(&self) -> usize {
        let state = self.budget.lock();
        state
            .receiving
            .get(&self.id)
            .map_or(0, |body| body.bytes.len())
    }

    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Exhausted> {
        self.grow(chunk.len(), |bytes| bytes.extend_from_slice(chunk))
    }

    /// Makes `bytes` the body, of which nothing has been received.
    pub fn fill(&mut self, mut bytes: Vec<u8>) -> Result<(), Exhausted> {
        bytes.shrink_to_fit();
        self.grow(bytes.len(), |empty| *empty = bytes)
    }

    /// A part of what has been received.
    pub fn copy_of(&self, range: Range<usize>) -> Result<Vec<u8>, Exhausted> {
        let state = self.budget.lock();
        let body = state.receiving.get(&self.id).ok_or(Exhausted)?;
        Ok(body.bytes[range].to_vec())
    }

    fn grow(&mut self, more: usize, add: impl FnOnce(&mut Vec<u8>)) -> Result<(), Exhausted> {
        let mut state = self.budget.lock();
        let body = state.receiving.get(&self.id);
        let body = body.ok_or(Exhausted)?;
        let (owner, before, len) = (body.owner.clone(), body.part, body.bytes.len());
        let part = if len + more > MAX_SMALL_BYTES {
            Part::Large
        } else {
            Part::Small
        };
        let moved = if part == before { 0 } else { len };
        if !state.reserve(&owner, part, moved + more) {
            return Err(Exhausted);
        }
        state.left[before as usize] += moved;
        if let Some(body) = state.receiving.get_mut(&self.id) {
            body.part = part;
            add(&mut body.bytes);
        }
        Ok(())
    }

    /// The body, which is complete.
    pub fn finish(self) -> Result<BufferedBody<O>, Exhausted> {
        let mut state = self.budget.lock();
        let received = state.receiving.remove(&self.id).ok_or(Exhausted)?;
        let Receiving { owner, part, bytes } = received;
        let size = bytes.len();
        state.keep(&owner, part, size);
        drop(state);
        let memory = BodyMemory {
            budget: self.budget.clone(),
            owner,
            part,
            size,
        };
        Ok(BufferedBody { memory, bytes })
    }
}

impl<O: BodyOwner> Drop for PartialBody<O> {
    fn drop(&mut self) {
        self.budget.lock().remove(self.id);
    }
}

impl<O: BodyOwner> BufferedBody<O> {
    /// The bytes, which count as memory of the budget until `self` is dropped.
    pub fn take(&mut self) -> Vec<u8> {
        mem::take(&mut self.bytes)
    }

    /// The bytes, and their memory: for what is parsed from them.
    pub fn into_parts(self) -> (Vec<u8>, BodyMemory<O>) {
        (self.bytes, self.memory)
    }
}

impl<O: BodyOwner> BodyMemory<O> {
    /// Moves the memory to the part for large bodies: it is kept for longer, while the part for small ones
    /// is used by others.
    pub fn keep(&mut self) -> Result<(), Exhausted> {
        if self.part == Part::Large {
            return Ok(());
        }
        let mut state = self.budget.lock();
        if !state.reserve(&self.owner, Part::Large, self.size) {
            return Err(Exhausted);
        }
        state.keep(&self.owner, Part::Large, self.size);
        state.release(&self.owner, Part::Small, self.size);
        self.part = Part::Large;
        Ok(())
    }
}

impl<O: BodyOwner> Drop for BodyMemory<O> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.release(&self.owner, self.part, self.size);
    }
}

impl<O: BodyOwner> Clone for BodyBudget<O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<O: BodyOwner> fmt::Debug for BodyBudget<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyBudget").finish_non_exhaustive()
    }
}

impl<O: BodyOwner> fmt::Debug for BufferedBody<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedBody").finish_non_exhaustive()
    }
}

impl<O: BodyOwner> fmt::Debug for BodyMemory<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyMemory").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{BodyBudget, BodyOwner, BufferedBody, Exhausted, PartialBody};

    const KIB: usize = 1024;

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    enum Owner {
        Network(u8),
        Server(&'static str),
        User(u8),
    }

    impl BodyOwner for Owner {
        fn is_known(&self) -> bool {
            !matches!(self, Self::Network(_))
        }
    }

    fn network(last: u8) -> Owner {
        Owner::Network(last)
    }

    /// A body of which so many KiB have been received.
    fn receive(budget: &BodyBudget<Owner>, owner: Owner, kib: usize) -> Option<PartialBody<Owner>> {
        let mut body = budget.begin(owner);
        body.push(&vec![0; kib * KIB]).ok()?;
        Some(body)
    }

    fn finish(body: PartialBody<Owner>) -> Option<BufferedBody<Owner>> {
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
        let user = |n| receive(&budget, Owner::User(n), 90);
        let users: Vec<_> = (0..8).map(|n| user(n).unwrap()).collect();
        assert!(finish(unknown).is_none());
        assert!(receive(&budget, network(1), 80).is_none());
        assert!(users.into_iter().all(|body| finish(body).is_some()));
    }

    #[test]
    fn a_known_sender_cannot_keep_unknown_ones_out() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let server = Owner::Server("b.example");
        let small: Vec<_> = (0..32)
            .map_while(|_| receive(&budget, server.clone(), 8))
            .collect();
        assert_eq!(small.len(), 32, "all of the part for small bodies");
        let login = receive(&budget, network(1), 1).unwrap();
        assert!(finish(login).is_some());
        let kept = small.into_iter().filter_map(finish).count();
        assert_eq!(kept, 31);
        let user = receive(&budget, Owner::User(1), 700).unwrap();
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
    fn complete_bodies_count_as_memory_of_their_sender() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let _complete = finish(receive(&budget, network(1), 300).unwrap()).unwrap();
        let mut body = receive(&budget, network(1), 70).unwrap();
        let other = receive(&budget, network(2), 260).unwrap();
        assert_eq!(body.push(&[0; 150 * KIB]), Err(Exhausted));
        assert!(finish(other).is_some());
    }

    #[test]
    fn all_memory_is_given_back() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let before = budget.lock().left;
        for kib in [0, 1, 64, 65, 768, 2000] {
            drop(receive(&budget, network(1), kib));
            drop(receive(&budget, network(1), kib).and_then(finish));
            let mut grows = budget.begin(network(1));
            while grows.received() < kib * KIB && grows.push(&[0; 10 * KIB]).is_ok() {}
            drop(grows);
        }
        assert_eq!(budget.lock().left, before);
        assert!(budget.lock().receiving.is_empty());
    }

    #[test]
    fn one_large_body_has_room_in_the_smallest_budget() {
        let budget = BodyBudget::new(64 * KIB, 1024 * KIB);
        let mut body = budget.begin(Owner::User(1));
        body.push(&vec![0; 1024 * KIB]).unwrap();
        assert_eq!(body.finish().unwrap().take().len(), 1024 * KIB);
    }

    #[test]
    fn an_owner_whose_bodies_are_kept_cannot_have_all_memory() {
        let budget = BodyBudget::with_max_per_owner(1024 * KIB, 0);
        let server = |name| Owner::Server(name);
        let kept = finish(receive(&budget, server("a"), 500).unwrap()).unwrap();
        assert!(receive(&budget, server("a"), 100).is_none());
        assert!(receive(&budget, server("b"), 200).is_some());
        drop(kept);
        assert!(receive(&budget, server("a"), 100).is_some());
        assert!(budget.lock().complete.is_empty());
    }

    #[test]
    fn a_small_body_that_is_kept_counts_as_a_large_one() {
        let budget = BodyBudget::new(1024 * KIB, 0);
        let small = || finish(receive(&budget, network(1), 64).unwrap()).unwrap();
        let (_, mut first) = small().into_parts();
        let (left_small, left_large) = (192 * KIB, 768 * KIB);
        assert_eq!(budget.lock().left, [left_small, left_large]);
        first.keep().unwrap();
        assert_eq!(
            budget.lock().left,
            [left_small + 64 * KIB, left_large - 64 * KIB]
        );
        let kept: Vec<_> = (0..11)
            .map(|_| {
                let (_, mut memory) = small().into_parts();
                memory.keep().unwrap();
                memory
            })
            .collect();
        let (_, mut last) = small().into_parts();
        assert_eq!(last.keep(), Err(Exhausted));
        drop((first, kept, last));
        assert_eq!(budget.lock().left, [256 * KIB, 768 * KIB]);
    }
}
