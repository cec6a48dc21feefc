//! The ids and the auth graph of the events of a large response, in as little memory as possible.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{EventId, OwnedServerName, ServerName};

/// Memory is taken for so many ids at once.
const IDS_PER_STEP: usize = 1024;
/// So many references need as much memory as an id.
const REFERENCES_PER_ID: usize = 8;
/// No number.
const NONE: u32 = u32::MAX;

/// How many ids all responses may hold at once, and of those the responses of one server. Clones are the same.
#[derive(Clone, Debug)]
pub struct IdBudget {
    held: Arc<Mutex<Held>>,
    max: usize,
    /// Whose responses are limited to so many ids.
    server: Option<(OwnedServerName, usize)>,
}

#[derive(Debug, Default)]
struct Held {
    ids: usize,
    by_server: HashMap<OwnedServerName, usize>,
}

/// Why there is no memory for another event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventMemoryError {
    #[error("the room has too many events: the memory of this server allows {0}")]
    RoomTooLarge(usize),
    #[error("other large responses are being read; try again later")]
    Busy,
}

/// The part of the budget that one response has.
#[derive(Debug)]
struct Share {
    budget: IdBudget,
    ids: usize,
}

impl IdBudget {
    pub fn new(max: usize) -> Self {
        Self {
            held: Arc::default(),
            max,
            server: None,
        }
    }

    /// The same for responses of `server`, which together hold at most three quarters.
    pub fn of_server(&self, server: &ServerName) -> Self {
        Self {
            server: Some((server.to_owned(), self.max / 4 * 3)),
            ..self.clone()
        }
    }

    /// How many ids one response may have.
    fn max_per_response(&self) -> usize {
        self.server.as_ref().map_or(self.max, |(_, max)| *max)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many ids, or as many as are left.
    fn take(&self, ids: usize) -> usize {
        let mut held = self.held();
        let mut taken = ids.min(self.max - held.ids);
        if let Some((server, max)) = &self.server {
            let of_server = held.by_server.entry(server.clone()).or_default();
            taken = taken.min(max.saturating_sub(*of_server));
            *of_server += taken;
        }
        held.ids += taken;
        taken
    }

    fn give_back(&self, ids: usize) {
        let mut held = self.held();
        held.ids -= ids;
        if let Some((server, _)) = &self.server
            && let Some(of_server) = held.by_server.get_mut(server)
        {
            *of_server -= ids;
            if *of_server == 0 {
                held.by_server.remove(server);
            }
        }
    }
}

impl Share {
    fn grow_to(&mut self, ids: usize) -> Result<(), EventMemoryError> {
        let max = self.budget.max_per_response();
        if ids > max {
            return Err(EventMemoryError::RoomTooLarge(max));
        }
        while ids > self.ids {
            let step = self.budget.take(IDS_PER_STEP);
            // Small rooms can always be joined: their number is limited by the rate of requests.
            if step == 0 {
                let is_small = ids <= IDS_PER_STEP;
                return is_small.then_some(()).ok_or(EventMemoryError::Busy);
            }
            self.ids += step;
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.ids);
    }
}

/// Numbers event ids.
#[derive(Debug)]
pub struct EventIds {
    /// A hash of 128 bits with keys that nobody else knows stands for an id.
    hashers: [RandomState; 2],
    numbers: HashMap<[u64; 2], u32>,
    share: Share,
}

impl EventIds {
    pub fn new(budget: &IdBudget) -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            numbers: HashMap::new(),
            share: Share {
                budget: budget.clone(),
                ids: 0,
            },
        }
    }

    /// Stands for `value` as long as this lives.
    pub fn hash(&self, value: impl Hash) -> [u64; 2] {
        [0, 1].map(|index: usize| self.hashers[index].hash_one(&value))
    }

    /// The number of ids, and the next number.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn number(&self, id: &EventId) -> Option<u32> {
        self.numbers.get(&self.hash(id)).copied()
    }

    /// The number of `id`, which is added if it is not there.
    pub fn add(&mut self, id: &EventId) -> Result<u32, EventMemoryError> {
        let hash = self.hash(id);
        if let Some(number) = self.numbers.get(&hash) {
            return Ok(*number);
        }
        self.share.grow_to(self.len() + 1)?;
        let number = self.len() as u32;
        self.numbers.insert(hash, number);
        Ok(number)
    }
}

/// Events and what they refer to.
#[derive(Debug)]
pub struct EventGraph {
    ids: EventIds,
    /// By the number of its id, the index of an event.
    index_of: Vec<u32>,
    /// By the number of its id, whether an event is marked.
    marked: Vec<bool>,
    /// The numbers of the ids to which the events refer, and where those of each event end.
    references: Vec<u32>,
    ends: Vec<u32>,
    /// Whether it is a create event, by index.
    is_create: Vec<bool>,
}

