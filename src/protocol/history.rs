//! Histories of rooms for tests, made event by event, with forks and merges.
//!
//! Every event is built, signed and checked as on receipt, and has the state before and after it.
//! States at merges come from a resolution over whole maps and whole auth chains, by ruma, so tests
//! compare states in the store with those of a history.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId,
    UInt,
    events::StateEventType,
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules},
    state_res::{StateMap, resolve, utils::event_id_set::EventIdSet},
};
use serde_json::{Value, json};

mod random;
mod version_1;

use super::{
    Pdu, ServerKey,
    authorize::{AuthError, auth_types, check_by_auth_events, check_by_state},
    build::{
        BuiltEvent, EventDraft, EventPlace, build, canonical_content, room_id_from_create_event,
    },
    reference::EventReference,
    versions,
};

/// The index of an event in its history.
pub(crate) type Index = usize;

/// A state, by the indices of its events.
pub(crate) type State = StateMap<Index>;

/// One event of a history.
#[derive(Clone)]
pub(crate) struct HistoryEvent {
    /// The event, marked if it is rejected.
    pub pdu: Arc<Pdu>,
    /// As another server would send it.
    pub json: Vec<u8>,
    pub prev: Vec<Index>,
    pub auth: Vec<Index>,
    /// The state before it.
    pub state_before: Arc<State>,
    /// The state after it; the same as before if it is rejected or no state event.
    pub state_after: Arc<State>,
}

/// The history of a room. The order of the events is topological.
pub(crate) struct History {
    pub version: RoomVersionId,
    pub rules: &'static RoomVersionRules,
    pub events: Vec<HistoryEvent>,
    by_id: HashMap<OwnedEventId, Index>,
    keys: HashMap<String, ServerKey>,
}

/// An event to be made.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub sender: &'static str,
    pub event_type: &'static str,
    pub state_key: Option<String>,
    pub content: Value,
}

impl Action {
    /// A state event.
    pub fn state(
        sender: &'static str,
        event_type: &'static str,
        key: &str,
        content: Value,
    ) -> Self {
        Self {
            sender,
            event_type,
            state_key: Some(key.to_owned()),
            content,
        }
    }

    /// An event that is no state event.
    pub fn message(sender: &'static str, event_type: &'static str, content: Value) -> Self {
        Self {
            sender,
            event_type,
            state_key: None,
            content,
        }
    }

    /// A change of membership.
    pub fn member(sender: &'static str, target: &str, membership: &str) -> Self {
        Self::state(
            sender,
            "m.room.member",
            target,
            json!({ "membership": membership }),
        )
    }

    /// A user joins.
    pub fn join(user: &'static str) -> Self {
        Self::member(user, user, "join")
    }
}

impl History {
    /// A room with nothing but its create event.
    pub fn new(version: &RoomVersionId, creator: &'static str) -> Self {
        let mut history = Self {
            version: version.clone(),
            rules: versions::rules(version).expect("a supported version"),
            events: Vec::new(),
            by_id: HashMap::new(),
            keys: HashMap::new(),
        };
        let content = json!({ "creator": creator, "room_version": version });
        history.append(&[], Action::state(creator, "m.room.create", "", content));
        history
    }

    /// A public room that its creator has joined, with power levels for the creator.
    pub fn public(version: &RoomVersionId, creator: &'static str) -> Self {
        let mut history = Self::new(version, creator);
        history.then(Action::join(creator));
        let users = if room_id_from_create_event(history.rules) {
            json!({})
        } else {
            json!({ creator: 100 })
        };
        let levels = json!({ "users": users });
        history.then(Action::state(creator, "m.room.power_levels", "", levels));
        let rule = json!({ "join_rule": "public" });
        history.then(Action::state(creator, "m.room.join_rules", "", rule));
        history
    }

