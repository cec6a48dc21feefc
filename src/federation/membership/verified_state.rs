//! Verification of a [`EventResponse`] before any of it is stored in the database.
//!
//! Each event passes the [checks performed on receipt of a PDU](crate::federation::inbound):
//!
//! 1. to 3. by the caller; events that fail are dropped;
//! 4. authorization by its auth events ([`VerifiedState::add`]): an event that fails is rejected, so it
//!    is no state and authorizes nothing. What this server rejected earlier stays rejected. An event
//!    with a missing auth event is dropped.
//!
//! Then the whole is checked ([`VerifiedState::check_join`]):
//!
//! - The state has one event for each (type, state key).
//! - Its create event names the room version that `make_join` named, and is the create event that is
//!   stored here, if this server was in the room before.
//! - The join event passes steps 4 and 5: authorization by its auth events and by the state.

use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    io,
    path::Path,
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId, RoomVersionId, events::StateEventType,
    room_version_rules::RoomVersionRules,
};

use super::error::Error;
use crate::{
    federation::{event_file::EventFile, event_graph::EventIds},
    protocol::{
        Pdu,
        authorize::{AuthError, check_by_auth_events, check_by_state, create_event},
        receive::Received,
    },
    rooms::{self, event, room, state::current},
    store::Reader,
};

/// The JSON of the parsed auth events that are cached has at most so many bytes.
const MAX_CACHED_BYTES: usize = 2 * 1024 * 1024;
/// No event.
const NONE: u32 = u32::MAX;

pub struct VerifiedState {
    rules: &'static RoomVersionRules,
    /// The verified events in topological order.
    events: EventFile,
    ids: EventIds,
    /// By the number of its id, the index of an event.
    index_of: Vec<u32>,
    /// By index.
    rejected: Vec<bool>,
    /// By the hash of type and state key. Rejected events are no state.
    state: HashMap<[u64; 2], u32>,
    cache: RefCell<Cache>,
}

#[derive(Default)]
struct Cache {
    pdus: HashMap<u32, Arc<Pdu>>,
    bytes: usize,
}