impl EventGraph {
    pub fn new(budget: &IdBudget) -> Self {
        Self {
            ids: EventIds::new(budget),
            index_of: Vec::new(),
            marked: Vec::new(),
            references: Vec::new(),
            ends: Vec::new(),
            is_create: Vec::new(),
        }
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Adds an event, unless it is there; whether it was added.
    pub fn add<'a>(
        &mut self,
        id: &EventId,
        references: impl IntoIterator<Item = &'a EventId>,
        is_create: bool,
    ) -> Result<bool, EventMemoryError> {
        let number = self.ids.add(id)?;
        let index = self.len() as u32;
        for reference in references {
            let reference = self.ids.add(reference)?;
            self.references.push(reference);
        }
        self.ids
            .share
            .grow_to(self.ids.len() + self.references.len() / REFERENCES_PER_ID)?;
        self.index_of.resize(self.ids.len(), NONE);
        self.marked.resize(self.ids.len(), false);
        if self.index_of[number as usize] != NONE {
            self.references
                .truncate(self.ends.last().map_or(0, |end| *end as usize));
            return Ok(false);
        }
        self.index_of[number as usize] = index;
        self.ends.push(self.references.len() as u32);
        self.is_create.push(is_create);
        Ok(true)
    }

    pub fn contains(&self, id: &EventId) -> bool {
        let number = self.ids.number(id);
        number.is_some_and(|number| self.index_of[number as usize] != NONE)
    }

    /// Marks the event, which is there.
    pub fn mark(&mut self, id: &EventId) {
        if let Some(number) = self.ids.number(id) {
            self.marked[number as usize] = true;
        }
    }

    /// Whether the event refers to others that are not there.
    pub fn is_incomplete(&self, index: usize) -> bool {
        self.references_of(index).any(|reference| reference == NONE)
    }