    /// The content of power levels. Since room version 12 a creator gets no level.
    pub fn levels(&self, users: &[(&str, i32)], mut content: Value) -> Value {
        let creator = self.create_event().sender();
        let unbound = self.rules.authorization.explicitly_privilege_room_creators;
        let named = users
            .iter()
            .filter(|(user, _)| !unbound || creator != *user);
        content["users"] = named
            .map(|(user, level)| (user.to_string(), json!(level)))
            .collect();
        content
    }

    /// The create event of the room.
    pub fn create_event(&self) -> &Pdu {
        &self.events[0].pdu
    }

    /// The same history with `pdus` in the place of events, where they are marked in another way.
    pub fn with_pdus(&self, pdus: impl IntoIterator<Item = (Index, Arc<Pdu>)>) -> Self {
        let mut history = Self {
            version: self.version.clone(),
            rules: self.rules,
            events: self.events.clone(),
            by_id: self.by_id.clone(),
            keys: HashMap::new(),
        };
        for (index, pdu) in pdus {
            history.events[index].pdu = pdu;
        }
        history
    }

    /// The index of an event.
    pub fn index(&self, id: &EventId) -> Option<Index> {
        self.by_id.get(id).copied()
    }

    /// The key in the state of an event, if it is a state event.
    pub fn state_pair(&self, index: Index) -> Option<(StateEventType, String)> {
        let (kind, state_key) = self.events[index].pdu.state_pair()?;
        Some((kind, state_key.to_owned()))
    }

    /// An event by its id.
    pub fn pdu(&self, id: &EventId) -> Option<Arc<Pdu>> {
        Some(self.events[self.index(id)?].pdu.clone())
    }

    /// The key with which a server signs in all histories.
    pub fn key(server: &str) -> ServerKey {
        let mut seed = [7; 32];
        for (byte, of) in seed.iter_mut().zip(server.bytes()) {
            *byte = of;
        }
        ServerKey::from_seed(seed, "test").expect("not zero")
    }

    /// Appends to the last event. It must be allowed.
    pub fn then(&mut self, action: Action) -> Index {
        self.after(&[self.events.len() - 1], action)
    }

    /// Appends to these events. It must be allowed.
    pub fn after(&mut self, prev: &[Index], action: Action) -> Index {
        let index = self.append(prev, action.clone());
        assert!(
            !self.events[index].pdu.rejected(),
            "{action:?} is not allowed"
        );
        index
    }

    /// Appends an event, rejected if the rules say so.
    pub fn append(&mut self, prev: &[Index], action: Action) -> Index {
        let state = self.state_after_all(prev);
        self.append_citing(prev, state.clone(), &state, action)
    }

    /// Appends an event whose auth events are taken from another state than the one before it.
    pub fn append_citing(
        &mut self,
        prev: &[Index],
        state: Arc<State>,
        cited: &State,
        action: Action,
    ) -> Index {
        let built = self.build(prev, cited, action);
        let allowed = self.allows(&built.pdu, &state);
        self.push(prev, state, built, allowed.is_ok())
    }

    /// What the checks on receipt say about an event, given the state before it.
    pub fn allows(&self, pdu: &Pdu, state: &State) -> Result<(), AuthError<()>> {
        check_by_auth_events(pdu, self.rules, |id| Ok(self.pdu(id)))?;
        self.is_allowed_by(pdu, state)
    }

    fn is_allowed_by(&self, pdu: &Pdu, state: &State) -> Result<(), AuthError<()>> {
        check_by_state(pdu, self.rules, |kind, key| {
            let index = state.get(&(kind.clone(), key.to_owned()));
            Ok(index.map(|index| self.events[*index].pdu.clone()))
        })
        .map(drop)
    }

    /// Builds an event without appending it.
    pub fn build(&mut self, prev: &[Index], cited: &State, action: Action) -> BuiltEvent {
        self.build_missing(prev, &[], cited, action)
    }

