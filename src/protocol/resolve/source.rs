//! What state resolution reads of a room.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use ruma::{EventId, events::StateEventType};

use crate::protocol::pdu::Pdu;

/// A (type, state key).
pub type StateKey = (StateEventType, String);

/// Entries of a state, in no order.
pub type Entries<N> = Vec<(StateKey, N)>;

/// The room as state resolution reads it. Reads repeat, so the implementation caches parsed events.
pub trait StateSource {
    /// An event's number, larger than those of its auth events.
    type Num: Copy + Debug + Eq + Hash + Ord;
    type Error;

    /// Appends the auth events of an event to `auth_events`.
    fn auth_events(
        &self,
        event: Self::Num,
        auth_events: &mut Vec<Self::Num>,
    ) -> Result<(), Self::Error>;

    /// The event, marked if it is rejected.
    fn pdu(&self, event: Self::Num) -> Result<Arc<Pdu>, Self::Error>;

    /// The number of an event, if it is a stored event of the room.
    fn number(&self, event: &EventId) -> Result<Option<Self::Num>, Self::Error>;

    /// The event that all states have at a key. For a conflicted key, that of any state.
    fn common(&self, kind: &StateEventType, key: &str) -> Result<Option<Self::Num>, Self::Error>;

    /// Visits all unconflicted events in any order. Called only if the auth difference has to be
    /// computed.
    fn each_common(&self, visit: &mut dyn FnMut(Self::Num)) -> Result<(), Self::Error>;
}

/// A key at which the states differ.
#[derive(Clone, Debug)]
pub struct Conflict<N> {
    pub key: StateKey,
    /// The event of each state at the key. The order of the states is the same for all keys.
    pub entries: Vec<Option<N>>,
}