    /// The indices of the events to which an event refers; [`NONE`] if it is not there.
    fn references_of(&self, index: usize) -> impl Iterator<Item = u32> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let numbers = &self.references[start as usize..self.ends[index] as usize];
        numbers.iter().map(|number| self.index_of[*number as usize])
    }

    /// Whether an event is among `roots` or in their auth chains, by its index.
    pub fn reachable_from<'a>(&self, roots: impl IntoIterator<Item = &'a EventId>) -> Vec<bool> {
        let numbers = roots.into_iter().filter_map(|id| self.ids.number(id));
        let mut open: Vec<u32> = numbers
            .map(|number| self.index_of[number as usize])
            .collect();
        let mut reachable = vec![false; self.len()];
        while let Some(index) = open.pop() {
            if index != NONE && !std::mem::replace(&mut reachable[index as usize], true) {
                open.extend(self.references_of(index as usize));
            }
        }
        reachable
    }

    /// The indices of the events in topological order: each comes after those to which it refers. The create
    /// event comes first: it authorizes all events, but since room version 12 none refers to it. Cycles, which
    /// are impossible with honest event ids, are left out.
    pub fn topological_order(&self) -> Vec<u32> {
        let references = |index| self.references_of(index).filter(|index| *index != NONE);
        let mut unresolved = vec![0_u32; self.len()];
        // The referrers of event `n` are at `starts[n]..starts[n + 1]`, in the end.
        let mut starts = vec![0_u32; self.len() + 2];
        for (index, unresolved) in unresolved.iter_mut().enumerate() {
            for reference in references(index) {
                *unresolved += 1;
                starts[reference as usize + 2] += 1;
            }
        }
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let mut referrers = vec![0_u32; starts.last().map_or(0, |end| *end as usize)];
        for index in 0..self.len() {
            for reference in references(index) {
                let next = &mut starts[reference as usize + 1];
                referrers[*next as usize] = index as u32;
                *next += 1;
            }
        }
        let is_ready = |index: &u32| unresolved[*index as usize] == 0;
        // The last is taken first.
        let mut ready: Vec<u32> = (0..self.len() as u32).rev().filter(is_ready).collect();
        ready.sort_by_key(|index| self.is_create[*index as usize]);
        let mut order = Vec::with_capacity(self.len());
        while let Some(index) = ready.pop() {
            order.push(index);
            let range = starts[index as usize] as usize..starts[index as usize + 1] as usize;
            for referrer in &referrers[range] {
                let unresolved = &mut unresolved[*referrer as usize];
                *unresolved -= 1;
                if *unresolved == 0 {
                    ready.push(*referrer);
                }
            }
        }
        order
    }

    /// Only the ids, and whether each event is marked, by index.
    pub fn into_ids_and_marks(self) -> (EventIds, Vec<bool>) {
        let mut by_index = vec![false; self.len()];
        for (index, marked) in self.index_of.iter().zip(&self.marked) {
            if let Some(by_index) = by_index.get_mut(*index as usize) {
                *by_index = *marked;
            }
        }
        (self.ids, by_index)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{EventId, OwnedEventId, server_name};

    use super::{EventGraph, EventMemoryError, IDS_PER_STEP, IdBudget};

    fn id(number: usize) -> OwnedEventId {
        EventId::parse(format!("$event{number}")).unwrap()
    }

    fn graph(budget: &IdBudget, events: &[(usize, &[usize])]) -> EventGraph {
        let mut graph = EventGraph::new(budget);
        for (event, references) in events {
            let references: Vec<_> = references.iter().map(|number| id(*number)).collect();
            let references = references.iter().map(|id| &**id);
            graph.add(&id(*event), references, *event == 0).unwrap();
        }
        graph
    }

    #[test]
    fn events_come_after_those_to_which_they_refer_and_the_create_event_comes_first() {
        let budget = IdBudget::new(IDS_PER_STEP);
        let events: [(usize, &[usize]); 6] = [
            (4, &[3, 2]),
            (1, &[]),
            (3, &[1, 9]),
            (2, &[1]),
            (0, &[]),
            (4, &[]),
        ];
        let graph = graph(&budget, &events);
        assert_eq!(graph.len(), 5, "a duplicate is left out");
        let order = graph.topological_order();
        let order: Vec<_> = order
            .into_iter()
            .map(|index| events[index as usize].0)
            .collect();
        assert_eq!(order[..2], [0, 1]);
        assert_eq!(order[4], 4);
        assert!((0..5).all(|index| graph.is_incomplete(index) == (index == 2)));
        assert!(graph.contains(&id(4)) && !graph.contains(&id(9)));
        let reachable = graph.reachable_from([&*id(3), &*id(8)]);
        let reachable = events.iter().zip(reachable);
        let reachable =
            reachable.filter_map(|(event, is_reachable)| is_reachable.then_some(event.0));
        assert_eq!(reachable.collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_cycle_is_left_out() {
        let budget = IdBudget::new(IDS_PER_STEP);
        let graph = graph(&budget, &[(0, &[]), (1, &[2]), (2, &[1]), (3, &[0])]);
        assert_eq!(graph.topological_order(), [0, 3]);
    }

    #[test]
    fn a_room_above_the_budget_is_refused_and_a_small_one_never() {
        let budget = IdBudget::new(2 * IDS_PER_STEP);
        let fill = |graph: &mut EventGraph| {
            let numbers = (0..).take_while(|number| graph.add(&id(*number), [], false).is_ok());
            numbers.count()
        };
        let mut large = EventGraph::new(&budget);
        assert_eq!(fill(&mut large), 2 * IDS_PER_STEP);
        let refused = large.add(&id(IDS_PER_STEP * 3), [], false);
        assert_eq!(
            refused,
            Err(EventMemoryError::RoomTooLarge(2 * IDS_PER_STEP))
        );
        let mut small = EventGraph::new(&budget);
        assert_eq!(fill(&mut small), IDS_PER_STEP);
        assert_eq!(
            small.add(&id(IDS_PER_STEP), [], false),
            Err(EventMemoryError::Busy)
        );
        drop(large);
        assert_eq!(small.add(&id(IDS_PER_STEP), [], false), Ok(true));
    }

    #[test]
    fn the_responses_of_one_server_leave_others_a_quarter_of_the_budget() {
        let budget = IdBudget::new(4 * IDS_PER_STEP);
        let [one, other] = [server_name!("a.example"), server_name!("b.example")];
        let [one, other] = [one, other].map(|server| budget.of_server(server));
        let fill = |graph: &mut EventGraph| {
            let numbers = (0..).take_while(|number| graph.add(&id(*number), [], false).is_ok());
            numbers.count()
        };
        let mut first = EventGraph::new(&one);
        assert_eq!(fill(&mut first), 3 * IDS_PER_STEP);
        let refused = first.add(&id(4 * IDS_PER_STEP), [], false);
        let too_large = EventMemoryError::RoomTooLarge(3 * IDS_PER_STEP);
        assert_eq!(refused, Err(too_large));
        let mut second = EventGraph::new(&one);
        assert_eq!(fill(&mut second), IDS_PER_STEP, "as any small room");
        let refused = second.add(&id(2 * IDS_PER_STEP), [], false);
        assert_eq!(refused, Err(EventMemoryError::Busy));
        let mut of_other = EventGraph::new(&other);
        assert_eq!(of_other.add(&id(0), [], false), Ok(true));
        assert_eq!(of_other.ids.share.ids, IDS_PER_STEP);
        drop((first, second));
        assert_eq!(fill(&mut of_other), 3 * IDS_PER_STEP);
        drop(of_other);
        assert!(budget.held().ids == 0 && budget.held().by_server.is_empty());
    }

    #[test]
    fn references_count_too() {
        let budget = IdBudget::new(IDS_PER_STEP);
        let mut graph = EventGraph::new(&budget);
        let create = id(0);
        let refused = (0..IDS_PER_STEP).find_map(|number| {
            let references = std::iter::repeat_n(&*create, 20);
            graph.add(&id(number), references, false).err()
        });
        assert_eq!(refused, Some(EventMemoryError::RoomTooLarge(IDS_PER_STEP)));
    }
}