impl VerifiedState {
    pub fn new(
        directory: &Path,
        rules: &'static RoomVersionRules,
        ids: EventIds,
    ) -> io::Result<Self> {
        Ok(Self {
            rules,
            events: EventFile::new(directory)?,
            ids,
            index_of: Vec::new(),
            rejected: Vec::new(),
            state: HashMap::new(),
            cache: RefCell::default(),
        })
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether each event is state, by index.
    pub fn are_state(&self) -> Vec<bool> {
        let mut are_state = vec![false; self.len()];
        for index in self.state.values() {
            are_state[*index as usize] = true;
        }
        are_state
    }

    /// The event of this number.
    pub fn event(&self, index: usize) -> io::Result<Received> {
        let (id, json) = self.events.read(index)?;
        let pdu = Pdu::parse(id, &json, self.rules, self.rejected[index]);
        Ok(Received {
            pdu: pdu.map_err(io::Error::other)?,
            json,
            redacted: false,
        })
    }

    /// Adds an event that passed steps 1 to 3, after its auth events. Reads and writes files: for the
    /// pool.
    pub fn add(&mut self, r: &impl Reader, event: &Received, is_state: bool) -> Result<(), Error> {
        let pdu = &event.pdu;
        let id = pdu.event_id();
        let create = create_event(pdu, self.rules).filter(|create| create != id);
        let mut auth_events = pdu.auth_events().iter().chain(&create);
        if let Some(missing) = auth_events.find(|auth| self.index(auth).is_none()) {
            log::debug!("dropped event {id} of a join: its auth event {missing} is missing");
            return Ok(());
        }
        let index = self.len() as u32;
        let rejected = is_rejected_here(r, id)? || !self.is_authorized(pdu)?;
        if let Some((kind, key)) = pdu.state_pair().filter(|_| is_state && !rejected) {
            match self.state.entry(self.ids.hash((&kind, key))) {
                Entry::Vacant(entry) => drop(entry.insert(index)),
                Entry::Occupied(_) => {
                    let error = format!("the state has two events of type {kind} and key {key:?}");
                    return Err(Error::invalid_response(error));
                }
            }
        }
        self.events.push(id, &event.json)?;
        self.rejected.push(rejected);
        let number = self.ids.add(id)? as usize;
        if number >= self.index_of.len() {
            self.index_of.resize(self.ids.len(), NONE);
        }
        self.index_of[number] = index;
        Ok(())
    }

    fn index(&self, id: &EventId) -> Option<u32> {
        let index = self.index_of.get(self.ids.number(id)? as usize);
        index.copied().filter(|index| *index != NONE)
    }

    fn state_index(&self, kind: &StateEventType, key: &str) -> Option<u32> {
        self.state.get(&self.ids.hash((kind, key))).copied()
    }

    /// Step 4.
    fn is_authorized(&self, pdu: &Pdu) -> io::Result<bool> {
        let fetch = |id: &EventId| {
            let index = self.index(id);
            index.map(|index| self.pdu(index)).transpose()
        };
        verdict(pdu, check_by_auth_events(pdu, self.rules, fetch).map(drop))
    }

    /// Checks the whole after all events were added. Reads files: for the pool.
    ///
    /// # Errors
    /// [`Error::Peer`] if the response is invalid; [`rooms::Error::Forbidden`] if the state does not
    /// allow the join.
    pub fn check_join(
        &self,
        r: &impl Reader,
        version: &RoomVersionId,
        join: &Received,
    ) -> Result<(), Error> {
        self.check_create_event(r, version, join)?;
        let join = &join.pdu;
        if let Some(id) = self.missing_auth_event(join) {
            let error = format!("the auth event {id} of the join event is missing or invalid");
            return Err(Error::invalid_response(error));
        }
        let in_state = |kind: &StateEventType, key: &str| {
            let index = self.state_index(kind, key);
            index.map(|index| self.pdu(index)).transpose()
        };
        let is_allowed = self.is_authorized(join)?
            && verdict(join, check_by_state(join, self.rules, in_state).map(drop))?;
        if is_allowed {
            Ok(())
        } else {
            let error = "the state that the other server gave does not allow the join";
            Err(rooms::Error::forbidden(error).into())
        }
    }

    fn missing_auth_event<'a>(&self, join: &'a Pdu) -> Option<&'a OwnedEventId> {
        let mut auth_events = join.auth_events().iter();
        auth_events.find(|id| self.index(id).is_none())
    }

    fn check_create_event(
        &self,
        r: &impl Reader,
        version: &RoomVersionId,
        join: &Received,
    ) -> Result<(), Error> {
        let create = self.state_index(&StateEventType::RoomCreate, "");
        let create =
            create.ok_or_else(|| Error::invalid_response("the create event is missing"))?;
        let create = self.pdu(create)?;
        let named = create.content_field::<RoomVersionId>("room_version");
        let named = named.unwrap_or(RoomVersionId::V1);
        if named != *version {
            return Err(Error::invalid_response(format!(
                "the create event has room version {named}, make_join named {version}"
            )));
        }
        let known = match room::num(r, join.pdu.room_id()) {
            Err(rooms::Error::UnknownRoom) => None,
            num => current::get(r, num?, "m.room.create", "")?,
        };
        if let Some(known) = known {
            let known = event::id(r, known)?;
            if known != *create.event_id() {
                return Err(Error::invalid_response(format!(
                    "the create event is {}, the room has {known}",
                    create.event_id()
                )));
            }
        }
        Ok(())
    }

    fn pdu(&self, index: u32) -> io::Result<Arc<Pdu>> {
        if let Some(pdu) = self.cache.borrow().pdus.get(&index) {
            return Ok(pdu.clone());
        }
        let Received { json, pdu, .. } = self.event(index as usize)?;
        let pdu = Arc::new(pdu);
        let mut cache = self.cache.borrow_mut();
        if cache.bytes + json.len() > MAX_CACHED_BYTES {
            *cache = Cache::default();
        }
        // With an estimate of what the parts of an event need beside its text.
        cache.bytes += json.len() + 1024;
        cache.pdus.insert(index, pdu.clone());
        Ok(pdu)
    }
}