    /// Builds an event of which some prev_events are not in the history.
    pub fn build_missing(
        &mut self,
        prev: &[Index],
        missing: &[OwnedEventId],
        cited: &State,
        action: Action,
    ) -> BuiltEvent {
        let depths = prev.iter().map(|index| self.events[*index].pdu.depth() + 1);
        let depth = depths.max().unwrap_or(1);
        self.build_at(depth, prev, missing, cited, action)
    }

    /// The same with another depth than is right.
    pub fn build_at(
        &mut self,
        depth: u64,
        prev: &[Index],
        missing: &[OwnedEventId],
        cited: &State,
        action: Action,
    ) -> BuiltEvent {
        let draft = self.draft(action);
        let auth_events = auth_types(&draft, self.rules)
            .expect("well-formed")
            .iter()
            .filter_map(|key| cited.get(key))
            .map(|index| self.reference(*index))
            .collect();
        let place = EventPlace {
            depth,
            prev_events: prev
                .iter()
                .map(|index| self.reference(*index))
                .chain(missing.iter().cloned().map(EventReference::from))
                .collect(),
            auth_events,
            origin_server_ts: self.timestamp(),
        };
        let server = draft.sender.server_name().to_string();
        let key = self
            .keys
            .entry(server)
            .or_insert_with_key(|server| Self::key(server));
        build(&draft, &place, self.rules, key).expect("within the limits")
    }

    fn reference(&self, index: Index) -> EventReference {
        let HistoryEvent { pdu, json, .. } = &self.events[index];
        EventReference::new(pdu.event_id().to_owned(), json, self.rules).expect("an event")
    }

    fn draft(&self, action: Action) -> EventDraft {
        let sender = OwnedUserId::try_from(action.sender).expect("a user id");
        let room_id = match self.events.first() {
            Some(create) => Some(create.pdu.room_id().to_owned()),
            None if room_id_from_create_event(self.rules) => None,
            None => Some(
                OwnedRoomId::try_from(format!("!room:{}", sender.server_name())).expect("an id"),
            ),
        };
        EventDraft {
            room_id,
            sender,
            event_type: action.event_type.into(),
            state_key: action.state_key,
            content: canonical_content(&action.content).expect("canonical"),
            text: None,
            redacts: None,
        }
    }

    /// Coarse, so that there are ties, and not monotonic.
    fn timestamp(&self) -> MilliSecondsSinceUnixEpoch {
        let count = self.events.len() as u32;
        MilliSecondsSinceUnixEpoch(UInt::from(1_000_000 + (count / 4) * 4 - (count % 3)))
    }

    /// Appends a built event, before which the state is `state`; rejected if it is not `ok`.
    pub fn push(
        &mut self,
        prev: &[Index],
        state: Arc<State>,
        built: BuiltEvent,
        ok: bool,
    ) -> Index {
        let index = self.events.len();
        let mut pdu = built.pdu;
        let mut state_after = state.clone();
        if !ok {
            pdu.reject();
        } else if let Some((kind, key)) = pdu.state_pair() {
            Arc::make_mut(&mut state_after).insert((kind, key.to_owned()), index);
        }
        let auth = pdu
            .auth_events()
            .iter()
            .filter_map(|id| self.index(id))
            .collect();
        let other = self.by_id.insert(pdu.event_id().to_owned(), index);
        assert_eq!(other, None, "the same event twice");
        self.events.push(HistoryEvent {
            pdu: Arc::new(pdu),
            json: built.json,
            prev: prev.to_vec(),
            auth,
            state_before: state,
            state_after,
        });
        index
    }

    /// The state after several events, resolved by ruma.
    pub fn state_after_all(&self, events: &[Index]) -> Arc<State> {
        match events {
            [] => Arc::default(),
            [event] => self.events[*event].state_after.clone(),
            _ => {
                let states: Vec<&State> = events
                    .iter()
                    .map(|event| &*self.events[*event].state_after)
                    .collect();
                Arc::new(self.resolve_fully(&states))
            }
        }
    }

    /// Resolves whole states with whole auth chains by ruma; in room version 1 by [`version_1`].
    pub fn resolve_fully(&self, states: &[&State]) -> State {
        match self.rules.state_res.v2_rules() {
            Some(rules) => self.resolve_by(rules, states),
            None => version_1::resolve(self, states),
        }
    }

    /// The same by the rules of any room version since 2.
    pub fn resolve_by(&self, state_res: &StateResolutionV2Rules, states: &[&State]) -> State {
        let ids = |index: &Index| self.events[*index].pdu.event_id().to_owned();
        let maps: Vec<StateMap<OwnedEventId>> = states
            .iter()
            .map(|state| {
                state
                    .iter()
                    .map(|(key, index)| (key.clone(), ids(index)))
                    .collect()
            })
            .collect();
        let chains = states
            .iter()
            .map(|state| {
                self.auth_chain(state.values().copied())
                    .iter()
                    .map(ids)
                    .collect()
            })
            .collect();
        let resolved = resolve(
            &self.rules.authorization,
            state_res,
            &maps,
            chains,
            |id| self.pdu(id),
            |conflicted| {
                let conflicted: Vec<Index> = conflicted
                    .values()
                    .flatten()
                    .filter_map(|id| self.index(id))
                    .collect();
                Some(
                    self.subgraph(&conflicted)
                        .iter()
                        .map(ids)
                        .collect::<EventIdSet<_>>(),
                )
            },
        )
        .expect("resolves");
        resolved
            .into_iter()
            .map(|(key, id)| (key, self.index(&id).expect("an event of the history")))
            .collect()
    }

    /// The events with their auth chains.
    pub fn auth_chain(&self, start: impl IntoIterator<Item = Index>) -> HashSet<Index> {
        let mut chain = HashSet::new();
        let mut open: Vec<Index> = start.into_iter().collect();
        while let Some(event) = open.pop() {
            if chain.insert(event) {
                open.extend(&self.events[event].auth);
            }
        }
        chain
    }

    /// The conflicted state subgraph of these events.
    fn subgraph(&self, conflicted: &[Index]) -> HashSet<Index> {
        let mut above: HashSet<Index> = conflicted.iter().copied().collect();
        for (index, event) in self.events.iter().enumerate() {
            if event
                .auth
                .iter()
                .any(|auth_event| above.contains(auth_event))
            {
                above.insert(index);
            }
        }
        let below = self.auth_chain(conflicted.iter().copied());
        above.intersection(&below).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Action, History};
    use crate::protocol::versions;

    const ALICE: &str = "@alice:a.example";

    #[test]
    fn a_ban_wins_over_a_topic_on_another_branch() {
        for version in versions::SUPPORTED {
            let mut room = History::public(&version, ALICE);
            let bob = room.then(Action::join("@bob:b.example"));
            let levels = room.levels(&[(ALICE, 100)], json!({ "state_default": 0 }));
            let base = room.after(
                &[bob],
                Action::state(ALICE, "m.room.power_levels", "", levels),
            );
            let topic = json!({ "topic": "mine" });
            let topic = room.after(
                &[base],
                Action::state("@bob:b.example", "m.room.topic", "", topic),
            );
            let ban = room.after(&[base], Action::member(ALICE, "@bob:b.example", "ban"));
            let merge = Action::message(ALICE, "m.room.message", json!({}));
            let merge = room.after(&[topic, ban], merge);
            let state = &room.events[merge].state_before;
            // In room version 1 nothing conflicts with it.
            let is_kept = room.rules.state_res.v2_rules().is_none();
            assert_eq!(
                state.get(&("m.room.topic".into(), String::new())),
                is_kept.then_some(&topic),
                "{version}"
            );
            let member = ("m.room.member".into(), "@bob:b.example".to_owned());
            assert_eq!(state.get(&member), Some(&ban));
            assert_eq!(room.events[merge].prev, [topic, ban]);
            assert_eq!(room.version, version);
        }
    }
}