/// Whether this server has rejected the event when it was in the room before.
fn is_rejected_here(r: &impl Reader, id: &EventId) -> Result<bool, rooms::Error> {
    match event::num_of(r, id)? {
        Some(num) => Ok(event::header(r, num)?.status.is_rejected()),
        None => Ok(false),
    }
}

fn verdict(pdu: &Pdu, verdict: Result<(), AuthError<io::Error>>) -> io::Result<bool> {
    match verdict {
        Ok(()) => Ok(true),
        Err(AuthError::Rejected(reason)) => {
            let id = pdu.event_id();
            log::debug!("event {id} of a join is not authorized: {reason}");
            Ok(false)
        }
        Err(AuthError::Read(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruma::{RoomVersionId, server_name};
    use serde_json::json;

    use super::{Error, EventIds, VerifiedState};
    use crate::{
        federation::{self, event_graph::IdBudget},
        protocol::{
            Pdu, ServerKey,
            history::{Action, History, State},
            receive::Received,
            versions,
        },
        rooms::{
            self, Local,
            event::{insert::Notify, receive},
            room,
            tests::with_store,
        },
        store::{Snapshot, Tx},
    };

    const ALICE: &str = "@alice:a.example";
    const BOB: &str = "@bob:b.example";
    const CAROL: &str = "@carol:c.example";

    fn received(room: &History, index: usize) -> Received {
        let event = &room.events[index];
        Received {
            json: event.json.clone(),
            pdu: Pdu::clone(&event.pdu),
            redacted: false,
        }
    }

    /// Calls `test` with the verified events of a response: of each, its index in `room` and whether it is state.
    /// This server was in the room before, and has the first `known.1` events of `known.0`.
    fn with_response<T>(
        room: &History,
        known: (&History, usize),
        events: &[(usize, bool)],
        test: impl FnOnce(&Snapshot, Result<&VerifiedState, Error>) -> T,
    ) -> T {
        with_store(async |store| {
            let (history, count) = known;
            if count > 0 {
                let create = history.create_event();
                let (id, version) = (create.room_id().to_owned(), history.version.clone());
                let job = move |tx: &Tx| room::create(tx, &id, &version);
                let num = store.write(job).await.expect("the room is made");
                for index in 0..count {
                    let Received { json, pdu, .. } = received(history, index);
                    let id = pdu.event_id().to_owned();
                    let pdu = Pdu::parse(id, &json, history.rules, false).expect("an event");
                    let decide = |s: &_| receive::decide(s, num, Arc::new(pdu), json, None);
                    let decision = store.read(decide).expect("a decision");
                    let name = server_name!("b.example").to_owned();
                    let local = Local::new(name, ServerKey::generate());
                    let job =
                        move |tx: &Tx| receive::commit(tx, &local, &decision, &Notify::default());
                    store.write(job).await.expect("it is stored");
                }
            }
            let directory = tempfile::tempdir().expect("a directory");
            let ids = EventIds::new(&IdBudget::new(1000));
            let verified = VerifiedState::new(directory.path(), room.rules, ids);
            let mut verified = verified.expect("a file");
            store.read(|s| {
                let mut events = events.iter();
                let added = events.try_for_each(|(index, is_state)| {
                    verified.add(s, &received(room, *index), *is_state)
                });
                test(s, added.map(|()| &verified))
            })
        })
    }

    fn as_state(events: impl IntoIterator<Item = usize>) -> Vec<(usize, bool)> {
        events.into_iter().map(|index| (index, true)).collect()
    }

    /// Whether Bob's join, the last event of `room`, passes if the events `state` are the state of the
    /// response and `make_join` named `version`.
    fn check_join(room: &History, state: &[usize], version: &RoomVersionId) -> Result<(), Error> {
        check_join_with(room, (room, 0), &as_state(state.iter().copied()), version)
    }

    fn check_join_with(
        room: &History,
        known: (&History, usize),
        events: &[(usize, bool)],
        version: &RoomVersionId,
    ) -> Result<(), Error> {
        with_response(room, known, events, |s, verified| {
            let join = received(room, room.events.len() - 1);
            verified?.check_join(s, version, &join)
        })
    }

    /// Which of `events` are not dropped, and which of those are state.
    fn state_of(room: &History, known: usize, events: &[(usize, bool)]) -> [Vec<usize>; 2] {
        with_response(room, (room, known), events, |_, verified| {
            let verified = verified.expect("they are added");
            let index = |number: usize| {
                let event = verified.event(number).expect("an event");
                room.index(event.pdu.event_id()).expect("of the room")
            };
            let are_state = verified.are_state();
            let state = (0..verified.len()).filter(|number| are_state[*number]);
            [
                (0..verified.len()).map(index).collect(),
                state.map(index).collect(),
            ]
        })
    }

    fn joined_room(version: &RoomVersionId) -> (History, Vec<usize>) {
        let mut room = History::public(version, ALICE);
        let join = room.then(Action::join(BOB));
        (room, (0..join).collect())
    }

    fn is_invalid_response(result: &Result<(), Error>) -> bool {
        matches!(
            result,
            Err(Error::Peer(federation::Error::InvalidResponse(_)))
        )
    }

    #[test]
    fn a_join_passes_with_the_state_before_it() {
        for version in versions::SUPPORTED {
            let (room, state) = joined_room(&version);
            check_join(&room, &state, &version).unwrap();
        }
    }

    #[test]
    fn a_create_event_with_another_version_than_make_join_is_refused() {
        let (room, state) = joined_room(&RoomVersionId::V11);
        let result = check_join(&room, &state, &RoomVersionId::V10);
        assert!(is_invalid_response(&result), "{result:?}");
    }

    #[test]
    fn a_state_without_a_create_event_is_refused() {
        for version in versions::SUPPORTED {
            let (room, _) = joined_room(&version);
            let result = check_join(&room, &[], &version);
            assert!(is_invalid_response(&result), "{result:?}");
        }
    }

    #[test]
    fn a_state_with_two_events_of_one_type_and_key_is_refused() {
        let mut room = History::public(&RoomVersionId::V11, ALICE);
        for topic in ["one", "other"] {
            let content = json!({ "topic": topic });
            room.then(Action::state(ALICE, "m.room.topic", "", content));
        }
        let join = room.then(Action::join(BOB));
        let state: Vec<usize> = (0..join).collect();
        let result = check_join(&room, &state, &RoomVersionId::V11);
        assert!(is_invalid_response(&result), "{result:?}");
    }

    #[test]
    fn a_state_that_does_not_allow_the_join_is_refused() {
        for version in versions::SUPPORTED {
            let mut room = History::public(&version, ALICE);
            let public = room.events.len() - 1;
            let ban = room.then(Action::member(ALICE, BOB, "ban"));
            // The auth events allow the join, the state does not.
            room.append(&[public], Action::join(BOB));
            let state: Vec<usize> = (0..=ban).collect();
            let result = check_join(&room, &state, &version);
            let is_forbidden = matches!(result, Err(Error::Rooms(rooms::Error::Forbidden(_))));
            assert!(is_forbidden, "version {version}: {result:?}");
        }
    }

    #[test]
    fn an_event_that_its_auth_events_do_not_allow_is_no_state() {
        for version in versions::SUPPORTED {
            let mut room = History::public(&version, ALICE);
            let public = room.events.len() - 1;
            let carol = room.then(Action::join("@carol:c.example"));
            let ban = room.append(&[carol], Action::member("@carol:c.example", BOB, "ban"));
            room.append(&[public], Action::join(BOB));
            let state: Vec<usize> = (0..=ban).collect();
            let result = check_join(&room, &state, &version);
            assert!(result.is_ok(), "version {version}: {result:?}");
        }
    }

    #[test]
    fn an_event_whose_auth_event_is_missing_is_dropped_and_the_join_passes() {
        for version in versions::SUPPORTED {
            let mut room = History::public(&version, ALICE);
            let public = room.events.len() - 1;
            let carol = room.append(&[public], Action::join(CAROL));
            let content = json!({ "membership": "join", "displayname": "C" });
            let rename = Action::state(CAROL, "m.room.member", CAROL, content);
            let renamed = room.append(&[carol], rename);
            room.append(&[public], Action::join(BOB));
            let state: Vec<usize> = (0..=public).chain([renamed]).collect();
            let result = check_join(&room, &state, &version);
            assert!(result.is_ok(), "version {version}: {result:?}");
            // It may be valid, so it is not stored as rejected.
            let [events, _] = state_of(&room, 0, &as_state(state));
            assert!(!events.contains(&renamed));
        }
    }

    #[test]
    fn a_join_whose_auth_events_are_missing_is_refused() {
        let (room, state) = joined_room(&RoomVersionId::V11);
        let result = check_join(&room, &state[..state.len() - 1], &RoomVersionId::V11);
        assert!(is_invalid_response(&result), "{result:?}");
    }

    #[test]
    fn what_was_rejected_here_before_stays_rejected() {
        for version in versions::SUPPORTED {
            let mut room = History::public(&version, ALICE);
            let public = room.events.len() - 1;
            let carol = room.append(&[public], Action::join(CAROL));
            let ban = room.append(&[carol], Action::member(ALICE, CAROL, "ban"));
            let content = json!({ "membership": "join", "displayname": "C" });
            let rename = Action::state(CAROL, "m.room.member", CAROL, content);
            // Its auth events allow it, the state before it does not.
            let cited = room.events[ban].state_before.clone();
            let banned = room.events[ban].state_after.clone();
            let renamed = room.append_citing(&[ban], banned, &cited, rename);
            let in_chain = vec![(carol, false), (renamed, true)];
            let response = [as_state(0..=public), in_chain].concat();
            let state: Vec<_> = (0..=public).collect();
            assert_eq!(state_of(&room, renamed + 1, &response)[1], state);
            let accepted = [state, vec![renamed]].concat();
            assert_eq!(state_of(&room, 0, &response)[1], accepted, "{version}");
        }
    }

    #[test]
    fn a_rejected_event_authorizes_no_other() {
        for version in versions::SUPPORTED {
            let mut room = History::public(&version, ALICE);
            let public = room.events.len() - 1;
            let carol = room.append(&[public], Action::join(CAROL));
            let levels = room.levels(&[(ALICE, 100), (CAROL, 100)], json!({}));
            let levels = Action::state(CAROL, "m.room.power_levels", "", levels);
            let levels = room.append(&[carol], levels);
            let mut cited = State::clone(&room.events[carol].state_after);
            let pair = room.state_pair(levels).expect("a state event");
            cited.insert(pair, levels);
            let topic = Action::state(CAROL, "m.room.topic", "", json!({ "topic": "c" }));
            let before = room.events[levels].state_after.clone();
            let topic = room.append_citing(&[levels], before, &cited, topic);
            let state: Vec<_> = (0..=carol).collect();
            let response = as_state(0..=topic);
            assert_eq!(state_of(&room, 0, &response)[1], state, "{version}");
        }
    }

    #[test]
    fn a_join_that_its_auth_events_do_not_allow_is_refused() {
        for version in versions::SUPPORTED {
            let mut room = History::public(&version, ALICE);
            let public = room.events.len() - 1;
            let ban = room.then(Action::member(ALICE, BOB, "ban"));
            let before = room.events[public].state_after.clone();
            let cited = room.events[ban].state_after.clone();
            room.append_citing(&[public], before, &cited, Action::join(BOB));
            let events = [as_state(0..=public), vec![(ban, false)]].concat();
            let result = check_join_with(&room, (&room, 0), &events, &version);
            let is_forbidden = matches!(result, Err(Error::Rooms(rooms::Error::Forbidden(_))));
            assert!(is_forbidden, "version {version}: {result:?}");
        }
    }

    #[test]
    fn another_create_event_than_that_of_the_room_which_is_here_is_refused() {
        let version = RoomVersionId::V11;
        let (room, state) = joined_room(&version);
        let (other, _) = joined_room(&version);
        let impostor = History::public(&version, "@eve:a.example");
        let events = as_state(state);
        check_join_with(&room, (&other, 1), &events, &version).expect("the same room");
        let result = check_join_with(&room, (&impostor, 1), &events, &version);
        assert!(is_invalid_response(&result), "{result:?}");
    }
}
